//! btrfs on one device (Linux, include/uapi/linux/btrfs_tree.h; btrfs documentation, "On-disk format"): the
//! default subvolume, those in it as directories. Content may be compressed with zlib, LZO or Zstandard.
//!
//! It is read as of its last commit: what was only logged after that is not there. Metadata is checked by its CRC-32C.
//! Stripes over several devices, extent tree 2 and stripe trees are refused.

mod chunks;
mod content;
mod tree;

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use super::Format;
use crate::field::{byte, le, slice};
use crate::{Attribute, Attributes, Blocks, Kind, Name, Piece, Volume, crc32c};
use chunks::Chunks;
use tree::{Key, Trees};

/// The format.
pub(super) struct Btrfs;

const SUPER_OFFSET: u64 = 64 << 10;
const SUPER_SIZE: usize = 4096;
const MAGIC: &[u8; 8] = b"_BHRfS_M";

/// Trees and their root directory, and the first inode of each subvolume.
const FS_TREE: u64 = 5;
const ROOT_DIRECTORY: u64 = 6;
const FIRST_INODE: u64 = 256;

/// Kinds of items.
const INODE: u8 = 1;
const XATTR: u8 = 24;
const DIR_ITEM: u8 = 84;
const DIR_INDEX: u8 = 96;
const EXTENT_DATA: u8 = 108;
const ROOT: u8 = 132;

/// Features that change nothing for who reads: mixed references and groups, the default subvolume, compressions,
/// large metadata, long references, RAID (its stripes are looked at), small items, no holes, a UUID of its own for
/// metadata, three and four copies, zones, simple quotas.
const KNOWN: u64 = 0x1_1fff;

impl Format for Btrfs {
    fn name(&self) -> &'static str {
        "btrfs"
    }

    fn recognises(&self, blocks: &dyn Blocks) -> Result<bool> {
        super::is_marked(blocks, SUPER_OFFSET + SUPER_SIZE as u64, SUPER_OFFSET + 64, MAGIC)
    }

    fn identity(&self, blocks: &dyn Blocks) -> Result<super::Identity> {
        let mut bytes = [0; 555];
        blocks.read_at(SUPER_OFFSET, &mut bytes)?;
        Ok(super::Identity::of(&bytes[32..48], &bytes[299..555]))
    }

    fn open(&self, blocks: Arc<dyn Blocks>) -> Result<Box<dyn Volume>> {
        Ok(Box::new(Reader::new(blocks)?))
    }
}

struct Reader {
    trees: Trees,
    /// The tree of trees.
    roots: (u64, u8),
    sector: usize,
    /// Subvolumes' trees that were found.
    subvolumes: HashMap<u64, (u64, u8)>,
    /// A node is an inode of a subvolume: its number is its place here.
    nodes: Vec<(u64, u64)>,
    numbers: HashMap<(u64, u64), u64>,
}

/// A name in a directory, or an attribute.
struct Item<'a> {
    location: Key,
    name: &'a [u8],
    data: &'a [u8],
}

/// Those in an item: where names have the same hash there are several.
fn items(mut bytes: &[u8]) -> Result<Vec<Item<'_>>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (data, name) = (usize::from(le::u16(bytes, 25)?), usize::from(le::u16(bytes, 27)?));
        found.push(Item {
            location: Key::read(bytes, 0)?,
            name: slice(bytes, 30, name)?,
            data: slice(bytes, 30 + name, data)?,
        });
        bytes = &bytes[30 + name + data..];
    }
    Ok(found)
}

impl Reader {
    fn new(blocks: Arc<dyn Blocks>) -> Result<Self> {
        let mut head = vec![0; SUPER_SIZE];
        blocks.read_at(SUPER_OFFSET, &mut head).context("reading the superblock")?;
        let is_crc = le::u16(&head, 196)? == 0;
        ensure!(
            !is_crc || le::u32(&head, 0)? == crc32c::sum(&head[32..]),
            "its superblock is damaged: the checksum is wrong"
        );
        let unknown = le::u64(&head, 188)? & !KNOWN;
        ensure!(unknown == 0, "it needs what is not known here: feature {unknown:#x}");
        let (sector, node) = (le::u32(&head, 144)?, le::u32(&head, 148)?);
        ensure!(
            sector.is_power_of_two()
                && (4096..=65536).contains(&sector)
                && node.is_power_of_two()
                && (4096..=65536).contains(&node),
            "its superblock is broken: blocks of {sector} and {node} bytes"
        );
        let device = le::u64(&head, 201)?;
        let array = slice(&head, 811, le::u32(&head, 160)?.min(2048) as usize)?;
        let chunks = Chunks::new(device, array)?;
        let mut trees = Trees::new(blocks, chunks, node as usize, is_crc);
        trees
            .read_chunks((le::u64(&head, 88)?, byte(&head, 199)?))
            .context("reading its chunks")?;
        let mut reader = Self {
            trees,
            roots: (le::u64(&head, 80)?, byte(&head, 198)?),
            sector: sector as usize,
            subvolumes: HashMap::new(),
            nodes: Vec::new(),
            numbers: HashMap::new(),
        };
        let subvolume = reader.default_subvolume().context("looking for its default subvolume")?;
        reader.subvolume(subvolume)?;
        reader.number(subvolume, FIRST_INODE);
        let root = reader.attributes(0).context("reading the root directory")?;
        ensure!(root.kind == Kind::Directory, "its root is no directory");
        Ok(reader)
    }

    /// Which one a mount without options shows.
    fn default_subvolume(&mut self) -> Result<u64> {
        let mut found = FS_TREE;
        let (from, to) = Key::all(ROOT_DIRECTORY, DIR_ITEM);
        self.trees.walk(self.roots, from, to, &mut |_, bytes| {
            for item in items(bytes)? {
                if item.name == b"default" {
                    found = item.location.object;
                }
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The tree of a subvolume.
    fn subvolume(&mut self, id: u64) -> Result<(u64, u8)> {
        if let Some(root) = self.subvolumes.get(&id) {
            return Ok(*root);
        }
        let mut found = None;
        let (from, to) = Key::all(id, ROOT);
        // The last one counts: snapshots have the transaction in their key.
        self.trees.walk(self.roots, from, to, &mut |_, bytes| {
            found = Some((le::u64(bytes, 176)?, byte(bytes, 238)?));
            Ok(())
        })?;
        let root = found.with_context(|| format!("there is no subvolume {id}"))?;
        self.subvolumes.insert(id, root);
        Ok(root)
    }

    fn number(&mut self, subvolume: u64, inode: u64) -> u64 {
        let next = self.nodes.len() as u64;
        let number = *self.numbers.entry((subvolume, inode)).or_insert(next);
        if number == next {
            self.nodes.push((subvolume, inode));
        }
        number
    }

    /// Looks at a node's items of one kind, in order.
    fn walk(
        &mut self,
        node: u64,
        kind: u8,
        each: &mut dyn FnMut(Key, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let known = usize::try_from(node).ok().and_then(|n| self.nodes.get(n));
        let (subvolume, inode) = *known.context("there is no such node")?;
        let root = self.subvolume(subvolume)?;
        let (from, to) = Key::all(inode, kind);
        self.trees.walk(root, from, to, each)
    }

    fn inode(&mut self, node: u64) -> Result<Attributes> {
        let mut found = None;
        self.walk(node, INODE, &mut |_, bytes| {
            found = Some(inode(bytes)?);
            Ok(())
        })?;
        found.context("there is no such inode")
    }
}

fn inode(bytes: &[u8]) -> Result<Attributes> {
    let mode = le::u32(bytes, 52)?;
    let kind = super::kind_of(mode)?;
    let size = le::u64(bytes, 16)?;
    ensure!(size <= i64::MAX as u64, "a file has a size below zero");
    let device = le::u64(bytes, 56)?;
    Ok(Attributes {
        kind,
        mode: mode & 0o7777,
        uid: le::u32(bytes, 44)?,
        gid: le::u32(bytes, 48)?,
        mtime: (le::i64(bytes, 136)?, le::u32(bytes, 144)?),
        size: if matches!(kind, Kind::File | Kind::Link) { size } else { 0 },
        links: le::u32(bytes, 40)?,
        device: match kind {
            // As the kernel has them in memory (linux/kdev_t.h, MKDEV).
            Kind::Character | Kind::Block => {
                ((device >> 20 & 0xfff) as u32, (device & 0xf_ffff) as u32)
            }
            _ => (0, 0),
        },
    })
}

impl Volume for Reader {
    fn root(&self) -> u64 {
        0
    }

    fn attributes(&mut self, node: u64) -> Result<Attributes> {
        self.inode(node)
    }

    fn names(&mut self, directory: u64) -> Result<Vec<Name>> {
        ensure!(self.inode(directory)?.kind == Kind::Directory, "it is no directory");
        let (subvolume, _) = self.nodes[directory as usize];
        let mut found = Vec::new();
        self.walk(directory, DIR_INDEX, &mut |_, bytes| {
            for item in items(bytes)? {
                super::check_name(item.name)?;
                let inode = match item.location.kind {
                    INODE => (subvolume, item.location.object),
                    ROOT => (item.location.object, FIRST_INODE),
                    other => bail!("a name leads to an item of the kind {other}"),
                };
                found.push((item.name.to_vec(), inode));
            }
            Ok(())
        })?;
        let names = found
            .into_iter()
            .map(|(name, (subvolume, inode))| Name { name, node: self.number(subvolume, inode) });
        Ok(names.collect())
    }

    fn target(&mut self, link: u64) -> Result<Vec<u8>> {
        let inode = self.inode(link)?;
        ensure!(inode.kind == Kind::Link, "it is no symbolic link");
        let mut target = Vec::new();
        self.extents(link, inode.size, &mut |_, bytes| {
            target.extend_from_slice(bytes);
            Ok(())
        })?;
        ensure!(target.len() as u64 == inode.size, "a symbolic link's target has a hole");
        Ok(target)
    }

    fn xattrs(&mut self, node: u64) -> Result<Vec<Attribute>> {
        let mut found = Vec::new();
        self.walk(node, XATTR, &mut |_, bytes| {
            for item in items(bytes)? {
                found.push((item.name.to_vec(), item.data.to_vec()));
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn content(&mut self, file: u64, piece: &mut Piece<'_>) -> Result<()> {
        let inode = self.inode(file)?;
        ensure!(inode.kind == Kind::File, "it is no regular file");
        self.extents(file, inode.size, piece)
    }
}
