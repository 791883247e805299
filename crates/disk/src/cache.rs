//! What was read of a disk's tables lately.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;

use crate::Blocks;

/// Pieces by their number; the oldest go where they would take more than so many bytes.
pub(crate) struct Kept {
    pieces: Mutex<Pieces>,
    limit: usize,
}

#[derive(Default)]
struct Pieces {
    by_number: HashMap<u64, Arc<[u8]>>,
    order: VecDeque<u64>,
    bytes: usize,
}

impl Kept {
    /// `limit` is in bytes; one piece is kept even where it is larger.
    pub(crate) fn new(limit: usize) -> Self {
        Self { pieces: Mutex::default(), limit }
    }

    /// The piece of that number, made where it is not there.
    pub(crate) fn get(
        &self,
        number: u64,
        make: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Arc<[u8]>> {
        if let Some(piece) = self.lock().by_number.get(&number) {
            return Ok(piece.clone());
        }
        let piece: Arc<[u8]> = make()?.into();
        let mut pieces = self.lock();
        if pieces.by_number.insert(number, piece.clone()).is_none() {
            pieces.order.push_back(number);
            pieces.bytes += piece.len();
        }
        while pieces.bytes > self.limit && pieces.order.len() > 1 {
            let Some(oldest) = pieces.order.pop_front() else { break };
            let gone = pieces.by_number.remove(&oldest).map_or(0, |piece| piece.len());
            pieces.bytes -= gone;
        }
        Ok(piece)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pieces> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Blocks that remember what was read of them last, for tables of which a little is read at a time.
pub struct Cached {
    of: Arc<dyn Blocks>,
    kept: Kept,
}

/// Bytes that are read at once.
const PAGE: u64 = 32 << 10;

impl Cached {
    /// Remembers 8 MiB.
    #[must_use]
    pub fn new(of: Arc<dyn Blocks>) -> Self {
        Self { of, kept: Kept::new(8 << 20) }
    }
}

impl Blocks for Cached {
    fn size(&self) -> u64 {
        self.of.size()
    }

    fn read_at(&self, offset: u64, mut buffer: &mut [u8]) -> Result<()> {
        crate::span::inside(offset, buffer.len() as u64, self.size())?;
        let mut offset = offset;
        while !buffer.is_empty() {
            let start = offset - offset % PAGE;
            let page = self.kept.get(start, || {
                let mut page = vec![0; PAGE.min(self.size() - start) as usize];
                self.of.read_at(start, &mut page).map(|()| page)
            })?;
            let there = &page[(offset - start) as usize..];
            let (now, rest) = buffer.split_at_mut(there.len().min(buffer.len()));
            now.copy_from_slice(&there[..now.len()]);
            offset += now.len() as u64;
            buffer = rest;
        }
        Ok(())
    }

    fn is_hole(&self, offset: u64, length: u64) -> bool {
        self.of.is_hole(offset, length)
    }
}
