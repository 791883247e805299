//! Networks that somebody makes: their machines know each other by name, and can be cut off.

mod fixture;
#[path = "network/place.rs"]
mod place;

use std::process::{Command, Stdio};

use fixture::{Own, fails, is_root, out, said, wait_until};
use place::{PEER, Place};

/// Three machines on a network; all are gone when this is dropped.
struct Three<'a> {
    own: &'a Own,
    names: [String; 3],
}

impl<'a> Three<'a> {
    fn new(own: &'a Own, network: &str) -> Self {
        let names = ["a", "b", "c"].map(|name| format!("{name}{}", std::process::id()));
        for name in &names {
            let alias = format!("alias-{name}");
            let options = ["run", "-d", "--rm", "--name", name, "--network-alias", &alias];
            let words =
                [&options[..], &["--network", network, "host", "perl", "-e", PEER, "serve", "80"]];
            out(own.postroj(&words.concat()).stderr(Stdio::null()));
        }
        Self { own, names }
    }

    /// Asks one from another, by any name.
    fn asks(&self, from: &str, name: &str) -> Command {
        let mut command = self
            .own
            .postroj(&["exec", from, "timeout", "1", "perl", "-e", PEER, "tcp", name, "80", "9"]);
        command.stderr(Stdio::null());
        command
    }

    #[track_caller]
    fn reach(&self, a: &str, b: &str) {
        wait_until(&format!("{a} reaches {b}"), || {
            said(&mut self.asks(a, b)).out.starts_with("9 from ")
        });
    }
}

impl Drop for Three<'_> {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = self.own.postroj(&["rm", "-f", name]).output();
        }
    }
}

#[test]
fn machines_know_each_other_by_name_and_can_be_cut_off() {
    let own = Own::new("net-names");
    // A user's network is in a namespace of its own already.
    let place = is_root().then(Place::new);
    assert_eq!(out(&mut own.postroj(&["network", "create", "lab"])), "lab");
    fails(&mut own.postroj(&["network", "create", "lab"]), 125, &["a network lab already"]);
    let three = Three::new(&own, "lab");
    let [a, b, c] = &three.names;
    for (from, to) in [(a, b), (b, a), (a, c), (c, a), (b, c), (c, b)] {
        three.reach(from, to);
        three.reach(from, &format!("alias-{to}"));
    }
    // By IPv6 too, and what nobody is called is nobody.
    let ahosts = out(&mut own.postroj(&["exec", a, "getent", "ahosts", b]));
    assert!(ahosts.contains("fd") && ahosts.contains("10."), "{ahosts}");
    out(&mut own.postroj(&["network", "cut", a, b]));
    for (from, to) in [(a, b), (b, a)] {
        assert_eq!(said(&mut three.asks(from, to)).out, "", "{from} still reaches {to}");
    }
    three.reach(a, c);
    three.reach(c, b);
    out(&mut own.postroj(&["network", "heal", a, b]));
    three.reach(a, b);
    three.reach(b, a);
    fails(&mut own.postroj(&["network", "cut", a, "nobody"]), 125, &["on no network together"]);
    fails(&mut own.postroj(&["network", "rm", "lab"]), 125, &["is used by the machine"]);
    let shown = own.json(&["network", "inspect", "lab"]);
    assert_eq!(shown[0]["Machines"].as_array().unwrap().len(), 3, "{shown}");
    drop(three);
    wait_until("it can be removed", || {
        own.postroj(&["network", "rm", "lab"]).output().unwrap().status.success()
    });
    let names = out(&mut own.postroj(&["network", "ls", "-q"]));
    assert_eq!(names, "bridge\ninternal");
    if let Some(place) = place {
        place.is_clean(|| own.postroj(&["ps"]));
    }
}

#[test]
fn peers_know_a_renamed_machine_by_its_new_name() {
    let place = is_root().then(Place::new);
    let own = Own::new("net-renamed");
    // Of other names nobody is asked, so that it is known at once that there is none.
    out(&mut own.postroj(&["network", "create", "--internal", "lab"]));
    let three = Three::new(&own, "lab");
    let [a, b, _] = &three.names;
    three.reach(b, a);
    out(&mut own.postroj(&["network", "cut", a, b]));
    let new = format!("new{}", std::process::id());
    out(&mut own.postroj(&["rename", a, &new]));
    let known = |name: &str| said(&mut own.postroj(&["exec", b, "getent", "hosts", name])).code;
    assert_eq!((known(&new), known(&format!("alias-{a}")), known(a)), (0, 0, 2));
    fails(&mut own.postroj(&["network", "heal", a, b]), 125, &["on no network together"]);
    out(&mut own.postroj(&["network", "heal", &new, b]));
    three.reach(b, &new);
    // What it is called outlives its place on the network.
    out(own.postroj(&["restart", &new]).stderr(Stdio::null()));
    three.reach(b, &new);
    assert_eq!(known(a), 2);
    out(&mut own.postroj(&["rm", "-f", &new]));
    drop(three);
    if let Some(place) = place {
        place.is_clean(|| own.postroj(&["ps"]));
    }
}

#[test]
fn machines_come_to_further_networks_and_leave_them() {
    let place = is_root().then(Place::new);
    let own = Own::new("net-further");
    for network in ["one", "two"] {
        out(&mut own.postroj(&["network", "create", network]));
    }
    let three = Three::new(&own, "one");
    let [a, b, _] = &three.names;
    // Another is on the second network only; its peers there are not a's.
    let alone = format!("d{}", std::process::id());
    let options = ["run", "-d", "--rm", "--name", &alone, "--network", "two"];
    let serve = ["host", "perl", "-e", PEER, "serve", "80"];
    out(own.postroj(&[&options[..], &serve].concat()).stderr(Stdio::null()));
    assert_eq!(said(&mut three.asks(a, &alone)).out, "");
    out(&mut own.postroj(&["network", "connect", "--alias", "sea", "one", &alone]));
    three.reach(a, &alone);
    three.reach(b, "sea");
    three.reach(&alone, a);
    let again = ["network", "connect", "one", &alone];
    fails(&mut own.postroj(&again), 125, &["is on the network one already"]);
    // And the other way round, with an address of one's choice.
    let shown = own.json(&["network", "inspect", "two"]);
    let subnet = shown[0]["Subnet"].as_str().unwrap().trim_end_matches("0/24").to_owned();
    let ip = format!("{subnet}99");
    out(&mut own.postroj(&["network", "connect", "--ip", &ip, "two", a]));
    assert_eq!(said(&mut three.asks(b, &ip)).out, "");
    out(&mut own.postroj(&["network", "disconnect", "one", &alone]));
    assert_eq!(said(&mut three.asks(b, "sea")).out, "");
    three.reach(a, &alone);
    three.reach(&alone, &ip);
    let left = ["network", "disconnect", "one", &alone];
    fails(&mut own.postroj(&left), 125, &["is not on the network one"]);
    // What a machine came to goes with it.
    out(&mut own.postroj(&["rm", "-f", a]));
    wait_until("its further place is free", || {
        own.json(&["network", "inspect", "two"])[0]["Machines"].as_array().unwrap().len() == 1
    });
    out(&mut own.postroj(&["rm", "-f", &alone]));
    drop(three);
    if let Some(place) = place {
        place.is_clean(|| own.postroj(&["ps"]));
    }
}

#[test]
fn a_machine_s_packets_fare_badly_until_it_is_healed() {
    let place = is_root().then(Place::new);
    let own = Own::new("net-degrade");
    out(&mut own.postroj(&["network", "create", "lab"]));
    let three = Three::new(&own, "lab");
    let [a, b, c] = &three.names;
    three.reach(b, a);
    let ping = |from: &str, to: &str| {
        let words = ["exec", from, "ping", "-q", "-n", "-c200", "-i0.01", "-W1", to];
        let said = said(&mut own.postroj(&words)).out;
        let received = said.split(", ").nth(1).and_then(|part| part.split(' ').next());
        received.expect(&said).parse::<u32>().unwrap()
    };
    out(&mut own.postroj(&["network", "degrade", a, "--loss", "50%"]));
    // A quarter comes back: 50 of 200, never more than 130 or none.
    assert!((1..130).contains(&ping(b, a)));
    assert_eq!(ping(b, c), 200);
    let queue = || out(&mut own.postroj(&["exec", a, "tc", "qdisc", "show", "dev", "eth0"]));
    let rate = ["network", "degrade", a, "--loss", "100%", "--rate", "10mbit"];
    out(&mut own.postroj(&rate));
    assert!(queue().contains("tbf") && queue().contains("rate 10Mbit"), "{}", queue());
    assert_eq!(ping(b, a), 0);
    let delay = said(&mut own.postroj(&["network", "degrade", a, "--delay", "50ms"]));
    if delay.code == 0 {
        assert!(queue().contains("netem") && queue().contains("delay 50ms"), "{}", queue());
    } else {
        assert!(delay.err.contains("no queue of the kind netem"), "{delay:?}");
    }
    out(&mut own.postroj(&["network", "cut", a, c]));
    out(&mut own.postroj(&["network", "heal", a]));
    assert!(queue().contains("noqueue"), "{}", queue());
    assert_eq!(ping(b, a), 200);
    three.reach(c, a);
    let nothing = said(&mut own.postroj(&["network", "degrade", a]));
    assert!(nothing.code == 2 && nothing.err.contains("--loss"), "{nothing:?}");
    drop(three);
    if let Some(place) = place {
        place.is_clean(|| own.postroj(&["ps"]));
    }
}

#[test]
fn ports_are_listed() {
    if !is_root() {
        return println!("skipped: bridges are root's");
    }
    let place = Place::new();
    let own = Own::new("net-port");
    let name = format!("port-{}", std::process::id());
    let options = ["run", "-d", "--rm", "--name", &name, "--network", "bridge"];
    let ports = ["-p", "127.0.0.1:8080:80", "-p", "53/udp", "host", "sleep", "1000"];
    out(own.postroj(&[&options[..], &ports].concat()).stderr(Stdio::null()));
    let told = out(&mut own.postroj(&["port", &name]));
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[0], "80/tcp -> 127.0.0.1:8080");
    assert!(lines[1].starts_with("53/udp -> 0.0.0.0:") && !lines[1].ends_with(":0"), "{told}");
    assert_eq!(out(&mut own.postroj(&["port", &name, "80"])), "127.0.0.1:8080");
    fails(&mut own.postroj(&["port", &name, "81"]), 125, &["publishes no port 81/tcp"]);
    out(&mut own.postroj(&["rm", "-f", &name]));
    place.is_clean(|| own.postroj(&["ps"]));
}
