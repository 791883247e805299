//! `--network user,accel=on`: sockets of the host's network in the place of a machine's own.
//!
//! What runs inside is `network_bypass/probe.c`. The host's own address, which is refused unless
//! it is allowed, stands for everything outside: it is there for every user.

mod fixture;

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fixture::{IMAGE, Machine, debian, fails, out, postroj, said, wait_until};

/// The program for inside, made once.
fn probe() -> PathBuf {
    let lock = std::fs::File::create(fixture::home().join("probe.lock")).unwrap();
    lock.lock().unwrap();
    let (probe, stamp) = (fixture::home().join("probe"), fixture::home().join("probe.c"));
    let source = include_str!("network_bypass/probe.c");
    if std::fs::read_to_string(&stamp).is_ok_and(|made| made == source) {
        return probe;
    }
    let text = fixture::home().join("probe-new.c");
    std::fs::write(&text, source).unwrap();
    let made = Command::new("gcc")
        .args(["-static", "-O1", "-pthread", "-Wall", "-Wextra", "-Werror", "-o"])
        .args([&probe, &text])
        .output()
        .expect("the package gcc is installed (`cargo xtask setup`)");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::rename(text, stamp).unwrap();
    probe
}

/// The host's own address towards everybody else.
fn host() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent.
    socket.connect("203.0.113.1:9").expect("the host has a route to elsewhere");
    socket.local_addr().unwrap().ip()
}

/// A server of the host's, at this address.
struct Server {
    child: Child,
    port: String,
}

impl Server {
    fn new(address: &str) -> Self {
        let mut serve = Command::new(probe());
        let serve = serve.args(["serve", address, "0"]).stdout(Stdio::piped());
        let mut child = serve.spawn().unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Self { child, port: port.trim().to_owned() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of this address where nobody listens.
fn closed(address: &str) -> String {
    let listener = TcpListener::bind((address, 0)).unwrap();
    listener.local_addr().unwrap().port().to_string()
}

fn allowing(address: impl std::fmt::Display) -> String {
    format!("user,accel=on,allow={address}")
}

/// `run` of the probe in a machine.
fn inside(network: &str, options: &[&str], words: &[&str]) -> Command {
    fixture::image();
    let volume = format!("{}:/probe:ro", probe().display());
    let first = ["run", "--network", network, "-v", &volume];
    postroj(&[&first[..], options, &[IMAGE, "/probe"], words].concat())
}

/// What the probe says; its last line is "ok".
#[track_caller]
fn tells(network: &str, words: &[&str]) -> Vec<String> {
    let said = out(&mut inside(network, &[], words));
    let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
    assert_eq!(lines.pop().as_deref(), Some("ok"), "{words:?}: {said}");
    lines
}

#[test]
fn connections_are_the_kernel_s_own() {
    let host = host().to_string();
    let server = Server::new(&host);
    tells(&allowing(&host), &["connects", &host, &server.port, &closed(&host)]);
}

#[test]
fn datagrams_arrive_and_are_answered() {
    let host = host().to_string();
    let server = Server::new(&host);
    tells(&allowing(&host), &["datagrams", &host, &server.port]);
}

#[test]
fn a_thousand_connections_at_a_time() {
    let host = host().to_string();
    let server = Server::new(&host);
    let options = ["--ulimit", "nofile=4096:4096"];
    let many = ["many", &host, &server.port, "1000"];
    assert_eq!(out(&mut inside(&allowing(&host), &options, &many)), "ok");
}

#[test]
fn what_is_the_machine_s_own_stays_inside() {
    // The host listens there as well, and must not be asked.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    tells("user,accel=on", &["own", &port]);
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
}

#[test]
fn the_host_and_private_networks_are_refused() {
    let (host, loopback) = (host().to_string(), Server::new("127.0.0.1"));
    let server = Server::new(&host);
    let said = tells("user,accel=on", &["refuses", "127.0.0.1", &loopback.port]);
    assert_eq!(said, ["tcp ECONNREFUSED", "udp inside"]);
    let said = tells("user,accel=on", &["refuses", &host, &server.port]);
    assert_eq!(said, ["tcp ENETUNREACH"]);
    for address in ["10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"] {
        assert_eq!(tells("user,accel=on", &["refuses", address, "80"]), ["tcp ENETUNREACH"]);
    }
    // Loopback is not the machine's to be allowed.
    let said = tells(&allowing("127.0.0.0/8"), &["refuses", "127.0.0.1", &loopback.port]);
    assert_eq!(said, ["tcp ECONNREFUSED", "udp inside"]);
    // Nor does a filter less open io_uring.
    let options = ["--security-opt", "seccomp=unconfined"];
    let words = ["refuses", "127.0.0.1", &loopback.port];
    out(&mut inside("user,accel=on", &options, &words));
}

/// Nobody gets there: neither a connection nor a datagram.
struct Untouched {
    listener: TcpListener,
    datagrams: UdpSocket,
    port: String,
}

impl Untouched {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let datagrams = UdpSocket::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        datagrams.set_nonblocking(true).unwrap();
        Self { listener, datagrams, port: address.port().to_string() }
    }

    #[track_caller]
    fn check(&self) {
        assert!(self.listener.accept().is_err(), "a connection got through");
        assert!(self.datagrams.recv(&mut [0; 16]).is_err(), "a datagram got through");
    }
}

#[test]
fn a_thread_that_rewrites_the_address_gets_nowhere() {
    let host = host().to_string();
    let (server, untouched) = (Server::new(&host), Untouched::new());
    let words = ["races", &host, &server.port, "127.0.0.1", &untouched.port];
    tells(&allowing(&host), &words);
    untouched.check();
}

#[test]
fn a_thread_that_swaps_descriptors_gets_no_connection() {
    let host = host().to_string();
    let (server, untouched) = (Server::new(&host), Untouched::new());
    let words = ["swaps", &host, &server.port, "127.0.0.1", &untouched.port];
    tells(&allowing(&host), &words);
    untouched.check();
}

#[test]
fn an_inherited_socket_reaches_no_more() {
    let untouched = Untouched::new();
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    );
    let mut command =
        inside("user,accel=on", &["-i"], &["inherited", "127.0.0.1", &untouched.port]);
    let socket: OwnedFd = socket.unwrap();
    assert_eq!(out(command.stdin(Stdio::from(socket))), "ENETUNREACH\nok");
    untouched.check();
}

#[test]
fn a_call_that_waits_can_be_interrupted() {
    // Nobody has this address, and nobody says so at once.
    let listener = TcpListener::bind((host(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    // A full queue answers nothing.
    rustix::net::listen(&listener, 0).unwrap();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        waiting.push(stream);
    }
    let port = address.port().to_string();
    let words = ["interrupted", &address.ip().to_string(), &port];
    assert_eq!(tells(&allowing(address.ip()), &words), ["EINTR", "EINPROGRESS"]);
}

#[test]
fn a_socket_that_is_bound_to_an_interface_stays() {
    let host = host().to_string();
    let server = Server::new(&host);
    // It goes out by the machine's loopback device, where nobody answers.
    assert_eq!(tells(&allowing(&host), &["bound", &host, &server.port]), ["EINPROGRESS"]);
}

/// What a server says to whoever connects, once it listens.
fn ask(address: (IpAddr, u16)) -> String {
    let mut text = String::new();
    wait_until("the server listens", || {
        text.clear();
        let Ok(mut stream) = TcpStream::connect(address) else { return false };
        stream.read_to_string(&mut text).is_ok() && !text.is_empty()
    });
    text
}

#[test]
fn a_published_server_sees_its_clients() {
    let (host, port) = (host(), free());
    fixture::image();
    let volume = format!("{}:/probe:ro", probe().display());
    let publish = format!("{port}:80");
    let late = "sleep 0.5; exec /probe tell 80";
    let options =
        ["run", "-d", "--rm", "--network", "user,accel=on", "-p", &publish, "-v", &volume];
    let machine = Machine::start(&[&options[..], &[IMAGE, "sh", "-c", late]].concat());
    // It is told its own port, and the clients' addresses are theirs.
    let loopback = IpAddr::from([127, 0, 0, 1]);
    assert_eq!(ask((loopback, port)), "127.0.0.1 at 80\n");
    assert_eq!(ask((host, port)), format!("{host} at 80\n"));
    // The machine's own find it under its own port.
    let script = "nc 127.0.0.1 80 </dev/null";
    assert_eq!(out(&mut machine.exec(&[], &["sh", "-c", script])), "127.0.0.1 at 80");
    // The port is in use.
    let again = ["run", "--network", "user,accel=on", "-p", &publish, IMAGE, "true"];
    fails(&mut postroj(&again), 125, &["in use"]);
}

/// A port that is free for now.
fn free() -> u16 {
    TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn debian_installs_and_runs_a_forking_server() {
    let (host, port) = (host(), free());
    let image = debian("debian-12");
    let publish = format!("{port}:80");
    let script = "apt-get -q -o Acquire::Check-Valid-Until=false update &&
        apt-get -qy --no-install-recommends install nginx-light &&
        printf '%s\\n' 'server { listen 80 reuseport; location / { return 200 \"$remote_addr $server_port\"; } }' \\
            > /etc/nginx/sites-enabled/default &&
        exec nginx -g 'daemon off;'";
    let options = ["run", "-d", "--network", "user,accel=on", "-p", &publish];
    let machine = Machine::start(&[&options[..], &[&image, "sh", "-c", script]].concat());
    let log = || said(&mut postroj(&["logs", &machine.name]));
    let url = format!("http://{host}:{port}/");
    let mut last = None;
    for _ in 0..1200 {
        let got = said(Command::new("curl").args(["-s", "--max-time", "5", &url]));
        if got.code == 0 {
            last = Some(got.out);
            break;
        }
        let running = out(&mut postroj(&["ps"]));
        assert!(running.contains(&machine.name), "{:?}", log());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(last, Some(format!("{host} 80")), "{:?}", log());
    for _ in 0..20 {
        let got = out(Command::new("curl").args(["-s", "--max-time", "20", &url]));
        assert_eq!(got, format!("{host} 80"));
    }
}

#[test]
fn a_system_and_its_services_have_it() {
    let host = host().to_string();
    let server = Server::new(&host);
    let volume = format!("{}:/probe:ro", probe().display());
    let network = allowing(&host);
    let options = ["--fast", "--network", &network, "-v", &volume];
    let machine = Machine::boot(&options, &debian("debian-12"));
    assert_eq!(out(&mut machine.exec(&[], &["systemctl", "is-system-running"])), "running");
    let probe = ["/probe", "connects", &host, &server.port, &closed(&host)];
    assert_eq!(out(&mut machine.exec(&[], &probe)), "ok");
    let service = [
        "systemd-run",
        "-q",
        "--wait",
        "--pipe",
        "-p",
        "DynamicUser=yes",
        "-p",
        "NoNewPrivileges=yes",
        "-p",
        "SystemCallFilter=@system-service",
    ];
    assert_eq!(out(&mut machine.exec(&[], &[&service[..], &probe].concat())), "ok");
    let datagrams = ["/probe", "datagrams", &host, &server.port];
    assert_eq!(out(&mut machine.exec(&[], &[&service[..], &datagrams].concat())), "ok");
    let refused = ["/probe", "refuses", "10.0.0.1", "80"];
    assert_eq!(out(&mut machine.exec(&[], &refused)), "tcp ENETUNREACH\nok");
    assert_eq!(machine.stop(), 0);
}
