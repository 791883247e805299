//! ISO 9660 (ECMA-119) with Rock Ridge (IEEE P1282) or Joliet, as Linux shows it.

mod rock_ridge;

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use super::Identity;
use super::fat::days_before;
use crate::bytes::le32;
use crate::cache::Cached;
use crate::span::inside;
use crate::{Attribute, Attributes, Blocks, Kind, Name, Piece, Volume};
use rock_ridge::{Extra, Packed};

pub(super) struct Format;

const SECTOR: u64 = 2048;
/// Descriptors begin there.
const FIRST: u64 = 16;
const MAX_DESCRIPTORS: u64 = 64;
/// Far beyond every real directory: bytes.
const MAX_DIRECTORY: u64 = 64 << 20;
const PIECE: u64 = 1 << 20;

/// Flags of a record.
const DIRECTORY: u8 = 0x02;
const GOES_ON: u8 = 0x80;

impl super::Format for Format {
    fn name(&self) -> &'static str {
        "iso9660"
    }

    fn recognises(&self, blocks: &dyn Blocks) -> Result<bool> {
        super::is_marked(blocks, (FIRST + 1) * SECTOR, FIRST * SECTOR + 1, b"CD001")
    }

    fn identity(&self, blocks: &dyn Blocks) -> Result<Identity> {
        let mut sector = [0; SECTOR as usize];
        blocks.read_at(FIRST * SECTOR, &mut sector)?;
        let label = String::from_utf8_lossy(&sector[40..72]).trim_end().to_owned();
        // As udev has it: the time at which it was made, or changed.
        let time = [813, 830].map(|at| &sector[at..at + 16]);
        let time = time.into_iter().rev().find(|time| time.iter().any(|b| !matches!(b, b'0' | 0)));
        let text = String::from_utf8_lossy(time.unwrap_or_default());
        let parts = [0..4, 4..6, 6..8, 8..10, 10..12, 12..14, 14..16];
        let parts: Vec<&str> = parts.into_iter().filter_map(|range| text.get(range)).collect();
        Ok(Identity { uuid: parts.join("-"), label })
    }

    fn open(&self, blocks: Arc<dyn Blocks>) -> Result<Box<dyn Volume>> {
        let mut iso = Iso {
            tables: Cached::new(blocks.clone()),
            blocks,
            joliet: false,
            skip: None,
            root: 0,
            nodes: HashMap::new(),
        };
        iso.begin()?;
        Ok(Box::new(iso))
    }
}

/// What a directory says of something.
#[derive(Debug, Clone)]
struct Node {
    attributes: Attributes,
    /// Where its content is, and how many bytes.
    extents: Vec<(u64, u64)>,
    target: Vec<u8>,
    packed: Option<Packed>,
}

struct Iso {
    blocks: Arc<dyn Blocks>,
    tables: Cached,
    joliet: bool,
    /// Of Rock Ridge: bytes of each record's room that are somebody else's.
    skip: Option<usize>,
    root: u64,
    /// By where their content, or, where they have none, their record is.
    nodes: HashMap<u64, Node>,
}

/// One record of a directory.
struct Record<'a> {
    at: u64,
    bytes: &'a [u8],
}

impl Record<'_> {
    fn extent(&self) -> (u64, u64) {
        // After the extended attributes of its own, which nobody has.
        let start = u64::from(le32(self.bytes, 2)) + u64::from(self.bytes[1]);
        (start * SECTOR, le32(self.bytes, 10).into())
    }

    fn flags(&self) -> u8 {
        self.bytes[25]
    }

    fn name(&self) -> &[u8] {
        &self.bytes[33..33 + usize::from(self.bytes[32])]
    }

    /// What follows the name: Rock Ridge's room.
    fn room(&self) -> &[u8] {
        let end = 33 + usize::from(self.bytes[32]);
        self.bytes.get(end + usize::from(self.bytes[32].is_multiple_of(2))..).unwrap_or_default()
    }

    /// Seconds since the epoch (9.1.5).
    fn time(&self) -> i64 {
        rock_ridge::short_time(&self.bytes[18..25])
    }
}

impl Iso {
    fn begin(&mut self) -> Result<()> {
        let (mut primary, mut joliet) = (None, None);
        for index in 0..MAX_DESCRIPTORS {
            let mut sector = [0; SECTOR as usize];
            self.blocks.read_at((FIRST + index) * SECTOR, &mut sector)?;
            ensure!(&sector[1..6] == b"CD001", "its list of descriptors is damaged");
            let root = sector[156..190].to_vec();
            let is_joliet = matches!(&sector[88..91], b"%/@" | b"%/C" | b"%/E");
            match sector[0] {
                255 => break,
                1 if primary.is_none() => {
                    let block = crate::bytes::le16(&sector, 128);
                    ensure!(u64::from(block) == SECTOR, "its blocks have {block} bytes");
                    primary = Some(root);
                }
                2 if is_joliet => joliet = Some(root),
                _ => {}
            }
        }
        let primary = primary.context("it has no primary descriptor")?;
        let record = Record { at: 0, bytes: &primary };
        // The root's own record, of which there is another one in itself, tells of Rock Ridge.
        let bytes = self.read(&[record.extent()])?;
        let own = records(record.extent().0, &bytes).next().context("its root is empty")??;
        self.skip = rock_ridge::begins(own.room());
        let use_joliet = self.skip.is_none() && joliet.is_some();
        self.joliet = use_joliet;
        match joliet.filter(|_| use_joliet) {
            Some(root) => self.root = self.add(&[Record { at: 1, bytes: &root }])?.1,
            None if self.skip.is_some() => self.root = self.add(&[own])?.1,
            None => self.root = self.add(&[record])?.1,
        }
        Ok(())
    }

    fn read(&self, extents: &[(u64, u64)]) -> Result<Vec<u8>> {
        let sum: u64 = extents.iter().map(|(_, length)| length).sum();
        ensure!(sum <= MAX_DIRECTORY, "a directory has {sum} bytes");
        let mut bytes = Vec::new();
        for (at, length) in extents {
            inside(*at, *length, self.blocks.size())?;
            let start = bytes.len();
            bytes.resize(start + *length as usize, 0);
            self.tables.read_at(*at, &mut bytes[start..])?;
        }
        Ok(bytes)
    }

    /// Remembers what records of one name say; gives its name by Rock Ridge and its node.
    fn add(&mut self, records: &[Record<'_>]) -> Result<(Option<Vec<u8>>, u64)> {
        let first = records.first().context("there is no record")?;
        let extra = match self.skip {
            Some(skip) => Extra::read(first.room().get(skip..).unwrap_or_default(), &self.tables)?,
            None => Extra::default(),
        };
        let mut extents: Vec<(u64, u64)> = records.iter().map(Record::extent).collect();
        if let Some(at) = extra.moved_from {
            // A directory that is too deep is elsewhere; its own record there says how long it is.
            let mut head = [0; 34];
            let at = u64::from(at) * SECTOR;
            self.tables.read_at(at, &mut head)?;
            extents = vec![(at, le32(&head, 10).into())];
            let bytes = self.read(&extents)?;
            let own = self::records(at, &bytes).next().context("a moved directory is empty")??;
            let (_, node) = self.add(&[own])?;
            return Ok((extra.name, node));
        }
        let is_directory = first.flags() & DIRECTORY != 0;
        let size: u64 = extents.iter().map(|(_, length)| length).sum();
        let mode = extra.mode.unwrap_or(if is_directory { 0o040_555 } else { 0o100_555 });
        let kind = match mode >> 12 {
            4 => Kind::Directory,
            10 => Kind::Link,
            1 => Kind::Fifo,
            2 => Kind::Character,
            6 => Kind::Block,
            12 => Kind::Socket,
            _ => Kind::File,
        };
        ensure!(is_directory == (kind == Kind::Directory), "a record is of two kinds");
        let attributes = Attributes {
            kind,
            mode: mode & 0o7777,
            uid: extra.uid,
            gid: extra.gid,
            mtime: (extra.mtime.unwrap_or_else(|| first.time()), 0),
            size: match kind {
                Kind::File => extra.packed.map_or(size, |packed| packed.size),
                Kind::Link => extra.target.len() as u64,
                _ => 0,
            },
            // Names of the same file lead to the same extent, or have the same number.
            links: if kind == Kind::Directory { 1 } else { extra.links.max(1) },
            device: if matches!(kind, Kind::Character | Kind::Block) {
                extra.device
            } else {
                (0, 0)
            },
        };
        let node = match (kind, extra.inode) {
            (Kind::Directory, _) => extents[0].0,
            (_, Some(inode)) if extra.links > 1 => u64::from(inode) | 1 << 62,
            (Kind::File, _) if size > 0 && extra.links > 1 => extents[0].0 | 1 << 61,
            _ => first.at | 1 << 60,
        };
        let Extra { target, packed, name, .. } = extra;
        self.nodes.insert(node, Node { attributes, extents, target, packed });
        Ok((name, node))
    }

    fn node(&self, node: u64) -> Result<&Node> {
        self.nodes.get(&node).with_context(|| format!("there is no node {node}"))
    }

    /// The name that a record has without Rock Ridge; `None` for the directory itself and its parent.
    fn plain_name(&self, raw: &[u8]) -> Option<Vec<u8>> {
        if matches!(raw, [0] | [1]) {
            return None;
        }
        if self.joliet {
            let units = raw.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]]));
            let name = String::from_utf16_lossy(&units.collect::<Vec<_>>());
            return Some(name.strip_suffix(";1").unwrap_or(&name).as_bytes().to_vec());
        }
        // As Linux maps it by default: lower case, without the version and a dot at the end.
        let name = raw.strip_suffix(b";1").unwrap_or(raw);
        let name = name.strip_suffix(b".").unwrap_or(name);
        Some(name.to_ascii_lowercase())
    }
}

/// The records in a directory's bytes: none goes over the end of a sector.
fn records(start: u64, bytes: &[u8]) -> impl Iterator<Item = Result<Record<'_>>> {
    let mut at = 0_usize;
    std::iter::from_fn(move || {
        loop {
            let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
            let length = usize::from(rest[0]);
            if length == 0 {
                at = (at / SECTOR as usize + 1) * SECTOR as usize;
                continue;
            }
            let record = rest.get(..length).filter(|record| {
                record.len() >= 34 && 33 + usize::from(record[32]) <= record.len()
            });
            let found = Record { at: start + at as u64, bytes: record.unwrap_or_default() };
            at += length;
            return Some(match record {
                Some(_) => Ok(found),
                None => {
                    at = bytes.len();
                    Err(anyhow::anyhow!("a record of {length} bytes"))
                }
            });
        }
    })
}

impl Volume for Iso {
    fn root(&self) -> u64 {
        self.root
    }

    fn attributes(&mut self, node: u64) -> Result<Attributes> {
        Ok(self.node(node)?.attributes.clone())
    }

    fn names(&mut self, directory: u64) -> Result<Vec<Name>> {
        let node = self.node(directory)?;
        ensure!(node.attributes.kind == Kind::Directory, "it is no directory");
        let start = node.extents.first().map_or(0, |(at, _)| *at);
        let bytes = self.read(&node.extents)?;
        let mut names = Vec::new();
        let mut parts: Vec<Record<'_>> = Vec::new();
        for record in records(start, &bytes) {
            let record = record?;
            let goes_on = record.flags() & GOES_ON != 0;
            let plain = self.plain_name(record.name());
            let hidden = self.skip.is_some_and(|skip| {
                record.room().get(skip..).is_some_and(rock_ridge::is_moved_away)
            });
            parts.push(record);
            ensure!(parts.len() <= 1 << 16, "a file has too many parts");
            if goes_on {
                continue;
            }
            let parts = std::mem::take(&mut parts);
            let (Some(plain), false) = (plain, hidden) else { continue };
            let (name, node) = self.add(&parts)?;
            let name = name.unwrap_or(plain);
            let bad = matches!(&name[..], b"" | b"." | b"..") || name.contains(&b'/');
            ensure!(
                !bad && !name.contains(&0),
                "it has a name that cannot be: {:?}",
                String::from_utf8_lossy(&name)
            );
            names.push(Name { name, node });
        }
        Ok(names)
    }

    fn target(&mut self, link: u64) -> Result<Vec<u8>> {
        let node = self.node(link)?;
        ensure!(node.attributes.kind == Kind::Link, "it is no symbolic link");
        Ok(node.target.clone())
    }

    fn xattrs(&mut self, _: u64) -> Result<Vec<Attribute>> {
        Ok(Vec::new())
    }

    fn content(&mut self, file: u64, piece: &mut Piece<'_>) -> Result<()> {
        let node = self.node(file)?.clone();
        if node.attributes.kind != Kind::File {
            bail!("it is no regular file");
        }
        if let Some(packed) = node.packed {
            let (at, length) = node.extents[0];
            return packed.unpack(&*self.blocks, at, length, piece);
        }
        let (mut offset, mut buffer) = (0, Vec::new());
        for (at, length) in node.extents {
            inside(at, length, self.blocks.size())?;
            for start in (0..length).step_by(PIECE as usize) {
                buffer.resize(PIECE.min(length - start) as usize, 0);
                self.blocks.read_at(at + start, &mut buffer)?;
                piece(offset, &buffer)?;
                offset += buffer.len() as u64;
            }
        }
        Ok(())
    }
}

/// Days from the epoch to a day.
fn days(year: i64, month: u8, day: u8) -> i64 {
    days_before(year, i64::from(month.clamp(1, 12))) + i64::from(day.max(1)) - 1
}
