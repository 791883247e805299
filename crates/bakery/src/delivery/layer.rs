//! One layer of the store as a tar archive, compressed and with its digests.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use spec::oci::{Descriptor, media};
use store::Store;
use store::pack::{self, pack};
use sys::rooted::Root;

use crate::digest::hex;

/// How layers are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compress {
    /// Not at all.
    No,
    /// What everybody can read.
    Gzip,
    /// Faster and smaller, for everybody since about 2021.
    Zstd,
}

/// gzip's own default; zstd's.
const LEVELS: (u32, i32) = (6, 3);

/// A packed layer in a file without a name.
pub(super) struct Packed {
    file: File,
    pub(super) diff_id: String,
    pub(super) descriptor: Descriptor,
}

impl Packed {
    pub(super) fn pack(store: &Store, id: &str, newest: i64, compress: Compress) -> Result<Self> {
        let path = store.layer_path(id);
        let what = || format!("packing the layer {}", path.display());
        let root = Root::open(&path).with_context(what)?;
        let file = crate::source::layout::scratch(store)?;
        let options = pack::Options { layer: true, newest: Some(newest), ..Default::default() };
        let sink = Hashed::new(BufWriter::with_capacity(BUFFER, file.try_clone()?));
        let encoder = match compress {
            Compress::No => Encoder::No(sink),
            Compress::Gzip => Encoder::Gzip(flate2::write::GzEncoder::new(
                sink,
                flate2::Compression::new(LEVELS.0),
            )),
            Compress::Zstd => Encoder::Zstd(zstd::stream::write::Encoder::new(sink, LEVELS.1)?),
        };
        let mut plain = Hashed::new(encoder);
        pack(&root, BufWriter::with_capacity(BUFFER, &mut plain), &options).with_context(what)?;
        let diff_id = format!("sha256:{}", hex(&plain.hasher.finalize()));
        let mut sink = match plain.inner {
            Encoder::No(sink) => sink,
            Encoder::Gzip(encoder) => encoder.finish().with_context(what)?,
            Encoder::Zstd(encoder) => encoder.finish().with_context(what)?,
        };
        sink.inner.flush().with_context(what)?;
        let suffix = match compress {
            Compress::No => "",
            Compress::Gzip => "+gzip",
            Compress::Zstd => "+zstd",
        };
        let descriptor = Descriptor {
            media_type: format!("{}{suffix}", media::LAYER),
            digest: format!("sha256:{}", hex(&sink.hasher.finalize())),
            size: sink.count,
            ..Descriptor::default()
        };
        Ok(Self { file, diff_id, descriptor })
    }

    /// Reads it from its start.
    pub(super) fn reader(&self) -> impl Read + '_ {
        Reader { file: &self.file, at: 0 }
    }
}

const BUFFER: usize = 256 << 10;

struct Reader<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

enum Encoder<W: Write> {
    No(W),
    Gzip(flate2::write::GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::No(inner) => inner.write(bytes),
            Self::Gzip(inner) => inner.write(bytes),
            Self::Zstd(inner) => inner.write(bytes),
        }
    }

    /// What is flushed in between is compressed worse.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hashes and counts all that is written through it.
struct Hashed<W> {
    inner: W,
    hasher: Sha256,
    count: u64,
}

impl<W: Write> Hashed<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), count: 0 }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
