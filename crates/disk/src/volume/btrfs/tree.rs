//! Trees: all that there is in btrfs are items in them, sorted by keys.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::chunks::Chunks;
use crate::field::{byte, le, slice};
use crate::{Blocks, crc32c};

/// What is before the items of each node.
const HEADER: usize = 101;
const POINTER: usize = 33;
const ITEM: usize = 25;
/// Trees are lower (BTRFS_MAX_LEVEL).
const MAX_LEVEL: u8 = 8;
/// Bytes of nodes that are remembered.
const KEPT: usize = 16 << 20;
const CHUNK: u8 = 228;
/// Of the objects that chunks are items of (BTRFS_FIRST_CHUNK_TREE_OBJECTID).
const CHUNKS: u64 = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) object: u64,
    pub(super) kind: u8,
    pub(super) offset: u64,
}

impl Key {
    pub(super) fn read(bytes: &[u8], at: usize) -> Result<Self> {
        let (object, kind) = (le::u64(bytes, at)?, byte(bytes, at + 8)?);
        Ok(Self { object, kind, offset: le::u64(bytes, at + 9)? })
    }

    /// All keys of an object and a kind: the first and the last.
    pub(super) fn all(object: u64, kind: u8) -> (Self, Self) {
        (Self { object, kind, offset: 0 }, Self { object, kind, offset: u64::MAX })
    }
}

pub(super) struct Trees {
    blocks: Arc<dyn Blocks>,
    chunks: Chunks,
    node_size: usize,
    /// Whether sums are CRC-32C; others are not checked.
    is_crc: bool,
    kept: HashMap<u64, Arc<Vec<u8>>>,
}

/// What a walk is looking for, and the last key that it saw.
struct Walk<'a> {
    from: Key,
    to: Key,
    last: Option<Key>,
    each: &'a mut dyn FnMut(Key, &[u8]) -> Result<()>,
}

impl Trees {
    pub(super) fn new(
        blocks: Arc<dyn Blocks>,
        chunks: Chunks,
        node_size: usize,
        is_crc: bool,
    ) -> Self {
        Self { blocks, chunks, node_size, is_crc, kept: HashMap::new() }
    }

    /// Reads where everything is; only then the other trees can be read.
    pub(super) fn read_chunks(&mut self, root: (u64, u8)) -> Result<()> {
        let mut found = Vec::new();
        let (from, to) = Key::all(CHUNKS, CHUNK);
        self.walk(root, from, to, &mut |key, bytes| {
            found.push((key.offset, bytes.to_vec()));
            Ok(())
        })?;
        found.iter().try_for_each(|(start, item)| self.chunks.add(*start, item))
    }

    /// Fills a buffer from an address on.
    pub(super) fn read(&self, address: u64, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let address = address.checked_add(done as u64).context("an address is too large")?;
            let (place, there) = self.chunks.place(address)?;
            let length = there.min((buffer.len() - done) as u64) as usize;
            self.blocks.read_at(place, &mut buffer[done..done + length])?;
            done += length;
        }
        Ok(())
    }

    /// How large what is read may be at all.
    pub(super) fn size(&self) -> u64 {
        self.blocks.size()
    }

    fn node(&mut self, address: u64, level: u8) -> Result<Arc<Vec<u8>>> {
        let node = match self.kept.get(&address) {
            Some(node) => Arc::clone(node),
            None => {
                let mut bytes = vec![0; self.node_size];
                self.read(address, &mut bytes)?;
                ensure!(
                    !self.is_crc || le::u32(&bytes, 0)? == crc32c::sum(&bytes[32..]),
                    "the block at {address} is damaged: its checksum is wrong"
                );
                ensure!(le::u64(&bytes, 48)? == address, "the block at {address} is another one");
                if self.kept.len() >= KEPT / self.node_size {
                    self.kept.clear();
                }
                let node = Arc::new(bytes);
                self.kept.insert(address, Arc::clone(&node));
                node
            }
        };
        ensure!(byte(&node, 100)? == level, "the block at {address} is on another level");
        Ok(node)
    }

    /// Gives the items with these keys and those between them to `each`, in order.
    pub(super) fn walk(
        &mut self,
        root: (u64, u8),
        from: Key,
        to: Key,
        each: &mut dyn FnMut(Key, &[u8]) -> Result<()>,
    ) -> Result<()> {
        ensure!(root.1 < MAX_LEVEL, "a tree has {} levels", root.1);
        let mut walk = Walk { from, to, last: None, each };
        self.walk_node(root.0, root.1, None, &mut walk)
    }

    /// Below a node, whose first key its parent knows.
    fn walk_node(
        &mut self,
        address: u64,
        level: u8,
        first: Option<Key>,
        walk: &mut Walk<'_>,
    ) -> Result<()> {
        let node = self.node(address, level)?;
        let size = if level == 0 { ITEM } else { POINTER };
        let count = le::u32(&node, 96)? as usize;
        ensure!(count <= (node.len() - HEADER) / size, "the block at {address} is too full");
        let key = |number: usize| Key::read(&node, HEADER + number * size);
        // Each block begins with a key that comes after all before: no loop can go on.
        if let Some(first) = first {
            ensure!(count > 0 && key(0)? == first, "the block at {address} is another one");
        }
        // Where to begin: with the last that does not come after what is looked for.
        let (mut first, mut behind) = (0, count);
        while first < behind {
            let middle = (first + behind) / 2;
            if key(middle)? <= walk.from { first = middle + 1 } else { behind = middle }
        }
        for number in first.saturating_sub(1)..count {
            let (at, this) = (HEADER + number * size, key(number)?);
            let next = if number + 1 < count { Some(key(number + 1)?) } else { None };
            ensure!(next.is_none_or(|next| this < next), "the block at {address} is in disorder");
            if this > walk.to {
                break;
            }
            if level > 0 {
                // All in it is before the next one's first.
                if next.is_none_or(|next| next > walk.from) {
                    self.walk_node(le::u64(&node, at + 17)?, level - 1, Some(this), walk)?;
                }
                continue;
            }
            if this >= walk.from {
                let in_order = walk.last.is_none_or(|last| last < this);
                ensure!(in_order, "the block at {address} is in disorder");
                walk.last = Some(this);
                let (from, length) = (le::u32(&node, at + 17)?, le::u32(&node, at + 21)?);
                let from = (from as usize).saturating_add(HEADER);
                (walk.each)(this, slice(&node, from, length as usize)?)?;
            }
        }
        Ok(())
    }
}
