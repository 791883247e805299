//! ext2, ext3 and ext4 (kernel documentation, filesystems/ext4).

mod directory;
mod inode;
mod journal;
mod mapping;
mod superblock;
mod xattr;

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use crate::cache::Cached;
use crate::{Attribute, Attributes, Blocks, Kind, Name, Piece, Volume};
use inode::Inode;
use superblock::Superblock;

/// ext2 to ext4.
pub(super) struct Format;

impl super::Format for Format {
    fn name(&self) -> &'static str {
        "ext4"
    }

    fn recognises(&self, blocks: &dyn Blocks) -> Result<bool> {
        superblock::recognises(blocks)
    }

    fn identity(&self, blocks: &dyn Blocks) -> Result<super::Identity> {
        superblock::identity(blocks)
    }

    fn open(&self, blocks: Arc<dyn Blocks>) -> Result<Box<dyn Volume>> {
        let superblock = Superblock::read(&*blocks)?;
        let mut volume = Ext { superblock, tables: Arc::new(Cached::new(blocks.clone())), blocks };
        if volume.superblock.incompatible & superblock::RECOVER != 0 {
            let blocks = volume.replayed().context("replaying its journal")?;
            volume.tables = Arc::new(Cached::new(blocks.clone()));
            volume.blocks = blocks;
            // The journal may have held a newer superblock.
            volume.superblock = Superblock::read(&*volume.blocks)?;
        }
        Ok(Box::new(volume))
    }
}

/// The root directory's inode.
const ROOT: u64 = 2;
/// Bytes of a file that are read at once.
const PIECE: u64 = 1 << 20;
/// As many as PATH_MAX allows.
const MAX_TARGET: u64 = 4096;
/// Bytes of an inode's place for blocks.
const IN_PLACE: u64 = 60;

struct Ext {
    superblock: Superblock,
    /// For what is read at once.
    blocks: Arc<dyn Blocks>,
    /// For inodes and the like.
    tables: Arc<Cached>,
}

impl Ext {
    fn inode(&self, number: u64) -> Result<Inode> {
        let number = u32::try_from(number).context("there is no such inode")?;
        let at = self.superblock.inode_at(&*self.tables, number)?;
        let mut bytes = vec![0; self.superblock.inode_size as usize];
        self.tables.read_at(at, &mut bytes).with_context(|| format!("reading inode {number}"))?;
        Ok(Inode { bytes })
    }

    /// One block of a table.
    fn block(&self, number: u64) -> Result<Vec<u8>> {
        ensure!(number > 0 && number < self.superblock.blocks, "a block at {number}");
        let mut bytes = vec![0; self.superblock.block as usize];
        self.tables.read_at(number * self.superblock.block, &mut bytes)?;
        Ok(bytes)
    }

    fn pieces(&self, inode: &Inode, piece: &mut Piece<'_>) -> Result<()> {
        ensure!(!inode.is_encrypted(), "it is encrypted");
        let size = inode.size();
        if inode.is_inline() {
            let mut bytes = inode.block().to_vec();
            bytes.extend(self.inline_rest(inode)?);
            bytes.truncate(size.min(bytes.len() as u64) as usize);
            return if bytes.is_empty() { Ok(()) } else { piece(0, &bytes) };
        }
        let block = self.superblock.block;
        let mut buffer = Vec::new();
        self.runs(inode, &mut |run| {
            let (start, at) = (run.logical * block, run.physical * block);
            // Blocks may be reserved beyond the end.
            let length = (run.count * block).min(size.saturating_sub(start));
            let mut done = 0;
            while done < length {
                let now = PIECE.min(length - done);
                buffer.resize(now as usize, 0);
                self.blocks.read_at(at + done, &mut buffer)?;
                piece(start + done, &buffer)?;
                done += now;
            }
            Ok(())
        })
    }
}

impl Volume for Ext {
    fn root(&self) -> u64 {
        ROOT
    }

    fn attributes(&mut self, node: u64) -> Result<Attributes> {
        self.inode(node)?.attributes()
    }

    fn names(&mut self, directory: u64) -> Result<Vec<Name>> {
        let inode = self.inode(directory)?;
        ensure!(inode.kind()? == Kind::Directory, "it is no directory");
        self.entries(&inode)
    }

    fn target(&mut self, link: u64) -> Result<Vec<u8>> {
        let inode = self.inode(link)?;
        ensure!(inode.kind()? == Kind::Link, "it is no symbolic link");
        let size = inode.size();
        ensure!(size <= MAX_TARGET, "its target has {size} bytes");
        if size < IN_PLACE && !inode.has_extents() && !inode.is_inline() {
            return Ok(inode.block()[..size as usize].to_vec());
        }
        let mut target = Vec::new();
        self.pieces(&inode, &mut |offset, bytes| {
            ensure!(offset == target.len() as u64, "its target has a hole");
            target.extend_from_slice(bytes);
            Ok(())
        })?;
        if target.len() as u64 != size {
            bail!("its target is cut short");
        }
        Ok(target)
    }

    fn xattrs(&mut self, node: u64) -> Result<Vec<Attribute>> {
        self.attributes_of(&self.inode(node)?)
    }

    fn content(&mut self, file: u64, piece: &mut Piece<'_>) -> Result<()> {
        let inode = self.inode(file)?;
        ensure!(inode.kind()? == Kind::File, "it is no regular file");
        self.pieces(&inode, piece)
    }
}
