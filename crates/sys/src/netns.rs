//! Network namespaces of others.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::process::Namespaces;

/// This process is in another network namespace, until this is ended or dropped.
#[derive(Debug)]
pub struct Visit {
    home: Option<OwnedFd>,
}

impl Visit {
    /// Enters the namespace of a file such as `/run/netns/NAME` or `/proc/PID/ns/net` (setns(2)).
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN over both user namespaces, `EINVAL` where it is no such file.
    pub fn new(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Self::of(rustix::fs::open(path, flags, Mode::empty())?.as_fd())
    }

    /// The same by a descriptor of the file, or of the process (pidfd_open(2), Linux 5.8).
    ///
    /// # Errors
    /// As [`Visit::new`].
    pub fn of(namespace: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let home = rustix::fs::open("/proc/self/ns/net", flags, Mode::empty())?;
        set(namespace)?;
        Ok(Self { home: Some(home) })
    }

    /// Goes home.
    ///
    /// # Errors
    /// setns(2)'s: then this process is still there.
    pub fn end(mut self) -> io::Result<()> {
        self.home.take().map_or(Ok(()), |home| set(home.as_fd()))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            // It was ours, so that nothing forbids it; who must know calls `end`.
            let _ = set(home.as_fd());
        }
    }
}

fn set(namespace: BorrowedFd<'_>) -> io::Result<()> {
    let kind = Namespaces::NET.bits() as libc::c_int;
    // SAFETY: plain system call with scalars.
    match unsafe { libc::setns(namespace.as_raw_fd(), kind) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
