//! XFS, versions 4 and 5 ("XFS Algorithms & Data Structures", 3rd edition; Linux, fs/xfs/libxfs/xfs_format.h).
//!
//! A journal with changes that were not written back is refused: without them, what is on the disk contradicts
//! itself. So is content on a realtime device.

mod attributes;
mod directory;
mod extents;
mod journal;

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use super::Format;
use crate::field::{be, byte, slice};
use crate::{Attribute, Attributes, Blocks, Kind, Name, Piece, Volume};
use extents::Extent;

/// The format.
pub(super) struct Xfs;

const MAGIC: u32 = u32::from_be_bytes(*b"XFSB");
const INODE_MAGIC: u16 = u16::from_be_bytes(*b"IN");
/// Bytes of content that are read at once.
const PIECE: u64 = 1 << 20;

/// `sb_features_incompat`: file types in directories, sparse inode chunks, a UUID of its own for metadata, times
/// of 64 bits, it must be repaired, counters of 64 bits, exchanged ranges, names of files' directories.
const FTYPE: u32 = 0x1;
const NEEDS_REPAIR: u32 = 0x10;
const KNOWN: u32 = 0xff;
/// `sb_features2` of version 4.
const FTYPE_4: u32 = 0x200;
/// Of an inode: `di_flags` and `di_flags2`.
const REALTIME: u16 = 0x1;
const BIG_TIME: u64 = 1 << 3;
const LARGE_COUNTS: u64 = 1 << 4;

impl Format for Xfs {
    fn name(&self) -> &'static str {
        "xfs"
    }

    fn recognises(&self, blocks: &dyn Blocks) -> Result<bool> {
        super::is_marked(blocks, 512, 0, &MAGIC.to_be_bytes())
    }

    fn identity(&self, blocks: &dyn Blocks) -> Result<super::Identity> {
        let mut bytes = [0; 120];
        blocks.read_at(0, &mut bytes)?;
        Ok(super::Identity::of(&bytes[32..48], &bytes[108..120]))
    }

    fn open(&self, blocks: Arc<dyn Blocks>) -> Result<Box<dyn Volume>> {
        Ok(Box::new(Reader::new(blocks)?))
    }
}

/// Sizes, and where things are.
struct Reader {
    blocks: Arc<dyn Blocks>,
    block: u64,
    is_v5: bool,
    has_types: bool,
    root: u64,
    inode_size: usize,
    /// Blocks in an allocation group, and how many bits a number has for them.
    group_blocks: u64,
    group_bits: u32,
    /// Bits of an inode's place in its block.
    inode_bits: u32,
    groups: u64,
    /// Blocks of a directory are of so many of the file system's, as a power of two.
    directory_bits: u32,
}

/// An inode with its forks.
struct Inode {
    number: u64,
    attributes: Attributes,
    is_realtime: bool,
    data: Fork,
    xattrs: Fork,
}

/// Where something of an inode is: its content, or its attributes.
struct Fork {
    format: u8,
    bytes: Vec<u8>,
    extents: u64,
}

/// Forms of a fork.
const DEVICE: u8 = 0;
const LOCAL: u8 = 1;
const EXTENTS: u8 = 2;
const TREE: u8 = 3;

impl Reader {
    fn new(blocks: Arc<dyn Blocks>) -> Result<Self> {
        let mut head = [0; 512];
        blocks.read_at(0, &mut head).context("reading the superblock")?;
        let version = be::u16(&head, 100)?;
        let is_v5 = match version & 0xf {
            4 => false,
            5 => true,
            other => bail!("it is XFS of version {other}: only 4 and 5 are read"),
        };
        ensure!(is_v5 || version & 0x2000 > 0, "its directories are of version 1");
        let has_types = match is_v5 {
            true => {
                let features = be::u32(&head, 216)?;
                ensure!(features & NEEDS_REPAIR == 0, "it is damaged: run xfs_repair(8) on it");
                let unknown = features & !KNOWN;
                ensure!(unknown == 0, "it needs what is not known here: feature {unknown:#x}");
                features & FTYPE > 0
            }
            false => version & 0x8000 > 0 && be::u32(&head, 200)? & FTYPE_4 > 0,
        };
        ensure!(head[126] == 0, "mkfs.xfs(8) did not finish it");
        let (block, inode_size) =
            (u64::from(be::u32(&head, 4)?), usize::from(be::u16(&head, 104)?));
        let [block_bits, inode_size_bits, inode_bits, group_bits, directory_bits] =
            [120, 122, 123, 124, 192].map(|at| u32::from(head[at]));
        let reader = Self {
            block,
            is_v5,
            has_types,
            root: be::u64(&head, 56)?,
            inode_size,
            group_blocks: be::u32(&head, 84)?.into(),
            group_bits,
            inode_bits,
            groups: be::u32(&head, 88)?.into(),
            directory_bits,
            blocks,
        };
        ensure!(
            (9..=16).contains(&block_bits)
                && block == 1 << block_bits
                && (8..=11).contains(&inode_size_bits)
                && inode_size == 1 << inode_size_bits
                && inode_bits + inode_size_bits == block_bits
                && group_bits <= 31
                && reader.group_blocks <= 1 << group_bits
                && (block << directory_bits.min(16)) <= 64 << 10,
            "its superblock is broken: sizes contradict each other"
        );
        let (log, log_blocks) = (be::u64(&head, 48)?, be::u32(&head, 96)?);
        // Zero: it is on another device.
        if log > 0 {
            let log = reader.address(log)?;
            journal::check(&*reader.blocks, log, u64::from(log_blocks) * block)?;
        }
        let root = reader.inode(reader.root).context("reading the root directory")?;
        ensure!(root.attributes.kind == Kind::Directory, "its root is no directory");
        Ok(reader)
    }

    /// Where a block is: its number tells the group, and the block in it.
    fn address(&self, block: u64) -> Result<u64> {
        let (group, within) = (block >> self.group_bits, block & ((1 << self.group_bits) - 1));
        ensure!(group < self.groups && within < self.group_blocks, "there is no block {block}");
        Ok((group * self.group_blocks + within) * self.block)
    }

    fn read(&self, at: u64, length: usize) -> Result<Vec<u8>> {
        let end = at.checked_add(length as u64).filter(|end| *end <= self.blocks.size());
        ensure!(end.is_some(), "{length} bytes at {at} are beyond the end");
        let mut bytes = vec![0; length];
        self.blocks.read_at(at, &mut bytes)?;
        Ok(bytes)
    }

    fn inode(&self, number: u64) -> Result<Inode> {
        let within = number & ((1 << self.inode_bits) - 1);
        let at = self.address(number >> self.inode_bits)? + within * self.inode_size as u64;
        let bytes = self.read(at, self.inode_size)?;
        ensure!(be::u16(&bytes, 0)? == INODE_MAGIC, "there is no inode {number}");
        let version = byte(&bytes, 4)?;
        let literal = if version >= 3 { 176 } else { 100 };
        ensure!(
            version < 3 || be::u64(&bytes, 152)? == number,
            "the inode {number} says that it is another one"
        );
        let mode = u32::from(be::u16(&bytes, 2)?);
        let kind = super::kind_of(mode)?;
        let flags2 = if version >= 3 { be::u64(&bytes, 120)? } else { 0 };
        let size = be::u64(&bytes, 56)?;
        ensure!(size <= i64::MAX as u64, "the inode {number} has a size below zero");
        let (data, xattrs) = forks(&bytes, literal, flags2 & LARGE_COUNTS > 0)?;
        let device = match (kind, data.format) {
            (Kind::Character | Kind::Block, DEVICE) => device(be::u32(&data.bytes, 0)?),
            _ => (0, 0),
        };
        let attributes = Attributes {
            kind,
            mode: mode & 0o7777,
            uid: be::u32(&bytes, 8)?,
            gid: be::u32(&bytes, 12)?,
            mtime: time(be::u64(&bytes, 40)?, flags2 & BIG_TIME > 0),
            size: if matches!(kind, Kind::File | Kind::Link) { size } else { 0 },
            links: if version == 1 { be::u16(&bytes, 6)?.into() } else { be::u32(&bytes, 16)? },
            device,
        };
        let is_realtime = be::u16(&bytes, 90)? & REALTIME > 0 && kind == Kind::File;
        Ok(Inode { number, attributes, is_realtime, data, xattrs })
    }

    /// Reads from a fork at an offset in bytes; holes read as an error.
    fn fork_bytes(&self, extents: &[Extent], mut at: u64, length: usize) -> Result<Vec<u8>> {
        let mut found = Vec::with_capacity(length);
        while found.len() < length {
            let block = at / self.block;
            let after = extents.partition_point(|extent| extent.from <= block);
            let extent = after.checked_sub(1).and_then(|n| extents.get(n));
            let extent = extent.filter(|e| block < e.from + e.count).context("it has a hole")?;
            let within = at - extent.from * self.block;
            let there = (extent.count * self.block - within).min((length - found.len()) as u64);
            found.extend(self.read(self.address(extent.block)? + within, there as usize)?);
            at += there;
        }
        Ok(found)
    }
}

/// The forks of an inode.
fn forks(bytes: &[u8], literal: usize, large: bool) -> Result<(Fork, Fork)> {
    let offset = usize::from(byte(bytes, 82)?) * 8;
    let area = bytes.get(literal..).context("an inode is too short")?;
    ensure!(offset <= area.len(), "an inode's attributes are beyond its end");
    let split = if offset == 0 { area.len() } else { offset };
    let (extents, xattr_extents) = match large {
        true => (be::u64(bytes, 24)?, be::u32(bytes, 76)?.into()),
        false => (be::u32(bytes, 76)?.into(), be::u16(bytes, 80)?.into()),
    };
    let data = Fork { format: byte(bytes, 5)?, bytes: area[..split].to_vec(), extents };
    let format = if offset == 0 { EXTENTS } else { byte(bytes, 83)? };
    let xattrs = Fork { format, bytes: area[split..].to_vec(), extents: xattr_extents };
    Ok((data, xattrs))
}

/// System V's form; Linux takes nine bits of the major number (fs/xfs/xfs_linux.h, `xfs_to_linux_dev_t`).
fn device(packed: u32) -> (u32, u32) {
    ((packed >> 18) & 0x1ff, packed & 0x3_ffff)
}

/// Seconds and nanoseconds, each with 32 bits; or nanoseconds since 1901 ("bigtime").
fn time(raw: u64, is_big: bool) -> (i64, u32) {
    const BILLION: u64 = 1_000_000_000;
    match is_big {
        true => ((raw / BILLION) as i64 + i64::from(i32::MIN), (raw % BILLION) as u32),
        false => (i64::from((raw >> 32) as u32 as i32), raw as u32),
    }
}

impl Volume for Reader {
    fn root(&self) -> u64 {
        self.root
    }

    fn attributes(&mut self, node: u64) -> Result<Attributes> {
        Ok(self.inode(node)?.attributes)
    }

    fn names(&mut self, directory: u64) -> Result<Vec<Name>> {
        let inode = self.inode(directory)?;
        ensure!(inode.attributes.kind == Kind::Directory, "it is no directory");
        directory::names(self, &inode)
    }

    fn target(&mut self, link: u64) -> Result<Vec<u8>> {
        let inode = self.inode(link)?;
        ensure!(inode.attributes.kind == Kind::Link, "it is no symbolic link");
        let size = inode.attributes.size as usize;
        // XFS_SYMLINK_MAXLEN.
        ensure!(size <= 1024, "a symbolic link's target has {size} bytes");
        if inode.data.format == LOCAL {
            return Ok(slice(&inode.data.bytes, 0, size)?.to_vec());
        }
        let mut target = Vec::new();
        for extent in self.extents(&inode.data)? {
            // Version 5 has a header where blocks in a row begin.
            let head = if self.is_v5 { attributes::REMOTE_HEADER as u64 } else { 0 };
            let left = (size - target.len()) as u64;
            let length = left.min((extent.count * self.block).saturating_sub(head));
            target.extend(self.read(self.address(extent.block)? + head, length as usize)?);
        }
        ensure!(target.len() == size, "a symbolic link's target is too short");
        Ok(target)
    }

    fn xattrs(&mut self, node: u64) -> Result<Vec<Attribute>> {
        attributes::read(self, &self.inode(node)?)
    }

    fn content(&mut self, file: u64, piece: &mut Piece<'_>) -> Result<()> {
        let inode = self.inode(file)?;
        ensure!(inode.attributes.kind == Kind::File, "it is no regular file");
        ensure!(!inode.is_realtime, "its content is on a realtime device, which is not read");
        let size = inode.attributes.size;
        for extent in self.extents(&inode.data)? {
            let from = extent.from.saturating_mul(self.block);
            let to = from.saturating_add(extent.count * self.block).min(size);
            // What is reserved and was never written reads as zeros.
            if extent.is_unwritten || from >= to {
                continue;
            }
            let at = self.address(extent.block)?;
            let mut done = 0;
            while from + done < to {
                let length = (to - from - done).min(PIECE);
                piece(from + done, &self.read(at + done, length as usize)?)?;
                done += length;
            }
        }
        Ok(())
    }
}
