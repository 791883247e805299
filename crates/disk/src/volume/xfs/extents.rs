//! Where the blocks of a fork are: in a list, or in a tree of lists.

use anyhow::{Context, Result, bail, ensure};

use super::{EXTENTS, Fork, Reader, TREE};
use crate::field::{be, slice};

/// Blocks in a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// The first one's number in the file.
    pub(super) from: u64,
    /// And in the file system.
    pub(super) block: u64,
    pub(super) count: u64,
    /// Reserved, and nothing written there yet.
    pub(super) is_unwritten: bool,
}

/// An extent's bytes.
const SIZE: usize = 16;
const BLOCK_MAGIC: [u32; 2] = [u32::from_be_bytes(*b"BMAP"), u32::from_be_bytes(*b"BMA3")];
/// Trees are lower (XFS_BTREE_MAXLEVELS).
const MAX_LEVEL: u16 = 16;

fn extent(bytes: &[u8], at: usize) -> Result<Extent> {
    let (high, low) = (be::u64(bytes, at)?, be::u64(bytes, at + 8)?);
    Ok(Extent {
        is_unwritten: high >> 63 > 0,
        from: (high & (u64::MAX >> 1)) >> 9,
        block: (high & 0x1ff) << 43 | low >> 21,
        count: low & 0x1f_ffff,
    })
}

impl Reader {
    /// All extents of a fork, in order.
    pub(super) fn extents(&self, fork: &Fork) -> Result<Vec<Extent>> {
        let mut extents = Vec::new();
        match fork.format {
            EXTENTS => {
                let count = usize::try_from(fork.extents)?;
                ensure!(count <= fork.bytes.len() / SIZE, "an inode has too many extents");
                (0..count)
                    .try_for_each(|n| self.push(&mut extents, extent(&fork.bytes, n * SIZE)?))?;
            }
            TREE => {
                let (level, count) = (be::u16(&fork.bytes, 0)?, be::u16(&fork.bytes, 2)?);
                ensure!(level > 0 && level <= MAX_LEVEL, "a tree of extents has {level} levels");
                let room = (fork.bytes.len() - 4) / SIZE;
                self.below(&fork.bytes, 4 + room * 8, room, count, level, &mut extents)?;
            }
            other => bail!("an inode's fork has the form {other}"),
        }
        ensure!(
            extents.len() as u64 == fork.extents,
            "an inode has {} extents and says that it has {}",
            extents.len(),
            fork.extents
        );
        Ok(extents)
    }

    /// Those below a node, whose pointers begin there.
    fn below(
        &self,
        bytes: &[u8],
        pointers: usize,
        room: usize,
        count: u16,
        level: u16,
        extents: &mut Vec<Extent>,
    ) -> Result<()> {
        let count = usize::from(count);
        ensure!(count > 0 && count <= room, "a tree of extents has a node of {count}");
        for number in 0..count {
            let block = be::u64(bytes, pointers + number * 8)?;
            self.block_of_tree(block, level - 1, extents)
                .with_context(|| format!("reading the block {block} of a tree of extents"))?;
        }
        Ok(())
    }

    fn block_of_tree(&self, block: u64, level: u16, extents: &mut Vec<Extent>) -> Result<()> {
        let bytes = self.read(self.address(block)?, self.block as usize)?;
        let magic = BLOCK_MAGIC[usize::from(self.is_v5)];
        ensure!(be::u32(&bytes, 0)? == magic, "it is none");
        ensure!(be::u16(&bytes, 4)? == level, "it is on another level");
        let count = be::u16(&bytes, 6)?;
        let head = if self.is_v5 { 72 } else { 24 };
        let room = (bytes.len() - head) / SIZE;
        if level > 0 {
            return self.below(&bytes, head + room * 8, room, count, level, extents);
        }
        // Each block adds something that comes after all before: no loop can go on.
        ensure!(count > 0 && usize::from(count) <= room, "it has {count} extents");
        let records = slice(&bytes, head, usize::from(count) * SIZE)?;
        (0..usize::from(count)).try_for_each(|n| self.push(extents, extent(records, n * SIZE)?))
    }

    fn push(&self, extents: &mut Vec<Extent>, extent: Extent) -> Result<()> {
        let end = extents.last().map_or(0, |last| last.from + last.count);
        ensure!(extent.count > 0 && extent.from >= end, "extents are in disorder");
        // Both ends: it is in one group.
        self.address(extent.block)?;
        self.address(extent.block.saturating_add(extent.count - 1))?;
        extents.push(extent);
        Ok(())
    }
}
