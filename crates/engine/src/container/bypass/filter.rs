//! Filters of what a socket receives: the kernel's own share in the policy.
//!
//! The monitor decides on copies, but a call that it leaves to the kernel is made with whatever
//! descriptor is under that number by then, and a thread can put one of the host's there. So
//! each of those is made worthless for anything but what it was given for.

use std::net::{IpAddr, SocketAddr};

use spec::bypass::{Bypass, Range};
use sys::seccomp::Instruction;

use super::policy::{self, REFUSED};

// linux/bpf_common.h, linux/filter.h.
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const AND: u16 = 0x54;
const IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// `SKF_NET_OFF`: from here on, offsets are into the network header; those from 0 on are into the
/// transport header (net/ipv4/tcp_ipv4.c, `tcp_filter`; net/ipv4/udp.c).
const NETWORK: u32 = 0xfff0_0000;
/// Source addresses (RFC 791, RFC 8200).
const SOURCE_V4: u32 = NETWORK + 12;
const SOURCE_V6: u32 = NETWORK + 8;

const ACCEPT: Instruction = (RETURN, 0, 0, u32::MAX);
const DROP: Instruction = (RETURN, 0, 0, 0);

/// What comes from this peer: a connection to any other is never established.
pub(super) fn only_from(peer: SocketAddr) -> Vec<Instruction> {
    let words = match policy::plain(peer.ip()) {
        IpAddr::V4(v4) => vec![(SOURCE_V4, v4.to_bits())],
        IpAddr::V6(v6) => words(v6).collect(),
    };
    let mut code = vec![(LOAD_HALF, 0, 0, 0), (IF_EQUAL, 1, 0, u32::from(peer.port())), DROP];
    for (offset, word) in words {
        code.extend([(LOAD_WORD, 0, 0, offset), (IF_EQUAL, 1, 0, word), DROP]);
    }
    code.push(ACCEPT);
    code
}

/// What a listener hears, and those that it accepts; as it drops what answers an attempt to
/// connect (SYN and ACK, RFC 9293 section 3.5), it connects to nobody.
pub(super) fn never_connects() -> Vec<Instruction> {
    const SYN_ACK: u32 = 0x12;
    vec![(LOAD_BYTE, 0, 0, 13), (AND, 0, 0, SYN_ACK), (IF_EQUAL, 0, 1, SYN_ACK), DROP, ACCEPT]
}

/// What comes from where datagrams may be sent to.
pub(super) fn by_policy(bypass: &Bypass) -> Vec<Instruction> {
    let v4 = ranges(bypass, false);
    let mut code = vec![
        (LOAD_BYTE, 0, 0, NETWORK),
        (AND, 0, 0, 0xf0),
        // Longer than a conditional jump reaches.
        (IF_EQUAL, 1, 0, 0x40),
        (JUMP, 0, 0, v4.len() as u32),
    ];
    code.extend(v4);
    code.extend(ranges(bypass, true));
    code
}

const JUMP: u16 = 0x05;

fn ranges(bypass: &Bypass, v6: bool) -> Vec<Instruction> {
    let whole = if v6 { 128 } else { 32 };
    let resolvers = bypass.resolvers.iter().map(|r| policy::plain(*r));
    let resolvers = resolvers.map(|address| Range { address, prefix: whole });
    let allowed = bypass.allow.iter().copied().chain(resolvers);
    let rules = allowed.map(|r| (r, ACCEPT)).chain(REFUSED.map(|r| (r, DROP)));
    let mut code = Vec::new();
    for (range, verdict) in rules.filter(|(range, _)| range.address.is_ipv6() == v6) {
        let words = match range.address {
            IpAddr::V4(v4) => vec![(SOURCE_V4, v4.to_bits())],
            IpAddr::V6(v6) => words(v6).collect(),
        };
        let tested = words.into_iter().zip((0..).step_by(32)).filter_map(|((offset, word), at)| {
            let bits = u32::from(range.prefix).saturating_sub(at).min(32);
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            (mask != 0).then_some((offset, mask, word & mask))
        });
        let tested: Vec<_> = tested.collect();
        for (nth, (offset, mask, word)) in tested.iter().enumerate() {
            // Past the tests that follow, and the verdict.
            let past = (tested.len() - nth - 1) * 3 + 1;
            code.extend([
                (LOAD_WORD, 0, 0, *offset),
                (AND, 0, 0, *mask),
                (IF_EQUAL, 0, past as u8, *word),
            ]);
        }
        code.push(verdict);
    }
    code.push(ACCEPT);
    code
}

fn words(address: std::net::Ipv6Addr) -> impl Iterator<Item = (u32, u32)> {
    let bits = address.to_bits();
    (0..4).map(move |nth| (SOURCE_V6 + 4 * nth, (bits >> (96 - 32 * nth)) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would say of a packet with these headers.
    fn accepts(code: &[Instruction], network: &[u8], transport: &[u8]) -> bool {
        let (mut at, mut a) = (0, 0u32);
        loop {
            let (what, yes, no, k) = code[at];
            at += 1;
            let bytes = |length: usize| {
                let (from, offset) =
                    if k >= NETWORK { (network, k - NETWORK) } else { (transport, k) };
                let bytes = &from[offset as usize..][..length];
                bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte))
            };
            match what {
                LOAD_WORD => a = bytes(4),
                LOAD_HALF => a = bytes(2),
                LOAD_BYTE => a = bytes(1),
                AND => a &= k,
                JUMP => at += k as usize,
                IF_EQUAL => at += usize::from(if a == k { yes } else { no }),
                RETURN => return k != 0,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn network(source: &str) -> Vec<u8> {
        match source.parse().unwrap() {
            IpAddr::V4(v4) => [&[0x45; 12][..], &v4.octets()].concat(),
            IpAddr::V6(v6) => [&[0x60; 8][..], &v6.octets()].concat(),
        }
    }

    #[test]
    fn one_peer_only() {
        for (peer, source, port, expected) in [
            ("203.0.113.80:80", "203.0.113.80", 80, true),
            ("203.0.113.80:80", "203.0.113.80", 81, false),
            ("203.0.113.80:80", "127.0.0.1", 80, false),
            ("[::ffff:203.0.113.80]:80", "203.0.113.80", 80, true),
            ("[2001:db8::1]:80", "2001:db8::1", 80, true),
            ("[2001:db8::1]:80", "2001:db8::2", 80, false),
            ("[2001:db8::1]:80", "::1", 80, false),
        ] {
            let code = only_from(peer.parse().unwrap());
            let transport = [&[0, port as u8][..], &[0; 20]].concat();
            assert_eq!(accepts(&code, &network(source), &transport), expected, "{peer} {source}");
        }
    }

    #[test]
    fn a_listener_hears_no_answer_to_a_call_of_its_own() {
        for (flags, expected) in [(0x02, true), (0x10, true), (0x12, false), (0x04, true)] {
            let mut transport = [0; 20];
            transport[13] = flags;
            assert_eq!(accepts(&never_connects(), &[], &transport), expected, "{flags:#x}");
        }
    }

    #[test]
    fn datagrams_by_the_policy() {
        let bypass = Bypass {
            allow: vec!["10.1.0.0/16".parse().unwrap(), "fd00:1::/33".parse().unwrap()],
            resolvers: vec!["10.255.255.53".parse().unwrap()],
            ports: Vec::new(),
        };
        let code = by_policy(&bypass);
        for (source, expected) in [
            ("203.0.113.80", true),
            ("127.0.0.1", false),
            ("10.1.2.3", true),
            ("10.2.2.3", false),
            ("10.255.255.53", true),
            ("192.168.0.1", false),
            ("2001:db8::1", true),
            ("::1", false),
            ("fe80::1", false),
            ("fd00:1::1", true),
            ("fd00:1:8000::1", false),
            ("fd00:2::1", false),
        ] {
            assert_eq!(accepts(&code, &network(source), &[0; 20]), expected, "{source}");
        }
    }
}
