//! File systems: what each is recognised by, and how it is opened.

use std::sync::Arc;

use anyhow::{Result, bail};

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

    /// Opens it.
    ///
    /// # Errors
    /// Where it is broken, or has a feature that cannot be read; that is named.
    fn open(&self, blocks: Arc<dyn Blocks>) -> Result<Box<dyn Volume>>;
}

/// Every file system there is.
pub const FORMATS: &[&dyn Format] = &[];

/// Opens whatever file system these bytes hold.
///
/// # Errors
/// Where they hold none that is known, and as [`Format::open`].
pub fn open(blocks: Arc<dyn Blocks>) -> Result<Box<dyn Volume>> {
    for format in FORMATS {
        if format.recognises(&*blocks)? {
            return format.open(blocks);
        }
    }
    bail!("there is no file system that is known");
}
