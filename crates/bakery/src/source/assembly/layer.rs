//! One layer: downloaded and decompressed by one thread, checked and unpacked by another.

use std::fmt;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use sha2::{Digest as _, Sha256};
use spec::event::{Event, Tell};
use spec::oci::Descriptor;
use store::unpack::{Limits, Style, Summary, unpack, unpack_over};
use sys::rooted::Root;

use super::Blobs;
use super::pipe::{Sink, Stream, pipe};
use crate::compression::Compression;
use crate::digest::{Hashing, hex};

/// What stays the same for all layers.
pub(super) struct Fetch<'a> {
    pub(super) blobs: &'a dyn Blobs,
    pub(super) limits: &'a Limits,
    pub(super) tell: &'a dyn Tell,
    /// Another layer failed.
    pub(super) stop: &'a AtomicBool,
}

/// That it was not finished, because another layer failed.
#[derive(Debug)]
pub(super) struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stopped because another layer failed")
    }
}

impl std::error::Error for Stopped {}

/// Bytes between two pieces of news.
const NEWS: u64 = 1 << 20;

impl Fetch<'_> {
    /// Unpacks it, by itself or as what it is over others; what is there is whole and right, or an error.
    pub(super) fn unpack(
        &self,
        blob: &Descriptor,
        diff_id: &str,
        root: &Root,
        below: Option<&Root>,
    ) -> Result<Summary> {
        let what = format!("layer {}", short(&blob.digest));
        let total = Some(blob.size);
        self.tell.tell(Event::DownloadStarted { what: what.clone(), total });
        let (sink, stream) = pipe();
        let (fetched, unpacked) = std::thread::scope(|scope| {
            let fetch = scope.spawn(|| self.download(blob, &what, sink));
            let unpacked = self.receive(stream, diff_id, root, below);
            let fetched = fetch.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (fetched, unpacked)
        });
        if self.stop.load(Ordering::Relaxed) && (fetched.is_err() || unpacked.is_err()) {
            return Err(Stopped.into());
        }
        // What was wrong with the download explains what was wrong with its content.
        fetched?;
        let summary = unpacked?;
        self.tell.tell(Event::DownloadFinished { what });
        Ok(summary)
    }

    /// Downloads and decompresses; checks size and digest of what came, even where it was of no use.
    fn download(&self, blob: &Descriptor, what: &str, mut sink: Sink) -> Result<()> {
        let reader = self.blobs.open(blob)?;
        let mut arriving = Arriving {
            inner: reader,
            hasher: Sha256::new(),
            done: 0,
            told: 0,
            size: blob.size,
            what,
            fetch: self,
            failure: None,
        };
        let mut start = [0; 6];
        // What fails here fails again below.
        let known = fill(&mut arriving, &mut start).unwrap_or(0);
        let compression = Compression::of_content(&start[..known]);
        let rest = start[..known].chain(&mut arriving);
        // As tar pads its end, and what is beyond its end mark counts as well.
        let limit =
            self.limits.max_bytes.saturating_add(self.limits.max_entries.saturating_mul(1024));
        let mut decoder = compression.decoder(rest)?;
        let decoded = sink.copy(&mut decoder, limit).map(drop);
        drop((decoder, sink));
        if arriving.failure.is_none() {
            let _ = io::copy(&mut arriving, &mut io::sink());
        }
        if self.stop.load(Ordering::Relaxed) {
            return Err(Stopped.into());
        }
        if let Some(failure) = arriving.failure {
            bail!(failure);
        }
        ensure!(
            arriving.done == blob.size,
            "it has {} bytes and should have {}",
            arriving.done,
            blob.size
        );
        let found = format!("sha256:{}", hex(&arriving.hasher.finalize()));
        ensure!(found == blob.digest, "its digest is {found} and should be {}", blob.digest);
        decoded.with_context(|| format!("decompressing it ({compression})"))
    }

    fn receive(
        &self,
        stream: Stream,
        diff_id: &str,
        root: &Root,
        below: Option<&Root>,
    ) -> Result<Summary> {
        let mut hashing = Hashing::new(stream);
        let summary = match below {
            None => unpack(&mut hashing, root, Style::Overlay, self.limits, &mut |_| {})?,
            Some(below) => unpack_over(&mut hashing, root, below, self.limits)?,
        };
        let found = format!("sha256:{}", hashing.digest()?);
        if found != diff_id {
            return Err(anyhow!("its content has the digest {found} and should have {diff_id}"));
        }
        Ok(summary)
    }
}

/// A blob on its way.
struct Arriving<'a> {
    inner: Box<dyn Read + Send + 'a>,
    hasher: Sha256,
    done: u64,
    told: u64,
    size: u64,
    what: &'a str,
    fetch: &'a Fetch<'a>,
    /// Why there will be no more.
    failure: Option<String>,
}

impl Read for Arriving<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stopped = self.fetch.stop.load(Ordering::Relaxed);
        let read = if stopped { Err(io::Error::other(Stopped)) } else { self.inner.read(buffer) };
        let count = match read {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => return Err(self.fail(error.to_string())),
        };
        self.hasher.update(&buffer[..count]);
        self.done += count as u64;
        if self.done > self.size {
            let size = self.size;
            return Err(
                self.fail(format!("it is larger than the {size} bytes that it should have"))
            );
        }
        if self.done - self.told >= NEWS {
            self.told = self.done;
            let what = self.what.to_owned();
            self.fetch.tell.tell(Event::DownloadProgress { what, done: self.done });
        }
        Ok(count)
    }
}

impl Arriving<'_> {
    fn fail(&mut self, text: String) -> io::Error {
        self.failure = Some(text.clone());
        io::Error::other(text)
    }
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match reader.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// As many digits as people like to read.
fn short(digest: &str) -> &str {
    digest.strip_prefix("sha256:").and_then(|hex| hex.get(..12)).unwrap_or(digest)
}
