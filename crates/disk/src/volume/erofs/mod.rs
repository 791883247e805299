//! EROFS (Linux, fs/erofs/erofs_fs.h): plain, behind the inode, in chunks, and compressed with LZ4.
//! Other compressions, further devices and shared ends of files are refused.

mod compressed;

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use super::Format;
use crate::erofs::{
    CHUNKED, COMPACT_SIZE, COMPAT_CHECKSUM, COMPRESSED_COMPACT, COMPRESSED_FULL, DIRENT_SIZE,
    EXTENDED_SIZE, HOLE, INCOMPAT_BIG, INCOMPAT_CHUNKED, INCOMPAT_PADDING, INCOMPAT_SHARED,
    INCOMPAT_TAILS, INLINE, MAGIC, PLAIN, SLOT, SUPER_OFFSET, SUPER_SIZE, XATTR_HEADER_SIZE,
    XATTR_PREFIXES,
};
use crate::field::{byte, le, slice};
use crate::{Attribute, Attributes, Blocks, Kind, Name, Piece, Volume, crc32c, device};

/// The format.
pub(super) struct Erofs;

/// Bytes of content that are read at once.
const PIECE: u64 = 1 << 20;
/// Entries of a map of chunks that are read at once.
const ENTRIES: u64 = 1 << 10;
/// The largest directory that is read; one of a million names has 40 MiB.
const MAX_DIRECTORY: u64 = 1 << 30;

impl Format for Erofs {
    fn name(&self) -> &'static str {
        "erofs"
    }

    fn recognises(&self, blocks: &dyn Blocks) -> Result<bool> {
        let least = SUPER_OFFSET + SUPER_SIZE as u64;
        super::is_marked(blocks, least, SUPER_OFFSET, &MAGIC.to_le_bytes())
    }

    fn identity(&self, blocks: &dyn Blocks) -> Result<super::Identity> {
        let mut bytes = [0; 80];
        blocks.read_at(SUPER_OFFSET, &mut bytes)?;
        Ok(super::Identity::of(&bytes[48..64], &bytes[64..80]))
    }

    fn open(&self, blocks: Arc<dyn Blocks>) -> Result<Box<dyn Volume>> {
        Ok(Box::new(Reader::new(blocks)?))
    }
}

struct Reader {
    blocks: Arc<dyn Blocks>,
    block_bits: u32,
    /// Where inodes and shared attributes begin.
    inodes: u64,
    xattrs: u64,
    root: u64,
    /// Seconds and nanoseconds that inodes without a time of their own have.
    epoch: (i64, u32),
    is_padded: bool,
    has_chunks: bool,
}

struct Inode {
    at: u64,
    layout: u16,
    attributes: Attributes,
    /// Bytes of the inode, and of its attributes.
    size: u64,
    xattrs: u64,
    /// Where its content is, which means another thing in each layout.
    place: u32,
}

impl Inode {
    /// What follows the inode and its attributes.
    fn behind(&self) -> u64 {
        self.at + self.size + self.xattrs
    }
}

impl Reader {
    fn new(blocks: Arc<dyn Blocks>) -> Result<Self> {
        let mut head = [0; SUPER_SIZE];
        blocks.read_at(SUPER_OFFSET, &mut head).context("reading the superblock")?;
        let block_bits = u32::from(head[12]);
        ensure!((9..=16).contains(&block_bits), "its blocks have 2^{block_bits} bytes");
        let needed = le::u32(&head, 80)?;
        let known = INCOMPAT_PADDING | INCOMPAT_BIG | INCOMPAT_CHUNKED | INCOMPAT_TAILS;
        let unknown = needed & !(known | INCOMPAT_SHARED);
        ensure!(unknown == 0, "it needs what is not known here: feature {unknown:#x}");
        ensure!(le::u16(&head, 86)? == 0, "its content is on further devices");
        if le::u32(&head, 8)? & COMPAT_CHECKSUM > 0 {
            check_sum(&*blocks, 1 << block_bits, le::u32(&head, 4)?)?;
        }
        let start = |at| Ok::<_, anyhow::Error>(u64::from(le::u32(&head, at)?) << block_bits);
        Ok(Self {
            block_bits,
            inodes: start(40)?,
            xattrs: start(44)?,
            root: le::u16(&head, 14)?.into(),
            epoch: (le::i64(&head, 24)?, le::u32(&head, 32)?),
            is_padded: needed & INCOMPAT_PADDING > 0,
            has_chunks: needed & INCOMPAT_CHUNKED > 0,
            blocks,
        })
    }

    fn block(&self) -> u64 {
        1 << self.block_bits
    }

    fn read(&self, at: u64, length: usize) -> Result<Vec<u8>> {
        let end = at.checked_add(length as u64).filter(|end| *end <= self.blocks.size());
        ensure!(end.is_some(), "{length} bytes at {at} are beyond the end");
        let mut bytes = vec![0; length];
        self.blocks.read_at(at, &mut bytes)?;
        Ok(bytes)
    }

    fn inode(&self, node: u64) -> Result<Inode> {
        let at = node.checked_mul(SLOT).and_then(|at| at.checked_add(self.inodes));
        let at = at.context("there is no such inode")?;
        let mut head = self.read(at, COMPACT_SIZE)?;
        let format = le::u16(&head, 0)?;
        let is_extended = format & 1 > 0;
        if is_extended {
            head = self.read(at, EXTENDED_SIZE)?;
        }
        let count = u64::from(le::u16(&head, 2)?);
        let xattrs = if count == 0 { 0 } else { XATTR_HEADER_SIZE as u64 + 4 * (count - 1) };
        let mode = u32::from(le::u16(&head, 4)?);
        let kind = super::kind_of(mode)?;
        let place = le::u32(&head, 16)?;
        let is_device = matches!(kind, Kind::Character | Kind::Block);
        let attributes = Attributes {
            kind,
            mode: mode & 0o7777,
            uid: if is_extended { le::u32(&head, 24)? } else { le::u16(&head, 24)?.into() },
            gid: if is_extended { le::u32(&head, 28)? } else { le::u16(&head, 26)?.into() },
            mtime: match is_extended {
                true => (le::i64(&head, 32)?, le::u32(&head, 40)?),
                false => (self.epoch.0.wrapping_add(le::u32(&head, 12)?.into()), self.epoch.1),
            },
            size: if is_extended { le::u64(&head, 8)? } else { le::u32(&head, 8)?.into() },
            links: if is_extended { le::u32(&head, 44)? } else { le::u16(&head, 6)?.into() },
            device: if is_device { device::new(place) } else { (0, 0) },
        };
        let layout = (format >> 1) & 7;
        let size = if is_extended { EXTENDED_SIZE } else { COMPACT_SIZE } as u64;
        Ok(Inode { at, layout, attributes, size, xattrs, place })
    }

    /// Content from front to back, without holes.
    fn content_of(&self, inode: &Inode, piece: &mut Piece<'_>) -> Result<()> {
        let size = inode.attributes.size;
        match inode.layout {
            PLAIN => self.stretch(u64::from(inode.place) << self.block_bits, 0, size, piece),
            INLINE => {
                let whole = size & !(self.block() - 1);
                self.stretch(u64::from(inode.place) << self.block_bits, 0, whole, piece)?;
                self.stretch(inode.behind(), whole, size - whole, piece)
            }
            CHUNKED => self.chunks(inode, piece),
            COMPRESSED_FULL | COMPRESSED_COMPACT => self.compressed(inode, piece),
            other => bail!("its content is laid out in an unknown way: {other}"),
        }
    }

    /// Gives so many bytes at a place in the image as those at an offset of a file.
    fn stretch(&self, at: u64, offset: u64, size: u64, piece: &mut Piece<'_>) -> Result<()> {
        let end = at.checked_add(size).filter(|end| *end <= self.blocks.size());
        // Where there is nothing, nothing says where.
        ensure!(size == 0 || end.is_some(), "its content is beyond the end of the image");
        let mut done = 0;
        while done < size {
            let length = (size - done).min(PIECE);
            piece(offset + done, &self.read(at + done, length as usize)?)?;
            done += length;
        }
        Ok(())
    }

    fn chunks(&self, inode: &Inode, piece: &mut Piece<'_>) -> Result<()> {
        ensure!(self.has_chunks, "it has a feature that its superblock does not know");
        let format = inode.place & 0xffff;
        ensure!(format & !0x3f == 0, "its chunks are of an unknown form: {format:#x}");
        let (bits, indexes) = ((format & 0x1f) + self.block_bits, format & 0x20 > 0);
        let unit = if indexes { 8 } else { 4 };
        let map = inode.behind().next_multiple_of(unit);
        let size = inode.attributes.size;
        let count = size.div_ceil(1 << bits);
        let end = count.checked_mul(unit).and_then(|length| length.checked_add(map));
        ensure!(end.is_some_and(|end| end <= self.blocks.size()), "it has too many chunks");
        let mut entries = Vec::new();
        for number in 0..count {
            let within = (number % ENTRIES * unit) as usize;
            if within == 0 {
                let length = (count - number).min(ENTRIES) * unit;
                entries = self.read(map + number * unit, length as usize)?;
            }
            let block = le::u32(&entries, within + if indexes { 4 } else { 0 })?;
            ensure!(
                !indexes || le::u16(&entries, within + 2)? == 0,
                "its content is on another device"
            );
            let offset = number << bits;
            if block != HOLE {
                let length = (size - offset).min(1 << bits);
                self.stretch(u64::from(block) << self.block_bits, offset, length, piece)?;
            }
        }
        Ok(())
    }

    /// All of a directory or a symbolic link.
    fn whole(&self, inode: &Inode, limit: u64) -> Result<Vec<u8>> {
        let size = inode.attributes.size;
        ensure!(size <= limit.min(self.blocks.size()), "it has {size} bytes");
        let mut bytes = Vec::new();
        self.content_of(inode, &mut |offset, piece| {
            ensure!(offset == bytes.len() as u64, "it has a hole");
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        ensure!(bytes.len() as u64 == size, "it has a hole");
        Ok(bytes)
    }

    /// An attribute at that offset, and how long it is with its padding.
    fn attribute(bytes: &[u8], at: usize) -> Result<(Attribute, usize)> {
        let (name_length, index) = (byte(bytes, at)?, byte(bytes, at + 1)?);
        let length = usize::from(le::u16(bytes, at + 2)?);
        let name_length = usize::from(name_length);
        let prefix = XATTR_PREFIXES.iter().find(|(known, _)| *known == index);
        let (_, prefix) = prefix.with_context(|| format!("an attribute of the kind {index}"))?;
        let name = [prefix, slice(bytes, at + 4, name_length)?].concat();
        let value = slice(bytes, at + 4 + name_length, length)?.to_vec();
        Ok(((name, value), (4 + name_length + length).next_multiple_of(4)))
    }
}

/// The sum is of the rest of the superblock's block, with zeros in its own place.
fn check_sum(blocks: &dyn Blocks, block: u64, wanted: u32) -> Result<()> {
    let Some(length) = block.checked_sub(SUPER_OFFSET).filter(|length| *length > 0) else {
        return Ok(());
    };
    let mut bytes = vec![0; length as usize];
    blocks.read_at(SUPER_OFFSET, &mut bytes).context("reading the superblock")?;
    slice(&bytes, 4, 4)?;
    bytes[4..8].fill(0);
    ensure!(!crc32c::sum(&bytes) == wanted, "its superblock is damaged: the checksum is wrong");
    Ok(())
}

impl Volume for Reader {
    fn root(&self) -> u64 {
        self.root
    }

    fn attributes(&mut self, node: u64) -> Result<Attributes> {
        let mut attributes = self.inode(node)?.attributes;
        if !matches!(attributes.kind, Kind::File | Kind::Link) {
            attributes.size = 0;
        }
        Ok(attributes)
    }

    fn names(&mut self, directory: u64) -> Result<Vec<Name>> {
        let inode = self.inode(directory)?;
        ensure!(inode.attributes.kind == Kind::Directory, "it is no directory");
        let bytes = self.whole(&inode, MAX_DIRECTORY)?;
        let mut names = Vec::new();
        for block in bytes.chunks(self.block() as usize) {
            let first = usize::from(le::u16(block, 8)?);
            let count = first / DIRENT_SIZE;
            ensure!(first % DIRENT_SIZE == 0 && count > 0, "a directory's block is broken");
            for number in 0..count {
                let entry = number * DIRENT_SIZE;
                let from = usize::from(le::u16(block, entry + 8)?);
                let to = match number + 1 < count {
                    true => usize::from(le::u16(block, entry + DIRENT_SIZE + 8)?),
                    false => block.len(),
                };
                let name = to.checked_sub(from).context("a directory's block is broken")?;
                let name = slice(block, from, name)?;
                // The last one of a block is followed by zeros.
                let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
                if !matches!(name, b"." | b"..") {
                    super::check_name(name)?;
                    names.push(Name { name: name.to_vec(), node: le::u64(block, entry)? });
                }
            }
        }
        Ok(names)
    }

    fn target(&mut self, link: u64) -> Result<Vec<u8>> {
        let inode = self.inode(link)?;
        ensure!(inode.attributes.kind == Kind::Link, "it is no symbolic link");
        self.whole(&inode, 4096)
    }

    fn xattrs(&mut self, node: u64) -> Result<Vec<Attribute>> {
        let inode = self.inode(node)?;
        if inode.xattrs == 0 {
            return Ok(Vec::new());
        }
        let bytes = self.read(inode.at + inode.size, inode.xattrs as usize)?;
        let shared = usize::from(byte(&bytes, 4)?);
        let mut found = Vec::new();
        for number in 0..shared {
            let id = le::u32(&bytes, XATTR_HEADER_SIZE + 4 * number)?;
            let at = self.xattrs + 4 * u64::from(id);
            let head = self.read(at, 4)?;
            let length = usize::from(head[0]) + usize::from(le::u16(&head, 2)?);
            found.push(Self::attribute(&self.read(at, 4 + length)?, 0)?.0);
        }
        let mut at = XATTR_HEADER_SIZE + 4 * shared;
        while at + 4 <= bytes.len() {
            // What is left is padding.
            if bytes[at..].iter().all(|&byte| byte == 0) {
                break;
            }
            let (attribute, used) = Self::attribute(&bytes, at)?;
            found.push(attribute);
            at += used;
        }
        Ok(found)
    }

    fn content(&mut self, file: u64, piece: &mut Piece<'_>) -> Result<()> {
        let inode = self.inode(file)?;
        ensure!(inode.attributes.kind == Kind::File, "it is no regular file");
        self.content_of(&inode, piece)
    }
}
