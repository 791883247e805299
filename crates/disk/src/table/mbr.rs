//! The old partition table in the first sector, and the chain of logical partitions.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::{Partition, Role, part};
use crate::Blocks;
use crate::bytes::le32;

const SECTOR: u64 = 512;
/// As many as the kernel takes (block/partitions/msdos.c counts up to 256 in all).
const MAX_LOGICAL: u32 = 252;
/// An extended partition: CHS, LBA, and Linux's.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// `None` where there is no such table.
///
/// # Errors
/// It is broken.
pub fn read(disk: &Arc<dyn Blocks>) -> Result<Option<Vec<Partition>>> {
    if disk.size() < SECTOR {
        return Ok(None);
    }
    let mut sector = [0; SECTOR as usize];
    disk.read_at(0, &mut sector)?;
    if !begins(&sector) {
        return Ok(None);
    }
    let signature = le32(&sector, 440);
    let mut found = Vec::new();
    for (entry, number) in entries(&sector).zip(1..) {
        let (start, length) = range(entry);
        if EXTENDED.contains(&entry[4]) {
            logical(disk, start, signature, &mut found).context("reading its logical ones")?;
        } else if entry[4] != 0 && length > 0 {
            found.push(partition(disk, entry[4], number, signature, start, length)?);
        }
    }
    found.sort_by_key(|partition| partition.number);
    Ok((!found.is_empty()).then_some(found))
}

/// Whether these first bytes of a disk, a sector at least, hold such a table.
pub(super) fn begins(start: &[u8]) -> bool {
    start.len() >= SECTOR as usize
        && start[510..512] == [0x55, 0xaa]
        && entries(start).all(|entry| entry[0] & 0x7f == 0)
        && entries(start).any(|entry| entry[4] != 0)
}

fn entries(sector: &[u8]) -> impl Iterator<Item = &[u8]> {
    sector[446..510].chunks(16)
}

/// Bytes.
fn range(entry: &[u8]) -> (u64, u64) {
    (u64::from(le32(entry, 8)) * SECTOR, u64::from(le32(entry, 12)) * SECTOR)
}

/// Each sector of the chain has a partition, relative to itself, and the next, relative to the first.
fn logical(
    disk: &Arc<dyn Blocks>,
    first: u64,
    signature: u32,
    found: &mut Vec<Partition>,
) -> Result<()> {
    let mut at = first;
    for number in 5.. {
        ensure!(number < 5 + MAX_LOGICAL, "there are more than {MAX_LOGICAL}: a loop");
        let mut sector = [0; SECTOR as usize];
        disk.read_at(at, &mut sector)?;
        if sector[510..] != [0x55, 0xaa] {
            break;
        }
        let mut both = entries(&sector);
        let (Some(own), Some(next)) = (both.next(), both.next()) else { break };
        let (start, length) = range(own);
        if own[4] != 0 && length > 0 {
            found.push(partition(disk, own[4], number, signature, at + start, length)?);
        }
        let (start, _) = range(next);
        if !EXTENDED.contains(&next[4]) || start == 0 {
            break;
        }
        at = first + start;
    }
    Ok(())
}

fn partition(
    disk: &Arc<dyn Blocks>,
    kind: u8,
    number: u32,
    signature: u32,
    start: u64,
    length: u64,
) -> Result<Partition> {
    let role = match kind {
        0xef => Role::Esp,
        0xea => Role::Boot,
        0x82 => Role::Swap,
        0x8e => Role::Lvm,
        0xee => Role::Nothing,
        _ => Role::Other,
    };
    let blocks = part(disk, start, length).with_context(|| format!("partition {number}"))?;
    let uuid = format!("{signature:08x}-{number:02x}");
    Ok(Partition { number, volume: None, uuid, label: String::new(), role, blocks })
}
