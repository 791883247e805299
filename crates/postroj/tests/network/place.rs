//! A host of its own for a test: a network namespace with a way out to a second one, so that
//! neither the real host's network nor other tests are touched.

#![allow(dead_code)] // Each test file uses its own part of this.

use std::process::{Child, Command, Stdio};

use crate::fixture::{self, out};

/// The host's own addresses towards outside, and those of the machine outside.
pub(crate) const HOST: [&str; 2] = ["198.51.100.1", "fd51::1"];
pub(crate) const OUTSIDE: [&str; 2] = ["198.51.100.2", "fd51::2"];
/// Of the server outside.
pub(crate) const PORT: &str = "7000";
/// What the resolver outside knows.
pub(crate) const KNOWN: [&str; 2] = ["known.example", "203.0.113.77"];
pub(crate) const PEER: &str = include_str!("peer.pl");

/// This thread's commands run on that host from here on.
pub(crate) struct Place {
    holder: Child,
    servers: [Child; 2],
}

fn sh(script: &str) {
    out(Command::new("sh").args(["-ec", script]));
}

impl Place {
    /// Root only.
    pub(crate) fn new() -> Self {
        sys::process::unshare(rustix::thread::UnshareFlags::NEWNET).unwrap();
        // Ends with its standard input, so with this test.
        let holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut holder = holder.unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut byte).unwrap();
        let pid = holder.id();
        let [own, own6] = HOST;
        let [theirs, theirs6] = OUTSIDE;
        sh(&format!(
            "ip link set lo up; echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range; \
             ip link add up0 type veth peer name out0 netns {pid}; \
             ip addr add {own}/24 dev up0; ip addr add {own6}/64 dev up0 nodad; \
             ip link set up0 mtu 1400 up; ip route add default via {theirs}; \
             nsenter -t {pid} -n sh -ec 'ip link set lo up; ip addr add {theirs}/24 dev out0; \
             ip addr add {theirs6}/64 dev out0 nodad; ip link set out0 mtu 1400 up'; \
             ip -6 route add default via {theirs6}"
        ));
        let servers = [&["serve", PORT][..], &["names", KNOWN[0], KNOWN[1]]].map(|words| {
            let server = outside(pid, words).stdout(Stdio::piped()).spawn();
            let mut server = server.unwrap();
            std::io::Read::read_exact(server.stdout.as_mut().unwrap(), &mut byte).unwrap();
            server
        });
        Self { holder, servers }
    }

    /// A command of [`PEER`] on the machine outside.
    pub(crate) fn outside(&self, args: &[&str]) -> Command {
        outside(self.holder.id(), args)
    }

    /// The same on the host itself.
    pub(crate) fn host(&self, args: &[&str]) -> Command {
        let mut command = Command::new("prlimit");
        command.args(["--nofile=4096", "perl", "-e", PEER]).args(args);
        command
    }

    /// Nothing of any network is left, at the latest after the next command.
    #[track_caller]
    pub(crate) fn is_clean(&self, mut next: impl FnMut() -> Command) {
        fixture::wait_until("nothing is left of the network", || {
            assert!(next().status().unwrap().success());
            let links = out(Command::new("ip").args(["-br", "link"]));
            let rules = out(Command::new("nft").args(["list", "ruleset"]));
            !links.contains("pj") && rules.is_empty()
        });
    }
}

fn outside(pid: u32, args: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    // A thousand connections at a time are served.
    command.args(["-t", &pid.to_string(), "-n", "prlimit", "--nofile=4096", "perl", "-e", PEER]);
    command.args(args);
    command
}

impl Drop for Place {
    fn drop(&mut self) {
        for child in self.servers.iter_mut().chain([&mut self.holder]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
