//! Where a file's blocks are: extents, or the old maps of blocks.

use anyhow::{Result, bail, ensure};

use super::Ext;
use super::inode::Inode;
use crate::bytes::{le16, le32};

/// Blocks that follow each other in a file and on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) logical: u64,
    pub(super) physical: u64,
    pub(super) count: u64,
}

/// Takes a run.
type Take<'a> = dyn FnMut(Run) -> Result<()> + 'a;

const MAGIC: u16 = 0xf30a;
const ENTRY: usize = 12;
/// As in the kernel (ext4_extents.h, `EXT4_MAX_EXTENT_DEPTH`).
const MAX_DEPTH: u16 = 5;
/// A longer extent is one that was reserved and never written, with that much more.
const MAX_WRITTEN: u64 = 32_768;
/// Blocks that an inode names itself.
const DIRECT: u64 = 12;

impl Ext {
    /// Gives the runs of a file in order, without holes and what was never written.
    pub(super) fn runs(&self, inode: &Inode, take: &mut Take<'_>) -> Result<()> {
        let blocks = inode.size().div_ceil(self.superblock.block);
        let mut joined = Joined { run: None, take, next: 0 };
        if inode.has_extents() {
            self.extents(inode.block(), None, &mut joined)?;
        } else {
            self.map(inode.block(), blocks, &mut joined)?;
        }
        joined.finish()
    }

    fn extents(&self, node: &[u8], depth: Option<u16>, out: &mut Joined<'_, '_>) -> Result<()> {
        ensure!(le16(node, 0) == MAGIC, "its tree of extents is damaged");
        let (count, own) = (usize::from(le16(node, 2)), le16(node, 6));
        ensure!(ENTRY * (count + 1) <= node.len(), "a node of its tree has {count} extents");
        ensure!(own <= MAX_DEPTH, "its tree of extents has {own} levels");
        // Going down by one each time, it ends; and none but the root may have nothing.
        ensure!(depth.is_none_or(|depth| own == depth && count > 0), "its tree of extents loops");
        for entry in node[ENTRY..].chunks(ENTRY).take(count) {
            let logical = u64::from(le32(entry, 0));
            if own > 0 {
                let block = u64::from(le32(entry, 4)) | u64::from(le16(entry, 8)) << 32;
                let below = self.block(block)?;
                self.extents(&below, Some(own - 1), out)?;
                continue;
            }
            let length = u64::from(le16(entry, 4));
            let physical = u64::from(le32(entry, 8)) | u64::from(le16(entry, 6)) << 32;
            let written = length <= MAX_WRITTEN;
            let count = if written { length } else { length - MAX_WRITTEN };
            out.pass(logical, count)?;
            if written {
                self.check_run(physical, count)?;
                out.add(Run { logical, physical, count })?;
            }
        }
        Ok(())
    }

    fn map(&self, pointers: &[u8], blocks: u64, out: &mut Joined<'_, '_>) -> Result<()> {
        let per_block = self.superblock.block / 4;
        let mut logical = 0;
        for index in 0..15_u64 {
            let level = index.saturating_sub(DIRECT - 1) as u32;
            self.indirect(le32(pointers, index as usize * 4), level, logical, blocks, out)?;
            logical += per_block.pow(level);
        }
        ensure!(blocks <= logical, "it is longer than a map of blocks reaches");
        Ok(())
    }

    fn indirect(
        &self,
        pointer: u32,
        level: u32,
        logical: u64,
        blocks: u64,
        out: &mut Joined<'_, '_>,
    ) -> Result<()> {
        if pointer == 0 || logical >= blocks {
            return Ok(());
        }
        if level == 0 {
            self.check_run(pointer.into(), 1)?;
            return out.add(Run { logical, physical: pointer.into(), count: 1 });
        }
        let span = (self.superblock.block / 4).pow(level - 1);
        for (index, entry) in (0..).zip(self.block(pointer.into())?.chunks(4)) {
            self.indirect(le32(entry, 0), level - 1, logical + index * span, blocks, out)?;
        }
        Ok(())
    }

    fn check_run(&self, physical: u64, count: u64) -> Result<()> {
        let end = physical.checked_add(count);
        if physical == 0 || end.is_none_or(|end| end > self.superblock.blocks) {
            bail!("{count} of its blocks are at {physical}, beyond the end");
        }
        Ok(())
    }
}

/// Joins runs that go on.
struct Joined<'a, 'b> {
    run: Option<Run>,
    take: &'a mut Take<'b>,
    /// The lowest block that may come.
    next: u64,
}

impl Joined<'_, '_> {
    /// Extents are sorted and do not overlap: so there are no more than blocks.
    fn pass(&mut self, logical: u64, count: u64) -> Result<()> {
        ensure!(logical >= self.next && count > 0, "its extents are not in order");
        self.next = logical + count;
        Ok(())
    }

    fn add(&mut self, run: Run) -> Result<()> {
        if let Some(known) = &mut self.run
            && known.logical + known.count == run.logical
            && known.physical + known.count == run.physical
        {
            known.count += run.count;
            return Ok(());
        }
        self.finish()?;
        self.run = Some(run);
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.run.take().map_or(Ok(()), |run| (self.take)(run))
    }
}
