//! Published ports: a server's socket is one of the host's, bound to what is published.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, RawFd};

use rustix::io::Errno;
use spec::network::{Port, Protocol};
use sys::inet;
use sys::notify::{Call, Listener, Verdict};

use super::socket::{Kind, Place, Socket};
use super::{Bypass, Outcome, address, done, filter, left, policy};

/// Which ports are published, asked from both sides.
pub(super) struct Published<'a>(pub(super) &'a [Port]);

impl Published<'_> {
    fn of(&self, kind: Kind) -> impl Iterator<Item = &Port> {
        let protocol = if kind.is_tcp() { Protocol::Tcp } else { Protocol::Udp };
        self.0.iter().filter(move |port| port.protocol == protocol)
    }

    /// Where a server is to be bound that asks for `wanted`. One that asks for the machine's
    /// loopback only stays there, as with every other kind of network.
    pub(super) fn bound_at(&self, wanted: SocketAddr, kind: Kind) -> Option<SocketAddr> {
        if policy::plain(wanted.ip()).is_loopback() {
            return None;
        }
        let v6 = kind.is_v6();
        let ports = self.of(kind).filter(|port| port.inside == wanted.port());
        let mut places = ports.filter_map(|port| {
            let address = port.address.unwrap_or_else(|| policy::any(v6));
            // A socket of IPv6 bound to all addresses takes IPv4's as well.
            let address = if address.is_unspecified() { policy::any(v6) } else { address };
            Some(SocketAddr::new(policy::of_family(address, v6)?, port.host))
        });
        places.next()
    }

    /// Where a published port of the machine's loopback is found from the monitor's own network.
    /// Datagrams are sent whether or not somebody is there.
    pub(super) fn reached_at(&self, to: SocketAddr, kind: Kind) -> Option<SocketAddr> {
        let address = policy::plain(to.ip());
        if !kind.is_tcp() || !(address.is_loopback() || address.is_unspecified()) {
            return None;
        }
        let port = self.of(kind).find(|port| port.inside == to.port())?;
        let loopback = || match policy::plain(to.ip()) {
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        };
        let address = port.address.filter(|a| !a.is_unspecified()).unwrap_or_else(loopback);
        Some(SocketAddr::new(policy::of_family(address, kind.is_v6())?, port.host))
    }

    /// Which of the machine's ports a socket of the host's stands for.
    pub(super) fn stands_for(&self, local: SocketAddr, kind: Kind) -> Option<u16> {
        self.of(kind).find(|port| port.host == local.port()).map(|port| port.inside)
    }
}

impl Bypass {
    pub(super) fn published(&self) -> Published<'_> {
        Published(&self.policy.ports)
    }

    pub(super) fn bind(&mut self, listener: &Listener, call: &Call) -> io::Result<Outcome> {
        let Some(socket) = Socket::of(listener, call, call.args[0] as RawFd, &self.places)? else {
            return left();
        };
        let wanted = inet::decode(&address(call, call.args[1], call.args[2])?);
        if !listener.is_waiting(call) {
            return left();
        }
        if socket.place == Place::Host {
            // It has a port already, or what it is for was decided otherwise.
            return Err(Errno::INVAL.into());
        }
        let wanted = wanted.filter(|_| socket.place == Place::Machine);
        let Some(at) = wanted.and_then(|wanted| self.published().bound_at(wanted, socket.kind))
        else {
            // With the caller's own rights to low ports.
            return left();
        };
        if inet::local(socket.fd.as_fd())?.port() != 0 {
            return Err(Errno::INVAL.into());
        }
        let made = self.likenesses.make(socket.kind, socket.fd.as_fd())?;
        if socket.kind.is_tcp() && !self.fenced {
            inet::restrict(made.as_fd(), &filter::never_connects())?;
        }
        inet::bind(made.as_fd(), &inet::encode(&at))?;
        self.put(listener, call, &socket, &made)?;
        Ok(Outcome::Answered(Verdict::Done(0)))
    }

    /// A server is told the port that it asked for.
    pub(super) fn name(&mut self, listener: &Listener, call: &Call) -> io::Result<Outcome> {
        let Some(socket) = Socket::of(listener, call, call.args[0] as RawFd, &self.places)? else {
            return left();
        };
        if socket.place != Place::Host {
            return left();
        }
        let local = inet::local(socket.fd.as_fd())?;
        let Some(inside) = self.published().stands_for(local, socket.kind) else { return left() };
        let room = call.read(call.args[2], 4)?;
        let room = i32::from_ne_bytes([room[0], room[1], room[2], room[3]]);
        if !listener.is_waiting(call) {
            return left();
        }
        let room = usize::try_from(room).map_err(|_| Errno::INVAL)?;
        let bytes = inet::encode(&SocketAddr::new(local.ip(), inside));
        call.write(call.args[1], &bytes[..room.min(bytes.len())])?;
        call.write(call.args[2], &(bytes.len() as u32).to_ne_bytes())?;
        Ok(Outcome::Answered(done(Ok(()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Kind = Kind { domain: 2, kind: 1, protocol: 6 };
    const V6: Kind = Kind { domain: 10, ..V4 };

    fn published(address: Option<&str>) -> Port {
        let address = address.map(|a| a.parse().unwrap());
        Port { address, host: 8080, inside: 80, protocol: Protocol::Tcp }
    }

    #[test]
    fn where_a_server_listens() {
        for (address, wanted, kind, expected) in [
            (None, "0.0.0.0:80", V4, Some("0.0.0.0:8080")),
            (None, "[::]:80", V6, Some("[::]:8080")),
            (None, "127.0.0.1:80", V4, None),
            (None, "[::ffff:127.0.0.1]:80", V6, None),
            (None, "0.0.0.0:81", V4, None),
            (Some("127.0.0.1"), "0.0.0.0:80", V4, Some("127.0.0.1:8080")),
            (Some("127.0.0.1"), "[::]:80", V6, Some("[::ffff:127.0.0.1]:8080")),
            (Some("0.0.0.0"), "[::]:80", V6, Some("[::]:8080")),
            (Some("::1"), "0.0.0.0:80", V4, None),
            (Some("::1"), "[::]:80", V6, Some("[::1]:8080")),
        ] {
            let at = Published(&[published(address)]).bound_at(wanted.parse().unwrap(), kind);
            assert_eq!(at, expected.map(|e| e.parse().unwrap()), "{address:?} {wanted}");
        }
        let datagrams = Kind { kind: 2, protocol: 17, ..V4 };
        assert_eq!(
            Published(&[published(None)]).bound_at("0.0.0.0:80".parse().unwrap(), datagrams),
            None
        );
    }

    #[test]
    fn where_it_is_found() {
        for (address, to, kind, expected) in [
            (None, "127.0.0.1:80", V4, "127.0.0.1:8080"),
            (None, "[::1]:80", V6, "[::1]:8080"),
            (None, "[::ffff:127.0.0.1]:80", V6, "[::ffff:127.0.0.1]:8080"),
            (Some("192.0.2.2"), "127.0.0.1:80", V4, "192.0.2.2:8080"),
        ] {
            let at = Published(&[published(address)]).reached_at(to.parse().unwrap(), kind);
            assert_eq!(at, Some(expected.parse().unwrap()), "{address:?} {to}");
        }
    }
}
