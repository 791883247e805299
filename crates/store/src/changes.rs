//! Changing the store: under one lock, by one rename each.

use std::fs::File;
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, RawDir, fsync, mkdirat, openat, renameat, statat,
    symlinkat, unlinkat,
};
use rustix::io::Errno;
use sys::rooted::remove_tree;

use crate::locks::{try_exclusive, wait_for};
use crate::{Store, hex};

/// The right to change records, names, layers and `tmp/`; held for moments.
pub(crate) struct Changes<'a> {
    pub(crate) store: &'a Store,
    _lock: OwnedFd,
}

/// Trees in `tmp/` that are to be removed, each locked, so that nobody else bothers.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Trash(Vec<(String, OwnedFd)>);

impl Store {
    /// Waits for whoever else is changing the store.
    pub(crate) fn changes(&self) -> Result<Changes<'_>> {
        let name = "locks/.changes";
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = openat(self.dir(), name, flags, Mode::RUSR | Mode::WUSR)
            .and_then(|fd| wait_for(&fd, FlockOperation::LockExclusive).map(|()| fd))
            .map_err(|error| self.failed("locking", name, error))?;
        Ok(Changes { store: self, _lock: lock })
    }

    /// The names in a directory of the store, sorted.
    pub(crate) fn list(&self, dir: &str) -> Result<Vec<String>> {
        let failed = |error| self.failed("listing", dir, error);
        let fd = self.open_dir(dir).map_err(failed)?;
        let mut names = Vec::new();
        let mut buffer = vec![MaybeUninit::uninit(); 32 * 1024];
        let mut entries = RawDir::new(fd, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(failed)?;
            match entry.file_name().to_str() {
                Ok("." | "..") => {}
                Ok(name) => names.push(name.to_owned()),
                // Nothing that we make: it is not ours.
                Err(_) => {}
            }
        }
        names.sort();
        Ok(names)
    }

    /// Opens a directory of the store for listing, locking or flushing.
    pub(crate) fn open_dir(&self, name: &str) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(self.dir(), name, flags, Mode::empty())
    }

    /// Removes a file of the store; `false` where there is none.
    pub(crate) fn unlink(&self, name: &str) -> Result<bool> {
        match unlinkat(self.dir(), name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(self.failed("removing", name, error)),
        }
    }

    /// Makes the latest renames and removals in a directory outlast a power failure.
    pub(crate) fn flush(&self, dir: &str) -> Result<()> {
        self.open_dir(dir).and_then(fsync).map_err(|error| self.failed("flushing", dir, error))
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        statat(self.dir(), name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }
}

impl Changes<'_> {
    /// Writes a file and puts it in the place of whatever file has that name.
    pub(crate) fn publish_file(&self, name: &str, content: &[u8]) -> Result<()> {
        let store = self.store;
        let temporary = temporary_name()?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let written = openat(store.dir(), &temporary, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| store.failed("making", &temporary, error))
            .and_then(|fd| {
                let mut file = File::from(fd);
                file.write_all(content).and_then(|()| file.sync_all()).map_err(|error| {
                    store.failed("writing", &temporary, crate::failure::errno(&error))
                })
            })
            .and_then(|()| self.rename(&temporary, name));
        self.clean_up(&temporary, written)
    }

    /// Makes a symbolic link and puts it in the place of whatever has that name.
    pub(crate) fn publish_link(&self, name: &str, text: &str) -> Result<()> {
        let temporary = temporary_name()?;
        let made = symlinkat(text, self.store.dir(), &temporary)
            .map_err(|error| self.store.failed("making", &temporary, error))
            .and_then(|()| self.rename(&temporary, name));
        self.clean_up(&temporary, made)
    }

    /// Makes a directory in `tmp/` and locks it; returns its name as well.
    pub(crate) fn temporary_directory(&self) -> Result<(String, OwnedFd)> {
        let store = self.store;
        let name = temporary_name()?;
        let failed = |error| store.failed("making", &name, error);
        mkdirat(store.dir(), &name, Mode::RWXU).map_err(failed)?;
        let fd = store.open_dir(&name).map_err(failed)?;
        wait_for(&fd, FlockOperation::LockExclusive).map_err(failed)?;
        Ok((name, fd))
    }

    /// Moves a directory that is locked by us to where it will be removed.
    pub(crate) fn discard(&self, name: &str, lock: OwnedFd, trash: &mut Trash) -> Result<()> {
        let temporary = temporary_name()?;
        renameat(self.store.dir(), name, self.store.dir(), &temporary)
            .map_err(|error| self.store.failed("removing", name, error))?;
        trash.0.push((temporary, lock));
        Ok(())
    }

    /// Finds what dead processes left in `tmp/`; removes what is no directory at once, and counts it.
    pub(crate) fn abandoned(&self, trash: &mut Trash) -> Result<u64> {
        let store = self.store;
        let mut removed = 0;
        for entry in store.list("tmp")? {
            let name = format!("tmp/{entry}");
            let failed = |error| store.failed("sweeping", &name, error);
            match store.open_dir(&name) {
                Ok(fd) => {
                    if try_exclusive(&fd).map_err(failed)? {
                        trash.0.push((name, fd));
                    }
                }
                // Files and links are made under the lock that we have: their maker is dead.
                Err(Errno::NOTDIR | Errno::LOOP) => removed += u64::from(store.unlink(&name)?),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(removed)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let store = self.store;
        renameat(store.dir(), from, store.dir(), to)
            .map_err(|error| store.failed("writing", to, error))?;
        let dir = to.rfind('/').map_or(".", |slash| &to[..slash]);
        store.flush(dir)
    }

    /// Where something failed, its beginnings need not wait for a sweep.
    fn clean_up(&self, temporary: &str, result: Result<()>) -> Result<()> {
        if result.is_err() {
            let _ = unlinkat(self.store.dir(), temporary, AtFlags::empty());
        }
        result
    }
}

impl Trash {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Bytes that the trees take.
    pub(crate) fn size(&self) -> u64 {
        self.0.iter().map(|(_, fd)| crate::usage::disk_usage(fd)).sum()
    }

    /// Removes the trees; slow, and so not to be done under the lock.
    pub(crate) fn remove(self, store: &Store) -> Result<()> {
        for (name, _lock) in self.0 {
            remove(store, &name)?;
        }
        Ok(())
    }
}

/// Removes a tree in `tmp/` that is locked by us.
pub(crate) fn remove(store: &Store, name: &str) -> Result<()> {
    let tmp = store.open_dir("tmp").map_err(|error| store.failed("opening", "tmp", error))?;
    let entry = name.strip_prefix("tmp/").unwrap_or(name);
    match remove_tree(std::os::fd::AsFd::as_fd(&tmp), entry.as_ref()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(store.failed("removing", name, crate::failure::errno(&error)))
        }
        _ => Ok(()),
    }
}

fn temporary_name() -> Result<String> {
    let mut random = [0u8; 12];
    let flags = rustix::rand::GetRandomFlags::empty();
    rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut random, flags))
        .context("asking the kernel for random bytes")?;
    Ok(format!("tmp/{}", hex(random)))
}
