//! Inodes, directories and tables: in blocks of 8 KiB that are compressed, one behind the other.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::Compression;
use crate::Blocks;
use crate::field::{le, slice};

/// What a block holds when it is unpacked.
const SIZE: usize = 8192;
/// In a block's header: it is not compressed.
const PLAIN: u16 = 1 << 15;
/// Blocks that are remembered: 2 MiB.
const KEPT: usize = 256;

/// Where reading goes on: a block's place in the image, and an offset in what it unpacks to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    block: u64,
    offset: usize,
}

impl Cursor {
    pub(super) fn new(block: u64, offset: usize) -> Self {
        Self { block, offset }
    }
}

pub(super) struct Metadata {
    blocks: Arc<dyn Blocks>,
    compression: Compression,
    /// What is in each, and where the next one is.
    kept: HashMap<u64, (Vec<u8>, u64)>,
}

impl Metadata {
    pub(super) fn new(blocks: Arc<dyn Blocks>, compression: Compression) -> Self {
        Self { blocks, compression, kept: HashMap::new() }
    }

    fn block(&mut self, at: u64) -> Result<&(Vec<u8>, u64)> {
        if !self.kept.contains_key(&at) {
            if self.kept.len() >= KEPT {
                self.kept.clear();
            }
            let read = self.unpack(at).with_context(|| format!("reading what is at {at}"))?;
            self.kept.insert(at, read);
        }
        self.kept.get(&at).context("it was just read")
    }

    fn unpack(&self, at: u64) -> Result<(Vec<u8>, u64)> {
        let mut head = [0; 2];
        self.blocks.read_at(at, &mut head)?;
        let head = u16::from_le_bytes(head);
        let length = usize::from(head & !PLAIN);
        ensure!(length > 0 && length <= SIZE, "a block of metadata has {length} bytes");
        let mut bytes = vec![0; length];
        self.blocks.read_at(at + 2, &mut bytes)?;
        if head & PLAIN == 0 {
            bytes = self.compression.unpack(&bytes, SIZE)?;
        }
        Ok((bytes, at + 2 + length as u64))
    }

    /// The next so many bytes.
    pub(super) fn read(&mut self, cursor: &mut Cursor, length: usize) -> Result<Vec<u8>> {
        let mut found = Vec::with_capacity(length.min(SIZE));
        while found.len() < length {
            let (bytes, next) = self.block(cursor.block)?;
            let there = bytes.get(cursor.offset..).unwrap_or_default();
            let taken = there.len().min(length - found.len());
            ensure!(taken > 0 || cursor.offset == bytes.len(), "an offset in metadata is wrong");
            // Only a full block has another behind it.
            ensure!(taken > 0 || bytes.len() == SIZE, "metadata ends too early");
            found.extend_from_slice(&there[..taken]);
            cursor.offset += taken;
            if cursor.offset == SIZE {
                *cursor = Cursor::new(*next, 0);
            }
        }
        Ok(found)
    }

    /// An entry of a table whose blocks are found by a list of addresses.
    pub(super) fn table_entry(&mut self, list: u64, number: u32, size: usize) -> Result<Vec<u8>> {
        let in_block = (SIZE / size) as u32;
        let address = list.checked_add(u64::from(number / in_block) * 8);
        let mut block = [0; 8];
        self.blocks.read_at(address.context("a table is nowhere")?, &mut block)?;
        let (bytes, _) = self.block(le::u64(&block, 0)?)?;
        Ok(slice(bytes, (number % in_block) as usize * size, size)?.to_vec())
    }
}
