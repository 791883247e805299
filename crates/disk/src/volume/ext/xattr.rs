//! Extended attributes (kernel documentation, filesystems/ext4/attributes.rst).

use anyhow::{Context, Result, ensure};

use super::Ext;
use super::inode::Inode;
use crate::Attribute;
use crate::bytes::{le16, le32};

const MAGIC: u32 = 0xea02_0000;
/// Bytes of the header of a block of attributes.
const HEADER: usize = 32;
/// The longest value that Linux has (linux/limits.h, `XATTR_SIZE_MAX`).
const MAX_VALUE: u32 = 65_536;
/// What an inode holds of a file's content.
const DATA: &[u8] = b"system.data";

impl Ext {
    /// All, inline data among them.
    fn all_attributes(&self, inode: &Inode) -> Result<Vec<Attribute>> {
        let mut found = Vec::new();
        if let Some(at) = inode.attributes_at()
            && let Some(area) = inode.bytes.get(at + 4..)
            && le32(&inode.bytes, at) == MAGIC
        {
            // Values count from the first entry on.
            self.list(area, 0, &mut found).context("its attributes")?;
        }
        let block = inode.attributes_block();
        if block > 0 {
            let bytes = self.block(block)?;
            ensure!(le32(&bytes, 0) == MAGIC, "the block of its attributes is damaged");
            self.list(&bytes, HEADER, &mut found).context("its attributes")?;
        }
        Ok(found)
    }

    pub(super) fn attributes_of(&self, inode: &Inode) -> Result<Vec<Attribute>> {
        let mut found = self.all_attributes(inode)?;
        found.retain(|(name, _)| name != DATA);
        for (name, value) in &mut found {
            if name.starts_with(b"system.posix_acl_") {
                *value = access_list(value).context("its access control list")?;
            }
        }
        Ok(found)
    }

    /// What does not fit into the place of the blocks.
    pub(super) fn inline_rest(&self, inode: &Inode) -> Result<Vec<u8>> {
        let mut all = self.all_attributes(inode)?.into_iter();
        Ok(all.find(|(name, _)| name == DATA).map(|(_, value)| value).unwrap_or_default())
    }

    fn list(&self, area: &[u8], first: usize, found: &mut Vec<Attribute>) -> Result<()> {
        let mut at = first;
        while at + 4 <= area.len() && le32(area, at) != 0 {
            let entry = area.get(at..at + 16).context("an entry is cut short")?;
            let of_name = usize::from(entry[0]);
            let name = area.get(at + 16..at + 16 + of_name).context("a name is cut short")?;
            let (inode, size) = (le32(entry, 4), le32(entry, 8));
            ensure!(size <= MAX_VALUE, "a value has {size} bytes");
            let value = match inode {
                0 => {
                    let start = usize::from(le16(entry, 2));
                    let value = area.get(start..start + size as usize);
                    value.context("a value lies outside")?.to_vec()
                }
                inode => self.value_of(inode, size)?,
            };
            if let Some(prefix) = prefix(entry[1]) {
                found.push(([prefix, name].concat(), value));
            }
            at += 16 + of_name.next_multiple_of(4);
        }
        Ok(())
    }

    /// A long value has an inode of its own.
    fn value_of(&self, number: u32, size: u32) -> Result<Vec<u8>> {
        let inode = self.inode(number.into())?;
        ensure!(inode.size() == u64::from(size), "the inode of a value has another size");
        ensure!(!inode.is_inline(), "the inode of a value has attributes of its own");
        let mut value = vec![0; size as usize];
        self.pieces(&inode, &mut |offset, bytes| {
            value[offset as usize..][..bytes.len()].copy_from_slice(bytes);
            Ok(())
        })?;
        Ok(value)
    }
}

fn prefix(index: u8) -> Option<&'static [u8]> {
    Some(match index {
        0 => b"",
        1 => b"user.",
        2 => b"system.posix_acl_access",
        3 => b"system.posix_acl_default",
        4 => b"trusted.",
        6 => b"security.",
        7 => b"system.",
        8 => b"system.richacl",
        // Keys of what is encrypted, and Hurd's.
        _ => return None,
    })
}

/// From ext4's form (fs/ext4/acl.h) to the kernel's (linux/posix_acl_xattr.h).
fn access_list(short: &[u8]) -> Result<Vec<u8>> {
    ensure!(short.len() >= 4 && le32(short, 0) == 1, "its version is not known");
    let mut long = 2_u32.to_le_bytes().to_vec();
    let mut rest = &short[4..];
    while !rest.is_empty() {
        ensure!(rest.len() >= 4, "it is cut short");
        let (entry, after) = rest.split_at(4);
        // A user and a group that are named have an id.
        let (id, after) = match le16(entry, 0) {
            0x02 | 0x08 => after.split_at_checked(4).context("it is cut short")?,
            _ => (&[0xff; 4][..], after),
        };
        long.extend([entry, id].concat());
        rest = after;
    }
    Ok(long)
}
