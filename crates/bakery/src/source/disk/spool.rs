//! What must be read in any order, but comes as a stream.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use anyhow::{Context as _, Result, ensure};
use store::Store;

use crate::source::layout::scratch;

/// Bytes that are looked at together: where all are zero, a hole remains.
const BLOCK: usize = 64 << 10;
/// As large as an image of a disk may be that comes packed: 64 TiB with its holes.
const MAX_SIZE: u64 = 1 << 46;

/// Copies a stream to a file without a name in the store, with holes for zeros.
pub(super) fn spool(mut from: impl Read, store: &Store) -> Result<File> {
    let file = scratch(store)?;
    let mut block = vec![0; BLOCK];
    let mut at = 0;
    loop {
        let count = fill(&mut from, &mut block)?;
        let now = &block[..count];
        if now.iter().any(|&byte| byte != 0) {
            file.write_all_at(now, at).context("writing it to the store")?;
        }
        at += count as u64;
        ensure!(at <= MAX_SIZE, "it is larger than any disk");
        if count < BLOCK {
            break;
        }
    }
    file.set_len(at).context("writing it to the store")?;
    Ok(file)
}

/// As much as there is.
fn fill(from: &mut impl Read, block: &mut [u8]) -> Result<usize> {
    let mut count = 0;
    while count < block.len() {
        match from.read(&mut block[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("reading it"),
        }
    }
    Ok(count)
}
