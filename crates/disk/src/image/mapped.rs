//! Disks whose bytes are anywhere in a file, as a table says.

use std::sync::Arc;

use anyhow::{Result, ensure};

use crate::Blocks;
use crate::span::inside;

/// Where some bytes of a disk are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nowhere: they are zero.
    Zero,
    /// In the file, from this offset on.
    At(u64),
    /// Where the disk below has them.
    Below,
    /// Packed: in the unit that [`Map::unit`] gives by this number, from this offset on.
    Packed(u64, u64),
}

/// A table.
pub(crate) trait Map: Send + Sync {
    /// Bytes of the disk.
    fn size(&self) -> u64;

    /// Where the byte of this offset, which is below the size, is; and for how many bytes, at least one, that goes on.
    fn place(&self, offset: u64) -> Result<(Place, u64)>;

    /// An unpacked unit.
    fn unit(&self, number: u64) -> Result<Arc<[u8]>> {
        anyhow::bail!("there is no unit {number}")
    }
}

/// A table that has an entry for each block of the disk, of which all are of one size.
pub(crate) trait Uniform: Send + Sync {
    /// Bytes of the disk.
    fn size(&self) -> u64;

    /// Bytes of a block.
    fn block(&self) -> u64;

    /// Where in the file the block begins; `None` where it is zero.
    fn start(&self, index: u64) -> Result<Option<u64>>;
}

impl<T: Uniform> Map for T {
    fn size(&self) -> u64 {
        Uniform::size(self)
    }

    fn place(&self, offset: u64) -> Result<(Place, u64)> {
        let (index, inner) = (offset / self.block(), offset % self.block());
        let place = self.start(index)?.map_or(Place::Zero, |start| Place::At(start + inner));
        Ok((place, self.block() - inner))
    }
}

/// A disk that a table makes of a file, and perhaps of a disk below.
pub(crate) struct Mapped<M> {
    pub(crate) map: M,
    pub(crate) file: Arc<dyn Blocks>,
    pub(crate) below: Option<Arc<dyn Blocks>>,
}

impl<M: Map> Mapped<M> {
    /// What is beyond the end of the disk below is zero.
    fn read_below(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let there = self.below.as_ref().map_or(0, |below| below.size().saturating_sub(offset));
        let (now, beyond) = buffer.split_at_mut(there.min(buffer.len() as u64) as usize);
        beyond.fill(0);
        match &self.below {
            Some(below) if !now.is_empty() => below.read_at(offset, now),
            _ => Ok(()),
        }
    }

    /// Neighbouring places that go on in the file are read at once.
    fn run(&self, offset: u64, length: u64) -> Result<(Place, u64)> {
        let (place, mut sum) = self.map.place(offset)?;
        ensure!(sum > 0, "its table leads nowhere");
        while sum < length {
            let (next, more) = self.map.place(offset + sum)?;
            let goes_on = match place {
                Place::At(at) => at.checked_add(sum).is_some_and(|at| next == Place::At(at)),
                Place::Zero | Place::Below => next == place,
                Place::Packed(..) => false,
            };
            if !goes_on || more == 0 {
                break;
            }
            sum += more;
        }
        Ok((place, sum.min(length)))
    }
}

impl<M: Map> Blocks for Mapped<M> {
    fn size(&self) -> u64 {
        self.map.size()
    }

    fn read_at(&self, mut offset: u64, mut buffer: &mut [u8]) -> Result<()> {
        inside(offset, buffer.len() as u64, self.size())?;
        while !buffer.is_empty() {
            let (place, length) = self.run(offset, buffer.len() as u64)?;
            let (now, rest) = buffer.split_at_mut(length as usize);
            match place {
                Place::Zero => now.fill(0),
                // The last unit of a file may be cut short where the disk ends.
                Place::At(at) => self.file.read_at(at, now)?,
                Place::Below => self.read_below(offset, now)?,
                Place::Packed(number, from) => {
                    let unit = self.map.unit(number)?;
                    inside(from, length, unit.len() as u64)?;
                    now.copy_from_slice(&unit[from as usize..][..now.len()]);
                }
            }
            offset += length;
            buffer = rest;
        }
        Ok(())
    }

    fn is_hole(&self, mut offset: u64, mut length: u64) -> bool {
        if inside(offset, length, self.size()).is_err() {
            return false;
        }
        while length > 0 {
            let Ok((place, now)) = self.run(offset, length) else { return false };
            let hole = match (place, &self.below) {
                (Place::Zero, _) | (Place::Below, None) => true,
                (Place::Below, Some(below)) => {
                    offset >= below.size() || below.is_hole(offset, now.min(below.size() - offset))
                }
                (Place::At(at), _) => self.file.is_hole(at, now),
                (Place::Packed(..), _) => false,
            };
            if !hole {
                return false;
            }
            offset += now;
            length -= now;
        }
        true
    }
}
