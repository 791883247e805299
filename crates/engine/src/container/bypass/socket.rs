//! A socket that a caller named by its descriptor.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use rustix::fs::OFlags;
use sys::inet;
use sys::notify::{Call, Listener};

// socket(2), ip(7): families, types, protocols; and asm-generic/socket.h.
const INET: i32 = 2;
const INET6: i32 = 10;
const STREAM: i32 = 1;
const DATAGRAM: i32 = 2;
const ICMP: i32 = 1;
const TCP: i32 = 6;
const UDP: i32 = 17;
const ICMPV6: i32 = 58;
const MPTCP: i32 = 262;
const SO_TYPE: (i32, i32) = (1, 3);
const SO_PROTOCOL: (i32, i32) = (1, 38);
const SO_DOMAIN: (i32, i32) = (1, 39);
const SO_LOCK_FILTER: (i32, i32) = (1, 44);

/// What socket(2) was called with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    pub(super) domain: i32,
    pub(super) kind: i32,
    pub(super) protocol: i32,
}

impl Kind {
    pub(super) fn is_v6(self) -> bool {
        self.domain == INET6
    }

    pub(super) fn is_tcp(self) -> bool {
        self.kind == STREAM
    }
}

/// Whose network a socket is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Host,
    Machine,
    /// Of a namespace that was made inside: it stays there.
    Inner,
}

/// A socket that can be moved, or was.
#[derive(Debug)]
pub(super) struct Socket {
    /// Our copy.
    pub(super) fd: OwnedFd,
    /// The caller's number of it.
    pub(super) number: RawFd,
    pub(super) kind: Kind,
    pub(super) place: Place,
}

/// Network namespaces, by [`inet::namespace`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) host: u64,
    pub(super) machine: u64,
}

impl Socket {
    /// `None` for what is none, and for sockets that stay as they are: of other families, and raw
    /// ones.
    pub(super) fn of(
        listener: &Listener,
        call: &Call,
        number: RawFd,
        places: &Places,
    ) -> io::Result<Option<Self>> {
        let fd = match listener.descriptor(call, number) {
            Ok(fd) => fd,
            // The kernel says what is wrong with it.
            Err(error) if error.raw_os_error() == Some(EBADF) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Ok(domain @ (INET | INET6)) = inet::number(fd.as_fd(), SO_DOMAIN) else {
            return Ok(None);
        };
        let kind = inet::number(fd.as_fd(), SO_TYPE)?;
        let protocol = inet::number(fd.as_fd(), SO_PROTOCOL)?;
        let kind = match (kind, protocol) {
            // Other paths of one connection would lead to other addresses.
            (STREAM, TCP | MPTCP) => Kind { domain, kind, protocol: TCP },
            (DATAGRAM, UDP | ICMP | ICMPV6) => Kind { domain, kind, protocol },
            _ => return Ok(None),
        };
        let namespace = inet::namespace(fd.as_fd())?;
        let place = match namespace {
            _ if namespace == places.machine => Place::Machine,
            _ if namespace == places.host => Place::Host,
            _ => Place::Inner,
        };
        Ok(Some(Self { fd, number, kind, place }))
    }

    /// Whether it was given by us: with a filter that stays.
    pub(super) fn is_ours(&self) -> bool {
        self.place == Place::Host
            && inet::number(self.fd.as_fd(), SO_LOCK_FILTER).is_ok_and(|locked| locked == 1)
    }

    pub(super) fn flags(&self) -> io::Result<OFlags> {
        Ok(rustix::fs::fcntl_getfl(&self.fd)?)
    }

    pub(super) fn waits(&self) -> io::Result<bool> {
        Ok(!self.flags()?.contains(OFlags::NONBLOCK))
    }
}

const EBADF: i32 = 9;

/// The flags of the caller's descriptor (proc(5), `fdinfo`): those of the file, and whether it is
/// closed when the caller executes another program.
pub(super) fn flags(call: &Call, number: RawFd) -> io::Result<OFlags> {
    let mut buffer = [0; 256];
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let path = format!("/proc/{}/fdinfo/{number}", call.pid);
    let file = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
    // The flags are in the second line: one call reads as much as there is room for.
    let length = rustix::io::read(&file, &mut buffer)?;
    let info = std::str::from_utf8(&buffer[..length]).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|text| u32::from_str_radix(text.trim(), 8).ok());
    Ok(flags.map_or(OFlags::empty(), OFlags::from_bits_retain))
}
