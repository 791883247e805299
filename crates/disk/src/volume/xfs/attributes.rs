//! Extended attributes: in the inode, in a block, or in a tree of blocks; large values in blocks of their own.

use std::collections::HashSet;

use anyhow::{Context, Result, bail, ensure};

use super::extents::Extent;
use super::{EXTENTS, Inode, LOCAL, Reader};
use crate::Attribute;
use crate::field::{be, byte, slice};

/// Before a large value's bytes, or a symbolic link's, in each of their blocks, since version 5.
pub(super) const REMOTE_HEADER: usize = 56;

/// Of an entry: its value is beside it; whose it is; a directory's name for this file; it is being made.
const BESIDE: u8 = 0x1;
const ROOT: u8 = 0x2;
const SECURE: u8 = 0x4;
const PARENT: u8 = 0x8;
const INCOMPLETE: u8 = 0x80;

const NODE: [u16; 2] = [0xfebe, 0x3ebe];
const LEAF: [u16; 2] = [0xfbee, 0x3bee];
/// Greatest size of a value (xattr(7), Linux's VFS).
const MAX_VALUE: usize = 64 << 10;
/// Trees are lower (XFS_DA_NODE_MAXDEPTH).
const MAX_DEPTH: usize = 5;

pub(super) fn read(reader: &Reader, inode: &Inode) -> Result<Vec<Attribute>> {
    let fork = &inode.xattrs;
    if fork.bytes.is_empty() || (fork.format == EXTENTS && fork.extents == 0) {
        return Ok(Vec::new());
    }
    if fork.format == LOCAL {
        return short(&fork.bytes);
    }
    let extents = reader.extents(fork)?;
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut next = first_leaf(reader, &extents)?;
    loop {
        ensure!(seen.insert(next), "the blocks of attributes of inode {} go round", inode.number);
        let block = attribute_block(reader, &extents, next)?;
        leaf(reader, &extents, &block, &mut found)
            .with_context(|| format!("reading the block {next} of attributes"))?;
        match be::u32(&block, 0)? {
            0 => return Ok(found),
            forward => next = forward,
        }
    }
}

fn attribute_block(reader: &Reader, extents: &[Extent], number: u32) -> Result<Vec<u8>> {
    reader.fork_bytes(extents, u64::from(number) * reader.block, reader.block as usize)
}

/// Down a tree, always by the first of its pointers.
fn first_leaf(reader: &Reader, extents: &[Extent]) -> Result<u32> {
    let version = usize::from(reader.is_v5);
    let mut number = 0;
    for _ in 0..=MAX_DEPTH {
        let block = attribute_block(reader, extents, number)?;
        let magic = be::u16(&block, 8)?;
        if magic == LEAF[version] {
            return Ok(number);
        }
        ensure!(magic == NODE[version], "a block of attributes has the magic number {magic:#x}");
        number = be::u32(&block, if reader.is_v5 { 64 + 4 } else { 16 + 4 })?;
    }
    bail!("the tree of attributes is too high")
}

fn short(bytes: &[u8]) -> Result<Vec<Attribute>> {
    let mut found = Vec::new();
    let mut at = 4;
    for _ in 0..byte(bytes, 2)? {
        let (name, value) = (usize::from(byte(bytes, at)?), usize::from(byte(bytes, at + 1)?));
        let flags = byte(bytes, at + 2)?;
        let text = slice(bytes, at + 3, name)?;
        push(&mut found, flags, text, slice(bytes, at + 3 + name, value)?.to_vec())?;
        at += 3 + name + value;
    }
    Ok(found)
}

fn leaf(
    reader: &Reader,
    extents: &[Extent],
    block: &[u8],
    found: &mut Vec<Attribute>,
) -> Result<()> {
    ensure!(be::u16(block, 8)? == LEAF[usize::from(reader.is_v5)], "it is none");
    let (count, entries) = match reader.is_v5 {
        true => (be::u16(block, 56)?, 80),
        false => (be::u16(block, 12)?, 32),
    };
    for number in 0..usize::from(count) {
        let entry = entries + number * 8;
        let (at, flags) = (usize::from(be::u16(block, entry + 4)?), byte(block, entry + 6)?);
        if flags & INCOMPLETE > 0 {
            continue;
        }
        let (name, value) = if flags & BESIDE > 0 {
            let (value, name) =
                (usize::from(be::u16(block, at)?), usize::from(byte(block, at + 2)?));
            (slice(block, at + 3, name)?, slice(block, at + 3 + name, value)?.to_vec())
        } else {
            let (first, length) = (be::u32(block, at)?, be::u32(block, at + 4)? as usize);
            let name = slice(block, at + 9, usize::from(byte(block, at + 8)?))?;
            (name, remote(reader, extents, first, length).context("reading a large value")?)
        };
        push(found, flags, name, value)?;
    }
    Ok(())
}

fn remote(reader: &Reader, extents: &[Extent], first: u32, length: usize) -> Result<Vec<u8>> {
    ensure!(length <= MAX_VALUE, "an attribute has {length} bytes");
    let mut value = Vec::with_capacity(length);
    let mut number = first;
    while value.len() < length {
        let block = attribute_block(reader, extents, number)?;
        let head = if reader.is_v5 { REMOTE_HEADER } else { 0 };
        ensure!(!reader.is_v5 || slice(&block, 0, 4)? == b"XARM", "a block of it is none");
        let taken = (length - value.len()).min(block.len() - head);
        value.extend_from_slice(&block[head..head + taken]);
        number = number.checked_add(1).context("a large value is nowhere")?;
    }
    Ok(value)
}

fn push(found: &mut Vec<Attribute>, flags: u8, name: &[u8], value: Vec<u8>) -> Result<()> {
    let prefix: &[u8] = match flags & (ROOT | SECURE | PARENT) {
        0 => b"user.",
        SECURE => b"security.",
        ROOT => match name {
            b"SGI_ACL_FILE" => {
                found.push((b"system.posix_acl_access".to_vec(), acl(&value)?));
                return Ok(());
            }
            b"SGI_ACL_DEFAULT" => {
                found.push((b"system.posix_acl_default".to_vec(), acl(&value)?));
                return Ok(());
            }
            _ => b"trusted.",
        },
        // A name of the file, which the directory has as well.
        _ => return Ok(()),
    };
    found.push(([prefix, name].concat(), value));
    Ok(())
}

/// An access control list as the kernel shows it (linux/posix_acl_xattr.h), of IRIX's form.
fn acl(value: &[u8]) -> Result<Vec<u8>> {
    /// The tags that say whom they are about: a user, a group.
    const WHOSE: [u32; 2] = [0x02, 0x08];
    let count = be::u32(value, 0)? as usize;
    ensure!(count == (value.len() - 4) / 12, "an access control list is broken");
    let mut shown = 2_u32.to_le_bytes().to_vec();
    for number in 0..count {
        let at = 4 + number * 12;
        let (tag, id, rights) =
            (be::u32(value, at)?, be::u32(value, at + 4)?, be::u16(value, at + 8)?);
        shown.extend_from_slice(&(tag as u16).to_le_bytes());
        shown.extend_from_slice(&rights.to_le_bytes());
        shown.extend_from_slice(&if WHOSE.contains(&tag) { id } else { u32::MAX }.to_le_bytes());
    }
    Ok(shown)
}
