//! Directories (kernel documentation, filesystems/ext4/directory.rst): also those with an index, whose nodes look
//! like unused entries.

use anyhow::{Context, Result, ensure};

use super::superblock::FILETYPE;
use super::{Ext, inode::Inode};
use crate::Name;
use crate::bytes::{le16, le32};

/// Bytes that a directory may have: the names of 30 million files.
const MAX_SIZE: u64 = 1 << 30;

impl Ext {
    pub(super) fn entries(&self, inode: &Inode) -> Result<Vec<Name>> {
        ensure!(!inode.is_encrypted(), "it is encrypted");
        let mut names = Vec::new();
        if inode.is_inline() {
            // The parent's number is in the place of `.` and `..`.
            self.block_of_entries(&inode.block()[4..], &mut names)?;
            let rest = self.inline_rest(inode)?;
            self.block_of_entries(&rest, &mut names)?;
            return Ok(names);
        }
        let limit = MAX_SIZE.min(self.superblock.blocks.saturating_mul(self.superblock.block));
        ensure!(inode.size() <= limit, "it has {} bytes", inode.size());
        let size = self.superblock.block;
        let end = inode.size().div_ceil(size);
        let mut buffer = vec![0; size as usize];
        self.runs(inode, &mut |run| {
            for index in (0..run.count).filter(|index| run.logical + index < end) {
                self.blocks.read_at((run.physical + index) * size, &mut buffer)?;
                self.block_of_entries(&buffer, &mut names)
                    .with_context(|| format!("its block {}", run.logical + index))?;
            }
            Ok(())
        })?;
        Ok(names)
    }

    fn block_of_entries(&self, block: &[u8], names: &mut Vec<Name>) -> Result<()> {
        let mut rest = block;
        while rest.len() >= 8 {
            let length = match usize::from(le16(rest, 4)) {
                // Blocks of 64 KiB do not fit into 16 bits.
                0 | 65_535 if block.len() == 65_536 => rest.len(),
                length => length,
            };
            ensure!(
                length >= 8 && length <= rest.len() && length.is_multiple_of(4),
                "an entry of {length} bytes"
            );
            let (entry, after) = rest.split_at(length);
            rest = after;
            let with_kind = self.superblock.incompatible & FILETYPE != 0;
            let of_name =
                if with_kind { usize::from(entry[6]) } else { usize::from(le16(entry, 6)) };
            let node = le32(entry, 0);
            if node == 0 {
                continue;
            }
            let name = entry.get(8..8 + of_name).context("a name is longer than its entry")?;
            ensure!(
                !name.is_empty() && !name.contains(&b'/') && !name.contains(&0),
                "it has a name that cannot be: {:?}",
                String::from_utf8_lossy(name)
            );
            if name != b"." && name != b".." {
                names.push(Name { name: name.to_vec(), node: node.into() });
            }
        }
        Ok(())
    }
}
