//! Bytes that are part of others, or made of several.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::Blocks;

/// A range as it lies in something of this size.
///
/// # Errors
/// Where it reaches beyond the end.
pub fn inside(offset: u64, length: u64, size: u64) -> Result<()> {
    let fits = offset.checked_add(length).is_some_and(|end| end <= size);
    ensure!(fits, "{length} bytes at {offset} lie beyond the end, which is at {size}");
    Ok(())
}

/// A regular file.
#[derive(Debug)]
pub struct Whole {
    file: File,
    size: u64,
    /// What is known of the file's holes: from here to there is data, and a hole or the end follows.
    data: Mutex<(u64, u64)>,
}

impl Whole {
    /// All of a file, which is not to change.
    ///
    /// # Errors
    /// It is no regular file, or cannot be asked.
    pub fn new(file: File) -> Result<Self> {
        let metadata = file.metadata().context("asking for its size")?;
        ensure!(metadata.is_file(), "it is no regular file");
        Ok(Self { size: metadata.len(), file, data: Mutex::new((0, 0)) })
    }
}

impl Blocks for Whole {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        inside(offset, buffer.len() as u64, self.size)?;
        self.file.read_exact_at(buffer, offset).with_context(|| format!("reading at {offset}"))
    }

    fn is_hole(&self, offset: u64, length: u64) -> bool {
        if inside(offset, length, self.size).is_err() {
            return false;
        }
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        if (data.0..data.1).contains(&offset) {
            return false;
        }
        match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(start) => {
                let end = seek(&self.file, SeekFrom::Hole(start)).unwrap_or(start);
                *data = (start, end);
                start >= offset + length
            }
            // There is no data up to the end (lseek(2)).
            Err(Errno::NXIO) => true,
            Err(_) => false,
        }
    }
}

/// Bytes in memory.
#[derive(Debug)]
pub struct Memory(pub Vec<u8>);

impl Blocks for Memory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        inside(offset, buffer.len() as u64, self.size())?;
        buffer.copy_from_slice(&self.0[offset as usize..][..buffer.len()]);
        Ok(())
    }
}

/// A range of other bytes.
pub struct Part {
    of: Arc<dyn Blocks>,
    start: u64,
    size: u64,
}

impl Part {
    /// These bytes alone.
    ///
    /// # Errors
    /// They reach beyond the end.
    pub fn new(of: Arc<dyn Blocks>, start: u64, size: u64) -> Result<Self> {
        inside(start, size, of.size())?;
        Ok(Self { of, start, size })
    }
}

impl Blocks for Part {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        inside(offset, buffer.len() as u64, self.size)?;
        self.of.read_at(self.start + offset, buffer)
    }

    fn is_hole(&self, offset: u64, length: u64) -> bool {
        inside(offset, length, self.size).is_ok() && self.of.is_hole(self.start + offset, length)
    }
}

/// Where a part begins, its size, and what it is: `None` for zeros.
type Joint = (u64, u64, Option<Arc<dyn Blocks>>);

/// Several, one after the other.
#[derive(Default)]
pub struct Joined {
    parts: Vec<Joint>,
    size: u64,
}

impl Joined {
    /// Adds bytes at the end.
    ///
    /// # Errors
    /// It would be too large.
    pub fn push(&mut self, blocks: Arc<dyn Blocks>) -> Result<()> {
        let size = blocks.size();
        self.add(size, Some(blocks))
    }

    /// Adds that many zeros at the end.
    ///
    /// # Errors
    /// It would be too large.
    pub fn push_zeros(&mut self, size: u64) -> Result<()> {
        self.add(size, None)
    }

    fn add(&mut self, size: u64, blocks: Option<Arc<dyn Blocks>>) -> Result<()> {
        let end = self.size.checked_add(size).context("its parts are larger than any disk")?;
        if size > 0 {
            self.parts.push((self.size, size, blocks));
        }
        self.size = end;
        Ok(())
    }

    /// The pieces of a range: of what, from where, how long.
    fn pieces(
        &self,
        mut offset: u64,
        length: u64,
    ) -> impl Iterator<Item = (Option<&Arc<dyn Blocks>>, u64, u64)> {
        let end = offset.saturating_add(length);
        let first = self.parts.partition_point(|(start, size, _)| start + size <= offset);
        self.parts[first..].iter().map_while(move |(start, size, blocks)| {
            let inner = offset.checked_sub(*start)?;
            let length = (size - inner).min(end.checked_sub(offset)?);
            offset += length;
            (length > 0).then_some((blocks.as_ref(), inner, length))
        })
    }
}

impl Blocks for Joined {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, mut buffer: &mut [u8]) -> Result<()> {
        inside(offset, buffer.len() as u64, self.size)?;
        for (blocks, inner, length) in self.pieces(offset, buffer.len() as u64) {
            let (now, rest) = buffer.split_at_mut(length as usize);
            match blocks {
                Some(blocks) => blocks.read_at(inner, now)?,
                None => now.fill(0),
            }
            buffer = rest;
        }
        Ok(())
    }

    fn is_hole(&self, offset: u64, length: u64) -> bool {
        inside(offset, length, self.size).is_ok()
            && self
                .pieces(offset, length)
                .all(|(blocks, inner, length)| blocks.is_none_or(|b| b.is_hole(inner, length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_joints() {
        let bytes: Arc<dyn Blocks> = Arc::new(Memory((0..100).collect()));
        let mut joined = Joined::default();
        joined.push(Arc::new(Part::new(bytes.clone(), 90, 10).unwrap())).unwrap();
        joined.push_zeros(5).unwrap();
        joined.push(Arc::new(Part::new(bytes.clone(), 0, 10).unwrap())).unwrap();
        assert_eq!(joined.size(), 25);
        let mut all = vec![1; 25];
        joined.read_at(0, &mut all).unwrap();
        let expected: Vec<u8> = (90..100).chain([0; 5]).chain(0..10).collect();
        assert_eq!(all, expected);
        for (from, to) in [(0, 1), (9, 11), (12, 13), (14, 25), (25, 25), (10, 15)] {
            let mut some = vec![1; to - from];
            joined.read_at(from as u64, &mut some).unwrap();
            assert_eq!(some, expected[from..to], "{from}..{to}");
        }
        assert!(joined.is_hole(10, 5) && !joined.is_hole(9, 2));
        assert!(joined.read_at(20, &mut [0; 6]).is_err());
        assert!(joined.read_at(u64::MAX, &mut [0; 2]).is_err());
        assert!(Part::new(bytes, 99, 2).is_err());
    }

    #[test]
    fn holes_of_a_file() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 << 20).unwrap();
        file.write_all_at(b"x", 1 << 20).unwrap();
        let whole = Whole::new(file).unwrap();
        assert!(!whole.is_hole(1 << 20, 1) && !whole.is_hole(0, 2 << 20));
        assert!(whole.is_hole(3 << 20, 1 << 20) && !whole.is_hole(4 << 20, 1));
    }
}
