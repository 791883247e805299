//! Inodes (kernel documentation, filesystems/ext4/inodes.rst).

use anyhow::{Result, bail};

use crate::bytes::{le16, le32};
use crate::{Attributes, Kind};

/// Flags.
const ENCRYPTED: u32 = 0x800;
const EXTENTS: u32 = 0x8_0000;
const INLINE: u32 = 0x1000_0000;

/// An inode as it is on the disk, of at least 128 bytes.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub(super) bytes: Vec<u8>,
}

impl Inode {
    pub(super) fn mode(&self) -> u32 {
        le16(&self.bytes, 0).into()
    }

    fn flags(&self) -> u32 {
        le32(&self.bytes, 32)
    }

    pub(super) fn has_extents(&self) -> bool {
        self.flags() & EXTENTS != 0
    }

    pub(super) fn is_inline(&self) -> bool {
        self.flags() & INLINE != 0
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.flags() & ENCRYPTED != 0
    }

    pub(super) fn size(&self) -> u64 {
        u64::from(le32(&self.bytes, 4)) | u64::from(le32(&self.bytes, 108)) << 32
    }

    /// Where its blocks are, or what is there in their place.
    pub(super) fn block(&self) -> &[u8] {
        &self.bytes[40..100]
    }

    /// Block of its extended attributes; 0 for none.
    pub(super) fn attributes_block(&self) -> u64 {
        u64::from(le32(&self.bytes, 104)) | u64::from(le16(&self.bytes, 118)) << 32
    }

    /// Where in the inode there is room for extended attributes.
    pub(super) fn attributes_at(&self) -> Option<usize> {
        let extra = usize::from(le16(self.bytes.get(..130)?, 128));
        Some(128 + extra).filter(|at| *at <= self.bytes.len() && extra > 0)
    }

    /// Whether the inode is long enough for a field that ends there.
    fn reaches(&self, end: usize) -> bool {
        self.attributes_at().is_some_and(|at| at >= end)
    }

    /// Extra bits: two more of the seconds, and the nanoseconds.
    fn mtime(&self) -> (i64, u32) {
        let seconds = i64::from(le32(&self.bytes, 16).cast_signed());
        if !self.reaches(140) {
            return (seconds, 0);
        }
        let extra = le32(&self.bytes, 136);
        let nanoseconds = (extra >> 2).min(999_999_999);
        (seconds + (i64::from(extra & 3) << 32), nanoseconds)
    }

    pub(super) fn kind(&self) -> Result<Kind> {
        Ok(match self.mode() >> 12 {
            1 => Kind::Fifo,
            2 => Kind::Character,
            4 => Kind::Directory,
            6 => Kind::Block,
            8 => Kind::File,
            10 => Kind::Link,
            12 => Kind::Socket,
            _ => bail!("it is of no kind: its mode is {:o}", self.mode()),
        })
    }

    pub(super) fn attributes(&self) -> Result<Attributes> {
        let kind = self.kind()?;
        let is_device = matches!(kind, Kind::Character | Kind::Block);
        Ok(Attributes {
            kind,
            mode: self.mode() & 0o7777,
            uid: u32::from(le16(&self.bytes, 2)) | u32::from(le16(&self.bytes, 120)) << 16,
            gid: u32::from(le16(&self.bytes, 24)) | u32::from(le16(&self.bytes, 122)) << 16,
            mtime: self.mtime(),
            size: if matches!(kind, Kind::File | Kind::Link) { self.size() } else { 0 },
            links: le16(&self.bytes, 26).into(),
            device: if is_device { self.device() } else { (0, 0) },
        })
    }

    /// The old form has 16 bits, the new one 32 (linux/kdev_t.h).
    fn device(&self) -> (u32, u32) {
        let (old, new) = (le32(self.block(), 0), le32(self.block(), 4));
        match old {
            0 => ((new & 0xf_ff00) >> 8, (new & 0xff) | (new >> 12 & 0xf_ff00)),
            _ => (old >> 8 & 0xff, old & 0xff),
        }
    }
}
