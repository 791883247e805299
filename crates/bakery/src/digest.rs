//! SHA-256 of what passes by.

use std::io::{self, Read};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

/// Hashes all that is read through it.
pub(crate) struct Hashing<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new() }
    }

    /// Reads the rest; returns the digest of all in lower-case hex.
    ///
    /// # Errors
    /// The rest cannot be read.
    pub(crate) fn digest(mut self) -> Result<String> {
        io::copy(&mut self, &mut io::sink()).context("reading its rest")?;
        Ok(hex(&self.hasher.finalize()))
    }

    /// Reads the rest and compares.
    ///
    /// # Errors
    /// The rest cannot be read, or the digest is another one.
    pub(crate) fn finish(self, expected: &str) -> Result<()> {
        let found = self.digest()?;
        ensure!(found == expected, "its SHA-256 is {found} and should be {expected}");
        Ok(())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// The SHA-256 of some bytes in lower-case hex.
pub(crate) fn of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
