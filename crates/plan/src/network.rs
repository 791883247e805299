//! Which network a machine has, and what its files say of it.

use std::net::IpAddr;

use spec::bypass::Bypass;
use spec::image::Config;
use spec::network::{Attachment, HostAddress, Link, Mode, Port, Protocol, Wishes};
use spec::plan::Network;
use spec::request::Request;

use crate::{Launcher, PlanError};

pub(crate) fn network(request: &Request, config: &Config) -> Result<Network, PlanError> {
    let asked = &request.network;
    let link = match &asked.mode {
        Mode::Host => return nothing_more(&asked.wishes, "host").map(|()| Network::Host),
        Mode::None => return nothing_more(&asked.wishes, "none").map(|()| Network::Loopback),
        Mode::Container(_) | Mode::Namespace(_) => {
            nothing_more(&asked.wishes, "one that is there")?;
            let path = asked.path.clone();
            let path =
                path.ok_or_else(|| PlanError::new("the network's namespace is not known"))?;
            return Ok(Network::Joined { path });
        }
        Mode::Bridge(name) => Link::Bridge(name.clone()),
        Mode::User(..) => Link::User(
            asked.user.ok_or_else(|| PlanError::new("how mode user is carried is not known"))?,
        ),
    };
    let wishes = asked.wishes.clone();
    let mut ports = wishes.ports;
    if wishes.publish_all {
        ports.extend(exposed(config)?);
    }
    Ok(Network::Attached(Attachment {
        link,
        ports,
        dns: wishes.dns,
        hosts: wishes.hosts,
        ip: wishes.ip,
        mac: wishes.mac,
        aliases: wishes.aliases,
    }))
}

/// What a machine may reach by sockets of the host's; its ports are added once they are chosen.
pub(crate) fn bypass(request: &Request, launcher: &Launcher) -> Option<Bypass> {
    let asked = &request.network;
    let allow = match &asked.mode {
        Mode::User(_, allow) => allow.as_slice(),
        // The way out of a bridge that leads nowhere itself.
        Mode::Bridge(_) => &[],
        _ => return None,
    };
    asked.user.filter(|user| user.bypass)?;
    Some(Bypass {
        allow: allow.to_vec(),
        resolvers: resolvers(&resolv_conf(request, launcher)),
        ports: Vec::new(),
    })
}

/// Who is asked for names (resolv.conf(5)).
fn resolvers(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let word = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        // A scope means an interface of the host's.
        word.split('%').next()?.parse().ok()
    };
    text.lines().filter_map(address).collect()
}

/// Refuses what only a network of the machine's own can have.
fn nothing_more(wishes: &Wishes, network: &str) -> Result<(), PlanError> {
    let asked = [
        ("-p", !wishes.ports.is_empty()),
        ("-P", wishes.publish_all),
        ("--ip", wishes.ip.is_some()),
        ("--mac-address", wishes.mac.is_some()),
        ("--network-alias", !wishes.aliases.is_empty()),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        Some((option, _)) => Err(PlanError::new(format!(
            "{option} means nothing where the machine's network is {network}"
        ))
        .hint("give --network bridge, or --network user")),
        None => Ok(()),
    }
}

/// The ports that the image names (image-spec 1.1, config.md, `ExposedPorts`), each to any of the host's.
fn exposed(config: &Config) -> Result<Vec<Port>, PlanError> {
    let Some(ports) = config.other.get("ExposedPorts").and_then(|ports| ports.as_object()) else {
        return Ok(Vec::new());
    };
    let parse = |text: &String| {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return None,
        };
        let inside = number.parse().ok().filter(|port| *port != 0)?;
        Some(Port { address: None, host: 0, inside, protocol })
    };
    ports
        .keys()
        .map(|text| {
            parse(text).ok_or_else(|| {
                PlanError::new(format!("the image exposes {text:?}, which is no TCP or UDP port"))
            })
        })
        .collect()
}

/// `/etc/hosts`; what depends on the machine's address is added once that is known.
pub(crate) fn hosts(request: &Request, launcher: &Launcher, hostname: &str) -> String {
    let mut text = match &request.network.mode {
        _ if request.network.shares() => with_hostname(&launcher.hosts, hostname),
        Mode::None => format!(
            "127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback {hostname}\n"
        ),
        _ => "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned(),
    };
    for (name, address) in &request.network.wishes.hosts {
        match address {
            HostAddress::Is(address) => text += &format!("{address}\t{name}\n"),
            // A machine that shares the host's network reaches it there.
            HostAddress::Gateway if request.network.shares() => {
                text += &format!("127.0.0.1\t{name}\n");
            }
            HostAddress::Gateway => {}
        }
    }
    text
}

/// `/etc/resolv.conf`.
pub(crate) fn resolv_conf(request: &Request, launcher: &Launcher) -> String {
    let dns = &request.network.wishes.dns;
    let hosts_own = match &request.network.mode {
        _ if request.network.shares() => &launcher.resolv_conf,
        Mode::None if dns.is_empty() => return String::new(),
        _ => &launcher.upstream_resolv_conf,
    };
    if dns.is_empty() {
        return hosts_own.clone();
    }
    with_resolvers(hosts_own, dns)
}

/// Other resolvers, and what else the text says.
fn with_resolvers(text: &str, dns: &[IpAddr]) -> String {
    let others = text.lines().filter(|line| {
        line.split_ascii_whitespace().next().is_some_and(|w| w == "search" || w == "options")
    });
    let mut text: String = others.map(|line| format!("{line}\n")).collect();
    dns.iter().for_each(|address| text += &format!("nameserver {address}\n"));
    text
}

fn with_hostname(hosts: &str, hostname: &str) -> String {
    let known = hosts.lines().any(|line| {
        let line = line.split('#').next().unwrap_or_default();
        line.split_ascii_whitespace().skip(1).any(|name| name == hostname)
    });
    let end = if hosts.is_empty() || hosts.ends_with('\n') { "" } else { "\n" };
    if known { format!("{hosts}{end}") } else { format!("{hosts}{end}127.0.1.1\t{hostname}\n") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::request::NetworkRequest;

    #[test]
    fn what_only_an_own_network_can_have_is_refused_elsewhere() {
        let port = Port { address: None, host: 80, inside: 80, protocol: Protocol::Tcp };
        let wishes = Wishes { ports: vec![port], ..Wishes::default() };
        for mode in [Mode::Host, Mode::None] {
            let network = NetworkRequest { mode, wishes: wishes.clone(), ..Default::default() };
            let request = Request { network, ..Request::default() };
            let error = network_of(&request).unwrap_err().to_string();
            assert!(error.contains("-p means nothing"), "{error}");
        }
        let network =
            NetworkRequest { mode: Mode::Bridge("x".into()), wishes, ..Default::default() };
        let made = network_of(&Request { network, ..Request::default() }).unwrap();
        assert!(matches!(made, Network::Attached(a) if a.ports == [port]));
    }

    fn network_of(request: &Request) -> Result<Network, PlanError> {
        network(request, &Config::default())
    }

    #[test]
    fn resolvers_are_read() {
        let text = "search a\n nameserver 10.0.0.1 \nnameserver fe80::1%eth0\nnameserver x\n#nameserver 1.1.1.1\n";
        let expected: Vec<IpAddr> = ["10.0.0.1", "fe80::1"].map(|a| a.parse().unwrap()).to_vec();
        assert_eq!(resolvers(text), expected);
    }

    #[test]
    fn other_resolvers_leave_the_rest() {
        let text = "search a b\nnameserver 10.0.0.1\noptions ndots:2\n";
        let text = with_resolvers(text, &["9.9.9.9".parse().unwrap()]);
        assert_eq!(text, "search a b\noptions ndots:2\nnameserver 9.9.9.9\n");
    }
}
