//! Blocks that are compressed, each on its own, whose length is known or limited.

mod lz4;
mod lzo;

use std::io::Read;

use anyhow::{Context, Result, bail};

pub(crate) use lz4::lz4;
pub(crate) use lzo::lzo;

/// A zlib stream (RFC 1950); what follows it does not count.
///
/// # Errors
/// Where it is broken, or longer than that.
pub(crate) fn zlib(bytes: &[u8], limit: usize) -> Result<Vec<u8>> {
    read(flate2::read::ZlibDecoder::new(bytes), limit)
}

/// An xz stream.
///
/// # Errors
/// Where it is broken, longer than that, or takes more than 256 MiB of memory.
pub(crate) fn xz(bytes: &[u8], limit: usize) -> Result<Vec<u8>> {
    let stream = liblzma::stream::Stream::new_stream_decoder(256 << 20, 0)?;
    read(liblzma::read::XzDecoder::new_stream(bytes, stream), limit)
}

/// A Zstandard frame (RFC 8878); what follows it does not count.
///
/// # Errors
/// Where it is broken, or longer than that.
pub(crate) fn zstd(bytes: &[u8], limit: usize) -> Result<Vec<u8>> {
    read(zstd::stream::read::Decoder::with_buffer(bytes)?.single_frame(), limit)
}

fn read(mut from: impl Read, limit: usize) -> Result<Vec<u8>> {
    let mut found = vec![0; limit];
    let mut length = 0;
    while length < limit {
        match from.read(&mut found[length..]).context("a compressed block is broken")? {
            0 => break,
            more => length += more,
        }
    }
    if length == limit && from.read(&mut [0]).context("a compressed block is broken")? > 0 {
        bail!("a compressed block is longer than it may be");
    }
    found.truncate(length);
    Ok(found)
}
