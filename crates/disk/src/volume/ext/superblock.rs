//! The superblock and the groups of blocks (kernel documentation, filesystems/ext4).

use anyhow::{Context, Result, bail, ensure};

use crate::Blocks;
use crate::bytes::{le16, le32};
use crate::span::inside;
use crate::volume::{Identity, is_marked};

/// Where it is: bytes.
const AT: u64 = 1024;
const SIZE: usize = 1024;
const MAGIC: u16 = 0xef53;

/// Incompatible features.
pub(super) const FILETYPE: u32 = 0x2;
pub(super) const RECOVER: u32 = 0x4;
const META_BG: u32 = 0x10;
const BITS_64: u32 = 0x80;
/// What is understood: `filetype`, `needs_recovery`, `meta_bg`, `extents`, `64bit`, `mmp`, `flex_bg`, `ea_inode`,
/// `metadata_csum_seed`, `large_dir`, `inline_data`, `encrypt` (names of what is not encrypted), `casefold`.
const KNOWN: u32 = FILETYPE
    | RECOVER
    | META_BG
    | BITS_64
    | 0x40
    | 0x100
    | 0x200
    | 0x400
    | 0x2000
    | 0x4000
    | 0x8000
    | 0x1_0000
    | 0x2_0000;
const NAMES: [(u32, &str); 3] =
    [(0x1, "compression"), (0x8, "journal_dev: it is only a journal"), (0x1000, "dirdata")];

/// Read-only compatible: only some groups have a copy of the superblock.
const SPARSE_SUPER: u32 = 0x1;
/// Compatible: two named groups have one.
const SPARSE_SUPER_2: u32 = 0x200;

pub(super) fn recognises(blocks: &dyn Blocks) -> Result<bool> {
    is_marked(blocks, AT + SIZE as u64, AT + 56, &MAGIC.to_le_bytes())
}

/// UUID and label, without a look at anything else.
pub(super) fn identity(blocks: &dyn Blocks) -> Result<Identity> {
    let mut bytes = [0; SIZE];
    blocks.read_at(AT, &mut bytes)?;
    Ok(Identity::of(&bytes[104..120], &bytes[120..136]))
}

#[derive(Debug, Clone)]
pub(super) struct Superblock {
    /// Bytes.
    pub(super) block: u64,
    pub(super) blocks: u64,
    pub(super) inodes: u32,
    pub(super) inode_size: u64,
    inodes_per_group: u32,
    blocks_per_group: u64,
    first_data_block: u64,
    pub(super) incompatible: u32,
    sparse: bool,
    /// Groups with a copy of the superblock, where those are named.
    backups: Option<[u32; 2]>,
    descriptor: u64,
    first_meta_group: u32,
    pub(super) journal: u32,
}

impl Superblock {
    pub(super) fn read(blocks: &dyn Blocks) -> Result<Self> {
        let mut bytes = [0; SIZE];
        blocks.read_at(AT, &mut bytes).context("reading its superblock")?;
        let at = |offset| le32(&bytes, offset);
        ensure!(le16(&bytes, 56) == MAGIC, "it has no superblock");
        let is_old = at(76) == 0;
        let incompatible = if is_old { 0 } else { at(96) };
        if let Some((_, name)) = NAMES.iter().find(|(bit, _)| incompatible & bit != 0) {
            bail!("it has the feature {name}");
        }
        ensure!(
            incompatible & !KNOWN == 0,
            "it has features that are not known: {:#x}",
            incompatible & !KNOWN
        );
        ensure!(at(24) <= 6, "its blocks have 2^{} bytes", 10_u64 + u64::from(at(24)));
        let block = 1024 << at(24);
        let wide = incompatible & BITS_64 != 0;
        let high = if wide { u64::from(at(336)) << 32 } else { 0 };
        let superblock = Self {
            block,
            blocks: high | u64::from(at(4)),
            inodes: at(0),
            inode_size: if is_old { 128 } else { le16(&bytes, 88).into() },
            inodes_per_group: at(40),
            blocks_per_group: at(32).into(),
            first_data_block: at(20).into(),
            incompatible,
            sparse: !is_old && at(100) & SPARSE_SUPER != 0,
            backups: (!is_old && at(92) & SPARSE_SUPER_2 != 0).then(|| [at(588), at(592)]),
            descriptor: if wide { le16(&bytes, 254).into() } else { 32 },
            first_meta_group: at(260),
            journal: at(224),
        };
        superblock.check(blocks)?;
        Ok(superblock)
    }

    fn check(&self, blocks: &dyn Blocks) -> Result<()> {
        let size = self.blocks.checked_mul(self.block).context("it has too many blocks")?;
        inside(0, size, blocks.size()).context("it is larger than what it is in: is that cut?")?;
        ensure!(
            self.inode_size.is_power_of_two() && (128..=self.block).contains(&self.inode_size),
            "its inodes have {} bytes",
            self.inode_size
        );
        ensure!(
            self.descriptor.is_power_of_two() && (32..=self.block).contains(&self.descriptor),
            "its descriptors of groups have {} bytes",
            self.descriptor
        );
        ensure!(
            self.inodes_per_group > 0 && self.blocks_per_group > 0,
            "its groups have nothing in them"
        );
        ensure!(self.first_data_block <= 1, "its first block is {}", self.first_data_block);
        Ok(())
    }

    /// Where an inode is: bytes.
    pub(super) fn inode_at(&self, blocks: &dyn Blocks, number: u32) -> Result<u64> {
        ensure!((1..=self.inodes).contains(&number), "there is no inode {number}");
        let (group, index) =
            ((number - 1) / self.inodes_per_group, (number - 1) % self.inodes_per_group);
        let mut descriptor = vec![0; self.descriptor as usize];
        blocks.read_at(self.descriptor_at(group)?, &mut descriptor)?;
        let high = if self.descriptor >= 64 { u64::from(le32(&descriptor, 40)) << 32 } else { 0 };
        let table = high | u64::from(le32(&descriptor, 8));
        ensure!(table < self.blocks, "the inodes of group {group} are at {table}");
        Ok(table * self.block + u64::from(index) * self.inode_size)
    }

    fn descriptor_at(&self, group: u32) -> Result<u64> {
        let per_block = (self.block / self.descriptor) as u32;
        let (index, inner) = (group / per_block, u64::from(group % per_block) * self.descriptor);
        let block = if self.incompatible & META_BG == 0 || index < self.first_meta_group {
            self.first_data_block + 1 + u64::from(index)
        } else {
            // The first group of each meta group holds its descriptors.
            let first = u64::from(index) * u64::from(per_block);
            let start = first.checked_mul(self.blocks_per_group).context("a group is nowhere")?;
            self.first_data_block + start + u64::from(self.has_superblock(first as u32))
        };
        ensure!(block < self.blocks, "the descriptor of group {group} is at {block}");
        Ok(block * self.block + inner)
    }

    fn has_superblock(&self, group: u32) -> bool {
        let is_power = |base: u32| {
            let mut power = base;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        };
        match self.backups {
            Some(backups) => group == 0 || backups.contains(&group),
            None => group <= 1 || !self.sparse || [3, 5, 7].into_iter().any(is_power),
        }
    }
}
