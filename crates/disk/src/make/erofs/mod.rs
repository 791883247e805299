//! Writes EROFS (Linux, Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h), without
//! compression, in blocks of 4 KiB: what a machine's kernel mounts as its root.
//!
//! A volume is read once, in the order of its names, and written as it comes: content in blocks, inodes
//! between them, each with the end of its content where that fits. Only the names on the way down
//! and a number for each file are held in memory. What depends on what is below, such as the directories
//! themselves, gets its place before, and is written after it.
//!
//! The same tree makes the same bytes: there is no time but those of the files, no random number, and nothing
//! depends on the numbers that the volume gives its nodes.

mod content;
mod directory;
mod inode;
mod space;

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};

use crate::erofs::{
    CHUNKED, COMPAT_CHECKSUM, COMPAT_MTIME, INCOMPAT_CHUNKED, INLINE, MAGIC, PLAIN, SLOT,
    SUPER_OFFSET, SUPER_SIZE,
};
use crate::{Attributes, Kind, Volume, crc32c};
use content::{Content, Place};
use directory::{Blocks, Entry};
use inode::Inode;
use space::Space;

const BLOCK: u64 = 4096;
const BLOCK_BITS: u8 = 12;

/// Changes whenever other bytes are written for the same tree.
pub const REVISION: u32 = 1;

/// Writes all of a volume into a file, from its beginning; what was in it is gone. It is not flushed.
///
/// Holes are kept, in whole blocks. Inode numbers are not those of the volume.
///
/// # Errors
/// Names what cannot be read, or what EROFS has no place for: attributes beyond `user.`, `trusted.`,
/// `security.` and access control lists, or of 64 KiB and more. A directory that is in two places, such as
/// in itself, is refused.
pub fn write(volume: &mut dyn Volume, image: &File) -> Result<()> {
    image.set_len(0).context("emptying the image")?;
    let root = volume.root();
    let attributes = volume.attributes(root).context("reading the root directory")?;
    let epoch = attributes.mtime;
    let mut writer = Writer {
        volume,
        image,
        space: Space::new(),
        epoch,
        nodes: HashMap::new(),
        count: 0,
        chunked: false,
    };
    let at = writer.walk(root, attributes)?;
    writer.finish(at)
}

struct Writer<'a> {
    volume: &'a mut dyn Volume,
    image: &'a File,
    space: Space,
    /// The time that files have whose inode is short: the root directory's.
    epoch: (i64, u32),
    nodes: HashMap<u64, Written>,
    count: u32,
    /// Whether any file has holes.
    chunked: bool,
}

/// A node that has its place.
#[derive(Clone, Copy)]
struct Written {
    at: u64,
    kind: Kind,
    extended: bool,
    /// Names so far.
    links: u32,
}

/// A directory whose names are being written.
struct Open {
    inode: Inode,
    at: u64,
    entries: Vec<Entry>,
    blocks: Blocks,
    /// Its first block.
    body: u64,
    is_inline: bool,
    /// Directories in it that are still to be written: which of the entries, the last first.
    pending: Vec<(usize, Attributes)>,
    /// Its name.
    name: Vec<u8>,
}

impl Writer<'_> {
    /// Writes everything; returns where the root directory's inode is.
    fn walk(&mut self, root: u64, attributes: Attributes) -> Result<u64> {
        ensure!(attributes.kind == Kind::Directory, "the root is no directory");
        let first = self.open(root, attributes, None, Vec::new());
        let mut above = vec![first.context("reading the root directory")?];
        let root_at = above[0].at;
        while let Some(mut open) = above.pop() {
            let Some((number, attributes)) = open.pending.pop() else {
                self.close(&open).with_context(|| format!("writing {}", path(&above, &open)))?;
                continue;
            };
            let entry = &mut open.entries[number];
            let below = self.open(entry.node, attributes, Some(open.at), entry.name.clone());
            let name = entry.name.clone();
            let below = below.with_context(|| {
                format!("reading {}/{}", path(&above, &open), String::from_utf8_lossy(&name))
            })?;
            open.entries[number].at = below.at;
            above.extend([open, below]);
        }
        Ok(root_at)
    }

    /// Takes a directory in: gives it its place, and writes all in it but directories.
    fn open(
        &mut self,
        node: u64,
        mut attributes: Attributes,
        parent: Option<u64>,
        name: Vec<u8>,
    ) -> Result<Open> {
        let names = self.volume.names(node)?;
        let entry =
            |name: &[u8], node| Entry { name: name.to_vec(), node, kind: Kind::Directory, at: 0 };
        let mut entries: Vec<Entry> = names.iter().map(|n| entry(&n.name, n.node)).collect();
        drop(names);
        entries.extend([entry(b".", node), entry(b"..", node)]);
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        directory::check(&entries)?;
        let blocks = Blocks::new(&entries);
        attributes.size = blocks.size;
        let mut inode = self.inode(node, attributes)?;
        // Each name could be a directory, whose `..` is a link.
        inode.extended |= entries.len() > usize::from(u16::MAX);
        let (at, body, is_inline) = self.place(&inode, blocks.size)?;
        let written = Written { at, kind: Kind::Directory, extended: inode.extended, links: 1 };
        ensure!(
            self.nodes.insert(node, written).is_none(),
            "the directory is in two places: the file system is broken"
        );
        let mut open =
            Open { inode, at, entries, blocks, body, is_inline, pending: Vec::new(), name };
        self.files(&mut open, parent.unwrap_or(at))?;
        Ok(open)
    }

    /// Writes what is in a directory, except for directories.
    fn files(&mut self, open: &mut Open, parent: u64) -> Result<()> {
        for (number, entry) in open.entries.iter_mut().enumerate() {
            match &entry.name[..] {
                b"." => entry.at = open.at,
                b".." => entry.at = parent,
                name => {
                    let shown = || format!("reading {:?} in it", String::from_utf8_lossy(name));
                    let attributes = self.volume.attributes(entry.node).with_context(shown)?;
                    entry.kind = attributes.kind;
                    if attributes.kind == Kind::Directory {
                        open.pending.push((number, attributes));
                    } else {
                        entry.at = self.file(entry.node, attributes).with_context(shown)?;
                    }
                }
            }
        }
        open.pending.reverse();
        Ok(())
    }

    /// Writes a directory whose names are all there.
    fn close(&mut self, open: &Open) -> Result<()> {
        let below = open.entries.iter().filter(|entry| entry.kind == Kind::Directory).count();
        // With its name and its `.`; `.` and `..` are among those that were counted.
        let inode = Inode {
            attributes: Attributes { links: below as u32, ..open.inode.attributes.clone() },
            xattrs: open.inode.xattrs.clone(),
            ..open.inode
        };
        let bytes = open.blocks.encode(&open.entries);
        let split = if open.is_inline { bytes.len() & !(BLOCK as usize - 1) } else { bytes.len() };
        self.put(open.body * BLOCK, &bytes[..split])?;
        let layout = if open.is_inline { INLINE } else { PLAIN };
        let mut head = inode.encode(layout, open.body as u32);
        head.extend_from_slice(&bytes[split..]);
        self.put(open.at, &head)
    }

    /// Writes anything but a directory, unless another name of it did; returns where its inode is.
    fn file(&mut self, node: u64, mut attributes: Attributes) -> Result<u64> {
        if let Some(written) = self.nodes.get_mut(&node) {
            written.links += 1;
            return Ok(written.at);
        }
        let kind = attributes.kind;
        let target = match kind {
            Kind::Link => self.volume.target(node)?,
            _ => Vec::new(),
        };
        match kind {
            Kind::File => {}
            _ => attributes.size = target.len() as u64,
        }
        let inode = self.inode(node, attributes)?;
        let at = match kind {
            Kind::File => self.regular(node, &inode)?,
            Kind::Link => self.link(&inode, &target)?,
            _ => {
                let at = self.space.inode(inode.size())?;
                let place = match kind {
                    Kind::Character | Kind::Block => inode::device(inode.attributes.device)?,
                    _ => 0,
                };
                self.put(at, &inode.encode(PLAIN, place))?;
                at
            }
        };
        let extended = inode.extended;
        self.nodes.insert(node, Written { at, kind, extended, links: 1 });
        Ok(at)
    }

    fn regular(&mut self, node: u64, inode: &Inode) -> Result<u64> {
        let size = inode.attributes.size;
        let is_inline = fits_behind(inode, size);
        let mut content = Content::new(self.image, &mut self.space, size, is_inline);
        self.volume.content(node, &mut |offset, bytes| content.piece(offset, bytes))?;
        let (head, rest) = match content.finish()? {
            Place::Flat(first, tail) => {
                let layout = if is_inline { INLINE } else { PLAIN };
                (inode.encode(layout, first), tail)
            }
            Place::Chunks(bits, map) => {
                self.chunked = true;
                (inode.encode(CHUNKED, bits), map.iter().flat_map(|n| n.to_le_bytes()).collect())
            }
        };
        let bytes = [head, rest].concat();
        let at = self.space.inode(bytes.len() as u64)?;
        self.put(at, &bytes)?;
        Ok(at)
    }

    fn link(&mut self, inode: &Inode, target: &[u8]) -> Result<u64> {
        // The page that the kernel reads it into (Linux, `page_get_link`).
        ensure!(target.len() < BLOCK as usize, "the link's target is too long");
        let (at, body, is_inline) = self.place(inode, target.len() as u64)?;
        let (layout, behind): (_, &[u8]) = if is_inline { (INLINE, target) } else { (PLAIN, b"") };
        if !is_inline {
            self.put(body * BLOCK, target)?;
        }
        self.put(at, &[&inode.encode(layout, body as u32)[..], behind].concat())?;
        Ok(at)
    }

    /// Where an inode is put, the first block of its content, and whether the end of that lies behind it.
    fn place(&mut self, inode: &Inode, size: u64) -> Result<(u64, u64, bool)> {
        let is_inline = fits_behind(inode, size);
        let (behind, blocks) = match is_inline {
            true => (size % BLOCK, size / BLOCK),
            false => (0, size.div_ceil(BLOCK)),
        };
        let at = self.space.inode(inode.size() + behind)?;
        let body = if blocks == 0 { 0 } else { self.space.blocks(blocks)? };
        Ok((at, body, is_inline))
    }

    fn inode(&mut self, node: u64, attributes: Attributes) -> Result<Inode> {
        self.count = self.count.checked_add(1).context("there are more than 2^32 files")?;
        ensure!(attributes.size <= i64::MAX as u64, "it is larger than a file can be");
        let xattrs = inode::xattrs(self.volume.xattrs(node)?)?;
        let extended = inode::needs_extended(&attributes, self.epoch);
        let attributes = Attributes { links: 1, ..attributes };
        Ok(Inode { attributes, xattrs, extended, number: self.count })
    }

    fn put(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.image.write_all_at(bytes, at).context("writing the image")
    }

    /// Writes what is known only now: how many names each file has, and the superblock.
    fn finish(&mut self, root: u64) -> Result<()> {
        for written in self.nodes.values() {
            if written.kind != Kind::Directory && written.links > 1 {
                let (at, bytes) = inode::links(written.extended, written.links)?;
                self.put(written.at + at, &bytes)?;
            }
        }
        let Ok(root) = u16::try_from(root / SLOT) else {
            bail!("the root directory has too many attributes");
        };
        let blocks = self.space.end();
        self.image.set_len(blocks * BLOCK).context("writing the image")?;
        let mut bytes = vec![0; (BLOCK - SUPER_OFFSET) as usize];
        self.image.read_exact_at(&mut bytes, SUPER_OFFSET).context("reading the image")?;
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC.to_le_bytes());
        put(8, &(COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
        put(12, &[BLOCK_BITS]);
        put(14, &root.to_le_bytes());
        put(16, &u64::from(self.count).to_le_bytes());
        put(24, &self.epoch.0.to_le_bytes());
        put(32, &self.epoch.1.to_le_bytes());
        put(36, &(blocks as u32).to_le_bytes());
        put(80, &(if self.chunked { INCOMPAT_CHUNKED } else { 0 }).to_le_bytes());
        // The kernel's own crc32c() leaves the complement at the end out.
        let sum = !crc32c::sum(&bytes);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        debug_assert!(bytes.len() > SUPER_SIZE);
        self.put(SUPER_OFFSET, &bytes)
    }
}

/// Whether what follows the whole blocks of its content can lie in one block with the inode.
fn fits_behind(inode: &Inode, size: u64) -> bool {
    let tail = size % BLOCK;
    tail > 0 && inode.size() + tail <= BLOCK
}

/// For messages.
fn path(above: &[Open], last: &Open) -> String {
    let names = above.iter().chain([last]).skip(1);
    let path: String =
        names.map(|open| format!("/{}", String::from_utf8_lossy(&open.name))).collect();
    if path.is_empty() { "the root directory".into() } else { path }
}
