//! Virtual PC's format (Microsoft, "Virtual Hard Disk Image Format Specification"), fixed and dynamic.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};

use super::mapped::{Mapped, Uniform};
use super::{Context, table};
use crate::Blocks;
use crate::bytes::{be32, be64};
use crate::span::Part;

pub(super) struct Format;

const COOKIE: &[u8] = b"conectix";
const FOOTER: u64 = 512;
const SECTOR: u64 = 512;

impl super::Format for Format {
    fn name(&self) -> &'static str {
        "vpc"
    }

    fn recognises(&self, start: &[u8], end: &[u8]) -> bool {
        let footer = end.len().checked_sub(FOOTER as usize).map(|at| &end[at..]);
        start.len() >= FOOTER as usize
            && (start.starts_with(COOKIE)
                || footer.is_some_and(|footer| footer.starts_with(COOKIE)))
    }

    fn open(&self, file: Arc<dyn Blocks>, context: &Context<'_>) -> Result<Arc<dyn Blocks>> {
        ensure!(context.snapshot.is_none(), "such an image has no snapshots");
        let mut footer = [0; FOOTER as usize];
        file.read_at(file.size() - FOOTER, &mut footer)?;
        if !footer.starts_with(COOKIE) {
            // A dynamic one begins with a copy.
            file.read_at(0, &mut footer)?;
        }
        let size = be64(&footer, 48);
        match be32(&footer, 60) {
            2 => Ok(Arc::new(Part::new(file, 0, size)?)),
            3 => dynamic(file, size, be64(&footer, 16)),
            4 => bail!("it holds only what differs from another: join them with qemu-img convert"),
            other => bail!("its kind is {other}; known are 2 (fixed) and 3 (dynamic)"),
        }
    }
}

fn dynamic(file: Arc<dyn Blocks>, size: u64, at: u64) -> Result<Arc<dyn Blocks>> {
    let mut header = [0; 1024];
    file.read_at(at, &mut header)?;
    ensure!(header.starts_with(b"cxsparse"), "it has no header");
    let block = u64::from(be32(&header, 32));
    ensure!(
        block.is_power_of_two() && (SECTOR..=1 << 30).contains(&block),
        "its blocks have {block} bytes"
    );
    let entries = be32(&header, 28).into();
    let blocks = table(&*file, be64(&header, 16), entries, 4, "table of blocks")?;
    ensure!(size.div_ceil(block) <= entries, "its table is too short for {size} bytes");
    // Before each block there is a bitmap of its sectors. It says nothing to who reads: what was never written is zero.
    let bitmap = (block / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
    Ok(Arc::new(Mapped { map: Table { size, block, bitmap, blocks }, file, below: None }))
}

struct Table {
    size: u64,
    block: u64,
    bitmap: u64,
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
        Ok(match be32(&self.blocks, index as usize * 4) {
            u32::MAX => None,
            sector => Some(u64::from(sector) * SECTOR + self.bitmap),
        })
    }
}
