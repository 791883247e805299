//! Packet rules (nftables over netlink; the kernel's include/uapi/linux/netfilter/nf_tables.h).

use std::io;
use std::net::IpAddr;

use rustix::net::netlink;
use spec::network::Protocol;

use crate::netlink::{ACK, APPEND, Batch, CREATE, Socket};

const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;
/// Families (linux/netfilter.h).
const INET: u8 = 1;
const BRIDGE: u8 = 7;

/// A table that is written at once.
pub(crate) struct Table {
    batch: Batch,
    family: u8,
    name: String,
}

/// A place in a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    /// Where destinations are replaced.
    Destination,
    /// Where sources are.
    Source,
    /// From device to device.
    Forward,
    /// To this host.
    Input,
}

impl Hook {
    /// Chain's name, type, hook number and priority.
    fn facts(self) -> (&'static str, &'static str, u32, i32) {
        match self {
            Self::Destination => ("destination", "nat", 0, -100),
            Self::Source => ("source", "nat", 4, 100),
            Self::Forward => ("forward", "filter", 2, 0),
            Self::Input => ("input", "filter", 1, 0),
        }
    }
}

impl Table {
    /// A table for packets of IP. `owned`: it goes with the socket that it is sent by (Linux 5.12).
    pub(crate) fn new(name: &str, owned: bool) -> Self {
        Self::of(INET, name, owned)
    }

    /// One for what a bridge passes from port to port.
    pub(crate) fn of_bridge(name: &str) -> Self {
        Self::of(BRIDGE, name, false)
    }

    fn of(family: u8, name: &str, owned: bool) -> Self {
        const OWNER: u32 = 2;
        let mut table = Self { batch: Batch::default(), family, name: name.into() };
        begin(&mut table.batch);
        table.message(NEWTABLE, CREATE).text(1, name);
        if owned {
            table.batch.big(2, OWNER);
        }
        table
    }

    fn message(&mut self, kind: u16, flags: u16) -> &mut Batch {
        self.batch.message(SUBSYSTEM | kind, flags, &[self.family, 0, 0, 0])
    }

    /// A chain for packets that pass there.
    pub(crate) fn chain(&mut self, hook: Hook) -> &mut Self {
        let (chain, kind, number, priority) = hook.facts();
        let name = self.name.clone();
        let batch = self.message(NEWCHAIN, CREATE);
        batch.text(1, &name).text(3, chain).nest(4, |hook| {
            hook.big(1, number).big(2, priority.cast_unsigned());
        });
        batch.text(7, kind);
        self
    }

    /// A rule at the end of a chain.
    pub(crate) fn rule(&mut self, hook: Hook, parts: &[Part<'_>]) -> &mut Self {
        let (chain, ..) = hook.facts();
        let name = self.name.clone();
        let batch = self.message(NEWRULE, CREATE | APPEND);
        batch.text(1, &name).text(2, chain).nest(4, |list| {
            parts.iter().for_each(|part| part.write(list));
        });
        self
    }

    /// Puts it there.
    ///
    /// # Errors
    /// The kernel's; then nothing of it is there.
    pub(crate) fn send(mut self, rules: &Rules) -> io::Result<()> {
        end(&mut self.batch);
        rules.0.carry_out(&self.batch)
    }
}

/// One test or act of a rule.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part<'a> {
    /// Came by this device.
    From(&'a str),
    /// Came by another.
    NotFrom(&'a str),
    /// Leaves by this device.
    To(&'a str),
    /// Leaves by another.
    NotTo(&'a str),
    /// Its source is in a network.
    Source(IpAddr, u8),
    /// Its destination is in one.
    Destination(IpAddr, u8),
    /// IPv4 or IPv6.
    Version(&'a IpAddr),
    /// Its destination is an address of this host's.
    Local,
    /// Of a protocol, to this port.
    Port(Protocol, u16),
    /// Begins a connection.
    New,
    /// Its destination was not replaced.
    Undirected,
    /// Gets this destination.
    Redirect(IpAddr, u16),
    /// Gets the source address of the device by which it leaves.
    Masquerade,
    /// Is lost.
    Drop,
    /// Passes this chain.
    Accept,
}

const REGISTER: u32 = 1;
const SECOND: u32 = 2;

impl Part<'_> {
    fn write(&self, list: &mut Batch) {
        match self {
            Self::From(device) => device_is(list, 6, device, true),
            Self::NotFrom(device) => device_is(list, 6, device, false),
            Self::To(device) => device_is(list, 7, device, true),
            Self::NotTo(device) => device_is(list, 7, device, false),
            Self::Source(network, prefix) => {
                let offset = if network.is_ipv4() { 12 } else { 8 };
                in_network(list, *network, *prefix, offset);
            }
            Self::Destination(network, prefix) => {
                let offset = if network.is_ipv4() { 16 } else { 24 };
                in_network(list, *network, *prefix, offset);
            }
            Self::Version(address) => version(list, address),
            Self::Local => {
                expression(list, "fib", |e| {
                    // The kind of the destination's address.
                    e.big(1, REGISTER).big(2, 3).big(3, 2);
                });
                const RTN_LOCAL: u32 = 2;
                compare(list, REGISTER, true, &RTN_LOCAL.to_ne_bytes());
            }
            Self::Port(protocol, port) => {
                meta(list, 16);
                let number = match protocol {
                    Protocol::Tcp => 6,
                    Protocol::Udp => 17,
                };
                compare(list, REGISTER, true, &[number]);
                payload(list, 2, 2, 2);
                compare(list, REGISTER, true, &port.to_be_bytes());
            }
            Self::New => conntrack(list, 0, 8, false),
            Self::Undirected => conntrack(list, 2, 1 << 5, true),
            Self::Redirect(address, port) => redirect(list, *address, *port),
            Self::Masquerade => expression(list, "masq", |_| {}),
            Self::Drop => verdict(list, 0),
            Self::Accept => verdict(list, 1),
        }
    }
}

fn expression(list: &mut Batch, name: &str, fill: impl FnOnce(&mut Batch)) {
    list.nest(1, |element| {
        element.text(1, name).nest(2, fill);
    });
}

fn meta(list: &mut Batch, key: u32) {
    expression(list, "meta", |e| {
        e.big(1, REGISTER).big(2, key);
    });
}

fn compare(list: &mut Batch, register: u32, equal: bool, value: &[u8]) {
    compared(list, register, u32::from(!equal), value);
}

fn compared(list: &mut Batch, register: u32, operation: u32, value: &[u8]) {
    expression(list, "cmp", |e| {
        e.big(1, register).big(2, operation).nest(3, |data| {
            data.attribute(1, value);
        });
    });
}

fn payload(list: &mut Batch, base: u32, offset: u32, length: u32) {
    expression(list, "payload", |e| {
        e.big(1, REGISTER).big(2, base).big(3, offset).big(4, length);
    });
}

fn mask(list: &mut Batch, mask: &[u8]) {
    let zero = vec![0; mask.len()];
    expression(list, "bitwise", |e| {
        e.big(1, REGISTER).big(2, REGISTER).big(3, mask.len() as u32);
        e.nest(4, |data| {
            data.attribute(1, mask);
        });
        e.nest(5, |data| {
            data.attribute(1, &zero);
        });
    });
}

fn device_is(list: &mut Batch, key: u32, name: &str, equal: bool) {
    meta(list, key);
    let mut bytes = [0; 16];
    bytes[..name.len().min(15)].copy_from_slice(&name.as_bytes()[..name.len().min(15)]);
    compare(list, REGISTER, equal, &bytes);
}

fn version(list: &mut Batch, address: &IpAddr) {
    meta(list, 15);
    compare(list, REGISTER, true, &[if address.is_ipv4() { 2 } else { 10 }]);
}

fn in_network(list: &mut Batch, network: IpAddr, prefix: u8, offset: u32) {
    version(list, &network);
    let bytes = octets(network);
    payload(list, 1, offset, bytes.len() as u32);
    let bits = |at: usize| {
        let left = usize::from(prefix).saturating_sub(at * 8).min(8);
        (0xff00_u32 >> left) as u8
    };
    let wanted: Vec<u8> = (0..bytes.len()).map(bits).collect();
    mask(list, &wanted);
    let value: Vec<u8> = bytes.iter().zip(&wanted).map(|(b, m)| b & m).collect();
    compare(list, REGISTER, true, &value);
}

/// Whether any (`none`: none) of these bits is set in what conntrack knows.
fn conntrack(list: &mut Batch, key: u32, bits: u32, none: bool) {
    expression(list, "ct", |e| {
        e.big(1, REGISTER).big(2, key);
    });
    mask(list, &bits.to_ne_bytes());
    compare(list, REGISTER, none, &[0; 4]);
}

fn immediate(list: &mut Batch, register: u32, value: &[u8]) {
    expression(list, "immediate", |e| {
        e.big(1, register).nest(2, |data| {
            data.attribute(1, value);
        });
    });
}

fn verdict(list: &mut Batch, code: u32) {
    expression(list, "immediate", |e| {
        e.big(1, 0).nest(2, |data| {
            data.nest(2, |verdict| {
                verdict.big(1, code);
            });
        });
    });
}

fn redirect(list: &mut Batch, address: IpAddr, port: u16) {
    immediate(list, REGISTER, &octets(address));
    immediate(list, SECOND, &port.to_be_bytes());
    expression(list, "nat", |e| {
        e.big(1, 1).big(2, if address.is_ipv4() { 2 } else { 10 });
        e.big(3, REGISTER).big(4, REGISTER).big(5, SECOND).big(6, SECOND);
    });
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// linux/netfilter/nfnetlink.h: `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10 << 8;
const BEGIN: u16 = 16;
const END: u16 = 17;

fn begin(batch: &mut Batch) {
    batch.message(BEGIN, 0, &[0, 0, 0, 10]);
}

fn end(batch: &mut Batch) {
    batch.message(END, 0, &[0, 0, 0, 10]);
}

/// The way to the rules of a namespace. Tables that it owns go with it.
#[derive(Debug)]
pub(crate) struct Rules(Socket);

impl From<Socket> for Rules {
    fn from(socket: Socket) -> Self {
        Self(socket)
    }
}

impl Rules {
    /// Of the namespace that this process is in.
    ///
    /// # Errors
    /// `EPROTONOSUPPORT` where the kernel has no nftables.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Socket::new(Some(netlink::NETFILTER))?))
    }

    /// Removes a table for packets of IP; that there is none is no error.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        self.remove_of(INET, name)
    }

    /// The same of a bridge's.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn remove_of_bridge(&self, name: &str) -> io::Result<()> {
        self.remove_of(BRIDGE, name)
    }

    fn remove_of(&self, family: u8, name: &str) -> io::Result<()> {
        let mut batch = Batch::default();
        begin(&mut batch);
        batch.message(SUBSYSTEM | DELTABLE, ACK, &[family, 0, 0, 0]).text(1, name);
        end(&mut batch);
        match self.0.carry_out(&batch) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}
