//! The OCI runtime whose containers are virtual machines, under Debian's podman.

mod fixture;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fixture::bundle::Bundle;
use fixture::podman::Podman;
use fixture::{image, out, postroj, said};

/// What a runtime that podman starts has: a kernel that is there already.
fn podman(name: &str) -> Podman {
    image();
    let run = ["run", "--isolation", "vm", "--network", "none", fixture::IMAGE, "true"];
    out(&mut postroj(&run));
    Podman::new("postroj-vm", name)
}

fn host_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim().to_owned()
}

#[test]
fn podman_runs_virtual_machines() {
    let podman = podman("vm");
    let run = |options: &[&str], script: &str| {
        let mut command = podman.run(options, script);
        said(command.env("POSTROJ_STORE", fixture::home().join("store")))
    };
    let script = "uname -r; pwd; id -u; echo $WORD; hostname; cat /etc/hosts; echo no >&2; exit 7";
    let options =
        ["-e", "WORD=word", "-w", "/srv", "-u", "1000", "--hostname", "box", "--memory", "300m"];
    let ran = run(&options, script);
    assert_eq!(ran.code, 7, "{ran:?}");
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_ne!(lines[0], host_release());
    assert_eq!(lines[1..5], ["/srv", "1000", "word", "box"]);
    assert!(ran.out.contains("127.0.0.1"), "{ran:?}");
    assert!(ran.err.ends_with("no\n"), "{ran:?}");
    assert_eq!(run(&["--read-only"], "touch /x 2>/dev/null || echo ro").out, "ro\n");
    // podman says nothing of a network then, and a guest cannot have the host's.
    let mut host = command(&podman, &["run", "--rm", "--network", "host", "localhost/busybox"]);
    let host = said(host.arg("true"));
    assert!(host.code != 0 && host.err.contains("cannot share the host's network"), "{host:?}");
}

/// podman with the store that has the kernel.
fn command(podman: &Podman, args: &[&str]) -> Command {
    let mut command = podman.podman(args);
    command.env("POSTROJ_STORE", fixture::home().join("store"));
    command
}

#[test]
fn volumes_are_written_from_both_sides() {
    let podman = podman("vmv");
    let path = |name: &str| podman.dir.join(name);
    for name in ["rw", "ro"] {
        std::fs::create_dir(path(name)).unwrap();
        std::fs::write(path(name).join("of-host"), format!("host's {name}\n")).unwrap();
    }
    std::fs::write(path("one.conf"), "one file\n").unwrap();
    let volume = |name: &str, rest: &str| format!("{}:{rest}", path(name).display());
    let volumes = [
        volume("rw", "/rw"),
        volume("ro", "/ro:ro"),
        volume("one.conf", "/etc/one.conf"),
        "named:/named".into(),
    ];
    let script = "cat /rw/of-host /ro/of-host /etc/one.conf; echo in >/rw/of-guest; echo kept >/named/file; \
                  (echo x >/ro/of-host) 2>/dev/null || echo refused; \
                  grep -q ' /memory tmpfs ' /proc/mounts && echo memory; echo up >/rw/up; \
                  until cat /rw/later 2>/dev/null; do sleep 0.1; done; cat /ro/later";
    let mut run = command(&podman, &["run", "-d", "--name", "v", "--network", "none"]);
    volumes.iter().for_each(|volume| {
        run.args(["-v", volume]);
    });
    run.args(["--tmpfs", "/memory", "localhost/busybox", "sh", "-c", script]);
    out(&mut run);
    fixture::wait_until("the guest has written", || path("rw/up").exists());
    // What the guest's root writes, is whose the caller's root is.
    let written = std::fs::metadata(path("rw/of-guest")).unwrap();
    assert_eq!(written.uid(), rustix::process::geteuid().as_raw());
    assert_eq!(std::fs::read_to_string(path("rw/of-guest")).unwrap(), "in\n");
    std::fs::write(path("ro/later"), "seen at once\n").unwrap();
    std::fs::write(path("rw/.later"), "later\n").unwrap();
    // It is there as a whole.
    std::fs::rename(path("rw/.later"), path("rw/later")).unwrap();
    assert_eq!(out(&mut command(&podman, &["wait", "v"])), "0");
    let wanted = "host's rw\nhost's ro\none file\nrefused\nmemory\nlater\nseen at once";
    assert_eq!(out(&mut command(&podman, &["logs", "v"])), wanted);
    let place = ["volume", "inspect", "named", "--format", "{{.Mountpoint}}"];
    let file = Path::new(&out(&mut command(&podman, &place))).join("file");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "kept\n");
}

/// What a server on this host's published port says; nothing where there is none yet.
fn fetched(address: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else { return String::new() };
    let mut answer = String::new();
    // It may be reset: somebody forwards the port before anybody listens.
    let _ = stream.write_all(b"GET /page HTTP/1.0\r\n\r\n");
    let _ = stream.read_to_string(&mut answer);
    answer
}

/// Says something to whoever connects, once; gives where, as others reach this host.
fn outside() -> (String, u16) {
    let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent.
    probe.connect(("192.0.2.1", 9)).expect("a host that has a way out");
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"from outside\n").unwrap();
    });
    (probe.local_addr().unwrap().ip().to_string(), port)
}

/// Lets an ordinary user open /dev/net/tun, as distributions do, in a mount namespace of its own: this host may not.
const OPEN_TUN: &str = "mount -t tmpfs none /mnt && mknod /mnt/tun c 10 200 && chmod 0666 /mnt/tun && \
     mount --bind /mnt/tun /dev/net/tun && umount /mnt && exec \"$@\"";

/// Runs a test of this file as such a user.
fn as_ordinary_user(test: &str) {
    let (uid, gid) =
        fixture::another_user().expect("a user with subordinate ids (`cargo xtask setup`)");
    let dir = std::env::temp_dir().join(format!("pj-ovm-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    std::os::unix::fs::chown(&dir, Some(uid), Some(gid)).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    let (program, tests) = (dir.join("postroj"), dir.join("tests"));
    std::fs::copy(fixture::program(), &program).unwrap();
    std::fs::copy(std::env::current_exe().unwrap(), &tests).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", OPEN_TUN, "sh", "setpriv", "--clear-groups"]);
    command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
    command.arg(tests).args(["--exact", test]).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", &dir);
    command.env("XDG_RUNTIME_DIR", &dir).env("NEXTEST_BIN_EXE_postroj", program);
    let ran = said(command.current_dir(&dir));
    // podman leaves a process that keeps its user namespace.
    let pause = std::fs::read_to_string(dir.join("libpod/tmp/pause.pid")).unwrap_or_default();
    if let Some(pid) = pause.trim().parse().ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    std::fs::remove_dir_all(dir).unwrap();
    assert!(ran.code == 0 && ran.out.contains("1 passed"), "{ran:?}");
}

#[test]
fn a_virtual_machine_has_the_network_that_podman_made() {
    if fixture::is_root() {
        as_ordinary_user("a_virtual_machine_has_the_network_that_podman_made");
    }
    let podman = podman("vmn");
    if rustix::fs::access("/dev/net/tun", rustix::fs::Access::WRITE_OK).is_err() {
        // podman cannot make a network there either.
        let mut run = command(&podman, &["run", "--rm", "-p", "127.0.0.1::80"]);
        let told = said(run.args(["localhost/busybox", "true"]));
        assert!(told.code != 0 && told.err.contains("/dev/net/tun"), "{told:?}");
        return;
    }
    let script = "mkdir /www; echo the page of $(hostname) >/www/page; exec httpd -f -p 80 -h /www";
    let mut run = command(&podman, &["run", "-d", "--name", "n", "--hostname", "box"]);
    run.args(["--add-host", "peer:10.1.2.3", "-p", "127.0.0.1::80", "localhost/busybox"]);
    out(run.args(["sh", "-c", script]));
    let inside = |script: &str| out(&mut command(&podman, &["exec", "n", "sh", "-c", script]));
    let is_served = || {
        let address = out(&mut command(&podman, &["port", "n", "80"]));
        fixture::wait_until("its port is served", || {
            fetched(&address).ends_with("\r\n\r\nthe page of box\n")
        });
    };
    is_served();
    // Where podman tells no address, it is the one that slirp4netns gives (podman-run(1), "--network").
    let format = "{{.NetworkSettings.IPAddress}}";
    let told = out(&mut command(&podman, &["inspect", "n", "--format", format]));
    let address = if told.is_empty() { "10.0.2.100".to_owned() } else { told };
    let shown = inside("ip -o -4 addr show dev eth0");
    assert!(shown.contains(&format!("inet {address}/")), "{shown}");
    let hosts = inside("cat /etc/hosts");
    assert!(hosts.contains("10.1.2.3\tpeer") && hosts.contains("box"), "{hosts}");
    assert!(inside("cat /etc/resolv.conf").contains("nameserver "));
    let (host, port) = outside();
    assert_eq!(inside(&format!("nc {host} {port} </dev/null")), "from outside");
    // The next time it is in another namespace.
    out(&mut command(&podman, &["stop", "--time", "0", "n"]));
    out(&mut command(&podman, &["start", "n"]));
    is_served();
}

#[test]
fn the_life_of_a_virtual_machine() {
    let podman = podman("vml");
    let podman = |args: &[&str]| command(&podman, args);
    let script = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.1; done";
    let mut run = podman(&["run", "-d", "--name", "c", "--network", "none"]);
    out(run.args(["localhost/busybox", "sh", "-c", script]));
    assert_eq!(out(&mut podman(&["exec", "c", "echo", "inside"])), "inside");
    assert_ne!(out(&mut podman(&["exec", "c", "uname", "-r"])), host_release());
    assert_eq!(out(&mut podman(&["exec", "-u", "7:8", "c", "id", "-u"])), "7");
    assert_eq!(said(&mut podman(&["exec", "c", "sh", "-c", "exit 3"])).code, 3);
    let missing = said(&mut podman(&["exec", "c", "nosuch"]));
    assert_eq!(missing.code, 127, "{missing:?}");
    assert!(out(&mut podman(&["exec", "-t", "c", "tty"])).contains("/dev/pts/"));
    // podman itself refuses it to others, where control groups are of version 1.
    if fixture::is_root() {
        let status = ["ps", "--all", "--format", "{{.Status}}"];
        out(&mut podman(&["pause", "c"]));
        assert!(out(&mut podman(&status)).to_lowercase().contains("paused"));
        out(&mut podman(&["unpause", "c"]));
    }
    out(&mut podman(&["stop", "c"]));
    assert_eq!(out(&mut podman(&["logs", "c"])), "up\nbye");
    let code = ["inspect", "c", "--format", "{{.State.ExitCode}}"];
    assert_eq!(out(&mut podman(&code)), "7");
    out(&mut podman(&["start", "c"]));
    let id = out(&mut podman(&["inspect", "c", "--format", "{{.Id}}"]));
    assert!(!fixture::processes_with(&id).is_empty());
    out(&mut podman(&["rm", "--force", "--time", "0", "c"]));
    fixture::wait_until("QEMU has ended", || fixture::processes_with(&id).is_empty());
}

/// A network namespace that is kept by a file, with a device as its maker set it up.
struct Namespace(PathBuf);

impl Namespace {
    fn new(path: PathBuf) -> Self {
        std::fs::File::create(&path).unwrap();
        out(Command::new("unshare").arg(format!("--net={}", path.display())).arg("true"));
        let namespace = Self(path);
        namespace
            .sh("ip link add eth0 type veth peer name peer; ip address add 10.9.8.7/24 dev eth0
             ip link set eth0 up; ip link set peer up; ip route add default via 10.9.8.1");
        namespace
    }

    fn sh(&self, script: &str) -> String {
        let place = format!("--net={}", self.0.display());
        out(Command::new("nsenter").args([&place, "sh", "-ec", script]))
    }

    fn shown(&self) -> String {
        self.sh("ip -o link show dev eth0 | grep -o 'link/ether [^ ]*'
                 ip -o -4 address show dev eth0 | grep -o 'inet [^ ]*'
                 ip route show default | grep -o '.* dev eth0'")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = said(Command::new("umount").arg(&self.0));
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_namespace_lends_its_device_to_one_machine_at_a_time() {
    if !fixture::is_root() {
        return println!(
            "skipped: only root makes a namespace with a device in it here; podman's are an ordinary user's as well"
        );
    }
    image();
    let mut bundle = Bundle::new("vmns");
    let namespace = Namespace::new(fixture::home().join(format!("net-{}", std::process::id())));
    let before = namespace.shown();
    let [mac, address, _] = before.lines().collect::<Vec<_>>()[..] else { panic!("{before}") };
    let spaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    let network = spaces.iter_mut().find(|space| space["type"] == "network").unwrap();
    network["path"] = namespace.0.to_str().unwrap().into();
    let bundle = bundle.sh("ip address show dev eth0; ip route; echo up; read line");
    let run = |id: &str| {
        let mut command = bundle.oci(&["--isolation", "vm", "run", id]);
        command.env("POSTROJ_STORE", fixture::home().join("store"));
        command
    };
    let mut first = run("first");
    let mut child = first.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let inside: Vec<String> = lines.take_while(|line| line != "up").collect();
    let inside = inside.join("\n");
    for part in [mac, address, "default via 10.9.8.1 dev eth0"] {
        assert!(inside.contains(part), "{part}: {inside}");
    }
    // Its file system has all that the image has.
    let mode = std::fs::metadata(bundle.dir.join("state/first")).unwrap().permissions().mode();
    assert_eq!(mode & 0o77, 0);
    let second = said(&mut run("second"));
    assert_ne!(second.code, 0);
    assert!(second.err.contains("another virtual machine has this network"), "{second:?}");
    // Its command reads until here.
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(namespace.shown(), before);
    let devices = namespace.sh("ip -o link");
    assert!(!devices.contains("postroj"), "{devices}");
}
