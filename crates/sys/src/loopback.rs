//! The loopback device of a network namespace.

use std::io;
use std::os::fd::AsRawFd;

/// Brings `lo` up in the current network namespace (netdevice(7)). The kernel gives it 127.0.0.1 and ::1.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN over the namespace.
pub fn up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq with a NUL-terminated name.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
