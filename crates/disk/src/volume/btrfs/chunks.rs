//! From btrfs's own addresses to those of the device: in chunks, each of which is in one or more places.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::tree::Key;
use crate::field::le;

/// Copies of the whole on each stripe: two on one device, or one on each of two, three, four.
const COPIES: u64 = 0x20 | 0x10 | 0x200 | 0x400;
/// Bytes of a key, of a chunk before its stripes, and of a stripe.
const KEY: usize = 17;
const CHUNK: usize = 48;
const STRIPE: usize = 32;

pub(super) struct Chunks {
    device: u64,
    /// By where it begins: its length, and where it is on the device.
    chunks: BTreeMap<u64, (u64, Option<u64>)>,
}

impl Chunks {
    /// Those that the superblock knows: where the tree of the others is.
    pub(super) fn new(device: u64, mut array: &[u8]) -> Result<Self> {
        let mut chunks = Self { device, chunks: BTreeMap::new() };
        while !array.is_empty() {
            let key = Key::read(array, 0)?;
            let item = array.get(KEY..).context("a chunk of the superblock ends too early")?;
            let length = CHUNK + STRIPE * usize::from(le::u16(item, 44)?);
            chunks.add(key.offset, item)?;
            array = item.get(length..).context("a chunk of the superblock ends too early")?;
        }
        Ok(chunks)
    }

    pub(super) fn add(&mut self, start: u64, item: &[u8]) -> Result<()> {
        let (length, profile) = (le::u64(item, 0)?, le::u64(item, 24)?);
        let stripes = usize::from(le::u16(item, 44)?);
        ensure!(length > 0 && start.checked_add(length).is_some(), "a chunk is too long");
        let mut place = None;
        // In stripes over several devices, only a part of it is here.
        if stripes == 1 || profile & COPIES > 0 {
            for number in 0..stripes {
                let at = CHUNK + STRIPE * number;
                if le::u64(item, at)? == self.device && place.is_none() {
                    place = Some(le::u64(item, at + 8)?);
                }
            }
        }
        self.chunks.insert(start, (length, place));
        Ok(())
    }

    /// Where on the device an address is, and how many bytes follow it there.
    pub(super) fn place(&self, address: u64) -> Result<(u64, u64)> {
        let (start, (length, place)) =
            self.chunks.range(..=address).next_back().context("an address is in no chunk")?;
        let within = address - start;
        ensure!(within < *length, "an address is in no chunk");
        let place =
            place.context("what is there is on another device, or in stripes over several")?;
        Ok((place.checked_add(within).context("a chunk is nowhere")?, length - within))
    }
}
