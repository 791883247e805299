//! A file's content: written where it comes, what it leaves out left out.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};

use super::BLOCK;
use super::space::Space;
use crate::erofs::HOLE;

/// Chunks that a file is divided into, where it is not so large that even the greatest are more.
const CHUNKS: u64 = 64 << 10;
/// The greatest chunks have 2^31 blocks: five bits say how many.
const MAX_BITS: u32 = 31;

/// Takes a file's pieces.
pub(super) struct Content<'a> {
    pub(super) image: &'a File,
    pub(super) space: &'a mut Space,
    size: u64,
    /// What follows its whole blocks, if that is to lie behind the inode.
    tail: Option<Vec<u8>>,
    /// Whether anything came for that.
    has_tail: bool,
    /// Blocks in a chunk: 2 to the power of it.
    bits: u32,
    /// The first block of each chunk, or [`HOLE`].
    map: Vec<u32>,
    /// Where the next piece may begin.
    at: u64,
}

/// Where a file's content is.
pub(super) enum Place {
    /// From this block on, and what is left of it behind the inode, if there is something.
    Flat(u32, Vec<u8>),
    /// In chunks of so many blocks (2 to the power of it), each where the map says.
    Chunks(u32, Vec<u32>),
}

impl<'a> Content<'a> {
    /// For a file of that size; its last part is kept back if it is to lie behind the inode.
    pub(super) fn new(image: &'a File, space: &'a mut Space, size: u64, keep_tail: bool) -> Self {
        let blocks = size.div_ceil(BLOCK);
        let bits = (0..MAX_BITS).find(|bits| blocks.div_ceil(1 << bits) <= CHUNKS);
        let bits = bits.unwrap_or(MAX_BITS);
        let map = vec![HOLE; blocks.div_ceil(1 << bits) as usize];
        let tail = keep_tail.then(|| vec![0; (size % BLOCK) as usize]);
        Self { image, space, size, tail, has_tail: false, bits, map, at: 0 }
    }

    pub(super) fn piece(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= self.size);
        let end = end.context("its content is longer than it is")?;
        ensure!(offset >= self.at, "its content does not come from front to back");
        self.at = end;
        let body = self.body();
        let split = body.saturating_sub(offset).min(bytes.len() as u64) as usize;
        self.write(offset, &bytes[..split])?;
        if let Some(tail) = &mut self.tail
            && split < bytes.len()
        {
            let at = (offset.max(body) - body) as usize;
            tail[at..at + bytes.len() - split].copy_from_slice(&bytes[split..]);
            self.has_tail = true;
        }
        Ok(())
    }

    /// Bytes of it that are not kept back.
    fn body(&self) -> u64 {
        self.size - self.tail.as_ref().map_or(0, Vec::len) as u64
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let Some(last) = (offset + bytes.len() as u64).checked_sub(1).filter(|_| !bytes.is_empty())
        else {
            return Ok(());
        };
        let (first, last) = ((offset / BLOCK) >> self.bits, (last / BLOCK) >> self.bits);
        for chunk in first..=last {
            if self.map[chunk as usize] == HOLE {
                let all = self.size.div_ceil(BLOCK);
                let blocks = (1 << self.bits).min(all - (chunk << self.bits));
                self.map[chunk as usize] = self.space.blocks(blocks)? as u32;
            }
        }
        // Chunks that are taken one after the other lie so: nobody else takes any meanwhile.
        let within = offset - ((first * BLOCK) << self.bits);
        let at = u64::from(self.map[first as usize]) * BLOCK + within;
        self.image.write_all_at(bytes, at).context("writing the image")
    }

    pub(super) fn finish(mut self) -> Result<Place> {
        let flat = (self.body().div_ceil(BLOCK).div_ceil(1 << self.bits)) as usize;
        if !self.map[..flat].contains(&HOLE) {
            let first = if flat == 0 { 0 } else { self.map[0] };
            return Ok(Place::Flat(first, self.tail.unwrap_or_default()));
        }
        let body = self.body();
        if let Some(tail) = self.tail.take().filter(|_| self.has_tail) {
            self.write(body, &tail)?;
        }
        Ok(Place::Chunks(self.bits, self.map))
    }
}
