//! VMware's format ("Virtual Disk Format 5.0"): one file or several, flat, sparse or a stream of packed grains.

use std::io::Read;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};

use super::mapped::{Map, Mapped, Place};
use super::{Context, table};
use crate::Blocks;
use crate::bytes::{le16, le32, le64};
use crate::cache::Kept;
use crate::span::{Joined, Part};

pub(super) struct Format;

const SECTOR: u64 = 512;
const MAGIC: &[u8] = b"KDMV";
const DESCRIPTOR: &[u8] = b"# Disk DescriptorFile";
/// Far beyond every real descriptor: bytes.
const MAX_DESCRIPTOR: u64 = 1 << 20;
/// The tables are behind the grains, and a footer says where.
const AT_END: u64 = u64::MAX;

/// Flags of a sparse extent.
const ZEROED_GRAINS: u32 = 1 << 2;
const COMPRESSED: u32 = 1 << 16;

impl super::Format for Format {
    fn name(&self) -> &'static str {
        "vmdk"
    }

    fn recognises(&self, start: &[u8], _: &[u8]) -> bool {
        start.starts_with(MAGIC) || start.starts_with(DESCRIPTOR) || start.starts_with(b"COWD")
    }

    fn open(&self, file: Arc<dyn Blocks>, context: &Context<'_>) -> Result<Arc<dyn Blocks>> {
        ensure!(context.snapshot.is_none(), "its snapshots are other files: name one of those");
        let mut magic = [0; 4];
        file.read_at(0, &mut magic)?;
        match &magic[..] {
            MAGIC => sparse(file),
            b"COWD" => bail!("it is an extent of ESX's old format: use qemu-img convert"),
            _ => described(&*file, context),
        }
    }
}

/// A text that names the files.
fn described(file: &dyn Blocks, context: &Context<'_>) -> Result<Arc<dyn Blocks>> {
    ensure!(file.size() <= MAX_DESCRIPTOR, "its descriptor has {} bytes", file.size());
    let text = table(file, 0, file.size(), 1, "descriptor")?;
    check_parent(&text)?;
    let mut disk = Joined::default();
    for line in text.split(|&b| b == b'\n') {
        let Some(extent) = Extent::parse(line)? else { continue };
        extent
            .add(&mut disk, context)
            .with_context(|| format!("its extent {:?}", String::from_utf8_lossy(&extent.file)))?;
    }
    ensure!(disk.size() > 0, "its descriptor names no extent");
    Ok(Arc::new(disk))
}

fn check_parent(text: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    let parent = text.lines().find_map(|line| line.trim().strip_prefix("parentcid"));
    let parent = parent.map_or("ffffffff", |rest| rest.trim_start_matches([' ', '=']).trim());
    ensure!(
        parent == "ffffffff",
        "it holds only what differs from another: join them with qemu-img convert"
    );
    Ok(())
}

/// A line such as `RW 63 FLAT "x-flat.vmdk" 0`.
struct Extent {
    sectors: u64,
    kind: Vec<u8>,
    file: Vec<u8>,
    offset: u64,
}

impl Extent {
    fn parse(line: &[u8]) -> Result<Option<Self>> {
        let mut quoted = line.splitn(3, |&b| b == b'"');
        let head = quoted.next().unwrap_or_default();
        let file = quoted.next().unwrap_or_default().to_vec();
        let words: Vec<&[u8]> =
            head.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
        let [b"RW" | b"RDONLY" | b"NOACCESS", sectors, kind, ..] = words[..] else {
            return Ok(None);
        };
        let number = |text: &[u8]| std::str::from_utf8(text).ok()?.trim().parse::<u64>().ok();
        let shown = || format!("its extent {:?}", String::from_utf8_lossy(line));
        let sectors = number(sectors).filter(|n| *n <= u64::MAX / SECTOR).with_context(shown)?;
        let rest = quoted.next().unwrap_or_default().trim_ascii();
        let rest = rest.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let offset = if rest.is_empty() { 0 } else { number(rest).with_context(shown)? };
        Ok(Some(Self { sectors, kind: kind.to_vec(), file, offset }))
    }

    fn add(&self, disk: &mut Joined, context: &Context<'_>) -> Result<()> {
        let size = self.sectors * SECTOR;
        match &self.kind[..] {
            b"ZERO" => disk.push_zeros(size),
            b"FLAT" | b"VMFS" => {
                let offset = self.offset.checked_mul(SECTOR).context("its offset")?;
                disk.push(Arc::new(Part::new(context.part(&self.file)?, offset, size)?))
            }
            b"SPARSE" => {
                let part = sparse(context.part(&self.file)?)?;
                ensure!(part.size() >= size, "it holds only {} bytes of {size}", part.size());
                disk.push(Arc::new(Part::new(part, 0, size)?))
            }
            other => bail!("it is {}, which cannot be read", String::from_utf8_lossy(other)),
        }
    }
}

/// One file with a table of grains.
fn sparse(file: Arc<dyn Blocks>) -> Result<Arc<dyn Blocks>> {
    let mut header = [0; SECTOR as usize];
    file.read_at(0, &mut header)?;
    if le64(&header, 56) == AT_END {
        // Footer and the end of the stream are the last two sectors.
        let at = file.size().checked_sub(2 * SECTOR).context("it is cut short")?;
        file.read_at(at, &mut header)?;
    }
    ensure!(header.starts_with(MAGIC), "it has no header: is it cut short?");
    let version = le32(&header, 4);
    ensure!((1..=3).contains(&version), "its version is {version}; known are 1 to 3");
    let (descriptor, length) = (le64(&header, 28), le64(&header, 36));
    if descriptor > 0 && length > 0 {
        let at = descriptor.checked_mul(SECTOR).context("its descriptor")?;
        let length = length.min(MAX_DESCRIPTOR / SECTOR) * SECTOR;
        check_parent(&table(&*file, at, length, 1, "descriptor")?)?;
    }
    let sectors = |at: usize, what: &str| {
        let size = le64(&header, at).checked_mul(SECTOR).filter(|size| *size < 1 << 56);
        size.with_context(|| format!("its {what} is {} sectors", le64(&header, at)))
    };
    let (size, grain) = (sectors(12, "capacity")?, sectors(20, "grain")?);
    ensure!(
        grain.is_power_of_two() && (SECTOR..=64 << 20).contains(&grain),
        "its grains have {grain} bytes"
    );
    let per_table = u64::from(le32(&header, 44));
    ensure!((1..=1 << 20).contains(&per_table), "its tables have {per_table} entries");
    let flags = le32(&header, 8);
    let packed = flags & COMPRESSED != 0;
    ensure!(!packed || le16(&header, 77) == 1, "it is compressed in a way that is not known");
    let tables = size.div_ceil(grain * per_table);
    let directory = table(&*file, sectors(56, "directory")?, tables, 4, "grain directory")?;
    let map = Table {
        file: file.clone(),
        size,
        grain,
        per_table,
        directory,
        packed,
        zeroed: flags & ZEROED_GRAINS != 0,
        tables: Kept::new(16 << 20),
        units: Kept::new(8 << 20),
    };
    Ok(Arc::new(Mapped { map, file, below: None }))
}

struct Table {
    file: Arc<dyn Blocks>,
    size: u64,
    grain: u64,
    per_table: u64,
    directory: Vec<u8>,
    packed: bool,
    zeroed: bool,
    tables: Kept,
    units: Kept,
}

impl Table {
    /// The sector at which a grain is: 0 for nowhere.
    fn sector(&self, index: u64) -> Result<u32> {
        let at = le32(&self.directory, (index / self.per_table) as usize * 4);
        if at == 0 {
            return Ok(0);
        }
        let table = self.tables.get(at.into(), || {
            table(&*self.file, u64::from(at) * SECTOR, self.per_table, 4, "table of grains")
        })?;
        Ok(le32(&table, (index % self.per_table) as usize * 4))
    }
}

impl Map for Table {
    fn size(&self) -> u64 {
        self.size
    }

    fn place(&self, offset: u64) -> Result<(Place, u64)> {
        let (index, inner) = (offset / self.grain, offset % self.grain);
        let place = match self.sector(index)? {
            0 => Place::Zero,
            1 if self.zeroed => Place::Zero,
            _ if self.packed => Place::Packed(index, inner),
            sector => Place::At(u64::from(sector) * SECTOR + inner),
        };
        Ok((place, self.grain - inner))
    }

    fn unit(&self, index: u64) -> Result<Arc<[u8]>> {
        self.units.get(index, || {
            let at = u64::from(self.sector(index)?) * SECTOR;
            let mut head = [0; 12];
            self.file.read_at(at, &mut head)?;
            let length = u64::from(le32(&head, 8));
            ensure!(length <= 2 * self.grain + 4096, "the grain {index} has {length} bytes");
            let packed = table(&*self.file, at + 12, length, 1, "grain")?;
            let mut plain = Vec::with_capacity(self.grain as usize);
            flate2::read::ZlibDecoder::new(&packed[..])
                .take(self.grain)
                .read_to_end(&mut plain)
                .with_context(|| format!("unpacking the grain {index}"))?;
            // The last one may be short.
            plain.resize(self.grain as usize, 0);
            Ok(plain)
        })
    }
}
