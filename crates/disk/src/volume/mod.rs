//! File systems: what each is recognised by, and how it is opened.

mod btrfs;
mod erofs;
mod ext;
mod fat;
mod iso9660;
mod squashfs;
mod xfs;

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{Blocks, Kind, Volume};

/// A file system that can be read.
pub trait Format: Sync {
    /// Its name, as mount(8) takes it.
    fn name(&self) -> &'static str;

    /// Whether these bytes hold one.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn recognises(&self, blocks: &dyn Blocks) -> Result<bool>;

    /// What it is called, as fstab(5) may name it; empty where this kind has no such thing.
    ///
    /// # Errors
    /// Where that cannot be read.
    fn identity(&self, blocks: &dyn Blocks) -> Result<Identity> {
        let _ = blocks;
        Ok(Identity::default())
    }

    /// Opens it.
    ///
    /// # Errors
    /// Where it is broken, or has a feature that cannot be read; that is named.
    fn open(&self, blocks: Arc<dyn Blocks>) -> Result<Box<dyn Volume>>;
}

/// How a file system is called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// As `UUID=` of fstab(5) has it.
    pub uuid: String,
    /// As `LABEL=` has it.
    pub label: String,
}

impl Identity {
    /// Of sixteen bytes, and of a label that ends with a NUL byte where it is shorter than its room.
    fn of(uuid: &[u8], label: &[u8]) -> Self {
        let label = label.split(|&b| b == 0).next().unwrap_or_default();
        let label = String::from_utf8_lossy(label).into_owned();
        Self { uuid: crate::bytes::uuid(uuid), label }
    }
}

/// Every file system there is.
pub const FORMATS: &[&dyn Format] = &[
    &ext::Format,
    &xfs::Xfs,
    &squashfs::Squashfs,
    &erofs::Erofs,
    &btrfs::Btrfs,
    &iso9660::Format,
    &fat::Format,
];

/// The file system that these bytes hold.
///
/// # Errors
/// Where they cannot be read.
pub fn recognise(blocks: &dyn Blocks) -> Result<Option<&'static dyn Format>> {
    for format in FORMATS {
        if format.recognises(blocks)? {
            return Ok(Some(*format));
        }
    }
    Ok(None)
}

/// Opens whatever file system these bytes hold.
///
/// # Errors
/// Where they hold none that is known, and as [`Format::open`].
pub fn open(blocks: Arc<dyn Blocks>) -> Result<Box<dyn Volume>> {
    let Some(format) = recognise(&*blocks)? else { bail!("there is no file system that is known") };
    format.open(blocks).with_context(|| format!("reading it as {}", format.name()))
}

/// Whether these bytes have `magic` at an offset, and are at least so many, as many as a superblock needs.
fn is_marked(blocks: &dyn Blocks, least: u64, offset: u64, magic: &[u8]) -> Result<bool> {
    if blocks.size() < least {
        return Ok(false);
    }
    let mut there = vec![0; magic.len()];
    blocks.read_at(offset, &mut there)?;
    Ok(there == magic)
}

/// Makes sure that a name could be one of a file's.
fn check_name(name: &[u8]) -> Result<()> {
    let is_path = name.contains(&b'/') || name.contains(&0);
    ensure!(
        !is_path && !matches!(name, b"" | b"." | b"..") && name.len() <= 255,
        "a directory has the name {:?}",
        String::from_utf8_lossy(&name[..name.len().min(300)])
    );
    Ok(())
}

/// The kind in a mode (inode(7)).
fn kind_of(mode: u32) -> Result<Kind> {
    Ok(match mode & 0o170_000 {
        0o010_000 => Kind::Fifo,
        0o020_000 => Kind::Character,
        0o040_000 => Kind::Directory,
        0o060_000 => Kind::Block,
        0o100_000 => Kind::File,
        0o120_000 => Kind::Link,
        0o140_000 => Kind::Socket,
        _ => bail!("there is no file of the mode {mode:o}"),
    })
}
