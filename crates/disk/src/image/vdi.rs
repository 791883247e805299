//! VirtualBox's own format (its `VDICore.h`; qemu's `block/vdi.c`), dynamic and static.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};

use super::mapped::{Mapped, Uniform};
use super::{Context, table};
use crate::Blocks;
use crate::bytes::{le32, le64};

pub(super) struct Format;

const SIGNATURE: u32 = 0xbeda_107f;

impl super::Format for Format {
    fn name(&self) -> &'static str {
        "vdi"
    }

    fn recognises(&self, start: &[u8], _: &[u8]) -> bool {
        start.len() >= 512 && le32(start, 64) == SIGNATURE
    }

    fn open(&self, file: Arc<dyn Blocks>, context: &Context<'_>) -> Result<Arc<dyn Blocks>> {
        ensure!(context.snapshot.is_none(), "its snapshots are other files");
        let mut header = [0; 512];
        file.read_at(0, &mut header)?;
        let version = le32(&header, 68);
        ensure!(version == 0x0001_0001, "its version is {version:#x}; known is 1.1");
        match le32(&header, 76) {
            1 | 2 => {}
            4 => bail!("it holds only what differs from another: merge them in VirtualBox"),
            other => bail!("its kind is {other}; known are 1 (dynamic) and 2 (static)"),
        }
        let (size, block) = (le64(&header, 368), u64::from(le32(&header, 376)));
        ensure!(
            block.is_power_of_two() && (512..=1 << 30).contains(&block),
            "its blocks have {block} bytes"
        );
        let entries = le32(&header, 384).into();
        ensure!(size.div_ceil(block) <= entries, "its table is too short for {size} bytes");
        let blocks = table(&*file, le32(&header, 340).into(), entries, 4, "table of blocks")?;
        let data = le32(&header, 344).into();
        Ok(Arc::new(Mapped { map: Table { size, block, data, blocks }, file, below: None }))
    }
}

struct Table {
    size: u64,
    block: u64,
    /// Where the blocks begin in the file.
    data: u64,
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
        Ok(match le32(&self.blocks, index as usize * 4) {
            // Never written, and written with zeros.
            0xffff_fffe.. => None,
            number => Some(self.data + u64::from(number) * self.block),
        })
    }
}
