//! QEMU's own format (its `docs/interop/qcow2.txt`), versions 2 and 3.

use std::io::Read;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};

use super::mapped::{Map, Mapped, Place};
use super::{Context, table};
use crate::Blocks;
use crate::bytes::{be16, be32, be64};
use crate::cache::Kept;

pub(super) struct Format;

const MAGIC: &[u8] = b"QFI\xfb";
/// Of version 2; version 3 has 104 and perhaps more.
const HEADER: usize = 72;
/// The longest name that qemu takes.
const MAX_NAME: u32 = 1023;
const MAX_SNAPSHOTS: u32 = 65_536;

/// Incompatible features: what must be understood.
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
/// Lazy reference counts, and a mark that those are wrong: neither matters to who only reads.
const HARMLESS: u64 = 0b11;

/// Header extensions.
const BACKING_FORMAT: u32 = 0xe279_2aca;

/// Host offsets in tables: bits 9 to 55.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

impl super::Format for Format {
    fn name(&self) -> &'static str {
        "qcow2"
    }

    fn recognises(&self, start: &[u8], _: &[u8]) -> bool {
        start.len() >= 8 && start.starts_with(MAGIC)
    }

    fn open(&self, file: Arc<dyn Blocks>, context: &Context<'_>) -> Result<Arc<dyn Blocks>> {
        let header = Header::read(&*file)?;
        let (l1_offset, l1_entries, size) = match context.snapshot {
            None => (be64(&header.bytes, 40), be32(&header.bytes, 36), be64(&header.bytes, 24)),
            Some(wanted) => snapshot(&*file, &header, wanted)?,
        };
        let below = match header.backing(&*file)? {
            None => None,
            Some((name, format)) => Some(context.below(&name, format.as_deref())?),
        };
        let l1 = table(&*file, l1_offset, l1_entries.into(), 8, "L1 table")?;
        let cluster = 1_u64 << header.cluster_bits;
        let entry = if header.features & EXTENDED_L2 == 0 { 8 } else { 16 };
        let reach = u128::from(l1_entries) * u128::from(cluster / entry) * u128::from(cluster);
        ensure!(u128::from(size) <= reach, "its L1 table is too short for {size} bytes");
        let map = Table {
            file: file.clone(),
            size,
            cluster,
            entry,
            l1,
            zstd: header.zstd,
            version: header.version,
            l2: Kept::new(16 << 20),
            units: Kept::new(8 << 20),
        };
        Ok(Arc::new(Mapped { map, file, below }))
    }
}

struct Header {
    bytes: Vec<u8>,
    version: u32,
    features: u64,
    cluster_bits: u32,
    zstd: bool,
    length: u64,
}

impl Header {
    fn read(file: &dyn Blocks) -> Result<Self> {
        let mut bytes = vec![0; 112.min(file.size()) as usize];
        file.read_at(0, &mut bytes)?;
        ensure!(bytes.len() >= HEADER, "it is cut short");
        bytes.resize(112, 0);
        let version = be32(&bytes, 4);
        ensure!(matches!(version, 2 | 3), "its version is {version}; known are 2 and 3");
        let cluster_bits = be32(&bytes, 20);
        ensure!((9..=21).contains(&cluster_bits), "its clusters have 2^{cluster_bits} bytes");
        ensure!(be32(&bytes, 32) == 0, "it is encrypted: decrypt it with qemu-img convert");
        let (features, length) = match version {
            2 => (0, HEADER as u64),
            _ => (be64(&bytes, 72), be32(&bytes, 100).into()),
        };
        ensure!(
            features & EXTERNAL_DATA == 0,
            "its data is in another file: join them with qemu-img convert"
        );
        let known = HARMLESS | COMPRESSION | EXTENDED_L2;
        ensure!(features & !known == 0, "it has features that are not known: {features:#x}");
        let zstd = match features & COMPRESSION {
            0 => false,
            _ if length <= 104 => bail!("it does not say how it is compressed"),
            _ => match bytes[104] {
                0 => false,
                1 => true,
                other => bail!("it is compressed in a way that is not known: {other}"),
            },
        };
        Ok(Self { bytes, version, features, cluster_bits, zstd, length })
    }

    /// Name and format of the image below.
    fn backing(&self, file: &dyn Blocks) -> Result<Option<(Vec<u8>, Option<String>)>> {
        let (offset, length) = (be64(&self.bytes, 8), be32(&self.bytes, 16));
        if offset == 0 || length == 0 {
            return Ok(None);
        }
        ensure!(length <= MAX_NAME, "the name of the image below has {length} bytes");
        let mut name = vec![0; length as usize];
        file.read_at(offset, &mut name).context("reading the name of the image below")?;
        ensure!(!name.contains(&0), "the name of the image below holds a NUL byte");
        ensure!(
            !name.starts_with(b"json:"),
            "the image below is no file: join them with qemu-img convert"
        );
        Ok(Some((name, self.backing_format(file)?)))
    }

    fn backing_format(&self, file: &dyn Blocks) -> Result<Option<String>> {
        let end = (1 << self.cluster_bits).min(file.size());
        let mut at = self.length;
        while at + 8 <= end {
            let mut head = [0; 8];
            file.read_at(at, &mut head)?;
            let (kind, length) = (be32(&head, 0), be32(&head, 4));
            if kind == 0 {
                break;
            }
            if kind == BACKING_FORMAT {
                ensure!(length < 64, "the format of the image below has {length} letters");
                let mut text = vec![0; length as usize];
                file.read_at(at + 8, &mut text)?;
                return Ok(Some(String::from_utf8(text).context("the format of the image below")?));
            }
            at += 8 + u64::from(length).next_multiple_of(8);
        }
        Ok(None)
    }
}

/// Offset and entries of a snapshot's L1 table, and the disk's size at that time.
fn snapshot(file: &dyn Blocks, header: &Header, wanted: &str) -> Result<(u64, u32, u64)> {
    let count = be32(&header.bytes, 60);
    ensure!(count <= MAX_SNAPSHOTS, "it has {count} snapshots");
    let mut at = be64(&header.bytes, 64);
    let mut names = Vec::new();
    for _ in 0..count {
        let mut head = [0; 40];
        file.read_at(at, &mut head).context("reading its snapshots")?;
        let (id, name) = (usize::from(be16(&head, 12)), usize::from(be16(&head, 14)));
        let extra = be32(&head, 36);
        ensure!(extra <= 1024, "a snapshot has {extra} further bytes");
        let mut rest = vec![0; extra as usize + id + name];
        file.read_at(at + 40, &mut rest).context("reading its snapshots")?;
        let (further, texts) = rest.split_at(extra as usize);
        let (id, name) = texts.split_at(id);
        if name == wanted.as_bytes() || id == wanted.as_bytes() {
            // Version 2 keeps no size: it is that of the disk.
            let size = if extra >= 16 { be64(further, 8) } else { be64(&header.bytes, 24) };
            return Ok((be64(&head, 0), be32(&head, 8), size));
        }
        if names.len() < 16 {
            names.push(String::from_utf8_lossy(name).into_owned());
        }
        at += (40 + rest.len() as u64).next_multiple_of(8);
    }
    match names.is_empty() {
        true => bail!("it has no snapshots"),
        false => bail!("it has no snapshot {wanted:?}; there are {}", names.join(", ")),
    }
}

struct Table {
    file: Arc<dyn Blocks>,
    size: u64,
    /// Bytes.
    cluster: u64,
    /// Bytes of an L2 entry.
    entry: u64,
    l1: Vec<u8>,
    zstd: bool,
    version: u32,
    l2: Kept,
    units: Kept,
}

impl Table {
    /// An L2 entry, and where its subclusters are where it has them.
    fn entry(&self, index: u64) -> Result<Option<(u64, u64)>> {
        let per_table = self.cluster / self.entry;
        let l1 = be64(&self.l1, (index / per_table) as usize * 8) & OFFSET;
        if l1 == 0 {
            return Ok(None);
        }
        ensure!(l1.is_multiple_of(self.cluster), "an L2 table at {l1} is not aligned");
        let l2 = self.l2.get(l1, || table(&*self.file, l1, self.cluster, 1, "L2 table"))?;
        let at = (index % per_table * self.entry) as usize;
        Ok(Some((be64(&l2, at), if self.entry == 16 { be64(&l2, at + 8) } else { 0 })))
    }
}

impl Map for Table {
    fn size(&self) -> u64 {
        self.size
    }

    fn place(&self, offset: u64) -> Result<(Place, u64)> {
        let (index, inner) = (offset / self.cluster, offset % self.cluster);
        let left = self.cluster - inner;
        let Some((entry, bits)) = self.entry(index)? else {
            // The whole table is missing: say so at once.
            let span = self.cluster / self.entry * self.cluster;
            return Ok((Place::Below, span - offset % span));
        };
        if entry & 1 << 62 != 0 {
            return Ok((Place::Packed(index, inner), left));
        }
        let at = entry & OFFSET;
        ensure!(at.is_multiple_of(self.cluster), "a cluster at {at} is not aligned");
        if self.entry == 16 {
            let unit = self.cluster / 32;
            let (number, left) = (inner / unit, unit - inner % unit);
            let place = match (bits >> (32 + number) & 1, bits >> number & 1) {
                (0, 0) => Place::Below,
                (0, _) => Place::At(at + inner),
                (_, 0) => Place::Zero,
                _ => bail!("a subcluster has content and is zero"),
            };
            return Ok((place, left));
        }
        let place = match at {
            _ if self.version > 2 && entry & 1 != 0 => Place::Zero,
            0 => Place::Below,
            at => Place::At(at + inner),
        };
        Ok((place, left))
    }

    fn unit(&self, index: u64) -> Result<Arc<[u8]>> {
        self.units.get(index, || {
            let (entry, _) = self.entry(index)?.context("its table changes")?;
            let shift = 62 - (self.cluster.trailing_zeros() - 8);
            let offset = entry & ((1 << shift) - 1);
            let sectors = (entry & ((1 << 62) - 1)) >> shift;
            let length = (sectors + 1) * 512 - offset % 512;
            ensure!(offset < self.file.size(), "a packed cluster at {offset} is beyond the end");
            // The last one need not fill its sector.
            let mut packed = vec![0; length.min(self.file.size() - offset) as usize];
            self.file.read_at(offset, &mut packed)?;
            let mut plain = vec![0; self.cluster as usize];
            let unpacked = match self.zstd {
                true => zstd::stream::read::Decoder::with_buffer(&packed[..])
                    .and_then(|mut decoder| decoder.read_exact(&mut plain)),
                false => flate2::read::DeflateDecoder::new_with_buf(&packed[..], vec![0; 4096])
                    .read_exact(&mut plain),
            };
            unpacked.with_context(|| format!("unpacking the cluster {index}"))?;
            Ok(plain)
        })
    }
}
