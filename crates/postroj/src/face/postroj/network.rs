//! The options that say which network a machine has.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use engine::state::RunDirectory;
use harness::network::{Default, settle};
use spec::network::{HostAddress, Mac, Mode, Port, Protocol, Wishes, checked_name};
use spec::request::NetworkRequest;

#[derive(Debug, clap::Args)]
pub(super) struct NetworkOptions {
    /// none, host, bridge[:NAME], internal, user[,accel=on|off|auto][,allow=CIDR], container:NAME, ns:PATH [default:
    /// bridge for root, user for others]
    #[arg(long, visible_alias = "net", value_name = "NETWORK", env = "POSTROJ_NETWORK")]
    network: Option<Mode>,
    /// Make a port of the machine reachable at one of the host's
    #[arg(short, long, value_name = "[HOST:]PORT", value_parser = ports)]
    publish: Vec<Ports>,
    /// Do so with all that the image exposes
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Resolver, instead of the host's
    #[arg(long, value_name = "IP")]
    dns: Vec<IpAddr>,
    /// Name for /etc/hosts; the address may be host-gateway
    #[arg(long, value_name = "NAME:IP", value_parser = host)]
    add_host: Vec<(String, HostAddress)>,
    /// Address
    #[arg(long, value_name = "IP")]
    ip: Option<Ipv4Addr>,
    /// Hardware address
    #[arg(long, value_name = "MAC")]
    mac_address: Option<Mac>,
    /// A further name that peers know the machine by
    #[arg(long, value_name = "NAME", value_parser = alias)]
    network_alias: Vec<String>,
}

impl NetworkOptions {
    /// Whether the command line says which network, not only the environment.
    pub(super) fn is_chosen(&self) -> bool {
        let usual = std::env::var("POSTROJ_NETWORK").ok().and_then(|text| text.parse().ok());
        self.network.is_some() && self.network != usual
    }

    /// Which network is asked for, on the command line or by the environment.
    pub(super) fn chosen(&self) -> Option<&Mode> {
        self.network.as_ref()
    }

    /// An option that no two machines may share, as far as one is given.
    pub(super) fn unique(&self) -> Option<&'static str> {
        let given = [
            ("--publish", !self.publish.is_empty()),
            ("--publish-all", self.publish_all),
            ("--ip", self.ip.is_some()),
            ("--mac-address", self.mac_address.is_some()),
            ("--network-alias", !self.network_alias.is_empty()),
        ];
        given.into_iter().find_map(|(name, is_given)| is_given.then_some(name))
    }

    /// What they mean on this host, and says what the user should know of it.
    pub(super) fn request(&self, default: Default, run: &RunDirectory) -> Result<NetworkRequest> {
        let wishes = Wishes {
            ports: self.publish.iter().flat_map(|ports| ports.0.clone()).collect(),
            publish_all: self.publish_all,
            dns: self.dns.clone(),
            hosts: self.add_host.clone(),
            ip: self.ip,
            mac: self.mac_address,
            aliases: self.network_alias.clone(),
        };
        let (network, remark) = settle(self.network.as_ref(), default, wishes, run)?;
        if let Some(remark) = remark {
            eprintln!("postroj: note: {remark}");
        }
        Ok(network)
    }
}

/// What one `-p` says: a range is several.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ports(Vec<Port>);

/// docker's `[[IP:][HOST]:]PORT[/PROTOCOL]`, each a number or a range.
fn ports(text: &str) -> Result<Ports, String> {
    let (text, protocol) = match text.rsplit_once('/') {
        None => (text, Protocol::Tcp),
        Some((text, "tcp")) => (text, Protocol::Tcp),
        Some((text, "udp")) => (text, Protocol::Udp),
        Some((_, other)) => return Err(format!("unknown protocol {other:?}: tcp or udp")),
    };
    let (front, inside) = text.rsplit_once(':').map_or((None, text), |(f, i)| (Some(f), i));
    let inside = range(inside)?;
    let (address, host) = match front {
        None => (None, None),
        Some(front) => match front.rsplit_once(':') {
            // An address of IPv6 is in brackets, and a lone host port has no colon.
            Some((address, _)) if address.contains(':') && !address.starts_with('[') => {
                return Err(format!("an address of IPv6 is in brackets: [{address}]"));
            }
            Some((address, host)) if !front.ends_with(']') => (Some(address), Some(host)),
            _ if front.contains([':', '.']) => {
                return Err("after an address comes the host's port, which may be empty".into());
            }
            _ => (None, Some(front)),
        },
    };
    let address = address.filter(|a| !a.is_empty()).map(ip).transpose()?;
    let host = match host.filter(|h| !h.is_empty()) {
        Some(host) => range(host)?,
        None => 0..=0,
    };
    let count = inside.clone().count();
    if host != (0..=0) && host.clone().count() != count {
        return Err("the ranges differ in length".into());
    }
    let hosts = if host == (0..=0) { vec![0; count] } else { host.collect() };
    let port = |(host, inside)| Port { address, host, inside, protocol };
    Ok(Ports(hosts.into_iter().zip(inside).map(port).collect()))
}

fn ip(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| format!("{text:?} is no address"))
}

fn range(text: &str) -> Result<std::ops::RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse().ok().filter(|port: &u16| *port != 0);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err(format!("{text:?} is no port: 1 to 65535, or a range of them")),
    }
}

/// `NAME:IP`; docker also takes `NAME=IP`.
fn host(text: &str) -> Result<(String, HostAddress), String> {
    let pair = text.split_once('=').or_else(|| text.split_once(':'));
    let (name, address) = pair.ok_or("a name and an address, such as db:10.0.0.7")?;
    let named = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || !name.bytes().all(named) {
        return Err(format!("{name:?} is no host name"));
    }
    let address = match address {
        "host-gateway" => HostAddress::Gateway,
        address => HostAddress::Is(ip(address)?),
    };
    Ok((name.to_owned(), address))
}

pub(super) fn alias(text: &str) -> Result<String, String> {
    checked_name(text).map(str::to_owned).map_err(|_| format!("{text:?} is no host name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_as_docker_has_them() {
        let told = |text| ports(text).map(|p| p.0.iter().map(Port::to_string).collect::<Vec<_>>());
        for (text, expected) in [
            ("80", vec!["0:80/tcp"]),
            ("8080:80", vec!["8080:80/tcp"]),
            ("8080:80/udp", vec!["8080:80/udp"]),
            ("127.0.0.1:8080:80", vec!["127.0.0.1:8080:80/tcp"]),
            ("127.0.0.1::80", vec!["127.0.0.1:0:80/tcp"]),
            ("[::1]:8080:80", vec!["[::1]:8080:80/tcp"]),
            ("8000-8001:80-81", vec!["8000:80/tcp", "8001:81/tcp"]),
            ("80-81", vec!["0:80/tcp", "0:81/tcp"]),
        ] {
            assert_eq!(told(text).unwrap(), expected, "{text}");
        }
        for bad in [
            "",
            "0",
            "x",
            "65536",
            "80/sctp",
            "80:",
            "1-2:3",
            "2-1:2-1",
            "1.2.3:80:80",
            "::1:80:80",
            "127.0.0.1:80",
        ] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_for_hosts() {
        assert_eq!(host("a:1.2.3.4").unwrap().0, "a");
        assert_eq!(host("a=::1").unwrap().1, HostAddress::Is("::1".parse().unwrap()));
        assert_eq!(host("out:host-gateway").unwrap().1, HostAddress::Gateway);
        for bad in ["a", ":1.2.3.4", "a b:1.2.3.4", "a:x"] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }
}
