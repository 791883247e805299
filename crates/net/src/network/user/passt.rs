//! passt(1): what [`pasta`](super::pasta) is for a namespace, for the network card of a virtual machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use spec::network::{Attachment, End, Interface, Mac};

use super::carrier::Carrier;
use super::pasta::{Removed, ports_of};
use crate::network::{Attached, Known, Place, Prepared, Target};
use crate::ports;

/// The guest's address, as QEMU's own network has it: passt gives what it is told to, and stands for
/// every other address itself.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const PREFIX: u8 = 24;

/// Of IPv6, in a network for private use (RFC 4193) that is as good as random.
const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd70, 0x6f73, 0x7472, 0x6f6a, 0, 0, 0, 0x15);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd70, 0x6f73, 0x7472, 0x6f6a, 0, 0, 0, 2);
const PREFIX6: u8 = 64;

/// passt's own, which is the most that fits a frame (passt(1), "--mtu").
const MTU: u32 = 65520;

const MAC: Mac = Mac([0x02, 0x70, 10, 0, 2, 15]);

/// How it is to be started.
pub(super) struct Passt {
    known: Known,
    /// Where it says that it is ready.
    told: PathBuf,
    interface: Interface,
    /// Its end of the card, once the other was given away.
    end: Option<OwnedFd>,
}

impl Passt {
    pub(super) fn new(attachment: &Attachment, place: &Place<'_>) -> Result<Self> {
        // It binds them itself; who holds one is said better here.
        let ports = ports::free(&attachment.ports)?;
        let (mut addresses, mut gateways) =
            (vec![(IpAddr::V4(ADDRESS), PREFIX)], vec![IpAddr::V4(GATEWAY)]);
        if leads_out_by_ipv6() {
            addresses.push((IpAddr::V6(ADDRESS6), PREFIX6));
            gateways.push(IpAddr::V6(GATEWAY6));
        }
        let known = Known {
            addresses: addresses.iter().map(|(address, _)| *address).collect(),
            ports,
            ..Known::default()
        };
        let interface = Interface { mac: MAC, mtu: MTU, addresses, gateways, end: End::Stream };
        let told = place.run.join(format!("passt-{}", place.id));
        Ok(Self { known, told, interface, end: None })
    }
}

/// Whether there is a default route of IPv6 (proc(5), `/proc/net/ipv6_route`): passt has no IPv6 without one,
/// and a guest that believes in it would wait for answers.
fn leads_out_by_ipv6() -> bool {
    let text = std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    text.lines().any(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_default =
            fields.first().is_some_and(|destination| destination.bytes().all(|b| b == b'0'))
                && fields.get(1) == Some(&"00");
        // The kernel's own of last resort leads nowhere.
        is_default && fields.last() != Some(&"lo")
    })
}

impl Prepared for Passt {
    fn known(&self) -> &Known {
        &self.known
    }

    fn card(&mut self) -> Result<(OwnedFd, Interface)> {
        let kind = SocketType::STREAM;
        let pair = rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = pair.context("cannot make a socket for the network card")?;
        self.end = Some(ours);
        Ok((theirs, self.interface.clone()))
    }

    fn attach(self: Box<Self>, _target: &Target<'_>) -> Result<Box<dyn Attached>> {
        let end = self.end.context("nobody has the other end of the network card")?;
        let mut command = Command::new("passt");
        command.args(["--foreground", "--quiet", "--no-map-gw", "--no-ra", "--no-dhcpv6"]);
        command.args(["--mtu", &MTU.to_string()]);
        for ((address, prefix), gateway) in
            self.interface.addresses.iter().zip(&self.interface.gateways)
        {
            command.args(["--address", &address.to_string(), "--gateway", &gateway.to_string()]);
            if address.is_ipv4() {
                command.args(["--netmask", &prefix.to_string()]);
            }
        }
        if rustix::process::geteuid().is_root() {
            // As nobody, which it would become, it may not say that it is ready. It gives up all rights and sees no
            // file of the host's in either case (passt(1), "Sandboxing").
            command.args(["--runas", "0"]);
        }
        ports_of(&mut command, &self.known.ports);
        // It ends when QEMU does, whose end this is; else with this process.
        rustix::io::fcntl_setfd(&end, FdFlags::empty())?;
        command.arg("--fd").arg(end.as_raw_fd().to_string());
        command.arg("--pid").arg(&self.told);
        let told = Removed(self.told);
        let mut carrier = Carrier::start(&mut command, None)?;
        drop(end);
        let is_ready = || std::fs::metadata(&told.0).is_ok_and(|file| file.len() > 0);
        carrier.await_that(is_ready, "passt")?;
        Ok(Box::new(carrier))
    }
}
