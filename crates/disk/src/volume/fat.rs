//! FAT12, FAT16 and FAT32 with long names (Microsoft, "FAT: General Overview of On-Disk Format"), as Linux's vfat
//! shows them to root: owned by root, 0755, local time taken for UTC.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use super::Identity;
use crate::bytes::{le16, le32};
use crate::cache::Cached;
use crate::{Attribute, Attributes, Blocks, Kind, Name, Piece, Volume};

pub(super) struct Format;

/// The root directory's node; others are where their entry is.
const ROOT: u64 = 0;
const ENTRY: usize = 32;
/// Linux's limit (fs/fat/fat.h, `FAT_MAX_DIR_SIZE`).
const MAX_DIRECTORY: u64 = 2 << 20;
const MAX_ENTRIES: usize = 1 << 20;
/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;

/// Attributes of an entry.
const READ_ONLY: u8 = 0x01;
const LABEL: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
const LONG: u8 = 0x0f;

impl super::Format for Format {
    fn name(&self) -> &'static str {
        "vfat"
    }

    fn recognises(&self, blocks: &dyn Blocks) -> Result<bool> {
        if blocks.size() < 512 {
            return Ok(false);
        }
        let mut sector = [0; 512];
        blocks.read_at(0, &mut sector)?;
        let jumps = matches!(sector[0], 0xeb | 0xe9);
        let medium = sector[21] == 0xf0 || sector[21] >= 0xf8;
        // NTFS and exFAT look alike, and have neither reserved sectors nor tables.
        Ok(jumps && medium && sector[510..] == [0x55, 0xaa] && Geometry::read(&sector).is_ok())
    }

    fn identity(&self, blocks: &dyn Blocks) -> Result<Identity> {
        let mut sector = [0; 512];
        blocks.read_at(0, &mut sector)?;
        let at = if le16(&sector, 22) == 0 { 67 } else { 39 };
        let (serial, label) = (le32(&sector, at), &sector[at + 4..at + 15]);
        let label = String::from_utf8_lossy(label).trim_end().to_owned();
        let uuid = format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff);
        Ok(Identity { uuid, label: if label == "NO NAME" { String::new() } else { label } })
    }

    fn open(&self, blocks: Arc<dyn Blocks>) -> Result<Box<dyn Volume>> {
        let mut sector = [0; 512];
        blocks.read_at(0, &mut sector)?;
        let geometry = Geometry::read(&sector)?;
        let tables = Cached::new(blocks.clone());
        Ok(Box::new(Fat { geometry, blocks, tables, nodes: HashMap::new() }))
    }
}

#[derive(Debug, Clone, Copy)]
struct Geometry {
    /// Bits of an entry of the table: 12, 16 or 32.
    bits: u32,
    /// Bytes, as all that follows.
    cluster: u64,
    table: u64,
    /// Of FAT12 and FAT16, which have a place for it.
    root: u64,
    root_size: u64,
    data: u64,
    clusters: u32,
    /// Of FAT32.
    root_cluster: u32,
}

impl Geometry {
    fn read(sector: &[u8]) -> Result<Self> {
        let bytes = u64::from(le16(sector, 11));
        ensure!(matches!(bytes, 512 | 1024 | 2048 | 4096), "its sectors have {bytes} bytes");
        let per_cluster = u64::from(sector[13]);
        ensure!(per_cluster.is_power_of_two(), "its clusters have {per_cluster} sectors");
        let (reserved, tables) = (u64::from(le16(sector, 14)), u64::from(sector[16]));
        ensure!(reserved > 0 && (1..=4).contains(&tables), "it has no table");
        let either = |short: usize, long: usize| match le16(sector, short) {
            0 => u64::from(le32(sector, long)),
            count => u64::from(count),
        };
        let (total, per_table) = (either(19, 32), either(22, 36));
        let root_size = (u64::from(le16(sector, 17)) * ENTRY as u64).next_multiple_of(bytes);
        let data = reserved + tables * per_table + root_size / bytes;
        let sectors = total.checked_sub(data).context("it is smaller than its tables")?;
        let clusters = u32::try_from(sectors / per_cluster).context("it has too many clusters")?;
        let wide = le16(sector, 22) == 0;
        let bits = match clusters {
            _ if wide => 32,
            0..4085 => 12,
            _ => 16,
        };
        let room = per_table * bytes * 8 / u64::from(bits);
        ensure!(room >= u64::from(clusters) + 2, "its table is too short");
        Ok(Self {
            bits,
            cluster: per_cluster * bytes,
            table: reserved * bytes,
            root: (reserved + tables * per_table) * bytes,
            root_size,
            data: data * bytes,
            clusters,
            root_cluster: if wide { le32(sector, 44) } else { 0 },
        })
    }
}

/// What an entry says.
#[derive(Debug, Clone)]
struct Entry {
    attributes: u8,
    first: u32,
    size: u64,
    mtime: i64,
}

struct Fat {
    geometry: Geometry,
    blocks: Arc<dyn Blocks>,
    tables: Cached,
    /// By where they are, from their directories.
    nodes: HashMap<u64, Entry>,
}

impl Fat {
    /// The cluster after one; `None` at the end.
    fn next(&self, cluster: u32) -> Result<Option<u32>> {
        let Geometry { bits, table, .. } = self.geometry;
        let mut bytes = [0; 4];
        let at = table + u64::from(cluster) * u64::from(bits) / 8;
        let length = if bits == 32 { 4 } else { 2 };
        self.tables.read_at(at, &mut bytes[..length])?;
        let value = le32(&bytes, 0);
        let (value, end) = match bits {
            12 if cluster % 2 == 1 => (value >> 4, 0xff7),
            12 => (value & 0xfff, 0xff7),
            16 => (value, 0xfff7),
            _ => (value & 0x0fff_ffff, 0x0fff_fff7),
        };
        Ok((value < end).then_some(value))
    }

    /// Stretches of a chain: where, and how many bytes; as many as reach `size`.
    fn chain(
        &self,
        first: u32,
        size: u64,
        take: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        let Geometry { cluster: bytes, data, clusters, .. } = self.geometry;
        let (mut cluster, mut left, mut count) = (Some(first), size, 0);
        let mut run: Option<(u64, u64)> = None;
        while left > 0 {
            let Some(now) = cluster else { break };
            ensure!((2..clusters + 2).contains(&now), "its chain leads to {now}");
            count += 1;
            ensure!(count <= clusters, "its chain is a loop");
            let at = data + u64::from(now - 2) * bytes;
            let length = bytes.min(left);
            run = match run {
                Some((start, sum)) if start + sum == at => Some((start, sum + length)),
                other => {
                    other.map_or(Ok(()), |(start, sum)| take(start, sum))?;
                    Some((at, length))
                }
            };
            left -= length;
            cluster = self.next(now)?;
        }
        run.map_or(Ok(()), |(start, sum)| take(start, sum))
    }

    fn node(&self, node: u64) -> Result<&Entry> {
        self.nodes.get(&node).with_context(|| format!("there is no node {node}"))
    }

    /// A directory's bytes, with where each stretch is.
    fn directory(&self, directory: u64) -> Result<Vec<(u64, Vec<u8>)>> {
        let Geometry { root, root_size, root_cluster, .. } = self.geometry;
        let mut found = Vec::new();
        let mut take = |at: u64, length: u64| {
            let mut bytes = vec![0; length as usize];
            self.blocks.read_at(at, &mut bytes)?;
            found.push((at, bytes));
            Ok(())
        };
        if directory == ROOT && root_cluster == 0 {
            take(root, root_size)?;
        } else {
            let first = if directory == ROOT { root_cluster } else { self.node(directory)?.first };
            // Nothing says how long it is; beyond its end there are zeros.
            self.chain(first, MAX_DIRECTORY, &mut take)?;
        }
        Ok(found)
    }
}

impl Volume for Fat {
    fn root(&self) -> u64 {
        ROOT
    }

    fn attributes(&mut self, node: u64) -> Result<Attributes> {
        let (attributes, size, mtime) = match node {
            ROOT => (DIRECTORY, 0, 0),
            node => {
                let entry = self.node(node)?;
                (entry.attributes, entry.size, entry.mtime)
            }
        };
        let is_directory = attributes & DIRECTORY != 0;
        // Linux keeps directories writable whatever they say (fs/fat/fat.h, `fat_make_mode`).
        let read_only = attributes & READ_ONLY != 0 && !is_directory;
        Ok(Attributes {
            kind: if is_directory { Kind::Directory } else { Kind::File },
            mode: if read_only { 0o555 } else { 0o755 },
            uid: 0,
            gid: 0,
            mtime: (mtime, 0),
            size: if is_directory { 0 } else { size },
            links: 1,
            device: (0, 0),
        })
    }

    fn names(&mut self, directory: u64) -> Result<Vec<Name>> {
        let stretches = self.directory(directory)?;
        let mut names = Vec::new();
        let mut long = Long::default();
        'all: for (start, bytes) in &stretches {
            for (at, entry) in (*start..).step_by(ENTRY).zip(bytes.chunks_exact(ENTRY)) {
                match (entry[0], entry[11]) {
                    (0, _) => break 'all,
                    (0xe5, _) => long = Long::default(),
                    (_, kind) if kind & 0x3f == LONG => long.add(entry),
                    (_, kind) if kind & LABEL != 0 => long = Long::default(),
                    (_, kind) => {
                        let name = std::mem::take(&mut long).name(&entry[..11]);
                        let name = name.unwrap_or_else(|| short(entry));
                        if matches!(&name[..], b"." | b"..") {
                            continue;
                        }
                        check(&name)?;
                        ensure!(names.len() < MAX_ENTRIES, "it has too many entries");
                        let high = if self.geometry.bits == 32 { le16(entry, 20) } else { 0 };
                        let first = u32::from(high) << 16 | u32::from(le16(entry, 26));
                        let mtime = time(le16(entry, 24), le16(entry, 22));
                        let size = le32(entry, 28).into();
                        self.nodes.insert(at, Entry { attributes: kind, first, size, mtime });
                        names.push(Name { name, node: at });
                    }
                }
            }
        }
        Ok(names)
    }

    fn target(&mut self, _: u64) -> Result<Vec<u8>> {
        bail!("it is no symbolic link")
    }

    fn xattrs(&mut self, _: u64) -> Result<Vec<Attribute>> {
        Ok(Vec::new())
    }

    fn content(&mut self, file: u64, piece: &mut Piece<'_>) -> Result<()> {
        let entry = self.node(file)?.clone();
        ensure!(entry.attributes & DIRECTORY == 0, "it is a directory");
        let mut offset = 0;
        let mut buffer = Vec::new();
        if entry.size > 0 {
            self.chain(entry.first, entry.size, &mut |at, length| {
                for start in (0..length).step_by(PIECE as usize) {
                    buffer.resize(PIECE.min(length - start) as usize, 0);
                    self.blocks.read_at(at + start, &mut buffer)?;
                    piece(offset, &buffer)?;
                    offset += buffer.len() as u64;
                }
                Ok(())
            })?;
        }
        ensure!(offset == entry.size, "its chain ends after {offset} of {} bytes", entry.size);
        Ok(())
    }
}

fn check(name: &[u8]) -> Result<()> {
    let bad = name.is_empty() || name.contains(&b'/') || name.contains(&0);
    ensure!(!bad, "it has a name that cannot be: {:?}", String::from_utf8_lossy(name));
    Ok(())
}

/// The pieces of a long name, the last of which comes first.
#[derive(Default)]
struct Long {
    units: Vec<u16>,
    /// The number of the piece that came last.
    number: u8,
    sum: u8,
}

impl Long {
    fn add(&mut self, entry: &[u8]) {
        let (number, is_first) = (entry[0] & 0x1f, entry[0] & 0x40 != 0);
        if is_first {
            *self = Self { units: Vec::new(), number, sum: entry[13] };
        } else if number + 1 != self.number || entry[13] != self.sum {
            *self = Self::default();
            return;
        }
        self.number = number;
        let places = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
        let mut units: Vec<u16> = places.into_iter().map(|at| le16(entry, at)).collect();
        units.append(&mut self.units);
        self.units = units;
    }

    /// In UTF-8, where it is whole and belongs to this short name.
    fn name(self, short: &[u8]) -> Option<Vec<u8>> {
        let sum = short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        let whole = self.number == 1 && sum == self.sum;
        let units: Vec<u16> = self.units.into_iter().take_while(|unit| *unit != 0).collect();
        whole.then(|| String::from_utf16_lossy(&units).into_bytes())
    }
}

/// `NAME.EXT`, in lower case where the entry says so, or where Linux does (`shortname=mixed`: as it is).
fn short(entry: &[u8]) -> Vec<u8> {
    let part = |bytes: &[u8], lower: bool| {
        let end = bytes.iter().rposition(|&b| b != b' ').map_or(0, |at| at + 1);
        let bytes = &bytes[..end];
        if lower { bytes.to_ascii_lowercase() } else { bytes.to_vec() }
    };
    let mut name = part(&entry[..8], entry[12] & 8 != 0);
    if name.first() == Some(&0x05) {
        name[0] = 0xe5;
    }
    let extension = part(&entry[8..11], entry[12] & 16 != 0);
    if !extension.is_empty() {
        name.push(b'.');
        name.extend(extension);
    }
    name
}

/// Seconds since the epoch.
fn time(date: u16, time: u16) -> i64 {
    let (year, month, day) =
        (i64::from(date >> 9) + 1980, i64::from(date >> 5 & 15), i64::from(date & 31));
    let days = days_before(year, month.clamp(1, 12)) + day.max(1) - 1;
    let (hours, minutes, two) = (time >> 11, time >> 5 & 63, time & 31);
    days * 86_400 + i64::from(hours) * 3600 + i64::from(minutes) * 60 + i64::from(two) * 2
}

/// Days from the epoch to the first of a month (the usual way with years that begin in March).
pub(super) fn days_before(year: i64, month: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * month + 2) / 5;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}
