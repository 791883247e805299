//! slirp4netns(1): a TCP/IP stack in a process, between the machine and sockets of the user's.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::process::Command;

use anyhow::{Context, Result, bail};
use spec::network::Attachment;

use super::carrier::{Carrier, Program};
use crate::network::{Known, Target};

/// How it is to be started.
pub(super) struct Slirp4netns;

/// What it gives by default (slirp4netns(1), "--cidr").
pub(super) fn known() -> Known {
    let address = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 2, last));
    Known {
        addresses: vec![address(100)],
        gateway: Some(address(2)),
        resolvers: vec![address(3)],
        ports: Vec::new(),
    }
}

impl Slirp4netns {
    pub(super) fn new(attachment: &Attachment) -> Result<Self> {
        if !attachment.ports.is_empty() {
            bail!("ports are published with pasta, not with slirp4netns: install passt");
        }
        Ok(Self)
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
        Ok(carrier)
    }
}
