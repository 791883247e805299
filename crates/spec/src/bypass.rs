//! Sockets of the host's network in the place of a machine's own.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::network::Port;

/// What a machine may reach by them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bypass {
    /// Let through although they would be refused.
    pub allow: Vec<Range>,
    /// Let through on port 53.
    pub resolvers: Vec<IpAddr>,
    /// Published ports.
    pub ports: Vec<Port>,
}

/// A range of addresses, in CIDR notation (RFC 4632, RFC 4291 section 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// First address.
    pub address: IpAddr,
    /// Bits of it that count.
    pub prefix: u8,
}

impl Range {
    /// Of IPv4.
    #[must_use]
    pub const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Self {
        Self { address: IpAddr::V4(std::net::Ipv4Addr::new(a, b, c, d)), prefix }
    }

    /// Of IPv6, by its first two groups.
    #[must_use]
    pub const fn v6(a: u16, b: u16, prefix: u8) -> Self {
        Self { address: IpAddr::V6(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0)), prefix }
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(range), IpAddr::V4(address)) => {
                let away = 32u32.saturating_sub(self.prefix.into());
                let bits = |a: std::net::Ipv4Addr| a.to_bits().checked_shr(away).unwrap_or(0);
                bits(range) == bits(address)
            }
            (IpAddr::V6(range), IpAddr::V6(address)) => {
                let away = 128u32.saturating_sub(self.prefix.into());
                let bits = |a: Ipv6Addr| a.to_bits().checked_shr(away).unwrap_or(0);
                bits(range) == bits(address)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Range {
    type Err = String;

    /// An address alone is a range of one.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no range of addresses, such as 10.0.0.0/8 or fd00::/8");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(whole), |p| p.parse::<u8>().map_err(|_| wrong()))?;
        if prefix > whole {
            return Err(wrong());
        }
        Ok(Self { address, prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_contain_what_they_say() {
        for (range, address, contains) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "203.0.113.1", true),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("fe80::/10", "febf::1", true),
            ("fe80::/10", "fec0::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "1.2.3.4", false),
        ] {
            let range: Range = range.parse().unwrap();
            assert_eq!(range.contains(address.parse().unwrap()), contains, "{range} {address}");
        }
        for bad in ["", "10.0.0.0/33", "10/8", "::/129", "x", "1.2.3.4/", "1.2.3.4/-1"] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
    }
}
