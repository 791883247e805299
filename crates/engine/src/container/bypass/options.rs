//! A socket of the host's that is like one of the machine's.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sys::inet::{self, OptionName};

use super::socket::Kind;

// asm-generic/socket.h, linux/in.h, linux/in6.h, linux/tcp.h, linux/udp.h.
const SOCKET: i32 = 1;
const IP: i32 = 0;
const IPV6: i32 = 41;
const TCP: i32 = 6;
const UDP: i32 = 17;

/// `SO_SNDBUF` and `SO_RCVBUF`, by their bits in `SO_BUF_LOCK`.
const BUFFERS: [(i32, i32); 2] = [(1, 7), (2, 8)];
const BUFFER_LOCK: OptionName = (SOCKET, 72);

/// `SO_BINDTODEVICE`.
const DEVICE: OptionName = (SOCKET, 25);
/// `SO_SNDTIMEO`, which is a limit for connect(2) as well.
const SEND_TIME: OptionName = (SOCKET, 21);

/// Of every socket: REUSEADDR, KEEPALIVE, OOBINLINE, PRIORITY, LINGER, REUSEPORT, RCVLOWAT, RCVTIMEO,
/// SNDTIMEO, TIMESTAMP, TIMESTAMPNS.
const OF_SOCKET: [i32; 11] = [2, 9, 10, 12, 13, 15, 18, 20, 21, 29, 35];
/// BROADCAST, RXQ_OVFL: streams have neither.
const OF_DATAGRAMS: [i32; 2] = [6, 40];
/// TOS, TTL, MTU_DISCOVER, RECVERR.
const OF_IP: [i32; 4] = [1, 2, 10, 11];
/// PKTINFO, RECVTTL, RECVTOS, MULTICAST_TTL: of each datagram.
const OF_DATAGRAMS_OF_IP: [i32; 4] = [8, 12, 13, 33];
/// UNICAST_HOPS, MTU_DISCOVER, RECVERR, V6ONLY, TCLASS.
const OF_IPV6: [i32; 5] = [16, 23, 25, 26, 67];
/// RECVPKTINFO, RECVHOPLIMIT, RECVTCLASS.
const OF_DATAGRAMS_OF_IPV6: [i32; 3] = [49, 51, 66];
/// NODELAY, CORK, KEEPIDLE, KEEPINTVL, KEEPCNT, SYNCNT, LINGER2, DEFER_ACCEPT, WINDOW_CLAMP, CONGESTION,
/// USER_TIMEOUT, NOTSENT_LOWAT. QUICKACK is a state of a connection that there is.
const OF_TCP: [i32; 12] = [1, 3, 4, 5, 6, 7, 8, 9, 10, 13, 18, 25];
/// CORK, SEGMENT, GRO.
const OF_UDP: [i32; 3] = [1, 103, 104];

/// What new sockets have, so that only what was changed is set.
#[derive(Default)]
pub(super) struct Likenesses {
    fresh: HashMap<Kind, Vec<(OptionName, Vec<u8>)>>,
}

impl Likenesses {
    /// A new socket of this process's network with the options of another one.
    pub(super) fn make(&mut self, kind: Kind, like: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let made = inet::socket(kind.domain, kind.kind, kind.protocol)?;
        let fresh = self.fresh.entry(kind).or_insert_with(|| {
            let value = |name| value(made.as_fd(), name).map(|value| (name, value));
            names(kind).filter_map(value).collect()
        });
        for (name, before) in fresh.iter() {
            match value(like, *name) {
                // A right that this process has not, such as to a congestion control that the
                // administrator keeps: the connection works without.
                Some(wanted) if wanted != *before => {
                    let _ = inet::set_option(made.as_fd(), *name, &wanted);
                }
                _ => {}
            }
        }
        // Setting a size turns the kernel's own choice off, even to the same size.
        let locked = inet::number(like, BUFFER_LOCK).unwrap_or(0);
        for (bit, name) in BUFFERS.into_iter().filter(|(bit, _)| locked & bit != 0) {
            debug_assert!(bit != 0);
            // The kernel doubles what is set (socket(7)).
            if let Ok(size) = inet::number(like, (SOCKET, name)) {
                let _ = inet::set_option(made.as_fd(), (SOCKET, name), &(size / 2).to_ne_bytes());
            }
        }
        Ok(made)
    }
}

/// Whether a socket is bound to an interface: one of the machine's, which the host has not.
pub(super) fn is_bound_to_device(fd: BorrowedFd<'_>) -> bool {
    value(fd, DEVICE).is_some_and(|name| name.first().is_some_and(|&b| b != 0))
}

/// How long a call may wait that sends or connects.
pub(super) fn patience(fd: BorrowedFd<'_>) -> Option<std::time::Duration> {
    let bytes = value(fd, SEND_TIME).filter(|bytes| bytes.len() == 16)?;
    let number = |at: usize| bytes[at..at + 8].try_into().map_or(0, i64::from_ne_bytes);
    let (seconds, micros) = (number(0).try_into().ok()?, number(8).try_into().ok()?);
    let time = std::time::Duration::from_secs(seconds) + std::time::Duration::from_micros(micros);
    (!time.is_zero()).then_some(time)
}

fn value(fd: BorrowedFd<'_>, name: OptionName) -> Option<Vec<u8>> {
    let mut buffer = [0; 16];
    let length = inet::option(fd, name, &mut buffer).ok()?;
    Some(buffer[..length].to_vec())
}

fn names(kind: Kind) -> impl Iterator<Item = OptionName> {
    let of = |level: i32, names: &'static [i32], applies: bool| {
        names.iter().filter(move |_| applies).map(move |name| (level, *name))
    };
    // Each costs a system call for each connection.
    let datagrams = !kind.is_tcp();
    of(SOCKET, &OF_SOCKET, true)
        .chain(of(SOCKET, &OF_DATAGRAMS, datagrams))
        // A socket of IPv6 carries IPv4 as well.
        .chain(of(IP, &OF_IP, true))
        .chain(of(IP, &OF_DATAGRAMS_OF_IP, datagrams))
        .chain(of(IPV6, &OF_IPV6, kind.is_v6()))
        .chain(of(IPV6, &OF_DATAGRAMS_OF_IPV6, datagrams && kind.is_v6()))
        .chain(of(TCP, &OF_TCP, kind.is_tcp()))
        .chain(of(UDP, &OF_UDP, kind.protocol == UDP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_is_copied_and_nothing_else() {
        let kind = Kind { domain: 10, kind: 1, protocol: TCP };
        let like = inet::socket(10, 1, TCP).unwrap();
        let set = |name, value: i32| {
            inet::set_option(like.as_fd(), name, &value.to_ne_bytes()).unwrap();
        };
        for (name, value) in [((TCP, 1), 1), ((SOCKET, 9), 1), ((TCP, 4), 77), ((IPV6, 26), 1)] {
            set(name, value);
        }
        set((SOCKET, 8), 50_000);
        inet::set_option(like.as_fd(), (SOCKET, 13), &[1, 0, 0, 0, 5, 0, 0, 0]).unwrap();
        inet::set_option(like.as_fd(), SEND_TIME, &[[3u8, 0, 0, 0, 0, 0, 0, 0], [0; 8]].concat())
            .unwrap();
        let made = Likenesses::default().make(kind, like.as_fd()).unwrap();
        for name in names(kind).chain([(SOCKET, 7), (SOCKET, 8), BUFFER_LOCK]) {
            assert_eq!(value(made.as_fd(), name), value(like.as_fd(), name), "{name:?}");
        }
        assert_eq!(inet::number(made.as_fd(), BUFFER_LOCK).unwrap(), 2, "the receiving one only");
        assert_eq!(patience(made.as_fd()), Some(std::time::Duration::from_secs(3)));
        assert!(!is_bound_to_device(made.as_fd()));
    }
}
