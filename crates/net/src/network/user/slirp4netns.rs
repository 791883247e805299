//! slirp4netns(1): a TCP/IP stack in a process, between the machine and sockets of the user's.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::process::Command;

use anyhow::{Context, Result};
use spec::network::Attachment;

use super::carrier::{Carrier, Program};
use crate::forward;
use crate::network::{Known, Place, Target};
use crate::ports::{self, Held};

/// How it is to be started.
pub(super) struct Slirp4netns {
    ports: Vec<Held>,
    machine: String,
}

/// The machine's address.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 100));

/// What it gives by default (slirp4netns(1), "--cidr").
pub(super) fn known(slirp: &Slirp4netns) -> Known {
    let address = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 2, last));
    Known {
        addresses: vec![ADDRESS],
        gateway: Some(address(2)),
        resolvers: vec![address(3)],
        ports: slirp.ports.iter().map(|held| held.port).collect(),
    }
}

impl Slirp4netns {
    pub(super) fn new(attachment: &Attachment, place: &Place<'_>) -> Result<Self> {
        Ok(Self { ports: ports::hold(&attachment.ports)?, machine: place.machine.to_owned() })
    }
}

impl Program for Slirp4netns {
    fn start(self: Box<Self>, target: &Target<'_>) -> Result<Carrier> {
        let pipe = || rustix::pipe::pipe().context("cannot make a pipe for slirp4netns");
        let ((leash_end, leash), (ready, ready_end)) = (pipe()?, pipe()?);
        for ours in [&leash, &ready] {
            rustix::io::fcntl_setfd(ours, rustix::io::FdFlags::CLOEXEC)?;
        }
        let mut command = Command::new("slirp4netns");
        command.args(["--configure", "--mtu=65520", "--disable-host-loopback", "--enable-ipv6"]);
        command.args(["--enable-sandbox", "--enable-seccomp"]);
        command.arg(format!("--exit-fd={}", leash_end.as_raw_fd()));
        command.arg(format!("--ready-fd={}", ready_end.as_raw_fd()));
        command.args([&target.pid.to_string(), "eth0"]);
        let mut carrier = Carrier::start(&mut command, Some(leash))?;
        drop((leash_end, ready_end));
        carrier.await_byte(ready, "slirp4netns")?;
        if !self.ports.is_empty() {
            // Its own way for ports knows IPv4 only, and is one system call a kilobyte.
            let from = forward::From::Machine;
            carrier.ports(forward::start(self.ports, target, ADDRESS, from, &self.machine)?);
        }
        Ok(carrier)
    }
}
