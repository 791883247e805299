//! Hyper-V's format (Microsoft, \[MS-VHDX\]).

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};

use super::mapped::{Mapped, Uniform};
use super::{Context, table};
use crate::Blocks;
use crate::bytes::{guid, is_zero, le16, le32, le64};

pub(super) struct Format;

/// Where the two headers and the two region tables are (2.2).
const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const REGIONS: [u64; 2] = [192 << 10, 256 << 10];
const BLOCKS: &str = "2dc27766-f623-4200-9d64-115e9bfd4a08";
const METADATA: &str = "8b7ca206-4790-4b9a-b8fe-575f050f886e";
const PARAMETERS: &str = "caa16737-fa36-4d43-b3b6-33f0aa44e76b";
const SIZE: &str = "2fa54224-cd1b-4876-b211-5dbed83bf4b8";
const SECTOR: &str = "8141bf1d-a96f-4709-ba47-f233a8faab5f";

impl super::Format for Format {
    fn name(&self) -> &'static str {
        "vhdx"
    }

    fn recognises(&self, start: &[u8], _: &[u8]) -> bool {
        start.starts_with(b"vhdxfile")
    }

    fn open(&self, file: Arc<dyn Blocks>, context: &Context<'_>) -> Result<Arc<dyn Blocks>> {
        ensure!(context.snapshot.is_none(), "such an image has no snapshots");
        check_header(&*file)?;
        let regions = regions(&*file)?;
        let (at, length) = find(&regions, METADATA).context("it has no metadata")?;
        let metadata = Metadata::read(&*file, at, length)?;
        let (at, length) = find(&regions, BLOCKS).context("it has no table of blocks")?;
        let blocks = table(&*file, at, length, 1, "table of blocks")?;
        // After as many blocks as a bitmap of sectors has room for, there is an entry for that (2.5).
        let ratio = (1 << 23) * metadata.sector / metadata.block;
        let last = metadata.size.div_ceil(metadata.block).saturating_sub(1);
        let needed = (last + last / ratio + 1) * 8;
        ensure!(needed <= length, "its table is too short for {} bytes", metadata.size);
        let map = Table { size: metadata.size, block: metadata.block, ratio, blocks };
        Ok(Arc::new(Mapped { map, file, below: None }))
    }
}

/// The newest header that is whole must say that the log is empty (2.2.2).
fn check_header(file: &dyn Blocks) -> Result<()> {
    let mut newest: Option<(u64, bool)> = None;
    for at in HEADERS {
        let mut header = [0; 4096];
        file.read_at(at, &mut header)?;
        let sequence = le64(&header, 8);
        let is_whole = header.starts_with(b"head") && has_its_checksum(&mut header);
        if is_whole && newest.is_none_or(|(known, _)| known <= sequence) {
            newest = Some((sequence, is_zero(&header[48..64])));
        }
    }
    let (_, clean) = newest.context("both of its headers are damaged")?;
    ensure!(
        clean,
        "it was not closed: something is left in its log; start its machine again, or use qemu-img check -r all"
    );
    Ok(())
}

/// CRC-32C of everything with its own field taken for zero.
fn has_its_checksum(bytes: &mut [u8]) -> bool {
    let stated = le32(bytes, 4);
    bytes[4..8].fill(0);
    crate::crc32c::sum(bytes) == stated
}

/// Ids, offsets and lengths.
fn regions(file: &dyn Blocks) -> Result<Vec<(String, u64, u64)>> {
    for at in REGIONS {
        let mut bytes = vec![0; 64 << 10];
        file.read_at(at, &mut bytes)?;
        if !bytes.starts_with(b"regi") || !has_its_checksum(&mut bytes) {
            continue;
        }
        let count = le32(&bytes, 8) as usize;
        ensure!(count <= 2047, "it has {count} regions");
        return (0..count)
            .map(|index| {
                let entry = &bytes[16 + 32 * index..][..32];
                let id = guid(entry);
                let known = id == BLOCKS || id == METADATA;
                ensure!(known || le32(entry, 28) & 1 == 0, "it needs {id}, which is not known");
                Ok((id, le64(entry, 16), le32(entry, 24).into()))
            })
            .collect();
    }
    bail!("both of its region tables are damaged")
}

fn find(regions: &[(String, u64, u64)], id: &str) -> Option<(u64, u64)> {
    regions.iter().find(|(known, ..)| known == id).map(|(_, at, length)| (*at, *length))
}

/// What is known of the disk (2.6): all in bytes.
struct Metadata {
    block: u64,
    size: u64,
    sector: u64,
}

impl Metadata {
    fn read(file: &dyn Blocks, at: u64, length: u64) -> Result<Self> {
        ensure!(length >= 64 << 10, "its metadata has {length} bytes");
        let head = table(file, at, 64 << 10, 1, "metadata")?;
        ensure!(head.starts_with(b"metadata"), "its metadata is damaged");
        let count = usize::from(le16(&head, 10));
        ensure!(count <= 2047, "its metadata has {count} entries");
        let item = |wanted: &str, size: u64| -> Result<Vec<u8>> {
            let entry = (0..count).map(|index| &head[32 + 32 * index..][..32]);
            let entry = entry.into_iter().find(|entry| guid(entry) == wanted);
            let entry = entry.with_context(|| format!("its metadata lacks {wanted}"))?;
            let offset = at.checked_add(le32(entry, 16).into()).context("its metadata")?;
            table(file, offset, size, 1, "metadata")
        };
        let parameters = item(PARAMETERS, 8)?;
        ensure!(
            le32(&parameters, 4) & 2 == 0,
            "it holds only what differs from another: join them with qemu-img convert"
        );
        let block = u64::from(le32(&parameters, 0));
        ensure!(
            block.is_power_of_two() && (1 << 20..=256 << 20).contains(&block),
            "its blocks have {block} bytes"
        );
        let sector = u64::from(le32(&item(SECTOR, 4)?, 0));
        ensure!(matches!(sector, 512 | 4096), "its sectors have {sector} bytes");
        let size = le64(&item(SIZE, 8)?, 0);
        ensure!(size <= 64 << 40, "it has {size} bytes");
        Ok(Self { block, size, sector })
    }
}

struct Table {
    size: u64,
    block: u64,
    ratio: u64,
    blocks: Vec<u8>,
}

impl Uniform for Table {
    fn size(&self) -> u64 {
        self.size
    }

    fn block(&self) -> u64 {
        self.block
    }

    fn start(&self, index: u64) -> Result<Option<u64>> {
        let entry = le64(&self.blocks, (index + index / self.ratio) as usize * 8);
        Ok(match entry & 7 {
            0..=3 => None,
            6 => Some(entry & !0xf_ffff),
            state => {
                bail!("a block is in the state {state}, which only an image with a parent has")
            }
        })
    }
}
