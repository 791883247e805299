//! Where what comes is put: content in blocks, one after the other, and inodes between them.

use std::collections::VecDeque;

use anyhow::{Result, ensure};

use super::BLOCK;
use crate::erofs::{SLOT, SUPER_OFFSET, SUPER_SIZE};

/// Blocks for inodes that are taken at once, so that inodes of one directory lie together.
const RUN: u64 = 16;
/// Blocks with room that are remembered.
const OPEN: usize = 64;

pub(super) struct Space {
    /// The first block that nothing is in.
    next: u64,
    /// Blocks for inodes, each with what is used of it, the oldest first.
    open: VecDeque<(u64, u64)>,
}

impl Space {
    pub(super) fn new() -> Self {
        let superblock = SUPER_OFFSET + SUPER_SIZE as u64;
        Self { next: 1, open: VecDeque::from([(0, superblock)]) }
    }

    /// How many blocks there are so far.
    pub(super) fn end(&self) -> u64 {
        self.next
    }

    /// The first of so many blocks in a row.
    pub(super) fn blocks(&mut self, count: u64) -> Result<u64> {
        let first = self.next;
        self.next = first.saturating_add(count);
        ensure!(self.next < u64::from(u32::MAX), "an EROFS image holds at most 16 TiB");
        Ok(first)
    }

    /// Where in the image so many bytes of an inode and what follows it are put. What fits in a
    /// block does not reach into the next.
    pub(super) fn inode(&mut self, size: u64) -> Result<u64> {
        if size > BLOCK {
            return Ok(self.blocks(size.div_ceil(BLOCK))? * BLOCK);
        }
        let fitting = self.open.iter_mut().filter(|(_, used)| *used + size <= BLOCK);
        if let Some((block, used)) = fitting.max_by_key(|(_, used)| *used) {
            let at = *block * BLOCK + *used;
            *used = (*used + size).next_multiple_of(SLOT);
            return Ok(at);
        }
        let first = self.blocks(RUN)?;
        self.open.retain(|(_, used)| *used + SLOT <= BLOCK);
        self.open.extend((first..first + RUN).map(|block| (block, 0)));
        self.open.drain(..self.open.len().saturating_sub(OPEN));
        self.inode(size)
    }
}
