//! How a directory's names lie in blocks.

use std::ops::Range;

use anyhow::{Result, ensure};

use super::BLOCK;
use crate::Kind;
use crate::erofs::{DIRENT_SIZE, SLOT};

/// A name, and where its inode is once that is known.
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    /// The node that it leads to, in its volume; those of `.` and `..` do not count.
    pub(super) node: u64,
    pub(super) kind: Kind,
    /// Where its inode is, in bytes.
    pub(super) at: u64,
}

/// Which names are in which block.
pub(super) struct Blocks {
    blocks: Vec<Range<usize>>,
    /// Bytes of all of them.
    pub(super) size: u64,
}

/// Makes sure of names that are sorted: none twice, none that would be a path.
pub(super) fn check(entries: &[Entry]) -> Result<()> {
    for entry in entries {
        let (name, shown) = (&entry.name, String::from_utf8_lossy(&entry.name));
        ensure!(!name.is_empty() && name.len() <= 255, "the length of a name in it: {shown:?}");
        ensure!(!name.contains(&b'/') && !name.contains(&0), "a name in it: {shown:?}");
    }
    let twice = entries.windows(2).find(|pair| pair[0].name == pair[1].name);
    ensure!(
        twice.is_none(),
        "a name is in it twice: {:?}",
        twice.map(|pair| { String::from_utf8_lossy(&pair[0].name) })
    );
    Ok(())
}

impl Blocks {
    /// Entries in the order of their names' bytes.
    pub(super) fn new(entries: &[Entry]) -> Self {
        let (mut blocks, mut start, mut used) = (Vec::new(), 0, 0);
        for (number, entry) in entries.iter().enumerate() {
            let size = (DIRENT_SIZE + entry.name.len()) as u64;
            if used + size > BLOCK {
                blocks.push(start..number);
                (start, used) = (number, 0);
            }
            used += size;
        }
        let size = blocks.len() as u64 * BLOCK + used;
        blocks.push(start..entries.len());
        Self { blocks, size }
    }

    /// Their bytes.
    pub(super) fn encode(&self, entries: &[Entry]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size as usize);
        for block in &self.blocks {
            bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
            let entries = &entries[block.clone()];
            let mut name_at = entries.len() * DIRENT_SIZE;
            for entry in entries {
                bytes.extend_from_slice(&(entry.at / SLOT).to_le_bytes());
                bytes.extend_from_slice(&(name_at as u16).to_le_bytes());
                bytes.extend_from_slice(&[super::inode::entry_type(entry.kind), 0]);
                name_at += entry.name.len();
            }
            entries.iter().for_each(|entry| bytes.extend_from_slice(&entry.name));
        }
        bytes
    }
}
