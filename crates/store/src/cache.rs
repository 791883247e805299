//! Downloads, kept for the next time under their SHA-256.

use std::fs::File;
use std::io::{Read, Write};

use anyhow::{Result, bail, ensure};
use rustix::fs::{FlockOperation, Mode, OFlags, fstat, ftruncate, openat, renameat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::locks::wait_for;
use crate::{Store, failure, hex, is_digest};

/// The downloads of a store.
#[derive(Debug, Clone, Copy)]
pub struct Cache<'a> {
    store: &'a Store,
}

/// A download in progress, which nobody else can touch.
///
/// Dropped, it remains, and the next one goes on where it ended.
#[derive(Debug)]
pub struct Partial<'a> {
    store: &'a Store,
    digest: String,
    file: File,
    length: u64,
    /// Of what is in the file; `None` where the whole object is there already.
    hasher: Option<Sha256>,
}

impl Store {
    /// The downloads.
    pub fn cache(&self) -> Cache<'_> {
        Cache { store: self }
    }
}

impl<'a> Cache<'a> {
    /// Where finished downloads are, each called by its SHA-256.
    #[must_use]
    pub fn path(&self) -> std::path::PathBuf {
        self.store.path().join("cache/sha256")
    }

    /// A finished download. It was right when it was stored; whoever reads it checks again.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn get(&self, sha256: &str) -> Result<Option<File>> {
        ensure!(is_digest(sha256), "{sha256:?} is no SHA-256 in lower-case hex");
        let path = finished_path(sha256);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(self.store.dir(), &path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.store.failed("reading", &path, error)),
        }
    }

    /// Begins a download, or goes on with one that was interrupted.
    ///
    /// Waits for another process that is at it; what that one finished is then returned
    /// as [complete](Partial::is_complete).
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub fn begin(&self, sha256: &str) -> Result<Partial<'a>> {
        ensure!(is_digest(sha256), "{sha256:?} is no SHA-256 in lower-case hex");
        let store = self.store;
        let path = partial_path(sha256);
        let failed = |error| store.failed("making", &path, error);
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = loop {
            let fd = openat(store.dir(), &path, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
            wait_for(&fd, FlockOperation::LockExclusive).map_err(failed)?;
            // Finished or removed while we waited, or the finished file has just got that name.
            let is_it =
                rustix::fs::statat(store.dir(), &path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|there| fstat(&fd).is_ok_and(|ours| ours.st_ino == there.st_ino));
            if is_it {
                break File::from(fd);
            }
        };
        let digest = sha256.to_owned();
        if let Some(file) = self.get(sha256)? {
            store.unlink(&path)?;
            let length = file.metadata().map_err(|e| failed(failure::errno(&e)))?.len();
            return Ok(Partial { store, digest, file, length, hasher: None });
        }
        let mut partial = Partial { store, digest, file, length: 0, hasher: Some(Sha256::new()) };
        partial.read_what_is_there()?;
        Ok(partial)
    }
}

impl Partial<'_> {
    /// Bytes that are there: where to resume.
    // Whether it is empty is not a question that anybody has.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether another process finished it meanwhile: [`Partial::finish`] is all that is left to do.
    pub fn is_complete(&self) -> bool {
        self.hasher.is_none()
    }

    /// Appends what arrived.
    ///
    /// # Errors
    /// Where the store cannot be written, or the download is complete.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(hasher) = &mut self.hasher else {
            bail!("the download {} is complete", self.digest)
        };
        self.file.write_all(bytes).map_err(|error| {
            self.store.failed("writing", &partial_path(&self.digest), failure::errno(&error))
        })?;
        hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Begins anew, as where the other side cannot resume.
    ///
    /// # Errors
    /// Where the store cannot be written, or the download is complete.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(!self.is_complete(), "the download {} is complete", self.digest);
        ftruncate(&self.file, 0)
            .map_err(|error| self.store.failed("writing", &partial_path(&self.digest), error))?;
        self.length = 0;
        self.hasher = Some(Sha256::new());
        Ok(())
    }

    /// Checks the SHA-256 of the whole and keeps it; returns it for reading.
    ///
    /// It is not flushed to the disk: whoever reads it checks it again.
    ///
    /// # Errors
    /// Where the digest is another one, in which case nothing is kept, or the store cannot be written.
    pub fn finish(mut self) -> Result<File> {
        let store = self.store;
        let path = partial_path(&self.digest);
        if let Some(hasher) = self.hasher.take() {
            let found = hex(hasher.finalize());
            if found != self.digest {
                store.unlink(&path)?;
                bail!(
                    "a download of {} bytes is not what it should be: its SHA-256 is {found} instead of {}",
                    self.length,
                    self.digest
                );
            }
            renameat(store.dir(), &path, store.dir(), finished_path(&self.digest))
                .map_err(|error| store.failed("keeping", &path, error))?;
        }
        match store.cache().get(&self.digest)? {
            Some(file) => Ok(file),
            None => bail!("the download {} was removed meanwhile", self.digest),
        }
    }

    fn read_what_is_there(&mut self) -> Result<()> {
        let Some(hasher) = &mut self.hasher else { return Ok(()) };
        let mut buffer = vec![0; 128 * 1024];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => {
                    hasher.update(&buffer[..length]);
                    self.length += length as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let path = partial_path(&self.digest);
                    return Err(self.store.failed("reading", &path, failure::errno(&error)));
                }
            }
        }
    }
}

pub(crate) fn finished_path(sha256: &str) -> String {
    format!("cache/sha256/{sha256}")
}

pub(crate) fn partial_path(sha256: &str) -> String {
    format!("cache/partial/{sha256}")
}
