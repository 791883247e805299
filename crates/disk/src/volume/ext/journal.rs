//! What a journal holds that was not yet written to its place (kernel documentation, filesystems/ext4/journal.rst):
//! laid over the volume when that is read, for nothing is written.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::Ext;
use super::mapping::Run;
use crate::Blocks;
use crate::bytes::{be16, be32, le16, le32};
use crate::span::inside;

/// All numbers of a journal are big endian.
const MAGIC: u32 = 0xc03b_3998;
/// Kinds of its blocks.
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;

/// Incompatible features.
const BITS_64: u32 = 0x2;
const CHECKSUM_2: u32 = 0x8;
const CHECKSUM_3: u32 = 0x10;
const FAST_COMMIT: u32 = 0x20;
/// Revocations, 64 bits, asynchronous commits, and those above.
const KNOWN: u32 = 0x1 | BITS_64 | 0x4 | CHECKSUM_2 | CHECKSUM_3 | FAST_COMMIT;

/// Flags of a tag: the block began with the magic number; no UUID follows; it is the last one.
const ESCAPED: u32 = 1;
const SAME_UUID: u32 = 2;
const LAST: u32 = 8;

impl Ext {
    /// The volume's blocks as they will be once the journal is written back.
    pub(super) fn replayed(&self) -> Result<Arc<dyn Blocks>> {
        ensure!(self.superblock.journal != 0, "it is on another disk: run e2fsck -p first");
        let inode = self.inode(self.superblock.journal.into())?;
        let mut runs = Vec::new();
        self.runs(&inode, &mut |run| {
            runs.push(run);
            Ok(())
        })?;
        let journal = Journal::open(self, runs)?;
        let newest = journal.newest()?;
        Ok(Arc::new(Over { of: self.blocks.clone(), block: self.superblock.block, newest }))
    }
}

struct Journal<'a> {
    volume: &'a Ext,
    runs: Vec<Run>,
    features: u32,
    /// Blocks, of which the first is its superblock.
    first: u32,
    length: u32,
    sequence: u32,
    start: u32,
}

/// Where a newer block is: its number on the disk, and whether its first bytes are to be restored.
#[derive(Clone, Copy)]
struct Newer {
    block: u64,
    escaped: bool,
}

/// What a transaction has in its blocks.
enum Part {
    Blocks(Vec<(u64, Newer)>, u32),
    Revoked(Vec<u64>),
    End,
}

impl<'a> Journal<'a> {
    fn open(volume: &'a Ext, runs: Vec<Run>) -> Result<Self> {
        let mut journal =
            Self { volume, runs, features: 0, first: 0, length: 1, sequence: 0, start: 0 };
        let head = journal.read(0)?;
        ensure!(be32(&head, 0) == MAGIC && matches!(be32(&head, 4), 3 | 4), "it has no superblock");
        ensure!(
            u64::from(be32(&head, 12)) == volume.superblock.block,
            "its blocks are of another size"
        );
        (journal.length, journal.first) = (be32(&head, 16), be32(&head, 20));
        (journal.sequence, journal.start) = (be32(&head, 24), be32(&head, 28));
        if be32(&head, 4) == 4 {
            journal.features = be32(&head, 40);
        }
        ensure!(journal.features & !KNOWN == 0, "it has features that are not known");
        if journal.features & FAST_COMMIT != 0 {
            let fast = match be32(&head, 84) {
                0 => 256,
                blocks => blocks,
            };
            journal.length = journal.length.saturating_sub(fast);
        }
        ensure!(
            journal.first > 0 && journal.first < journal.length,
            "it begins at {} and ends at {}",
            journal.first,
            journal.length
        );
        Ok(journal)
    }

    /// The number on the disk of one of its blocks.
    fn physical(&self, block: u32) -> Result<u64> {
        let block = u64::from(block);
        let run =
            self.runs.iter().find(|run| (run.logical..run.logical + run.count).contains(&block));
        let run = run.with_context(|| format!("its block {block} is missing"))?;
        Ok(run.physical + (block - run.logical))
    }

    fn read(&self, block: u32) -> Result<Vec<u8>> {
        self.volume.block(self.physical(block)?)
    }

    fn after(&self, block: u32, count: u32) -> u32 {
        let room = u64::from(self.length - self.first);
        let at = u64::from(block.saturating_sub(self.first)) + u64::from(count);
        self.first + (at % room) as u32
    }

    /// What all whole transactions have, the newest of each block, without what was revoked since.
    fn newest(&self) -> Result<HashMap<u64, Newer>> {
        let mut newest: HashMap<u64, (u32, Newer)> = HashMap::new();
        let mut revoked: HashMap<u64, u32> = HashMap::new();
        let (mut at, mut sequence) = (self.start, self.sequence);
        // 0 says that there is nothing.
        let mut seen = 0;
        let (mut blocks, mut gone) = (Vec::new(), Vec::new());
        while at != 0 && seen <= u64::from(self.length) {
            ensure!((self.first..self.length).contains(&at), "it begins at {at}");
            let bytes = self.read(at)?;
            if be32(&bytes, 0) != MAGIC || be32(&bytes, 8) != sequence {
                break;
            }
            let mut passed = 1;
            match self.part(at, &bytes)? {
                Some(Part::Blocks(found, count)) => {
                    passed += count;
                    blocks.extend(found);
                }
                Some(Part::Revoked(found)) => gone.extend(found),
                Some(Part::End) => {
                    newest.extend(blocks.drain(..).map(|(n, newer)| (n, (sequence, newer))));
                    revoked.extend(gone.drain(..).map(|block| (block, sequence)));
                    sequence = sequence.wrapping_add(1);
                }
                None => break,
            }
            at = self.after(at, passed);
            seen += u64::from(passed);
        }
        if self.start != 0 {
            self.refuse_fast(sequence)?;
        }
        // A block that was revoked in its own transaction or later was given to another use.
        newest.retain(|block, (written, _)| {
            revoked.get(block).is_none_or(|gone| written.wrapping_sub(*gone).cast_signed() > 0)
        });
        Ok(newest.into_iter().map(|(block, (_, newer))| (block, newer)).collect())
    }

    /// What was committed fast since the last whole transaction lies behind the journal's end as changes of files, not
    /// as blocks (journal.rst, "Fast Commits"): without it, what somebody was promised to be written would be missing.
    fn refuse_fast(&self, next: u32) -> Result<()> {
        const HEAD: u16 = 9;
        if self.features & FAST_COMMIT == 0 {
            return Ok(());
        }
        let first = self.read(self.length + 1)?;
        let is_current = le16(&first, 0) == HEAD && le32(&first, 8) == next;
        ensure!(!is_current, "it has fast commits: run e2fsck -p on the file system first");
        Ok(())
    }

    fn part(&self, at: u32, bytes: &[u8]) -> Result<Option<Part>> {
        Ok(Some(match be32(bytes, 4) {
            DESCRIPTOR => {
                let (blocks, count) = self.tags(at, bytes)?;
                Part::Blocks(blocks, count)
            }
            COMMIT => Part::End,
            REVOKE => Part::Revoked(self.revoked(bytes)?),
            _ => return Ok(None),
        }))
    }

    fn is_wide(&self) -> bool {
        self.features & BITS_64 != 0
    }

    /// The blocks that follow a descriptor.
    fn tags(&self, at: u32, bytes: &[u8]) -> Result<(Vec<(u64, Newer)>, u32)> {
        let third = self.features & CHECKSUM_3 != 0;
        let size = match (third, self.is_wide()) {
            (true, _) => 16,
            (_, true) => 12,
            _ => 8,
        };
        let tail = if self.features & (CHECKSUM_2 | CHECKSUM_3) != 0 { 4 } else { 0 };
        let end = bytes.len() - tail;
        let (mut offset, mut count, mut found) = (12, 0, Vec::new());
        while offset + size <= end {
            let flags = match third {
                true => be32(bytes, offset + 4),
                false => be16(bytes, offset + 6).into(),
            };
            let high = if self.is_wide() { u64::from(be32(bytes, offset + 8)) << 32 } else { 0 };
            let target = high | u64::from(be32(bytes, offset));
            count += 1;
            let block = self.physical(self.after(at, count))?;
            found.push((target, Newer { block, escaped: flags & ESCAPED != 0 }));
            offset += size + if flags & SAME_UUID == 0 { 16 } else { 0 };
            if flags & LAST != 0 {
                break;
            }
        }
        Ok((found, count))
    }

    fn revoked(&self, bytes: &[u8]) -> Result<Vec<u64>> {
        let end = be32(bytes, 12) as usize;
        ensure!((16..=bytes.len()).contains(&end), "a list of revoked blocks has {end} bytes");
        let size = if self.is_wide() { 8 } else { 4 };
        let numbers = bytes[16..end].chunks_exact(size);
        Ok(numbers
            .map(|number| number.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
            .collect())
    }
}

/// Blocks with newer ones in the place of some.
struct Over {
    of: Arc<dyn Blocks>,
    /// Bytes.
    block: u64,
    newest: HashMap<u64, Newer>,
}

impl Blocks for Over {
    fn size(&self) -> u64 {
        self.of.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.of.read_at(offset, buffer)?;
        let end = offset + buffer.len() as u64;
        for number in offset / self.block..end.div_ceil(self.block) {
            let Some(newer) = self.newest.get(&number) else { continue };
            let mut bytes = vec![0; self.block as usize];
            let at = newer.block * self.block;
            inside(at, self.block, self.size())?;
            self.of.read_at(at, &mut bytes)?;
            if newer.escaped {
                bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
            }
            let start = number * self.block;
            let (from, to) = (start.max(offset), (start + self.block).min(end));
            buffer[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }
}
