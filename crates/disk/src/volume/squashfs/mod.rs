//! SquashFS 4.0 (Linux, fs/squashfs/squashfs_fs.h; Documentation/filesystems/squashfs.rst), compressed
//! with gzip, xz, zstd, LZ4 or LZO. It has no fractions of seconds and no access control lists.

mod attributes;
mod metadata;

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use super::Format;
use crate::field::{le, slice};
use crate::{Attribute, Attributes, Blocks, Kind, Name, Piece, Volume, device, unpacked};
use metadata::{Cursor, Metadata};

/// The format.
pub(super) struct Squashfs;

const MAGIC: u32 = 0x7371_7368;
/// "There is none": a table, a fragment, an attribute.
const NONE: u32 = u32::MAX;
const NO_TABLE: u64 = u64::MAX;
/// In a block's size: it is not compressed.
const PLAIN: u32 = 1 << 24;
/// Bytes of a directory that are counted and not there: `.` and `..`.
const DOTS: u64 = 3;

impl Format for Squashfs {
    fn name(&self) -> &'static str {
        "squashfs"
    }

    fn recognises(&self, blocks: &dyn Blocks) -> Result<bool> {
        super::is_marked(blocks, 96, 0, &MAGIC.to_le_bytes())
    }

    fn open(&self, blocks: Arc<dyn Blocks>) -> Result<Box<dyn Volume>> {
        Ok(Box::new(Reader::new(blocks)?))
    }
}

/// How everything is compressed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Compression {
    Gzip,
    Lzo,
    Xz,
    Lz4,
    Zstd,
}

impl Compression {
    fn new(number: u16) -> Result<Self> {
        Ok(match number {
            1 => Self::Gzip,
            2 => bail!("it is compressed with LZMA, which no kernel reads either"),
            3 => Self::Lzo,
            4 => Self::Xz,
            5 => Self::Lz4,
            6 => Self::Zstd,
            _ => bail!("it is compressed in an unknown way: {number}"),
        })
    }

    /// At most so many bytes.
    fn unpack(self, bytes: &[u8], limit: usize) -> Result<Vec<u8>> {
        match self {
            Self::Gzip => unpacked::zlib(bytes, limit),
            Self::Lzo => unpacked::lzo(bytes, limit),
            Self::Xz => unpacked::xz(bytes, limit),
            Self::Lz4 => unpacked::lz4(bytes, limit),
            Self::Zstd => unpacked::zstd(bytes, limit),
        }
    }
}

struct Reader {
    blocks: Arc<dyn Blocks>,
    compression: Compression,
    metadata: Metadata,
    block_size: u32,
    root: u64,
    inodes: u64,
    directories: u64,
    fragments: (u64, u32),
    ids: (u64, u32),
    xattrs: Option<attributes::Table>,
    /// The fragment that was unpacked last: many small files are in it.
    fragment: Option<(u64, Vec<u8>)>,
}

/// An inode, as far as each kind has it.
struct Inode {
    attributes: Attributes,
    xattr: u32,
    body: Body,
}

enum Body {
    /// Where the names are, and bytes of them.
    Directory(u64, usize, u64),
    /// The first block, the fragment with the offset in it, and where sizes of blocks are.
    File(u64, u32, u32, Cursor),
    Link(Vec<u8>),
    Other,
}

impl Reader {
    fn new(blocks: Arc<dyn Blocks>) -> Result<Self> {
        let mut head = [0; 96];
        blocks.read_at(0, &mut head).context("reading the superblock")?;
        let (major, minor) = (le::u16(&head, 28)?, le::u16(&head, 30)?);
        ensure!((major, minor) == (4, 0), "it is SquashFS {major}.{minor}: only 4.0 is read");
        let block_size = le::u32(&head, 12)?;
        let log = u32::from(le::u16(&head, 22)?);
        ensure!(
            (12..=20).contains(&log) && block_size == 1 << log,
            "its superblock is broken: blocks of {block_size} bytes"
        );
        let compression = Compression::new(le::u16(&head, 20)?)?;
        let metadata = Metadata::new(Arc::clone(&blocks), compression);
        let mut reader = Self {
            root: le::u64(&head, 32)?,
            inodes: le::u64(&head, 64)?,
            directories: le::u64(&head, 72)?,
            fragments: (le::u64(&head, 80)?, le::u32(&head, 16)?),
            ids: (le::u64(&head, 48)?, u32::from(le::u16(&head, 26)?)),
            xattrs: None,
            fragment: None,
            blocks,
            compression,
            metadata,
            block_size,
        };
        let xattrs = le::u64(&head, 56)?;
        if xattrs != NO_TABLE {
            reader.xattrs = Some(attributes::Table::new(&*reader.blocks, xattrs)?);
        }
        let root = reader.inode(reader.root).context("reading the root directory")?;
        ensure!(root.attributes.kind == Kind::Directory, "its root is no directory");
        Ok(reader)
    }

    /// An entry of a table whose blocks are found by a list of addresses.
    fn table_entry(&mut self, table: (u64, u32), number: u32, size: usize) -> Result<Vec<u8>> {
        ensure!(number < table.1, "there is no entry {number} in a table of {}", table.1);
        self.metadata.table_entry(table.0, number, size)
    }

    fn id(&mut self, number: u16) -> Result<u32> {
        le::u32(&self.table_entry(self.ids, number.into(), 4).context("reading an owner")?, 0)
    }

    fn inode(&mut self, node: u64) -> Result<Inode> {
        let start = self.inodes.checked_add(node >> 16).context("there is no such inode")?;
        let mut cursor = Cursor::new(start, (node & 0xffff) as usize);
        let head = self.metadata.read(&mut cursor, 16)?;
        let kind = le::u16(&head, 0)?;
        let mut size_of = |length| self.metadata.read(&mut cursor, length);
        let (mut size, mut links, mut xattr, mut rdev) = (0, 1, NONE, 0);
        let body = match kind {
            1 => {
                let b = size_of(16)?;
                links = le::u32(&b, 4)?;
                let bytes = u64::from(le::u16(&b, 8)?).saturating_sub(DOTS);
                Body::Directory(le::u32(&b, 0)?.into(), le::u16(&b, 10)?.into(), bytes)
            }
            8 => {
                let b = size_of(24)?;
                links = le::u32(&b, 0)?;
                xattr = le::u32(&b, 20)?;
                let bytes = u64::from(le::u32(&b, 4)?).saturating_sub(DOTS);
                Body::Directory(le::u32(&b, 8)?.into(), le::u16(&b, 18)?.into(), bytes)
            }
            2 => {
                let b = size_of(16)?;
                size = le::u32(&b, 12)?.into();
                Body::File(le::u32(&b, 0)?.into(), le::u32(&b, 4)?, le::u32(&b, 8)?, cursor)
            }
            9 => {
                let b = size_of(40)?;
                (size, links, xattr) = (le::u64(&b, 8)?, le::u32(&b, 24)?, le::u32(&b, 36)?);
                Body::File(le::u64(&b, 0)?, le::u32(&b, 28)?, le::u32(&b, 32)?, cursor)
            }
            3 | 10 => {
                let b = size_of(8)?;
                links = le::u32(&b, 0)?;
                let length = le::u32(&b, 4)?;
                // PATH_MAX (limits.h).
                ensure!(length <= 4096, "a symbolic link's target has {length} bytes");
                size = length.into();
                let target = size_of(length as usize)?;
                if kind == 10 {
                    xattr = le::u32(&size_of(4)?, 0)?;
                }
                Body::Link(target)
            }
            4 | 5 | 11 | 12 => {
                let b = size_of(8)?;
                (links, rdev) = (le::u32(&b, 0)?, le::u32(&b, 4)?);
                if kind > 7 {
                    xattr = le::u32(&size_of(4)?, 0)?;
                }
                Body::Other
            }
            6 | 7 | 13 | 14 => {
                links = le::u32(&size_of(4)?, 0)?;
                if kind > 7 {
                    xattr = le::u32(&size_of(4)?, 0)?;
                }
                Body::Other
            }
            _ => bail!("an inode is of the unknown kind {kind}"),
        };
        let attributes = Attributes {
            kind: match (kind - 1) % 7 {
                0 => Kind::Directory,
                1 => Kind::File,
                2 => Kind::Link,
                3 => Kind::Block,
                4 => Kind::Character,
                5 => Kind::Fifo,
                _ => Kind::Socket,
            },
            mode: u32::from(le::u16(&head, 2)?) & 0o7777,
            uid: self.id(le::u16(&head, 4)?)?,
            gid: self.id(le::u16(&head, 6)?)?,
            mtime: (le::u32(&head, 8)?.into(), 0),
            size,
            links,
            device: device::new(rdev),
        };
        Ok(Inode { attributes, xattr, body })
    }

    /// A block of content: what it unpacks to.
    fn block(&self, at: u64, size: u32, limit: usize) -> Result<Vec<u8>> {
        let length = size & (PLAIN - 1);
        ensure!(length <= self.block_size, "a block has {length} bytes");
        let mut bytes = vec![0; length as usize];
        self.blocks.read_at(at, &mut bytes)?;
        if size & PLAIN == 0 { self.compression.unpack(&bytes, limit) } else { Ok(bytes) }
    }

    /// So many bytes at an offset of a fragment.
    fn fragment(&mut self, number: u32, offset: u32, length: usize) -> Result<&[u8]> {
        let entry = self.table_entry(self.fragments, number, 16).context("reading a fragment")?;
        let (at, size) = (le::u64(&entry, 0)?, le::u32(&entry, 8)?);
        if self.fragment.as_ref().is_none_or(|(there, _)| *there != at) {
            let bytes = self.block(at, size, self.block_size as usize)?;
            self.fragment = Some((at, bytes));
        }
        let bytes = self.fragment.as_ref().map(|(_, bytes)| &bytes[..]).unwrap_or_default();
        slice(bytes, offset as usize, length)
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
        let Body::Directory(start, offset, mut left) = self.inode(directory)?.body else {
            bail!("it is no directory");
        };
        let start = self.directories.checked_add(start).context("a directory is nowhere")?;
        let mut cursor = Cursor::new(start, offset);
        let mut names = Vec::new();
        while left > 0 {
            let head = self.metadata.read(&mut cursor, 12)?;
            let (count, start) = (le::u32(&head, 0)?, u64::from(le::u32(&head, 4)?));
            ensure!(count < 256, "a directory's header has {count} entries");
            left = left.checked_sub(12).context("a directory is too short")?;
            for _ in 0..=count {
                let entry = self.metadata.read(&mut cursor, 8)?;
                let length = usize::from(le::u16(&entry, 6)?) + 1;
                let name = self.metadata.read(&mut cursor, length)?;
                super::check_name(&name)?;
                let used = 8 + length as u64;
                left = left.checked_sub(used).context("a directory is too short")?;
                names.push(Name { name, node: start << 16 | u64::from(le::u16(&entry, 0)?) });
            }
        }
        Ok(names)
    }

    fn target(&mut self, link: u64) -> Result<Vec<u8>> {
        match self.inode(link)?.body {
            Body::Link(target) => Ok(target),
            _ => bail!("it is no symbolic link"),
        }
    }

    fn xattrs(&mut self, node: u64) -> Result<Vec<Attribute>> {
        let number = self.inode(node)?.xattr;
        match &self.xattrs {
            Some(table) if number != NONE => table.read(&mut self.metadata, number),
            _ => Ok(Vec::new()),
        }
    }

    fn content(&mut self, file: u64, piece: &mut Piece<'_>) -> Result<()> {
        let inode = self.inode(file)?;
        let Body::File(mut at, fragment, fragment_offset, mut sizes) = inode.body else {
            bail!("it is no regular file");
        };
        let (size, block_size) = (inode.attributes.size, u64::from(self.block_size));
        let blocks = match fragment {
            NONE => size.div_ceil(block_size),
            _ => size / block_size,
        };
        for number in 0..blocks {
            let offset = number * block_size;
            let length = (size - offset).min(block_size) as usize;
            let stored = le::u32(&self.metadata.read(&mut sizes, 4)?, 0)?;
            // Zero: a hole.
            if stored & (PLAIN - 1) > 0 {
                let bytes = self.block(at, stored, length)?;
                ensure!(bytes.len() == length, "a block has another length than it should");
                piece(offset, &bytes)?;
                at = at.saturating_add(u64::from(stored & (PLAIN - 1)));
            }
        }
        let rest = (size - (blocks * block_size).min(size)) as usize;
        if fragment != NONE && rest > 0 {
            piece(blocks * block_size, self.fragment(fragment, fragment_offset, rest)?)?;
        }
        Ok(())
    }
}
