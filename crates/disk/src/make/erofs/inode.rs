//! What an inode looks like, and the attributes that follow it.

use anyhow::{Result, bail, ensure};

use crate::erofs::{COMPACT_SIZE, EXTENDED_SIZE, XATTR_HEADER_SIZE, XATTR_PREFIXES};
use crate::{Attribute, Attributes, Kind};

/// Its number of links in an inode of either form.
const COMPACT_LINKS: u64 = 6;
const EXTENDED_LINKS: u64 = 44;

/// What is written of a node before its content.
pub(super) struct Inode {
    pub(super) attributes: Attributes,
    /// As [`xattrs`] makes them.
    pub(super) xattrs: Vec<u8>,
    /// Whether the short form has no place for it.
    pub(super) extended: bool,
    /// Counts them all, from one on: what stat(2) tells 32-bit programs.
    pub(super) number: u32,
}

impl Inode {
    /// Bytes before what belongs to its content.
    pub(super) fn size(&self) -> u64 {
        let inode = if self.extended { EXTENDED_SIZE } else { COMPACT_SIZE };
        (inode + self.xattrs.len()) as u64
    }

    /// Its bytes; `place` says where its content is, which means another thing in each layout.
    pub(super) fn encode(&self, layout: u16, place: u32) -> Vec<u8> {
        let a = &self.attributes;
        let mut bytes = vec![0; if self.extended { EXTENDED_SIZE } else { COMPACT_SIZE }];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        let count = match self.xattrs.len() {
            0 => 0,
            length => (length - XATTR_HEADER_SIZE) / 4 + 1,
        };
        put(0, &(layout << 1 | u16::from(self.extended)).to_le_bytes());
        put(2, &(count as u16).to_le_bytes());
        put(4, &((format_bits(a.kind) | a.mode & 0o7777) as u16).to_le_bytes());
        put(16, &place.to_le_bytes());
        put(20, &self.number.to_le_bytes());
        if self.extended {
            put(8, &a.size.to_le_bytes());
            put(24, &a.uid.to_le_bytes());
            put(28, &a.gid.to_le_bytes());
            put(32, &a.mtime.0.to_le_bytes());
            put(40, &a.mtime.1.to_le_bytes());
            put(EXTENDED_LINKS as usize, &a.links.to_le_bytes());
        } else {
            put(COMPACT_LINKS as usize, &(a.links as u16).to_le_bytes());
            put(8, &(a.size as u32).to_le_bytes());
            put(24, &(a.uid as u16).to_le_bytes());
            put(26, &(a.gid as u16).to_le_bytes());
        }
        bytes.extend_from_slice(&self.xattrs);
        bytes
    }
}

/// Where an inode has its number of links, counted from its beginning, and that number's bytes.
pub(super) fn links(extended: bool, links: u32) -> Result<(u64, Vec<u8>)> {
    if extended {
        return Ok((EXTENDED_LINKS, links.to_le_bytes().to_vec()));
    }
    ensure!(links <= u32::from(u16::MAX), "it has {links} names, and said that it had one");
    Ok((COMPACT_LINKS, (links as u16).to_le_bytes().to_vec()))
}

/// Whether the short form cannot say this. It has no times: all have the superblock's.
pub(super) fn needs_extended(a: &Attributes, epoch: (i64, u32)) -> bool {
    let short = u32::from(u16::MAX);
    a.mtime != epoch
        || a.uid > short
        || a.gid > short
        || a.size > u64::from(u32::MAX)
        || (a.kind != Kind::Directory && a.links > 1)
}

/// The kind of a file in its mode (inode(7)).
fn format_bits(kind: Kind) -> u32 {
    match kind {
        Kind::Fifo => 0o010_000,
        Kind::Character => 0o020_000,
        Kind::Directory => 0o040_000,
        Kind::Block => 0o060_000,
        Kind::File => 0o100_000,
        Kind::Link => 0o120_000,
        Kind::Socket => 0o140_000,
    }
}

/// The kind of a file in a directory's entry (fs/erofs uses those of `fs_types.h`).
pub(super) fn entry_type(kind: Kind) -> u8 {
    match kind {
        Kind::File => 1,
        Kind::Directory => 2,
        Kind::Character => 3,
        Kind::Block => 4,
        Kind::Fifo => 5,
        Kind::Socket => 6,
        Kind::Link => 7,
    }
}

/// A device's numbers, as Linux's `new_encode_dev` packs them.
pub(super) fn device((major, minor): (u32, u32)) -> Result<u32> {
    ensure!(major < 1 << 12 && minor < 1 << 20, "there is no device {major}:{minor}");
    Ok(minor & 0xff | major << 8 | (minor & !0xff) << 12)
}

/// Extended attributes as they follow an inode; nothing where there are none.
pub(super) fn xattrs(mut attributes: Vec<Attribute>) -> Result<Vec<u8>> {
    if attributes.is_empty() {
        return Ok(Vec::new());
    }
    attributes.sort();
    let mut bytes = vec![0; XATTR_HEADER_SIZE];
    for (name, value) in &attributes {
        let shown = String::from_utf8_lossy(name);
        let known = XATTR_PREFIXES.iter().find_map(|(index, prefix)| {
            let rest = name.strip_prefix(*prefix)?;
            // An access control list's name has no rest, every other has one.
            (rest.is_empty() != prefix.ends_with(b".")).then_some((*index, rest))
        });
        let Some((index, rest)) = known else {
            bail!("EROFS has no place for its attribute {shown}");
        };
        let (Ok(name_length), Ok(length)) = (u8::try_from(rest.len()), u16::try_from(value.len()))
        else {
            bail!("its attribute {shown} is too large for EROFS: {} bytes", value.len());
        };
        bytes.extend_from_slice(&[name_length, index]);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(rest);
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    ensure!(bytes.len() / 4 < usize::from(u16::MAX), "its attributes are too large for EROFS");
    Ok(bytes)
}
