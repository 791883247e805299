//! Whether the journal is clean: its last record says that the file system was unmounted.

use anyhow::{Context, Result, ensure};

use crate::Blocks;
use crate::field::{be, byte, slice};

const MAGIC: u32 = 0xfeed_babe;
/// Records begin at multiples of it.
const SECTOR: usize = 512;
/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;
/// A header has one more sector for each so many bytes of its record.
const PER_HEADER: u32 = 32 << 10;
/// Of an operation: there is nothing after it (XLOG_UNMOUNT_TRANS).
const UNMOUNTED: u8 = 0x20;

/// Looks for the record with the highest number, which is the last one that was written.
pub(super) fn check(blocks: &dyn Blocks, at: u64, length: u64) -> Result<()> {
    let end = at.checked_add(length).filter(|end| *end <= blocks.size());
    ensure!(end.is_some(), "its journal is beyond the end");
    let mut last: Option<(u64, u64, Vec<u8>)> = None;
    let mut done = 0;
    while done < length {
        let size = (length - done).min(PIECE);
        let here = at + done;
        done += size;
        if blocks.is_hole(here, size) {
            continue;
        }
        let mut bytes = vec![0; size as usize];
        blocks.read_at(here, &mut bytes).context("reading the journal")?;
        for (number, sector) in bytes.chunks_exact(SECTOR).enumerate() {
            if be::u32(sector, 0)? != MAGIC {
                continue;
            }
            let position = be::u64(sector, 16)?;
            // A record's number says where it is: what looks like one within another does not count.
            let offset = here - at + (number * SECTOR) as u64;
            let is_there = position & 0xffff_ffff == offset / SECTOR as u64;
            if is_there && last.as_ref().is_none_or(|(before, ..)| *before < position) {
                last = Some((position, offset, sector.to_vec()));
            }
        }
    }
    let Some((_, offset, head)) = last else { return Ok(()) };
    ensure!(
        is_end(blocks, at, length, offset, &head)?,
        "its journal has changes that were not written back: mount it once, or run xfs_repair(8) on it"
    );
    Ok(())
}

fn is_end(blocks: &dyn Blocks, at: u64, length: u64, offset: u64, head: &[u8]) -> Result<bool> {
    let size = if be::u32(head, 8)? & 2 > 0 { be::u32(head, 320)? } else { 0 };
    let headers = u64::from(size.div_ceil(PER_HEADER)).clamp(1, 64);
    // The journal is a ring.
    let operation = (offset + headers * SECTOR as u64) % length;
    let mut bytes = [0; SECTOR];
    blocks.read_at(at + operation, &mut bytes).context("reading the journal")?;
    slice(&bytes, 0, 12)?;
    Ok(be::u32(head, 40)? == 1 && byte(&bytes, 9)? & UNMOUNTED > 0)
}
