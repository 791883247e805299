//! Where a machine's sockets may lead outside. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use spec::bypass::{Bypass, Range};

/// Where traffic goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// By the host's network.
    Outside,
    /// The same, unless the address is one of the host's own.
    OutsideUnlessOwn,
    /// By whatever network the machine has itself, which may lead nowhere.
    Inside,
}

/// Networks that are somebody's own, and addresses that mean something to one link or one
/// host only (RFC 1918, 3927, 4193, 4291, 6598, 6890). Multicast is not carried either.
pub(super) const REFUSED: [Range; 14] = [
    Range::v4(0, 0, 0, 0, 8),
    Range::v4(10, 0, 0, 0, 8),
    Range::v4(100, 64, 0, 0, 10),
    Range::v4(127, 0, 0, 0, 8),
    Range::v4(169, 254, 0, 0, 16),
    Range::v4(172, 16, 0, 0, 12),
    Range::v4(192, 0, 0, 0, 24),
    Range::v4(192, 168, 0, 0, 16),
    Range::v4(224, 0, 0, 0, 3),
    // With IPv4-compatible ones and ::1.
    Range::v6(0, 0, 96),
    Range::v6(0xfc00, 0, 7),
    Range::v6(0xfe80, 0, 10),
    Range::v6(0xfec0, 0, 10),
    Range::v6(0xff00, 0, 8),
];

const DNS: u16 = 53;

pub(super) fn route(bypass: &Bypass, to: SocketAddr) -> Route {
    let address = plain(to.ip());
    // The machine's own: its servers are there.
    if address.is_loopback() || address.is_unspecified() {
        return Route::Inside;
    }
    let resolves = to.port() == DNS && bypass.resolvers.iter().any(|r| plain(*r) == address);
    if resolves || bypass.allow.iter().any(|range| range.contains(address)) {
        return Route::Outside;
    }
    let within = match address {
        IpAddr::V6(v6) => translated(v6).map(IpAddr::V4),
        IpAddr::V4(_) => None,
    };
    let refused = |a: IpAddr| REFUSED.iter().any(|range| range.contains(a));
    if refused(address) || within.is_some_and(refused) {
        return Route::Inside;
    }
    Route::OutsideUnlessOwn
}

/// The IPv4 address where what is sent to this one arrives in the end (RFC 3056, RFC 6052).
fn translated(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0x2002, a, b, ..] | [0x64, 0xff9b, 0, 0, 0, 0, a, b] => {
            Some(Ipv4Addr::from_bits(u32::from(a) << 16 | u32::from(b)))
        }
        _ => None,
    }
}

/// Whether packets to an address are IPv4's, whatever the socket's family.
pub(super) fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// The same address for a socket of this family, where that can have it.
pub(super) fn of_family(address: IpAddr, v6: bool) -> Option<IpAddr> {
    match (address, v6) {
        (IpAddr::V4(v4), true) => Some(IpAddr::V6(v4.to_ipv6_mapped())),
        (IpAddr::V6(_), false) => None,
        _ => Some(address),
    }
}

/// All addresses of a family.
pub(super) fn any(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_outside() {
        let bypass = Bypass {
            allow: vec!["10.1.0.0/16".parse().unwrap(), "fd00:1::/32".parse().unwrap()],
            resolvers: vec!["10.255.255.53".parse().unwrap(), "fd00::53".parse().unwrap()],
            ports: Vec::new(),
        };
        for (to, expected) in [
            ("203.0.113.80:80", Route::OutsideUnlessOwn),
            ("[2001:db8::1]:80", Route::OutsideUnlessOwn),
            ("[::ffff:203.0.113.80]:80", Route::OutsideUnlessOwn),
            ("127.0.0.1:80", Route::Inside),
            ("127.1.2.3:53", Route::Inside),
            ("0.0.0.0:80", Route::Inside),
            ("[::]:80", Route::Inside),
            ("[::1]:80", Route::Inside),
            ("[::ffff:127.0.0.1]:80", Route::Inside),
            ("[::127.0.0.1]:80", Route::Inside),
            ("[::ffff:0.0.0.0]:80", Route::Inside),
            ("169.254.169.254:80", Route::Inside),
            ("[fe80::1%2]:80", Route::Inside),
            ("192.168.1.1:80", Route::Inside),
            ("[::ffff:192.168.1.1]:80", Route::Inside),
            ("172.31.0.1:80", Route::Inside),
            ("172.32.0.1:80", Route::OutsideUnlessOwn),
            ("100.64.0.1:80", Route::Inside),
            ("[fd00::1]:80", Route::Inside),
            ("[64:ff9b::a00:1]:80", Route::Inside),
            ("[64:ff9b::cb00:7150]:80", Route::OutsideUnlessOwn),
            ("[2002:a00:1::1]:80", Route::Inside),
            ("[2002:cb00:7150::1]:80", Route::OutsideUnlessOwn),
            ("224.0.0.1:80", Route::Inside),
            ("255.255.255.255:80", Route::Inside),
            ("10.1.2.3:80", Route::Outside),
            ("[::ffff:10.1.2.3]:80", Route::Outside),
            ("10.2.2.3:80", Route::Inside),
            ("10.255.255.53:53", Route::Outside),
            ("10.255.255.53:80", Route::Inside),
            ("[fd00::53]:53", Route::Outside),
            ("[fd00:1::9]:80", Route::Outside),
        ] {
            assert_eq!(route(&bypass, to.parse().unwrap()), expected, "{to}");
        }
    }

    #[test]
    fn a_machine_s_own_loopback_cannot_be_allowed_away() {
        let bypass = Bypass { allow: vec!["0.0.0.0/0".parse().unwrap()], ..Bypass::default() };
        assert_eq!(route(&bypass, "127.0.0.1:80".parse().unwrap()), Route::Inside);
        assert_eq!(route(&bypass, "10.0.0.1:80".parse().unwrap()), Route::Outside);
    }
}
