//! Network devices whose packets a process reads and writes (tun.txt in the kernel's documentation).

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags};

/// Makes a device of Ethernet frames in this process's network namespace; it is gone when its last
/// descriptor is closed. Each frame has a header before it that says what the receiver is to compute
/// (`struct virtio_net_hdr`), so that large segments need not be cut.
///
/// # Errors
/// open(2)'s of `/dev/net/tun`; `EPERM` without CAP_NET_ADMIN over the namespace; `EBUSY` where
/// the name is taken; `ENAMETOOLONG` for one of more than 15 bytes.
pub fn tap(name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let device = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays NUL.
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes an ifreq with a NUL-terminated name.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(device) }
}
