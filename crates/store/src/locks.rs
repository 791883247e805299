//! Locks by flock(2): gone with the process that held them.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::Result;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fstat, openat, unlinkat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::{Store, hex};

/// The exclusive right to pull something; released when dropped.
#[derive(Debug)]
pub struct Lock {
    store: Store,
    name: String,
    _fd: OwnedFd,
}

impl Store {
    /// Waits until nobody else holds the lock of that key, then holds it.
    ///
    /// `waiting` is called once if somebody does.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub fn lock(&self, key: &str, waiting: &mut dyn FnMut()) -> Result<Lock> {
        let name = format!("locks/{}", hex(Sha256::digest(key)));
        let failed = |error| self.failed("locking", &name, error);
        let mut told = false;
        loop {
            let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = Mode::RUSR | Mode::WUSR;
            let fd = openat(self.dir(), &name, flags, mode).map_err(failed)?;
            if !try_exclusive(&fd).map_err(failed)? {
                if !std::mem::replace(&mut told, true) {
                    waiting();
                }
                wait_for(&fd, FlockOperation::LockExclusive).map_err(failed)?;
            }
            // Whoever held it before removed the file.
            if fstat(&fd).map_err(failed)?.st_nlink > 0 {
                return Ok(Lock { store: self.clone(), name, _fd: fd });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is held, so that nobody can be locking the file that goes; who waits for it looks again.
        let _ = unlinkat(self.store.dir(), &self.name, AtFlags::empty());
    }
}

/// Locks exclusively; `false` where somebody else has a lock.
pub(crate) fn try_exclusive(fd: impl AsFd) -> rustix::io::Result<bool> {
    match flock(fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits for a lock.
pub(crate) fn wait_for(fd: impl AsFd, operation: FlockOperation) -> rustix::io::Result<()> {
    rustix::io::retry_on_intr(|| flock(&fd, operation))
}
