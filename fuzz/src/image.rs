//! Images of disks in few bytes, and trees in memory.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Result, bail, ensure};
use disk::{Attribute, Attributes, Blocks, Kind, Name, Piece, Volume};

#[allow(dead_code)]
#[path = "../../crates/disk/src/crc32c.rs"]
mod crc32c;

const SECTOR: u64 = 512;
const BTRFS: u64 = 64 << 10;

/// Records of a sector's number (four bytes), a number of sectors (two), and those; the rest is zeros.
pub struct Sparse<'a> {
    pieces: BTreeMap<u64, &'a [u8]>,
    is_btrfs: bool,
}

impl<'a> Sparse<'a> {
    pub fn new(mut bytes: &'a [u8]) -> Self {
        let mut pieces = BTreeMap::new();
        while let [a, b, c, d, e, f, rest @ ..] = bytes {
            let length = usize::from(u16::from_le_bytes([*e, *f])) * SECTOR as usize;
            let (piece, rest) = rest.split_at(length.min(rest.len()));
            pieces.insert(u64::from(u32::from_le_bytes([*a, *b, *c, *d])) * SECTOR, piece);
            bytes = rest;
        }
        let mut sparse = Self { pieces, is_btrfs: false };
        let mut magic = [0; 8];
        sparse.fill(BTRFS + 64, &mut magic);
        sparse.is_btrfs = &magic == b"_BHRfS_M";
        sparse
    }

    fn fill(&self, offset: u64, buffer: &mut [u8]) {
        buffer.fill(0);
        let end = offset + buffer.len() as u64;
        for (&at, piece) in self.pieces.range(..end).rev().take(64) {
            let from = at.max(offset);
            let to = (at + piece.len() as u64).min(end);
            if from < to {
                buffer[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&piece[(from - at) as usize..(to - at) as usize]);
            }
        }
    }
}

/// Holds nothing that is not `'static`.
pub struct Owned(pub Vec<u8>);

impl Blocks for Owned {
    fn size(&self) -> u64 {
        8 << 30
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        ensure!(end.is_some_and(|end| end <= self.size()), "beyond the end");
        let sparse = Sparse::new(&self.0);
        sparse.fill(offset, buffer);
        // Sums would keep all that is changed away from what is behind them.
        if sparse.is_btrfs && buffer.len() >= 4096 {
            let sum = crc32c::sum(&buffer[32..]);
            buffer[..4].copy_from_slice(&sum.to_le_bytes());
        }
        if offset == 1024 && buffer.len() > 12 && buffer[..4] == 0xE0F5_E1E2_u32.to_le_bytes() {
            buffer[8] &= !1;
        }
        Ok(())
    }

    fn is_hole(&self, offset: u64, length: u64) -> bool {
        let sparse = Sparse::new(&self.0);
        let end = offset.saturating_add(length);
        !sparse.pieces.iter().any(|(at, piece)| *at < end && *at + piece.len() as u64 > offset)
    }
}

/// Looks at everything, as far as it can be read, and not for ever.
pub fn walk(volume: &mut dyn Volume) {
    let mut todo = vec![volume.root()];
    let mut seen = HashSet::new();
    let mut left = 16_u64 << 20;
    while let Some(node) = todo.pop() {
        if seen.len() > 500 || !seen.insert(node) {
            continue;
        }
        let _ = volume.xattrs(node);
        let Ok(attributes) = volume.attributes(node) else { continue };
        match attributes.kind {
            Kind::Directory => {
                todo.extend(volume.names(node).unwrap_or_default().iter().map(|name| name.node));
            }
            Kind::Link => drop(volume.target(node)),
            Kind::File => {
                let _ = volume.content(node, &mut |_, bytes| {
                    left = left.saturating_sub(bytes.len() as u64 + 1);
                    ensure!(left > 0, "enough");
                    Ok(())
                });
            }
            _ => {}
        }
    }
}

/// A tree that is made of bytes: each node takes some.
pub struct Memory {
    nodes: Vec<Node>,
}

struct Node {
    attributes: Attributes,
    names: Vec<Name>,
    xattrs: Vec<Attribute>,
    pieces: Vec<(u64, Vec<u8>)>,
}

impl Memory {
    pub fn new(bytes: &[u8]) -> Self {
        let mut bytes = bytes.iter().copied();
        let mut nodes: Vec<Node> = Vec::new();
        let mut directories = vec![0];
        while nodes.len() < 300 {
            let mut byte = || u64::from(bytes.next().unwrap_or(0));
            let what = byte();
            if what == 0 && !nodes.is_empty() {
                break;
            }
            let kind = match (nodes.len(), what % 8) {
                (0, _) | (_, 0) => Kind::Directory,
                (_, 1) => Kind::Link,
                (_, 2) => Kind::Character,
                (_, 3) => Kind::Socket,
                _ => Kind::File,
            };
            let number = nodes.len() as u64;
            let size = match kind {
                Kind::File => byte() << (byte() % 30),
                Kind::Link => 1 + byte() * 16 % 4095,
                _ => 0,
            };
            let attributes = Attributes {
                kind,
                mode: (byte() << 4) as u32 & 0o7777,
                uid: byte() as u32 * 500_009,
                gid: byte() as u32,
                mtime: (byte() as i64 * 1_000_003 - 100_000_000, byte() as u32 % 2),
                size,
                links: 1,
                device: if kind == Kind::Character { (byte() as u32, 1000) } else { (0, 0) },
            };
            let fill = byte() as u8 | 1;
            let xattrs = (0..byte() % 4)
                .map(|n| (format!("user.{n}").into_bytes(), vec![fill; byte() as usize * 20]))
                .collect();
            let mut pieces = Vec::new();
            let mut at = 0;
            while kind == Kind::File && at < size && pieces.len() < 20 {
                let (skip, length) = (byte() * 997 * (byte() % 3), byte() * 131 + 1);
                at += skip;
                if at < size {
                    pieces.push((at, vec![fill; length.min(size - at) as usize]));
                }
                at += length;
            }
            if kind == Kind::Link {
                pieces.push((0, vec![fill; size as usize]));
            }
            nodes.push(Node { attributes, names: Vec::new(), xattrs, pieces });
            if number > 0 {
                let names = 1 + if kind == Kind::Directory { 0 } else { byte() % 3 };
                for count in 0..names {
                    let directory = directories[byte() as usize % directories.len()];
                    let mut name = format!("{number}-{count}-").into_bytes();
                    name.resize(name.len() + byte() as usize % 200, fill.max(48));
                    nodes[directory].names.push(Name { name, node: number });
                }
                nodes[number as usize].attributes.links = names as u32;
                if kind == Kind::Directory {
                    directories.push(number as usize);
                }
            }
        }
        Self { nodes }
    }
}

impl Volume for Memory {
    fn root(&self) -> u64 {
        0
    }

    fn attributes(&mut self, node: u64) -> Result<Attributes> {
        Ok(self.nodes[node as usize].attributes.clone())
    }

    fn names(&mut self, directory: u64) -> Result<Vec<Name>> {
        Ok(self.nodes[directory as usize].names.clone())
    }

    fn target(&mut self, link: u64) -> Result<Vec<u8>> {
        Ok(self.nodes[link as usize].pieces[0].1.clone())
    }

    fn xattrs(&mut self, node: u64) -> Result<Vec<Attribute>> {
        Ok(self.nodes[node as usize].xattrs.clone())
    }

    fn content(&mut self, file: u64, piece: &mut Piece<'_>) -> Result<()> {
        self.nodes[file as usize].pieces.iter().try_for_each(|(at, bytes)| piece(*at, bytes))
    }
}

/// Makes sure that two are the same, except for how directories count their links.
pub fn same(a: &mut dyn Volume, b: &mut dyn Volume) -> Result<()> {
    let mut todo = vec![(a.root(), b.root())];
    let mut pairs = BTreeMap::new();
    while let Some((left, right)) = todo.pop() {
        if let Some(other) = pairs.insert(left, right) {
            ensure!(other == right, "a hard link is none");
            continue;
        }
        let (mut one, other) = (a.attributes(left)?, b.attributes(right)?);
        if one.kind == Kind::Directory {
            one.links = other.links;
        }
        ensure!(one == other, "{one:?} {other:?}");
        let (mut one, mut other) = (a.xattrs(left)?, b.xattrs(right)?);
        one.sort();
        other.sort();
        ensure!(one == other, "attributes");
        match a.attributes(left)?.kind {
            Kind::Directory => {
                let (mut one, mut other) = (a.names(left)?, b.names(right)?);
                one.sort_by(|x, y| x.name.cmp(&y.name));
                other.sort_by(|x, y| x.name.cmp(&y.name));
                ensure!(one.len() == other.len(), "names");
                for (one, other) in one.into_iter().zip(other) {
                    ensure!(one.name == other.name, "names");
                    todo.push((one.node, other.node));
                }
            }
            Kind::Link => ensure!(a.target(left)? == b.target(right)?, "targets"),
            Kind::File => ensure!(nonzero(a, left)? == nonzero(b, right)?, "content"),
            _ => {}
        }
    }
    Ok(())
}

/// What of a file is not zero.
fn nonzero(volume: &mut dyn Volume, file: u64) -> Result<BTreeMap<u64, Vec<u8>>> {
    let mut found: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    volume.content(file, &mut |at, bytes| {
        for (number, block) in bytes.split(|&byte| byte == 0).scan(at, |next, block| {
            let here = *next;
            *next += block.len() as u64 + 1;
            Some((here, block))
        }) {
            if block.is_empty() {
                continue;
            }
            // Pieces may be divided anywhere.
            match found.last_entry() {
                Some(mut last) if last.key() + (last.get() as &Vec<u8>).len() as u64 == number => {
                    last.get_mut().extend_from_slice(block);
                }
                _ => drop(found.insert(number, block.to_vec())),
            }
        }
        if found.len() > 1 << 20 {
            bail!("too much");
        }
        Ok(())
    })?;
    Ok(found)
}
