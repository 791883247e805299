//! File systems: what each is recognised by, and how it is opened.

mod ext;
mod fat;
mod iso9660;

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

use crate::{Blocks, Volume};

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

/// Every file system there is.
pub const FORMATS: &[&dyn Format] = &[&ext::Format, &iso9660::Format, &fat::Format];

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
