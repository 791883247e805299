//! Networks and shared directories of virtual machines. Each boots a kernel, emulated where KVM cannot be
//! had, so that few machines are asked many things.

mod fixture;
#[path = "network/place.rs"]
mod place;

use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fixture::{
    IMAGE, Machine, debian, fails, home, image, is_root, out, postroj, said, wait_until,
};
use place::{HOST, KNOWN, OUTSIDE, PEER, PORT, Place};

const VM: [&str; 4] = ["--isolation", "vm", "--network", "user"];

/// Something of [`PEER`] on this host.
fn peer(args: &[&str]) -> Command {
    let mut command = Command::new("perl");
    command.args(["-e", PEER]).args(args);
    command
}

/// The same in the machine.
fn inside(machine: &Machine, args: &[&str]) -> Command {
    machine.exec(&[], &[&["perl", "-e", PEER], args].concat())
}

/// Whom the machine can reach: outside of a host of the test's own, which only root can make; else the
/// real host, by its address that leads out.
enum Reached {
    Outside(Place),
    Host { server: Child, address: String },
}

impl Reached {
    fn new() -> Self {
        if is_root() {
            return Self::Outside(Place::new());
        }
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        // Nothing is sent.
        socket.connect((OUTSIDE[0], 9)).expect("a host that has a way out");
        let address = socket.local_addr().unwrap().ip().to_string();
        let mut server = peer(&["serve", PORT]).stdout(Stdio::piped()).spawn().unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(server.stdout.as_mut().unwrap(), &mut byte).unwrap();
        Self::Host { server, address }
    }

    fn address(&self) -> &str {
        match self {
            Self::Outside(_) => OUTSIDE[0],
            Self::Host { address, .. } => address,
        }
    }
}

impl Drop for Reached {
    fn drop(&mut self) {
        if let Self::Host { server, .. } = self {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// A machine's id.
fn id_of(machine: &Machine) -> String {
    let text = out(&mut postroj(&["inspect", &machine.name]));
    let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
    shown[0]["Id"].as_str().unwrap().to_owned()
}

/// Nothing of a machine's is left: neither what runs it nor what carries its packets and files.
fn is_clean(id: &str) {
    for word in [format!("postroj-{}", &id[..12]), format!("passt-{id}")] {
        let ended = || {
            let all = fixture::processes_with(&word);
            all.is_empty() || !all.iter().any(|pid| Path::new(&format!("/proc/{pid}/exe")).exists())
        };
        wait_until("all have ended", ended);
    }
    for name in [id.to_owned(), format!("{id}-share")] {
        assert!(!home().join("run/sockets").join(name).exists(), "a socket is left");
    }
    assert!(!home().join("run").join(format!("passt-{id}")).exists(), "a file is left");
}

/// A directory of a test's own, removed with this.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = home().join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_machine_has_a_network_ports_and_directories_of_the_host() {
    let image = debian("debian-12");
    let reached = Reached::new();
    let scratch = Scratch::new("vm-network");
    let volumes = volumes(&scratch);
    let volumes: Vec<&str> = volumes.iter().flat_map(|volume| ["-v", volume]).collect();
    let options = ["-p", "80", "-p", "80/udp", "--tmpfs", "/scratch", "--add-host", "db:192.0.2.7"];
    let dns = ["--dns", OUTSIDE[0]];
    let serve = [&image, "perl", "-e", PEER, "serve", "80"];
    let machine =
        Machine::start(&[&["run", "-d"], &VM[..], &options, &dns, &volumes, &serve].concat());
    network(&machine, &reached);
    ports(&machine, &reached);
    directories(&machine, &scratch);
    let id = id_of(&machine);
    out(&mut postroj(&["kill", &machine.name]));
    assert_eq!(out(&mut postroj(&["wait", &machine.name])), "137");
    is_clean(&id);
}

fn network(machine: &Machine, reached: &Reached) {
    let read = |path: &str| out(&mut machine.exec(&[], &["cat", path]));
    assert_eq!(read("/sys/class/net/eth0/mtu"), "65520");
    let hosts = read("/etc/hosts");
    let own = format!("10.0.2.15\t{}\n", out(&mut machine.exec(&[], &["hostname"])));
    assert!(hosts.contains("192.0.2.7\tdb\n") && (hosts + "\n").contains(&own));
    assert!(read("/etc/resolv.conf").contains(&format!("nameserver {}", OUTSIDE[0])));
    let sent = ["tcp", reached.address(), PORT, "3000000", "line"];
    let answer = out(&mut inside(machine, &sent));
    assert!(answer.starts_with("3000001 from "), "{answer}");
    if let Reached::Outside(_) = reached {
        assert_eq!(out(&mut inside(machine, &["resolve", KNOWN[0]])), KNOWN[1]);
        let answer = out(&mut inside(machine, &["udp", OUTSIDE[1], PORT]));
        assert_eq!(answer, format!("5 from {}", HOST[1]));
    }
    // What listens on the host's own loopback device is not for it.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for address in ["10.0.2.2", "127.0.0.1"] {
        let connect = format!("timeout 5 bash -c '</dev/tcp/{address}/{port}'");
        let said = said(&mut machine.exec(&[], &["sh", "-c", &connect]));
        assert_ne!(said.code, 0, "{address}: {said:?}");
    }
}

fn ports(machine: &Machine, reached: &Reached) {
    let listed = |inside: &str| out(&mut postroj(&["port", &machine.name, inside]));
    let number = |listed: &str| listed.rsplit(':').next().unwrap().to_owned();
    let (tcp, udp) = (number(&listed("80")), number(&listed("80/udp")));
    let mut answer = String::new();
    wait_until("the server answers", || {
        answer = said(&mut peer(&["tcp", "127.0.0.1", &tcp, "100000", "line"])).out;
        !answer.is_empty()
    });
    assert!(answer.starts_with("100001 from "), "{answer}");
    if let Reached::Outside(place) = reached {
        let answer = out(&mut place.outside(&["tcp", HOST[0], &tcp, "100000", "line"]));
        assert!(answer.starts_with("100001 from "), "{answer}");
        let answer = out(&mut place.outside(&["udp", HOST[0], &udp]));
        assert!(answer.starts_with("5 from "), "{answer}");
    }
    image();
    let again = format!("{tcp}:1");
    let taken = [&["run"], &VM[..], &["-p", &again, IMAGE, "true"]].concat();
    fails(&mut postroj(&taken), 125, &[&format!("cannot publish {again}/tcp"), "port is in use"]);
}

fn volumes(scratch: &Scratch) -> Vec<String> {
    for directory in ["kept", "read"] {
        std::fs::create_dir_all(scratch.path(directory)).unwrap();
    }
    std::fs::write(scratch.path("read/file"), "read\n").unwrap();
    std::fs::write(scratch.path("single"), "one file\n").unwrap();
    [("kept", "/kept"), ("read", "/read:ro"), ("single", "/etc/single:ro"), ("made", "/made")]
        .map(|(name, place)| format!("{}:{place}", scratch.path(name)))
        .to_vec()
}

fn directories(machine: &Machine, scratch: &Scratch) {
    let sh = |script: &str| machine.exec(&[], &["sh", "-c", script]);
    let read =
        "cat /read/file /etc/single; ls -d /made; stat -c %u:%g /read/file; mkdir /scratch/x";
    assert_eq!(out(&mut sh(read)), "read\none file\n/made\n0:0");
    // Its own are as the launcher's containers would own them.
    out(&mut sh("echo written > /kept/file; ln -s file /kept/link; chmod 640 /kept/file"));
    assert_eq!(std::fs::read_to_string(scratch.path("kept/link")).unwrap(), "written\n");
    let made = std::fs::metadata(scratch.path("kept/file")).unwrap();
    let own = std::fs::metadata(scratch.path("kept")).unwrap();
    assert_eq!((made.uid(), made.mode() & 0o777), (own.uid(), 0o640));
    // What changes on the host is seen.
    std::fs::write(scratch.path("kept/file"), "changed by the host\n").unwrap();
    assert_eq!(out(&mut sh("cat /kept/file")), "changed by the host");
    for refused in [
        "echo x > /read/file",
        "echo x > /etc/single",
        "mount -o remount,rw /read; echo x > /read/file",
    ] {
        let said = said(&mut sh(refused));
        assert!(said.code != 0 && said.err.contains("ead-only"), "{refused}: {said:?}");
    }
    let device = said(&mut sh("mknod /kept/device c 1 3"));
    assert!(device.code != 0 && device.err.contains("not permitted"), "{device:?}");
    assert_eq!(std::fs::read_to_string(scratch.path("read/file")).unwrap(), "read\n");
}

#[test]
fn what_cannot_be_had_is_refused_before_anything_is_made() {
    image();
    let run = |options: &[&str]| {
        postroj(&[&["run", "--isolation", "vm"], options, &[IMAGE, "true"]].concat())
    };
    for (options, part) in [
        (&["--network", "host"][..], "cannot share a network"),
        (&["--network", "user,accel=on"], "accel=on puts sockets"),
        (&["--network", "user", "--ip", "10.0.2.9"], "gives no address to choose"),
        (&["--network", "none", "-p", "80"], "-p means nothing"),
        (
            &["--network", "none", "--mount", "type=bind,source=/nonexistent,target=/x"],
            "cannot mount /nonexistent",
        ),
    ] {
        fails(&mut run(options), 125, &[part]);
    }
    let mut without = run(&["--network", "user"]);
    fails(
        without.env("PATH", "/nonexistent"),
        125,
        &["passt is not installed", "apt install passt"],
    );
}

/// On a bridge a virtual machine is like any other.
#[test]
fn a_virtual_machine_and_a_container_are_peers() {
    image();
    let network = format!("vm-{}", std::process::id());
    let on = format!("bridge:{network}");
    let vm = ["--isolation", "vm", "--network", &on];
    let _removed = Network::create(&network);
    if !is_root() && rustix::fs::access("/dev/net/tun", rustix::fs::Access::WRITE_OK).is_err() {
        let parts =
            ["cannot make a device for the machine's network card", "chmod 0666 /dev/net/tun"];
        let told = said(&mut postroj(&[&["run"], &vm[..], &[IMAGE, "true"]].concat()));
        assert!(told.code == 125 && parts.iter().all(|part| told.err.contains(part)), "{told:?}");
        return;
    }
    let image = debian("debian-12");
    let place = is_root().then(Place::new);
    let serve = [&image, "perl", "-e", PEER, "serve", "80"];
    let container = Machine::start(&[&["run", "-d", "--network", &on], &serve[..]].concat());
    let machine = Machine::start(&[&["run", "-d"], &vm[..], &["-p", "80"], &serve].concat());
    let reach = |from: &Machine, to: &Machine| {
        let mut answer = String::new();
        wait_until("a peer answers by its name", || {
            answer = said(&mut inside(from, &["tcp", &to.name, "80", "100000", "line"])).out;
            !answer.is_empty()
        });
        assert!(answer.starts_with("100001 from "), "{answer}");
    };
    reach(&container, &machine);
    reach(&machine, &container);
    let port = out(&mut postroj(&["port", &machine.name, "80"]));
    let port = port.rsplit(':').next().unwrap();
    let answer = out(&mut peer(&["tcp", "127.0.0.1", port, "100000", "line"]));
    assert!(answer.starts_with("100001 from "), "{answer}");
    if let Some(place) = &place {
        let answer = out(&mut inside(&machine, &["tcp", OUTSIDE[0], PORT, "3000000"]));
        assert_eq!(answer, format!("3000000 from ::ffff:{}", HOST[0]));
        let answer = out(&mut place.outside(&["tcp", HOST[0], port, "100000", "line"]));
        assert_eq!(answer, format!("100001 from ::ffff:{}", OUTSIDE[0]));
    }
    let id = id_of(&machine);
    drop((machine, container));
    is_clean(&id);
    out(&mut postroj(&["network", "rm", &network]));
    if let Some(place) = place {
        place.is_clean(|| postroj(&["ps"]));
    }
}

/// A network, removed with this where the test has not done so.
struct Network(String);

impl Network {
    fn create(name: &str) -> Self {
        out(&mut postroj(&["network", "create", name]));
        Self(name.to_owned())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = postroj(&["network", "rm", &self.0]).output();
    }
}

#[test]
fn a_package_is_probed_under_another_kernel() {
    let image = debian("debian-13");
    let checks = ["--check-unit", "nginx", "--check-network", "http://localhost/?status=200"];
    let asked = ["probe", "--isolation", "vm", "--image", &image, "--package", "nginx-light"];
    let mut probe = postroj(&[&asked[..], &checks].concat());
    // As the pull of a release has it: the mirror may be a snapshot.
    let told = said(probe.env("XDG_CONFIG_HOME", home().join("config")));
    assert_eq!(told.code, 0, "{told:?}");
    let seen = told.out + &told.err;
    for part in ["active (running)", "status 200 OK", "none failed", "PASS"] {
        assert!(seen.contains(part), "{part}: {seen}");
    }
}
