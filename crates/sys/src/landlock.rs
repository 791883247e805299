//! What a process gives up for good without any privilege (landlock(7)).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// `LANDLOCK_ACCESS_NET_CONNECT_TCP` (linux/landlock.h, Linux 6.7).
const CONNECT_TCP: u64 = 1 << 1;
/// `LANDLOCK_CREATE_RULESET_VERSION`.
const VERSION: u32 = 1;

/// `struct landlock_ruleset_attr`, up to what Linux 6.7 has.
#[repr(C)]
struct Attributes {
    handled_access_fs: u64,
    handled_access_net: u64,
}

/// Whether this kernel can forbid connections.
#[must_use]
pub fn restricts_connections() -> bool {
    // SAFETY: asks for the version, and reads no memory.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<Attributes>(), 0, VERSION)
    };
    version >= 4
}

/// From here on the kernel makes no TCP connection for this process and its children. Sockets that
/// somebody else connected are not affected. It takes no_new_privs, or CAP_SYS_ADMIN over the
/// user namespace.
///
/// # Errors
/// landlock_create_ruleset(2)'s and landlock_restrict_self(2)'s.
pub fn forbid_connections() -> io::Result<()> {
    let attributes = Attributes { handled_access_fs: 0, handled_access_net: CONNECT_TCP };
    // SAFETY: the kernel reads as many bytes as the structure has.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attributes,
            size_of_val(&attributes),
            0,
        )
    };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made a new descriptor for us.
    let ruleset = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    // SAFETY: plain system call with scalars.
    match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
