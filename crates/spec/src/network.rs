//! Networks: what can be asked for, and what a plan says of them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::bypass::Range;

/// `--network`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Mode {
    /// The launcher's network.
    #[default]
    Host,
    /// Only a loopback device of its own.
    None,
    /// A network of this host: a bridge that machines share.
    Bridge(String),
    /// One of the machine's own, carried by processes of the user; and what it may reach by the
    /// host's sockets that would be refused.
    User(Accel, Vec<Range>),
    /// That of another machine.
    Container(String),
    /// That of a namespace, by the path of its file.
    Namespace(String),
}

/// The network that machines have where none is named.
pub const DEFAULT: &str = "bridge";
/// The network of machines that reach their peers only.
pub const INTERNAL: &str = "internal";

/// `user,accel=`: whether sockets of the host's are put in the place of the machine's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accel {
    /// Where it is safe.
    #[default]
    Auto,
    /// It must be had.
    On,
    /// It must not.
    Off,
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, rest) = match text.split_once(':') {
            Some((word, rest)) => (word, Some(rest)),
            None => (text, None),
        };
        match (word, rest) {
            ("none", None) => Ok(Self::None),
            ("host", None) => Ok(Self::Host),
            ("bridge", None) => Ok(Self::Bridge(DEFAULT.into())),
            ("internal", None) => Ok(Self::Bridge(INTERNAL.into())),
            ("bridge", Some(name)) => checked_name(name).map(|name| Self::Bridge(name.into())),
            ("container", Some("")) => Err("container: lacks the machine's name".into()),
            ("container", Some(name)) => Ok(Self::Container(name.into())),
            ("ns", Some(path)) if path.starts_with('/') => Ok(Self::Namespace(path.into())),
            ("ns", Some(_)) => Err("ns: takes an absolute path, such as ns:/run/netns/x".into()),
            ("container" | "ns", None) => Err(format!("{word}: lacks what follows the colon")),
            _ if text == "user" || text.starts_with("user,") => user(&text["user".len()..]),
            (name, None) if checked_name(name).is_ok() => Ok(Self::Bridge(name.into())),
            _ => Err(KNOWN.into()),
        }
    }
}

const KNOWN: &str = "known are none, host, bridge, bridge:NAME, internal, user[,accel=on|off|auto][,allow=CIDR], \
                     container:NAME, ns:PATH, and the names of networks";

/// What follows `user`: options, each after a comma.
fn user(options: &str) -> Result<Mode, String> {
    let (mut accel, mut allow) = (Accel::Auto, Vec::new());
    for option in options.split(',').skip(1) {
        match option.split_once('=') {
            Some(("accel", "on")) => accel = Accel::On,
            Some(("accel", "off")) => accel = Accel::Off,
            Some(("accel", "auto")) => accel = Accel::Auto,
            Some(("allow", range)) => allow.push(range.parse()?),
            _ => {
                return Err("user takes the options accel=on, accel=off or accel=auto, and \
                            allow=CIDR, each after a comma"
                    .into());
            }
        }
    }
    if !allow.is_empty() && accel != Accel::On {
        return Err("allow= says what accel=on may reach: give both".into());
    }
    Ok(Mode::User(accel, allow))
}

/// A network's name, by docker's rule for names; the words of `--network` are none.
///
/// # Errors
/// Says what a name is.
pub fn checked_name(name: &str) -> Result<&str, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let starts_well = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if starts_well && name.len() <= 64 && name.bytes().all(good) {
        return Ok(name);
    }
    Err(format!("invalid network name {name:?}: letters, digits, and _ . - after the first"))
}

/// A port of the host's that leads into a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Where it is bound; all addresses where not given.
    pub address: Option<IpAddr>,
    /// The host's; 0 means any that is free.
    pub host: u16,
    /// The machine's.
    pub inside: u16,
    /// Transport.
    pub protocol: Protocol,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            None => {}
        }
        write!(f, "{}:{}/{}", self.host, self.inside, self.protocol)
    }
}

/// What a request says of a network besides its mode.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wishes {
    /// Published ports.
    pub ports: Vec<Port>,
    /// Publish every port that the image exposes, to any free one of the host's.
    pub publish_all: bool,
    /// Resolvers instead of the host's.
    pub dns: Vec<IpAddr>,
    /// Names for `/etc/hosts`.
    pub hosts: Vec<(String, HostAddress)>,
    /// Address.
    pub ip: Option<Ipv4Addr>,
    /// Hardware address.
    pub mac: Option<Mac>,
    /// Further names that its peers know it by.
    pub aliases: Vec<String>,
}

/// An address for `/etc/hosts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostAddress {
    /// This one.
    Is(IpAddr),
    /// The host's own, as the machine reaches it: docker's `host-gateway`.
    Gateway,
}

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mac(pub [u8; 6]);

impl std::str::FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let byte = |part: &str| {
            let hex = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u8::from_str_radix(part, 16).ok()).flatten()
        };
        let bytes: Option<Vec<u8>> = text.split([':', '-']).map(byte).collect();
        let bytes: Option<[u8; 6]> = bytes.and_then(|bytes| bytes.try_into().ok());
        match bytes {
            Some(bytes) if bytes[0] & 1 == 0 && bytes != [0; 6] => Ok(Self(bytes)),
            Some(_) => Err(format!("{text} is no hardware address of one interface")),
            None => Err(format!("{text:?} is no hardware address, such as 02:42:ac:11:00:02")),
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A new network namespace's way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// What it leads to.
    pub link: Link,
    /// Published ports.
    pub ports: Vec<Port>,
    /// Resolvers instead of the host's.
    pub dns: Vec<IpAddr>,
    /// Names for `/etc/hosts`.
    pub hosts: Vec<(String, HostAddress)>,
    /// Address.
    pub ip: Option<Ipv4Addr>,
    /// Hardware address.
    pub mac: Option<Mac>,
    /// Further names that its peers know it by.
    pub aliases: Vec<String>,
}

/// What a namespace is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Link {
    /// A bridge that machines share, by the network's name.
    Bridge(String),
    /// Processes of the user.
    User(User),
    /// A namespace that is there, by the path of its file, whose device's addresses become those of the card of
    /// a machine with a kernel of its own.
    Namespace(String),
}

/// How mode `user` is carried; at least one of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Sockets of the host's are put in the place of the machine's own.
    pub bypass: bool,
    /// A program that carries packets.
    pub tap: Option<Tap>,
}

/// A program that carries packets between a device inside and sockets outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tap {
    /// pasta(1).
    Pasta,
    /// slirp4netns(1).
    Slirp4netns,
    /// passt(1), for what has a kernel of its own: it carries no device's packets, but a card's.
    Passt,
}

/// A network card of a machine that has a kernel of its own, as its guest sets it up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// By which the guest finds it.
    pub mac: Mac,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Addresses, with the lengths of their prefixes.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Ways out.
    pub gateways: Vec<IpAddr>,
    /// What its outer end is.
    pub end: End,
}

/// What the outer end of a network card is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// A stream of frames, each after its length (4 bytes, the highest first): passt(1), "--fd".
    Stream,
    /// A device of the host's (tun.txt in the kernel's documentation).
    Tap,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_docker_s_words() {
        let bridge = |name: &str| Ok(Mode::Bridge(name.into()));
        for (text, mode) in [
            ("none", Ok(Mode::None)),
            ("host", Ok(Mode::Host)),
            ("bridge", bridge("bridge")),
            ("bridge:a.b", bridge("a.b")),
            ("internal", bridge("internal")),
            ("mine", bridge("mine")),
            ("user", Ok(Mode::User(Accel::Auto, vec![]))),
            ("user,accel=on", Ok(Mode::User(Accel::On, vec![]))),
            (
                "user,accel=on,allow=10.0.0.0/8,allow=fd00::/8",
                Ok(Mode::User(
                    Accel::On,
                    vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
                )),
            ),
            ("user,accel=off", Ok(Mode::User(Accel::Off, vec![]))),
            ("container:a", Ok(Mode::Container("a".into()))),
            ("ns:/run/netns/x", Ok(Mode::Namespace("/run/netns/x".into()))),
        ] {
            assert_eq!(text.parse::<Mode>(), mode, "{text}");
        }
        for bad in [
            "",
            "host:x",
            "none:",
            "bridge:",
            "bridge:a/b",
            "bridge:-a",
            "user,",
            "user,accel=",
            "user,accel=maybe",
            "user,allow=10.0.0.0/8",
            "user,accel=on,allow=x",
            "user,mtu=9",
            "user:x",
            "container:",
            "container",
            "ns:x",
            "ns:",
            "a b",
            "x:y",
        ] {
            assert!(bad.parse::<Mode>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hardware_addresses() {
        let mac: Mac = "02:42:AC:11:00:02".parse().unwrap();
        assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        for bad in ["", "02:42:ac:11:00", "03:42:ac:11:00:02", "0:0:0:0:0:0", "02:42:ac:11:00:0g"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
