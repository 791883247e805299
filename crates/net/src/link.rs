//! Devices, addresses and routes (rtnetlink(7)).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::net::netdevice;
use spec::network::{Interface, Mac};

use crate::netlink::{ACK, Batch, CREATE, DUMP, EXCL, Socket, attributes};

/// linux/rtnetlink.h and linux/if_link.h.
const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const GETROUTE: u16 = 26;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_IFALIAS: u16 = 20;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_PID: u16 = 19;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const UP: u32 = 1;

/// Links of one network namespace.
pub(crate) struct Links(Socket);

/// One end of a pair of devices, inside a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inside {
    /// Name.
    pub(crate) device: String,
    pub(crate) mac: Mac,
    pub(crate) mtu: u32,
    /// Address and length of its prefix.
    pub(crate) addresses: Vec<(IpAddr, u8)>,
    /// Ways out.
    pub(crate) gateways: Vec<IpAddr>,
}

/// The first device's name in a machine, as docker and podman have it.
pub(crate) const DEVICE: &str = "eth0";

impl From<Socket> for Links {
    fn from(socket: Socket) -> Self {
        Self(socket)
    }
}

impl Links {
    /// Of the namespace that this process is in.
    ///
    /// # Errors
    /// socket(2)'s.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Socket::new(None)?))
    }

    /// A device's number.
    ///
    /// # Errors
    /// `ENODEV` where there is none of that name.
    pub(crate) fn index(&self, name: &str) -> io::Result<u32> {
        Ok(netdevice::name_to_index(&self.0, name)?)
    }

    /// A device's hardware address and MTU: asked for here, since `/sys` may be that of another
    /// namespace.
    fn facts(&self, name: &str) -> Option<(Option<Mac>, Option<u32>)> {
        let mut batch = Batch::default();
        batch.message(GETLINK, 0, &interface(0, 0)).text(IFLA_IFNAME, name);
        let told = self.0.ask(&batch).ok()?;
        let header = interface(0, 0).len();
        let mut facts = (None, None);
        for (kind, value) in attributes(told.first()?.get(header..)?) {
            match kind {
                IFLA_ADDRESS => facts.0 = value.try_into().ok().map(Mac),
                IFLA_MTU => facts.1 = value.try_into().ok().map(u32::from_ne_bytes),
                _ => {}
            }
        }
        Some(facts)
    }

    /// A device's hardware address.
    pub(crate) fn hardware_address(&self, name: &str) -> Option<Mac> {
        self.facts(name)?.0
    }

    /// The least of the MTUs of the devices that lead out: packets that are larger would not.
    pub(crate) fn mtu(&self, leads_nowhere: bool) -> u32 {
        const ETHERNET: u32 = 1500;
        if leads_nowhere {
            return ETHERNET;
        }
        let mtus = uplinks().into_iter().filter_map(|name| self.facts(&name)?.1);
        mtus.min().unwrap_or(ETHERNET)
    }

    /// Names of devices that have nothing attached, each with what says whose it is.
    pub(crate) fn unused(&self) -> io::Result<Vec<(String, String)>> {
        let mut batch = Batch::default();
        batch.message(GETLINK, DUMP, &interface(0, 0));
        let text = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
        let (mut all, mut masters) = (Vec::new(), BTreeSet::new());
        for message in self.0.ask(&batch)? {
            let (Some(index), Some(rest)) = (message.get(4..8), message.get(16..)) else {
                continue;
            };
            let (mut name, mut whose) = (String::new(), None);
            for (kind, value) in attributes(rest) {
                match kind {
                    IFLA_IFNAME => name = text(value),
                    IFLA_IFALIAS => whose = Some(text(value)),
                    IFLA_MASTER => drop(masters.insert(value.to_vec())),
                    _ => {}
                }
            }
            all.extend(whose.map(|whose| (index.to_vec(), name, whose)));
        }
        all.retain(|(index, ..)| !masters.contains(index));
        Ok(all.into_iter().map(|(_, name, whose)| (name, whose)).collect())
    }

    /// Makes a bridge with addresses, and brings it up. `whose` is kept with it (256 bytes at most).
    ///
    /// # Errors
    /// `EEXIST` where the name is taken; rtnetlink(7)'s.
    pub(crate) fn make_bridge(
        &self,
        name: &str,
        mac: Mac,
        mtu: u32,
        addresses: &[(IpAddr, u8)],
        whose: &str,
    ) -> io::Result<u32> {
        let mut batch = Batch::default();
        batch.message(NEWLINK, ACK | CREATE | EXCL, &interface(0, UP));
        batch.text(IFLA_IFNAME, name).attribute(IFLA_ADDRESS, &mac.0).native(IFLA_MTU, mtu);
        batch.nest(IFLA_LINKINFO, |info| {
            info.attribute(INFO_KIND, b"bridge");
        });
        self.0.carry_out(&batch)?;
        let index = self.index(name)?;
        let mut batch = Batch::default();
        // Not taken with the first message (net/core/rtnetlink.c, `rtnl_create_link`).
        batch.message(NEWLINK, ACK, &interface(index, UP));
        batch.attribute(IFLA_IFALIAS, whose.as_bytes());
        addresses.iter().for_each(|(address, prefix)| add(&mut batch, index, *address, *prefix));
        self.0.carry_out(&batch)?;
        Ok(index)
    }

    /// Makes a pair of devices: one end on a bridge, the other in a process's namespace. One of that name, which nobody
    /// else may have, is what an ended machine left, and goes: the kernel takes the devices of a namespace that is gone in
    /// its own time (`cleanup_net`), and a machine that starts again is quicker.
    ///
    /// # Errors
    /// rtnetlink(7)'s.
    pub(crate) fn make_pair(
        &self,
        name: &str,
        bridge: u32,
        pid: i32,
        inside: &Inside,
    ) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.message(NEWLINK, ACK | CREATE | EXCL, &interface(0, UP));
        batch.text(IFLA_IFNAME, name).native(IFLA_MTU, inside.mtu).native(IFLA_MASTER, bridge);
        batch.nest(IFLA_LINKINFO, |info| {
            info.attribute(INFO_KIND, b"veth").nest(INFO_DATA, |data| {
                data.nest(VETH_PEER, |peer| {
                    peer.raw(&interface(0, 0)).text(IFLA_IFNAME, &inside.device);
                    peer.native(IFLA_MTU, inside.mtu).attribute(IFLA_ADDRESS, &inside.mac.0);
                    peer.native(IFLA_NET_NS_PID, pid.cast_unsigned());
                });
            });
        });
        let there = rustix::io::Errno::EXIST.raw_os_error();
        match self.0.carry_out(&batch) {
            Err(error) if error.raw_os_error() == Some(there) => {
                // The kernel may have been at it.
                let _ = self.remove(name);
                self.0.carry_out(&batch)
            }
            other => other,
        }
    }

    /// Puts a device that is there on a bridge, and brings it up.
    ///
    /// # Errors
    /// `ENODEV` where there is none of that name; rtnetlink(7)'s.
    pub(crate) fn put_on(&self, bridge: u32, name: &str, mtu: u32) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.message(NEWLINK, ACK, &interface(self.index(name)?, UP));
        batch.native(IFLA_MTU, mtu).native(IFLA_MASTER, bridge);
        self.0.carry_out(&batch)
    }

    /// Brings the inner end up, with addresses and routes.
    ///
    /// # Errors
    /// rtnetlink(7)'s.
    pub(crate) fn set_up(&self, inside: &Inside) -> io::Result<()> {
        let index = self.index(&inside.device)?;
        let mut batch = Batch::default();
        batch.message(NEWLINK, ACK, &interface(index, UP));
        lead(&mut batch, index, &inside.addresses, &inside.gateways);
        self.0.carry_out(&batch)
    }

    /// The same with a device of a guest's, which nobody has given its MTU before.
    ///
    /// # Errors
    /// rtnetlink(7)'s.
    pub(crate) fn set_up_card(&self, index: u32, card: &Interface) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.message(NEWLINK, ACK, &interface(index, UP)).native(IFLA_MTU, card.mtu);
        lead(&mut batch, index, &card.addresses, &card.gateways);
        self.0.carry_out(&batch)
    }

    /// Gives a device another hardware address, and takes these of its addresses from it, with the routes over
    /// them.
    ///
    /// # Errors
    /// rtnetlink(7)'s.
    pub(crate) fn bare(&self, name: &str, mac: Mac, addresses: &[(IpAddr, u8)]) -> io::Result<()> {
        let index = self.index(name)?;
        let mut batch = Batch::default();
        for (address, prefix) in addresses {
            of_address(&mut batch, DELADDR, ACK, index, *address, *prefix);
        }
        batch.message(NEWLINK, ACK, &interface(index, UP)).attribute(IFLA_ADDRESS, &mac.0);
        self.0.carry_out(&batch)
    }

    /// The way to one address, without a gateway.
    ///
    /// # Errors
    /// rtnetlink(7)'s.
    pub(crate) fn lead_to(&self, index: u32, address: IpAddr) -> io::Result<()> {
        let (family, bytes) = octets(address);
        let length = (bytes.len() * 8) as u8;
        let mut batch = Batch::default();
        // As below; its scope is the link.
        batch.message(NEWROUTE, ACK | CREATE, &[family, length, 0, 0, 254, 4, 253, 1, 0, 0, 0, 0]);
        batch.attribute(RTA_DST, &bytes).native(RTA_OIF, index);
        self.0.carry_out(&batch)
    }

    /// Ethernet devices that are up, as somebody set them up.
    ///
    /// # Errors
    /// rtnetlink(7)'s.
    pub(crate) fn ethernets(&self) -> io::Result<Vec<Inside>> {
        let mut batch = Batch::default();
        batch.message(GETLINK, DUMP, &interface(0, 0));
        let found = self.0.ask(&batch)?.iter().filter_map(|told| ethernet(told)).collect();
        let mut devices: Vec<(u32, Inside)> = found;
        let mut batch = Batch::default();
        batch.message(GETADDR, DUMP, &[0; 8]);
        for (index, address, prefix) in self.0.ask(&batch)?.iter().filter_map(|m| address(m)) {
            let of_it = devices.iter_mut().filter(|(number, _)| *number == index);
            of_it.for_each(|(_, device)| device.addresses.push((address, prefix)));
        }
        let mut batch = Batch::default();
        batch.message(GETROUTE, DUMP, &[0; 12]);
        for (index, gateway) in self.0.ask(&batch)?.iter().filter_map(|m| gateway(m)) {
            let of_it = devices.iter_mut().filter(|(number, _)| *number == index);
            of_it.for_each(|(_, device)| device.gateways.push(gateway));
        }
        Ok(devices.into_iter().map(|(_, device)| device).collect())
    }

    /// Sends messages of rtnetlink(7).
    ///
    /// # Errors
    /// The first answer that is one.
    pub(crate) fn carry_out(&self, batch: &Batch) -> io::Result<()> {
        self.0.carry_out(batch)
    }

    /// The device that has a hardware address, among those that machines are given.
    pub(crate) fn with_address(&self, mac: Mac) -> Option<u32> {
        self.named(mac).map(|(index, _)| index)
    }

    /// The same with its name.
    pub(crate) fn named(&self, mac: Mac) -> Option<(u32, String)> {
        let names = (0..256).map(|nth| format!("eth{nth}"));
        let mut there = names.map_while(|name| Some((self.index(&name).ok()?, name)));
        there.find(|(_, name)| self.hardware_address(name) == Some(mac))
    }

    /// Brings a device up.
    ///
    /// # Errors
    /// `ENODEV` where there is none of that name.
    pub(crate) fn raise(&self, name: &str) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.message(NEWLINK, ACK, &interface(self.index(name)?, UP));
        self.0.carry_out(&batch)
    }

    /// Removes a device.
    ///
    /// # Errors
    /// `ENODEV` where there is none of that name.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.message(DELLINK, ACK, &interface(0, 0)).text(IFLA_IFNAME, name);
        self.0.carry_out(&batch)
    }
}

/// Networks that this host knows a way to, other than by default (proc(5), `/proc/net/route`).
pub(crate) fn known_routes() -> Vec<(Ipv4Addr, Ipv4Addr)> {
    let text = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let number =
        |hex: &str| u32::from_str_radix(hex, 16).ok().map(u32::from_be).map(Ipv4Addr::from);
    let route = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (destination, mask) = (number(fields.nth(1)?)?, number(fields.nth(5)?)?);
        (!mask.is_unspecified()).then_some((destination, mask))
    };
    text.lines().skip(1).filter_map(route).collect()
}

/// The devices by which this host's default routes leave.
fn uplinks() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let of_default = text.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (name, destination) = (fields.next()?, fields.next()?);
        (destination == "00000000").then(|| name.to_owned())
    });
    of_default.collect()
}

/// `struct ifinfomsg`.
pub(crate) fn interface(index: u32, flags: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    const INET: u8 = 2;
    const INET6: u8 = 10;
    match address {
        IpAddr::V4(address) => (INET, address.octets().to_vec()),
        IpAddr::V6(address) => (INET6, address.octets().to_vec()),
    }
}

/// Addresses and ways out of a device that is up.
fn lead(batch: &mut Batch, index: u32, addresses: &[(IpAddr, u8)], gateways: &[IpAddr]) {
    addresses.iter().for_each(|(address, prefix)| add(batch, index, *address, *prefix));
    gateways.iter().for_each(|gateway| default_route(batch, index, *gateway));
}

fn add(batch: &mut Batch, index: u32, address: IpAddr, prefix: u8) {
    of_address(batch, NEWADDR, ACK | CREATE, index, address, prefix);
}

/// `struct ifaddrmsg` (rtnetlink(7)).
fn of_address(batch: &mut Batch, kind: u16, flags: u16, index: u32, address: IpAddr, prefix: u8) {
    // Ours alone: nobody need be asked, and it can be used at once (linux/if_addr.h).
    const NODAD: u8 = 2;
    let (family, bytes) = octets(address);
    let [a, b, c, d] = index.to_ne_bytes();
    let checks = if address.is_ipv6() { NODAD } else { 0 };
    batch.message(kind, flags, &[family, prefix, checks, 0, a, b, c, d]);
    batch.attribute(IFA_LOCAL, &bytes).attribute(IFA_ADDRESS, &bytes);
}

/// linux/rtnetlink.h, `struct rtmsg`: table main, made by an administrator, any distance, unicast.
fn default_route(batch: &mut Batch, index: u32, gateway: IpAddr) {
    let (family, bytes) = octets(gateway);
    batch.message(NEWROUTE, ACK | CREATE, &[family, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]);
    batch.attribute(RTA_GATEWAY, &bytes).native(RTA_OIF, index);
}

/// A device of a dump (`struct ifinfomsg`), where it is an Ethernet one that is up, with its number.
fn ethernet(told: &[u8]) -> Option<(u32, Inside)> {
    /// linux/if_arp.h.
    const ETHER: u16 = 1;
    let (header, rest) = told.split_at_checked(16)?;
    let kind = u16::from_ne_bytes(header[2..4].try_into().ok()?);
    let [index, flags] =
        [4, 8].map(|at| header[at..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes)));
    let (mut device, mut mac, mut mtu) = (String::new(), None, 0);
    for (kind, value) in attributes(rest) {
        match kind {
            IFLA_IFNAME => {
                device = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
            }
            IFLA_ADDRESS => mac = value.try_into().ok().map(Mac),
            IFLA_MTU => mtu = value.try_into().ok().map_or(0, u32::from_ne_bytes),
            _ => {}
        }
    }
    let inside = Inside { device, mac: mac?, mtu, addresses: Vec::new(), gateways: Vec::new() };
    (kind == ETHER && flags & UP != 0).then_some((index, inside))
}

/// An address of a dump that is not of the link alone, with its prefix's length and its device's number.
fn address(told: &[u8]) -> Option<(u32, IpAddr, u8)> {
    /// linux/rtnetlink.h, `RT_SCOPE_LINK`.
    const LINK: u8 = 253;
    let (header, rest) = told.split_at_checked(8)?;
    let index = u32::from_ne_bytes(header[4..8].try_into().ok()?);
    let find = |wanted| attributes(rest).find(|(kind, _)| *kind == wanted);
    // Of a point-to-point link the one is the peer's; IPv6 has no other.
    let (_, bytes) = find(IFA_LOCAL).or_else(|| find(IFA_ADDRESS))?;
    (header[3] != LINK).then_some((index, from_octets(bytes)?, header[1]))
}

/// The way out of a dump's route, where it is a default one, with its device's number.
fn gateway(told: &[u8]) -> Option<(u32, IpAddr)> {
    const MAIN: u8 = 254;
    let (header, rest) = told.split_at_checked(12)?;
    let find = |wanted| attributes(rest).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let index = u32::from_ne_bytes(find(RTA_OIF)?.try_into().ok()?);
    let is_default = header[1] == 0 && header[4] == MAIN;
    is_default.then_some((index, from_octets(find(RTA_GATEWAY)?)?))
}

fn from_octets(bytes: &[u8]) -> Option<IpAddr> {
    let four = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    four().or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

/// Whether this host speaks IPv6 at all.
pub(crate) fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}

/// An address of a network, by its number.
pub(crate) fn nth(prefix: Ipv6Addr, number: u32) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(prefix) | u128::from(number))
}
