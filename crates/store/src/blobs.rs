//! Small objects named by their SHA-256: configurations and manifests.

use std::fs::File;
use std::io::Read;

use anyhow::{Result, ensure};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::{Store, failure, hex, is_digest};

/// Greatest size of a blob. Registries take manifests of up to 4 MiB (distribution-spec 1.1, "Pushing Manifests").
const MAX_BLOB: usize = 16 << 20;

impl Store {
    /// Keeps some bytes; returns their SHA-256 in lower-case hex, by which they are found again.
    ///
    /// # Errors
    /// Where they are too many, or the store cannot be written.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<String> {
        ensure!(bytes.len() <= MAX_BLOB, "a blob of {} bytes: at most {MAX_BLOB}", bytes.len());
        let digest = hex(Sha256::digest(bytes));
        let path = format!("blobs/sha256/{digest}");
        if !self.exists(&path) {
            self.changes()?.publish_file(&path, bytes)?;
        }
        Ok(digest)
    }

    /// The bytes of that SHA-256, in lower-case hex.
    ///
    /// # Errors
    /// Where they are damaged or cannot be read.
    pub fn blob(&self, hex: &str) -> Result<Option<Vec<u8>>> {
        ensure!(is_digest(hex), "{hex:?} is no SHA-256 in lower-case hex");
        let path = format!("blobs/sha256/{hex}");
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match openat(self.dir(), &path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(self.failed("reading", &path, error)),
        };
        let mut bytes = Vec::new();
        File::from(fd)
            .take(MAX_BLOB as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| self.failed("reading", &path, failure::errno(&error)))?;
        ensure!(
            crate::hex(Sha256::digest(&bytes)) == hex,
            "{} is damaged: remove it, and pull again",
            self.path().join(path).display()
        );
        Ok(Some(bytes))
    }
}
