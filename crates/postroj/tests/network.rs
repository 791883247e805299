//! Networks: one battery in each mode, and what belongs to single ones.

mod fixture;
#[path = "network/place.rs"]
mod place;
#[path = "network/users.rs"]
mod users;

use std::process::{Child, Command, Stdio};

use fixture::{Own, Said, debian, fails, is_root, out, said, wait_until};
use place::{HOST, KNOWN, OUTSIDE, PEER, PORT, Place};
use users::{OF_ROOT, Ordinary, Root, User};

/// What may differ between modes.
struct Expected {
    /// The machine speaks IPv6 with outside.
    ipv6: bool,
    /// Neither what comes after the machine's end of a connection is lost, nor what the host itself
    /// sends by UDP to a port. Both is with pasta 2023-03-09, Debian 12's; its connections by IPv6
    /// sometimes are.
    sound: bool,
    /// A server sees who really comes from outside.
    keeps_source: bool,
    /// Bytes; outside has 1400. Nothing where the machine has no device but loopback.
    mtu: Option<&'static str>,
}

/// Enough for a thousand connections on either side.
const MANY: [&str; 2] = ["--ulimit", "nofile=4096:4096"];

/// A server in a machine, ended when this is dropped.
struct Serving(Child);

impl Serving {
    fn start(user: &dyn User, options: &[&str], args: &[&str]) -> Self {
        Self::by(&mut user.peer(options, args))
    }

    /// Of a command that writes something once it serves.
    fn by(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
        Self(child)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

fn battery(place: &Place, user: &dyn User, network: &str, expected: &Expected) {
    let mode = ["--network", network];
    // Out: much, with a half that closes first; the answer is what came, and from where.
    for (outside, host) in OUTSIDE.iter().zip(HOST).take(1 + usize::from(expected.ipv6)) {
        let mapped = if outside.contains(':') { "" } else { "::ffff:" };
        let answer = out(&mut user.peer(&mode, &["tcp", outside, PORT, "3000000", "line"]));
        assert_eq!(answer, format!("3000001 from {mapped}{host}"), "{network}");
        if expected.sound {
            let answer = out(&mut user.peer(&mode, &["tcp", outside, PORT, "3000000"]));
            assert_eq!(answer, format!("3000000 from {mapped}{host}"), "{network}");
        }
        let answer = out(&mut user.peer(&mode, &["udp", outside, PORT]));
        assert_eq!(answer, format!("5 from {mapped}{host}"), "{network}");
    }
    let options = [&mode[..], &MANY].concat();
    let many = ["many", OUTSIDE[0], PORT, "1000"];
    assert_eq!(out(&mut user.peer(&options, &many)), "1000", "{network}");
    let asks = [&mode[..], &["--dns", OUTSIDE[0]]].concat();
    assert_eq!(out(&mut user.peer(&asks, &["resolve", KNOWN[0]])), KNOWN[1], "{network}");
    assert_eq!(out(&mut user.peer(&asks, &["resolve", "other.example"])), "unknown", "{network}");
    if let Some(mtu) = expected.mtu {
        let show = ["host", "cat", "/sys/class/net/eth0/mtu"];
        assert_eq!(out(&mut user.postroj(&[&["run"], &mode[..], &show].concat())), mtu);
        let answer = out(&mut user.peer(&mode, &["bound", OUTSIDE[0], PORT, "eth0"]));
        assert_eq!(answer, format!("1 from ::ffff:{}", HOST[0]), "{network}");
    }
    // The host of these tests allows it to all (icmp(7), ping_group_range).
    let ping = ["host", "ping", "-c1", "-W20", OUTSIDE[0]];
    out(&mut user.postroj(&[&["run"], &mode[..], &ping].concat()));
    forking(place, user, &mode, expected);
    into(place, user, &mode, expected);
}

/// A server of several processes that share its listening sockets.
fn forking(place: &Place, user: &dyn User, mode: &[&str], expected: &Expected) {
    const SERVE: &str =
        "printf %s \"$0\" >/tmp/conf; nginx -t -q -c /tmp/conf && echo; exec nginx -c /tmp/conf";
    const CONFIG: &str = "daemon off; pid /tmp/pid; error_log stderr crit; worker_processes 3;
        events { worker_connections 999; }
        http { access_log off; client_body_temp_path /tmp/1; proxy_temp_path /tmp/2; fastcgi_temp_path /tmp/3;
            uwsgi_temp_path /tmp/4; scgi_temp_path /tmp/5; server { listen 80; listen [::]:80; return 200 $remote_addr; } }";
    let options = [&["run"], mode, &["-p", "8090:80", "host", "sh", "-c", SERVE, CONFIG]].concat();
    let _serving = Serving::by(&mut user.postroj(&options));
    let get = ["get", HOST[0], "8090"];
    let mut answer = String::new();
    wait_until("nginx answers", || {
        answer = said(&mut place.outside(&get)).out;
        !answer.is_empty()
    });
    for _ in 0..20 {
        assert_eq!(answer == OUTSIDE[0], expected.keeps_source, "{mode:?}: {answer}");
        answer = out(&mut place.outside(&get));
    }
}

/// Ports, from everywhere; a server that comes late has lost nothing but those who came too early.
fn into(place: &Place, user: &dyn User, mode: &[&str], expected: &Expected) {
    let options =
        [mode, &MANY, &["-p", "8080:80", "-p", "8080:80/udp", "-p", "127.0.0.1:8081:80"]].concat();
    let serving = Serving::start(user, &options, &["serve", "80", "1"]);
    let end: &[&str] = if expected.sound { &[] } else { &["line"] };
    let much = |address| [&["tcp", address, "8080", "100000"], end].concat();
    let all = format!("{} from ", 100_000 + end.len());
    let source = |text: &str| text.rsplit(' ').next().unwrap_or_default().to_owned();
    for address in HOST.into_iter().take(1 + usize::from(expected.ipv6)) {
        let answer = out(&mut place.outside(&much(address)));
        assert!(answer.starts_with(&all), "{mode:?} {address}: {answer}");
        let real = if address.contains(':') { OUTSIDE[1] } else { OUTSIDE[0] };
        let kept = source(&answer).trim_start_matches("::ffff:") == real;
        assert_eq!(kept, expected.keeps_source, "{mode:?} {address}: {answer}");
        let answer = out(&mut place.outside(&["udp", address, "8080"]));
        assert!(answer.starts_with("5 from "), "{mode:?} {address}: {answer}");
    }
    for address in ["127.0.0.1", "::1", HOST[0]] {
        let answer = out(&mut place.host(&much(address)));
        assert!(answer.starts_with(&all), "{mode:?} {address}: {answer}");
    }
    if expected.sound {
        assert!(out(&mut place.host(&["udp", "127.0.0.1", "8080"])).starts_with("5 from "));
    }
    assert_eq!(out(&mut place.host(&["many", "127.0.0.1", "8080", "1000"])), "1000");
    assert_eq!(out(&mut place.outside(&["many", HOST[0], "8080", "1000"])), "1000");
    // What is published on one address is on no other.
    assert!(
        out(&mut place.host(&["tcp", "127.0.0.1", "8081", "1", "line"])).starts_with("2 from ")
    );
    let refused = said(&mut place.outside(&["tcp", HOST[0], "8081", "1"]));
    assert_ne!(refused.code, 0, "{refused:?}");
    let taken = [&["run"], mode, &["-p", "8080:1", "host", "true"]].concat();
    fails(&mut user.postroj(&taken), 125, &["cannot publish 8080:1/tcp", "in use"]);
    drop(serving);
    // And now it is free again.
    out(&mut user.postroj(&taken));
}

#[test]
fn bridge_does_all_that_a_network_does() {
    if !is_root() {
        let own = Own::new("net-of-user");
        let show = ["run", "--network", "bridge", "host", "cat", "/sys/class/net/eth0/operstate"];
        return assert_eq!(out(&mut own.postroj(&show)), "up");
    }
    let place = Place::new();
    // A user's is in a namespace of its own, from which sockets of the host's are the way out.
    let user = Ordinary::new("bridge", Some(&["newuidmap", "newgidmap"]));
    let expected = Expected { ipv6: false, sound: true, keeps_source: false, mtu: None };
    battery(&place, &user, "bridge", &expected);
    let root = Root(Own::new("net-bridge"));
    let expected = Expected { ipv6: true, sound: true, keeps_source: true, mtu: Some("1400") };
    battery(&place, &root, "bridge", &expected);
    place.is_clean(|| root.postroj(&["ps"]));
}

#[test]
fn pasta_does_all_that_a_network_does() {
    if !is_root() {
        return closed_tun();
    }
    let place = Place::new();
    let user = Ordinary::new("pasta", None);
    let expected = Expected { ipv6: false, sound: false, keeps_source: true, mtu: Some("65520") };
    battery(&place, &user, "user,accel=off", &expected);
}

#[test]
fn slirp4netns_does_all_that_a_network_does() {
    if !is_root() {
        return println!("skipped: {OF_ROOT}");
    }
    let place = Place::new();
    let programs = ["slirp4netns", "newuidmap", "newgidmap"];
    let user = Ordinary::new("slirp", Some(&programs));
    let expected = Expected { ipv6: false, sound: true, keeps_source: false, mtu: Some("65520") };
    battery(&place, &user, "user,accel=off", &expected);
}

/// Sockets of the host's, so nothing is carried; the machine has no device but loopback.
#[test]
fn bypass_does_all_that_a_network_does() {
    if !is_root() {
        return println!("skipped: {OF_ROOT}");
    }
    let place = Place::new();
    let programs = ["newuidmap", "newgidmap"];
    let user = Ordinary::new("bypass", Some(&programs));
    let expected = Expected { ipv6: true, sound: true, keeps_source: true, mtu: None };
    // The addresses of IPv6 outside are somebody's own.
    let network = format!("user,accel=on,allow={}/128", OUTSIDE[1]);
    battery(&place, &user, &network, &expected);
    battery(&place, &Root(Own::new("net-bypass")), &network, &expected);
}

/// As an ordinary user of a host that keeps the device to root.
fn closed_tun() {
    let own = Own::new("net-tun");
    if rustix::fs::access("/dev/net/tun", rustix::fs::Access::WRITE_OK).is_ok() {
        out(&mut own.postroj(&["run", "--network", "user,accel=off", "host", "true"]));
        return;
    }
    let asked = ["run", "--network", "user,accel=off", "host", "true"];
    fails(&mut own.postroj(&asked), 125, &["user-mode network", "/dev/net/tun", "chmod"]);
}

#[test]
fn a_default_that_cannot_be_had_is_replaced_and_says_so() {
    let own = Own::new("net-default");
    let mut command = own.postroj(&["run", "host", "cat", "/proc/net/dev"]);
    command.env_remove("POSTROJ_NETWORK").env("PATH", "/nonexistent");
    if is_root() {
        let place = Place::new();
        let told = out(&mut command);
        assert!(told.contains("eth0:") && !told.contains("up0:"), "{told}");
        place.is_clean(|| own.postroj(&["ps"]));
    } else {
        // Without the helpers that map ids only one is left.
        command.arg("x");
        let mut command = own.postroj(&["run", "--userns=single", "host", "true"]);
        command.env_remove("POSTROJ_NETWORK").env("PATH", "/nonexistent");
        let Said { code, err, .. } = said(&mut command);
        assert_eq!(code, 0, "{err}");
        assert!(err.is_empty() || err.contains("sharing the host's"), "{err}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let own = Own::new("net-refused");
    for (words, part) in [
        (&["--network", "user,accel=maybe"][..], "accel=on, accel=off"),
        (&["--network", "host:x"], "known are none, host"),
        (&["--network", "ns:relative"], "absolute path"),
        (&["-p", "0:80"], "is no port"),
        (&["-p", "80/sctp"], "unknown protocol"),
        (&["--mac-address", "01:00:00:00:00:01"], "no hardware address of one"),
    ] {
        let said = said(&mut own.postroj(&[&["run"], words, &["host", "true"]].concat()));
        assert_eq!(said.code, 125, "{words:?}: {said:?}");
        assert!(said.err.contains(part), "{words:?}: {said:?}");
    }
    for (words, part) in [
        (&["--network", "host", "-p", "80"][..], "-p means nothing"),
        (&["--network", "none", "--ip", "10.0.0.1"], "--ip means nothing"),
        (&["--network", "nosuch"], "nosuch"),
        (&["--network", "container:nosuch"], "no machine \"nosuch\""),
        (&["--network", "ns:/etc/passwd"], "cannot enter the network namespace /etc/passwd"),
    ] {
        fails(&mut own.postroj(&[&["run"], words, &["host", "true"]].concat()), 125, &[part]);
    }
}

#[test]
fn files_say_what_was_asked_for() {
    let own = Own::new("net-files");
    let asked = ["run", "--network", "none", "--add-host", "db:192.0.2.7", "--dns", "192.0.2.53"];
    let show = ["host", "cat", "/etc/hosts", "/etc/resolv.conf"];
    let told = out(&mut own.postroj(&[&asked[..], &show].concat()));
    assert!(told.contains("192.0.2.7\tdb\n") && told.contains("nameserver 192.0.2.53"), "{told}");
}

#[test]
fn addresses_can_be_chosen_and_namespaces_shared() {
    if !is_root() {
        return println!("skipped: {OF_ROOT}");
    }
    let place = Place::new();
    let own = Own::new("net-chosen");
    let name = format!("net-{}", std::process::id());
    let first = ["run", "--network", "bridge", "host", "cat", "/etc/hosts"];
    let hosts = out(&mut own.postroj(&first));
    let line = hosts.lines().find(|line| line.starts_with("10.")).expect("an address");
    let network = line.split('\t').next().unwrap().rsplit_once('.').unwrap().0.to_owned();
    let ip = format!("{network}.77");
    let options = ["--network", "bridge", "--ip", &ip, "--mac-address", "02:00:00:00:00:77"];
    let start = [&["run", "-d", "--rm", "--name", &name], &options[..], &["host", "sleep", "1000"]];
    out(own.postroj(&start.concat()).stderr(Stdio::null()));
    let shared = format!("container:{name}");
    let show = ["host", "ip", "-o", "addr", "show", "eth0"];
    let told = out(&mut own.postroj(&[&["run", "--network", &shared], &show[..]].concat()));
    assert!(told.contains(&ip), "{told}");
    let told = out(&mut own.postroj(&["exec", &name, "cat", "/sys/class/net/eth0/address"]));
    assert_eq!(told, "02:00:00:00:00:77");
    let taken = ["run", "--network", "bridge", "--ip", &ip, "host", "true"];
    fails(&mut own.postroj(&taken), 125, &[&format!("{ip} is in use by {name}")]);
    let elsewhere = ["run", "--network", "bridge", "--ip", "192.0.2.1", "host", "true"];
    fails(&mut own.postroj(&elsewhere), 125, &["192.0.2.1 is no address of a machine of"]);
    out(&mut own.postroj(&["rm", "-f", &name]));
    place.is_clean(|| own.postroj(&["ps"]));
}

#[test]
fn internal_reaches_its_peers_only() {
    // A user's is in a namespace of its own already.
    let place = is_root().then(Place::new);
    let root = Root(Own::new("net-internal"));
    let name = format!("peer-{}", std::process::id());
    let script = ["host", "perl", "-e", PEER, "serve", "80"];
    let start = [&["run", "-d", "--rm", "--name", &name, "--network", "internal"], &script[..]];
    out(root.postroj(&start.concat()).stderr(Stdio::null()));
    let hosts = out(&mut root.postroj(&["exec", &name, "cat", "/etc/hosts"]));
    let address = hosts.lines().find(|l| l.starts_with("10.")).and_then(|l| l.split('\t').next());
    let address = address.expect("an address").to_owned();
    let mode = ["--network", "internal"];
    let mut answer = String::new();
    wait_until("the peer serves", || {
        let said = said(&mut root.peer(&mode, &["tcp", &address, "80", "5"]));
        answer = said.out;
        said.code == 0
    });
    assert!(answer.starts_with("5 from "), "{answer}");
    for (outside, port) in [(OUTSIDE[0], PORT), (HOST[0], "22")] {
        let refused = said(&mut root.peer(&mode, &["udp", outside, port]));
        assert_ne!(refused.code, 0, "{refused:?}");
    }
    out(&mut root.postroj(&["rm", "-f", &name]));
    if let Some(place) = place {
        place.is_clean(|| root.postroj(&["ps"]));
    }
}

#[test]
fn apt_reaches_its_archive() {
    let image = debian("debian-12");
    let update = |network: &str, path: &str| {
        let words = ["run", "--network", network, &image, "apt-get", "-qq", "update"];
        let told = said(fixture::postroj(&words).env("PATH", path));
        assert_eq!(told.code, 0, "{network}: {told:?}");
        assert!(!told.err.contains("W:") && !told.err.contains("E:"), "{network}: {told:?}");
    };
    let usual = "/usr/bin:/bin:/usr/sbin:/sbin";
    update("user,accel=on", usual);
    if !is_root() {
        return update("user", usual);
    }
    update("bridge", usual);
    // By pasta, and by slirp4netns where that is all there is.
    update("user,accel=off", usual);
    let own = Own::new("net-apt");
    let bin = own.path("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink("/usr/bin/slirp4netns", bin.join("slirp4netns")).unwrap();
    update("user,accel=off", bin.to_str().unwrap());
}
