//! Sockets of IP: what rustix lacks of them, by the addresses that the kernel takes as they are.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::seccomp::Instruction;

/// A socket option: level and name (socket(7), ip(7), ipv6(7), tcp(7)).
pub type OptionName = (i32, i32);

/// A new socket, close-on-exec and non-blocking.
///
/// # Errors
/// socket(2)'s.
pub fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain system call with scalars.
    let fd = check(unsafe { libc::socket(domain, kind | flags, protocol) })?;
    // SAFETY: the kernel made a new descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Any socket of the current network namespace, to tell it by.
///
/// # Errors
/// socket(2)'s.
pub fn any() -> io::Result<OwnedFd> {
    socket(libc::AF_INET, libc::SOCK_DGRAM, 0)
}

/// A socket for connections.
///
/// # Errors
/// socket(2)'s.
pub fn stream() -> io::Result<OwnedFd> {
    socket(libc::AF_INET, libc::SOCK_STREAM, 0)
}

/// A socket option's value, at most as long as `buffer`; gives its length.
///
/// # Errors
/// getsockopt(2)'s.
pub fn option(fd: BorrowedFd<'_>, name: OptionName, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = buffer.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            name.0,
            name.1,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    Ok(length as usize)
}

/// The same for a number.
///
/// # Errors
/// As [`option`].
pub fn number(fd: BorrowedFd<'_>, name: OptionName) -> io::Result<i32> {
    let mut buffer = [0; 4];
    option(fd, name, &mut buffer)?;
    Ok(i32::from_ne_bytes(buffer))
}

/// Sets a socket option.
///
/// # Errors
/// setsockopt(2)'s.
pub fn set_option(fd: BorrowedFd<'_>, name: OptionName, value: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as are there.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            name.0,
            name.1,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Identifies the network namespace that a socket is of (`SO_NETNS_COOKIE`, Linux 5.14).
///
/// # Errors
/// `ENOPROTOOPT` on older kernels, `ENOTSOCK`.
pub fn namespace(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut buffer = [0; 8];
    option(fd, (libc::SOL_SOCKET, libc::SO_NETNS_COOKIE), &mut buffer)?;
    Ok(u64::from_ne_bytes(buffer))
}

/// Gives a socket a filter of what it receives, for good (`SO_ATTACH_FILTER`, `SO_LOCK_FILTER`;
/// socket(7)): neither its holder nor anybody else can take it away.
///
/// # Errors
/// setsockopt(2)'s.
pub fn restrict(fd: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    let mut code: Vec<libc::sock_filter> =
        program.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let filter = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    // SAFETY: the program outlives the call, and the kernel only reads it.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of_val(&filter) as libc::socklen_t,
        )
    })?;
    set_option(fd, (libc::SOL_SOCKET, libc::SO_LOCK_FILTER), &1i32.to_ne_bytes())
}

/// The state of a TCP socket (linux/tcp_states.h, as `TCP_INFO` tells it).
///
/// # Errors
/// getsockopt(2)'s.
pub fn tcp_state(fd: BorrowedFd<'_>) -> io::Result<u8> {
    let mut buffer = [0; 8];
    option(fd, (libc::IPPROTO_TCP, libc::TCP_INFO), &mut buffer)?;
    Ok(buffer[0])
}

/// connect(2) with an address as a caller gave it.
///
/// # Errors
/// connect(2)'s.
pub fn connect(fd: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    let length = address.len() as libc::socklen_t;
    // SAFETY: the kernel reads as many bytes as are there, wherever they lie.
    check(unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr().cast(), length) })?;
    Ok(())
}

/// bind(2) to an address as [`encode`] gives it.
///
/// # Errors
/// bind(2)'s.
pub fn bind(fd: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    let length = address.len() as libc::socklen_t;
    // SAFETY: the kernel reads as many bytes as are there, wherever they lie.
    check(unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr().cast(), length) })?;
    Ok(())
}

/// Sends one message without waiting: to where the socket is connected where `address` is empty.
///
/// # Errors
/// sendmsg(2)'s.
pub fn send(
    fd: BorrowedFd<'_>,
    address: &[u8],
    data: &[u8],
    control: &[u8],
    flags: i32,
) -> io::Result<usize> {
    let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: all-zero is a valid msghdr: nothing in it.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    if !address.is_empty() {
        header.msg_name = address.as_ptr().cast_mut().cast();
        header.msg_namelen = address.len() as libc::socklen_t;
    }
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if !control.is_empty() {
        header.msg_control = control.as_ptr().cast_mut().cast();
        header.msg_controllen = control.len() as _;
    }
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: all that the header points to outlives the call, and the kernel only reads it.
    match unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, flags) } {
        -1 => Err(io::Error::last_os_error()),
        sent => Ok(sent as usize),
    }
}

/// The address that a socket is bound to.
///
/// # Errors
/// getsockname(2)'s; `InvalidData` where it is none of IP.
pub fn local(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let mut buffer = [0; size_of::<libc::sockaddr_in6>()];
    let mut length = buffer.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes.
    check(unsafe {
        libc::getsockname(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), &raw mut length)
    })?;
    decode(&buffer[..(length as usize).min(buffer.len())])
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A `struct sockaddr_in` or `sockaddr_in6` (ip(7), ipv6(7)); `None` for another family, or one that is cut off.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    match family {
        libc::AF_INET => {
            // The kernel wants all of the structure (net/ipv4/af_inet.c).
            let address: [u8; 4] = bytes.get(..16)?[4..8].try_into().ok()?;
            Some(SocketAddrV4::new(Ipv4Addr::from(address), port).into())
        }
        libc::AF_INET6 => {
            let flow = u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?);
            let address: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            // An address without its scope is as long as before Linux 2.2 (linux/in6.h, SIN6_LEN_RFC2133).
            let scope =
                bytes.get(24..28).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
            Some(SocketAddrV6::new(Ipv6Addr::from(address), port, flow, scope).into())
        }
        _ => None,
    }
}

/// The same backwards.
#[must_use]
pub fn encode(address: &SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    match address {
        SocketAddr::V4(v4) => {
            bytes.extend((libc::AF_INET as u16).to_ne_bytes());
            bytes.extend(v4.port().to_be_bytes());
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend((libc::AF_INET6 as u16).to_ne_bytes());
            bytes.extend(v6.port().to_be_bytes());
            bytes.extend(v6.flowinfo().to_be_bytes());
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
        }
    }
    bytes
}

/// Whether an address is one of this host's: whatever goes there comes from there.
#[must_use]
pub fn is_own(address: IpAddr) -> bool {
    let domain = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let Ok(probe) = socket(domain, libc::SOCK_DGRAM, 0) else { return false };
    // Nothing is sent; the port does not matter.
    connect(probe.as_fd(), &encode(&SocketAddr::new(address, 9))).is_ok()
        && local(probe.as_fd()).is_ok_and(|local| local.ip() == address)
}

/// Moves an epoll registration from one file to another that is to have the same number in
/// another process. Registrations are known by file and number (epoll_ctl(2)), so for a moment
/// this process has the files under that number; whatever it has there itself is put back.
///
/// To be called where no other thread is alive.
///
/// # Errors
/// epoll_ctl(2)'s for the new file; nothing was done where there is one.
pub fn move_registration(
    epoll: BorrowedFd<'_>,
    number: RawFd,
    old: BorrowedFd<'_>,
    new: BorrowedFd<'_>,
    (events, data): (u32, u64),
) -> io::Result<()> {
    // Above that number, so that none of them is in the way.
    let above = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, number + 1);
    let (epoll, old, new) = (above(epoll)?, above(old)?, above(new)?);
    // SAFETY: only asks whether the number is in use; if it is, it is borrowed during this call.
    let own = match unsafe { libc::fcntl(number, libc::F_GETFD) } {
        -1 => None,
        flags => {
            // SAFETY: the number is in use, as was just seen, and this is the only thread.
            let fd = unsafe { BorrowedFd::borrow_raw(number) };
            Some((above(fd)?, if flags & libc::FD_CLOEXEC == 0 { 0 } else { libc::O_CLOEXEC }))
        }
    };
    let mut event = libc::epoll_event { events, u64: data };
    let control = |file: &OwnedFd, operation, event: *mut libc::epoll_event| {
        // SAFETY: the number is free, or what it meant is kept in `own` and put back below; no
        // other thread uses it meanwhile.
        unsafe {
            check(libc::dup3(file.as_raw_fd(), number, libc::O_CLOEXEC))?;
            check(libc::epoll_ctl(epoll.as_raw_fd(), operation, number, event))
        }
    };
    let done = control(&new, libc::EPOLL_CTL_ADD, &raw mut event);
    if done.is_ok() {
        // Where the old file is gone from it already, so much the better.
        let _ = control(&old, libc::EPOLL_CTL_DEL, std::ptr::null_mut());
    }
    match own {
        // SAFETY: gives the number back what it meant before.
        Some((own, flags)) => check(unsafe { libc::dup3(own.as_raw_fd(), number, flags) })?,
        // SAFETY: nobody here has a notion of this number.
        None => check(unsafe { libc::close(number) })?,
    };
    done.map(drop)
}

fn check(done: i32) -> io::Result<i32> {
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_there_and_back() {
        for text in ["1.2.3.4:5", "[2001:db8::1]:53", "[fe80::1%3]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(decode(&encode(&address)), Some(address));
            assert_eq!(decode(&encode(&address)[..8]), None, "cut off");
        }
        assert_eq!(decode(&[1, 0, b'/', b'x']), None);
    }

    #[test]
    fn own_addresses() {
        assert!(is_own("127.0.0.1".parse().unwrap()));
        assert!(!is_own("192.0.2.77".parse().unwrap()));
    }

    #[test]
    fn registrations_move_even_onto_a_number_that_is_in_use_here() {
        let pair = || {
            let flags = rustix::net::SocketFlags::CLOEXEC;
            let family = rustix::net::AddressFamily::UNIX;
            rustix::net::socketpair(family, rustix::net::SocketType::STREAM, flags, None).unwrap()
        };
        let ((old, _far), (new, peer)) = (pair(), pair());
        let flags = rustix::event::epoll::CreateFlags::CLOEXEC;
        let epoll = rustix::event::epoll::create(flags).unwrap();
        // The epoll's own number is the worst one.
        let number = epoll.as_raw_fd();
        let events = libc::EPOLLIN as u32;
        let moved = move_registration(epoll.as_fd(), number, old.as_fd(), new.as_fd(), (events, 7));
        moved.unwrap();
        rustix::io::write(&peer, b"x").unwrap();
        let mut found = Vec::with_capacity(4);
        let now = rustix::event::Timespec::default();
        rustix::event::epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut found), Some(&now))
            .unwrap();
        assert_eq!(found.iter().map(|e| e.data.u64()).collect::<Vec<_>>(), [7]);
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
        assert!(info.contains(&format!("tfd: {number:8}")), "{info}");
    }
}
