//! Directories: in the inode, or in blocks of entries; what only serves to look names up is passed over.

use anyhow::{Context, Result, ensure};

use super::{Inode, LOCAL, Reader};
use crate::Name;
use crate::field::{be, byte, slice};

/// Behind it, a directory has what names are looked up by (XFS_DIR2_LEAF_OFFSET).
const ENTRIES: u64 = 32 << 30;
/// Blocks that also hold what names are looked up by, and that do not; of versions 4 and 5.
const WHOLE: [[u8; 4]; 2] = [*b"XD2B", *b"XDB3"];
const DATA: [[u8; 4]; 2] = [*b"XD2D", *b"XDD3"];
/// In the place of an inode's number: nothing is there.
const FREE: u16 = 0xffff;

pub(super) fn names(reader: &Reader, inode: &Inode) -> Result<Vec<Name>> {
    if inode.data.format == LOCAL {
        return short(reader, &inode.data.bytes);
    }
    let size = reader.block << reader.directory_bits;
    let extents = reader.extents(&inode.data)?;
    let mut names = Vec::new();
    let mut next = 0;
    for extent in &extents {
        let (from, to) = (extent.from, extent.from + extent.count);
        let [from, to] = [from, to].map(|n| n.saturating_mul(reader.block).min(ENTRIES));
        // A block may lie in several pieces, and between blocks there may be holes.
        next = next.max(from / size * size);
        while next < to {
            let bytes = reader.fork_bytes(&extents, next, size as usize)?;
            block(reader, &bytes, &mut names)
                .with_context(|| format!("reading the block {} of a directory", next / size))?;
            next += size;
        }
    }
    Ok(names)
}

fn add(names: &mut Vec<Name>, name: &[u8], node: u64) -> Result<()> {
    if matches!(name, b"." | b"..") {
        return Ok(());
    }
    crate::volume::check_name(name)?;
    names.push(Name { name: name.to_vec(), node });
    Ok(())
}

/// In the inode.
fn short(reader: &Reader, bytes: &[u8]) -> Result<Vec<Name>> {
    // Inodes' numbers have eight bytes where one needs them.
    let is_long = byte(bytes, 1)? > 0;
    let width = if is_long { 8 } else { 4 };
    let mut at = 2 + width;
    let mut names = Vec::new();
    for _ in 0..byte(bytes, 0)? {
        let length = usize::from(byte(bytes, at)?);
        let name = slice(bytes, at + 3, length)?;
        at += 3 + length + usize::from(reader.has_types);
        let node = if is_long { be::u64(bytes, at)? } else { be::u32(bytes, at)?.into() };
        add(&mut names, name, node)?;
        at += width;
    }
    Ok(names)
}

fn block(reader: &Reader, bytes: &[u8], names: &mut Vec<Name>) -> Result<()> {
    let version = usize::from(reader.is_v5);
    let magic = slice(bytes, 0, 4)?;
    let end = match () {
        () if magic == DATA[version] => bytes.len(),
        () if magic == WHOLE[version] => {
            let count = be::u32(bytes, bytes.len() - 8)? as usize;
            let tail = count.saturating_mul(8).saturating_add(8);
            bytes.len().checked_sub(tail).context("it has too many entries")?
        }
        () => anyhow::bail!("it is none"),
    };
    let mut at = if reader.is_v5 { 64 } else { 16 };
    while at < end {
        if be::u16(bytes, at)? == FREE {
            let length = usize::from(be::u16(bytes, at + 2)?);
            ensure!(length >= 8, "it has a gap of {length} bytes");
            at += length;
            continue;
        }
        let length = usize::from(byte(bytes, at + 8)?);
        ensure!(length > 0, "it has an empty name");
        add(names, slice(bytes, at + 9, length)?, be::u64(bytes, at)?)?;
        at += (9 + length + usize::from(reader.has_types) + 2).next_multiple_of(8);
    }
    Ok(())
}
