//! Ports of the host's: whether they are free, and who holds them.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use anyhow::{Result, anyhow, bail};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use spec::network::{Port, Protocol};

/// A port of the host's that is held, by a socket for each family.
#[derive(Debug)]
pub(crate) struct Held {
    /// With the host's port chosen.
    pub(crate) port: Port,
    /// Bound, and listening where it is TCP.
    pub(crate) sockets: Vec<OwnedFd>,
}

/// Binds each; a port that is not given is chosen.
///
/// # Errors
/// Names the port, and who holds it.
pub(crate) fn hold(ports: &[Port]) -> Result<Vec<Held>> {
    let mut seen = BTreeSet::new();
    for port in ports.iter().filter(|port| port.host != 0) {
        if !seen.insert((port.address, port.host, port.protocol == Protocol::Tcp)) {
            bail!("the port {port} is published twice");
        }
    }
    ports.iter().map(hold_one).collect()
}

/// Checks each, and chooses those that are not given.
///
/// # Errors
/// As [`hold`].
pub(crate) fn free(ports: &[Port]) -> Result<Vec<Port>> {
    Ok(hold(ports)?.into_iter().map(|held| held.port).collect())
}

fn hold_one(port: &Port) -> Result<Held> {
    let addresses = match port.address {
        Some(address) => vec![address],
        None => vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
    };
    // A number that is free in one family may be taken in the other: then another is tried.
    for _ in 0..16 {
        let mut port = *port;
        let chosen = port.host == 0;
        let mut sockets = Vec::new();
        let mut clash = false;
        for address in &addresses {
            match bind(SocketAddr::new(*address, port.host), port.protocol) {
                Ok((socket, number)) => {
                    port.host = number;
                    sockets.push(socket);
                }
                Err(error) if chosen && error.kind() == io::ErrorKind::AddrInUse => clash = true,
                // A host without IPv6 has no port there to hold.
                Err(_) if address.is_ipv6() && port.address.is_none() && !has_ipv6() => {}
                Err(error) => return Err(explain(&port, &error)),
            }
        }
        if !clash {
            return Ok(Held { port, sockets });
        }
    }
    bail!("no port is free for {port}")
}

fn has_ipv6() -> bool {
    std::path::Path::new("/proc/net/if_inet6").exists()
}

fn bind(address: SocketAddr, protocol: Protocol) -> io::Result<(OwnedFd, u16)> {
    let (family, kind) = (
        if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 },
        if protocol == Protocol::Tcp { SocketType::STREAM } else { SocketType::DGRAM },
    );
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if protocol == Protocol::Tcp {
        // Connections that have just ended are no reason to refuse it.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    let (socket, bound) = match protocol {
        Protocol::Tcp => {
            rustix::net::listen(&socket, 4096)?;
            let listener = TcpListener::from(socket);
            let bound = listener.local_addr()?;
            (listener.into(), bound)
        }
        Protocol::Udp => {
            let socket = UdpSocket::from(socket);
            let bound = socket.local_addr()?;
            (socket.into(), bound)
        }
    };
    Ok((socket, bound.port()))
}

fn explain(port: &Port, error: &io::Error) -> anyhow::Error {
    let what = format!("cannot publish {port}");
    match error.kind() {
        io::ErrorKind::AddrInUse => match holder(port) {
            Some(holder) => anyhow!("{what}: the host's port is in use by {holder}"),
            None => anyhow!(
                "{what}: the host's port is in use, by a process that only root may look at"
            ),
        },
        io::ErrorKind::PermissionDenied => anyhow!(
            "{what}: ports below {} are root's (`sysctl net.ipv4.ip_unprivileged_port_start={}` allows it)",
            lowest().unwrap_or(1024),
            port.host
        ),
        io::ErrorKind::AddrNotAvailable => anyhow!("{what}: this host does not have that address"),
        _ => anyhow!("{what}: {error}"),
    }
}

fn lowest() -> Option<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").ok()?;
    text.trim().parse().ok()
}

/// Name and id of the process that has a port.
fn holder(port: &Port) -> Option<String> {
    let tables = match port.protocol {
        Protocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Protocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let inodes: Vec<String> = tables
        .iter()
        .flat_map(|table| inodes(&std::fs::read_to_string(table).unwrap_or_default(), port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut owners = processes.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let mut descriptors = std::fs::read_dir(entry.path().join("fd")).ok()?.flatten();
        let has = descriptors.any(|fd| {
            let target = std::fs::read_link(fd.path()).unwrap_or_default();
            inodes.iter().any(|inode| target.as_os_str() == inode.as_str())
        });
        let name = has.then(|| std::fs::read_to_string(entry.path().join("comm")).ok())??;
        Some(match name.trim().strip_prefix(crate::forward::OWN_NAME) {
            Some(machine) => format!("the machine {machine}"),
            None => format!("{} (process {pid})", name.trim()),
        })
    });
    owners.next()
}

/// Of sockets that are bound to a port: TCP's that listen, and all of UDP's (proc(5), `/proc/net/tcp`).
fn inodes(table: &str, port: &Port) -> Vec<u64> {
    const LISTENS: &str = "0A";
    let of = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
        let meant = port.protocol == Protocol::Udp || *fields.get(3)? == LISTENS;
        (meant && number == port.host).then(|| fields.get(9)?.parse().ok())?
    };
    table.lines().skip(1).filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_a_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = taken.local_addr().unwrap().port();
        let port = Port {
            address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            host,
            inside: 1,
            protocol: Protocol::Tcp,
        };
        let error = hold(&[port]).unwrap_err().to_string();
        assert!(error.contains("in use by"), "{error}");
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(taken);
        assert_eq!(hold(&[port]).unwrap()[0].port, port);
        assert!(hold(&[port, port]).unwrap_err().to_string().contains("twice"));
        let any = Port { host: 0, ..port };
        assert_ne!(hold(&[any]).unwrap()[0].port.host, 0);
    }
}
