//! The tree of a system on its disks: the root, and what is mounted in it.

mod find;
mod fstab;
mod walk;

use std::sync::Arc;

use anyhow::{Result, ensure};

use crate::{Attributes, Blocks, Kind, Volume};

pub use find::find;

/// What the user wants of some disks.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// The partition that is the root: its number (or DISK:NUMBER, from 1), a logical volume's `group/name`, a
    /// label or UUID; nothing is mounted in it then.
    pub partition: Option<String>,
}

/// A file system at its place.
pub struct Mount {
    /// Where: without `/` at either end, empty for the root.
    pub place: Vec<u8>,
    /// What it is, for people.
    pub what: String,
    volume: Box<dyn Volume>,
    /// The directory of it that is seen there.
    top: u64,
}

/// A root with everything in it.
pub struct Tree {
    /// The root first.
    pub mounts: Vec<Mount>,
    /// What is not as it would be on the machine itself, in words.
    pub notes: Vec<String>,
}

/// One entry of a tree.
pub struct Entry {
    /// Without `/` at either end, empty for the root. It may hold everything but NUL.
    pub path: Vec<u8>,
    /// What it is.
    pub attributes: Attributes,
    /// Extended attributes.
    pub xattrs: Vec<crate::Attribute>,
    /// Of a symbolic link.
    pub target: Vec<u8>,
    /// The path of an earlier entry that is the same file.
    pub same_as: Option<Vec<u8>>,
}

/// Gives a file's content to whom it is given.
pub type Content<'a> = dyn FnMut(&mut crate::Piece<'_>) -> Result<()> + 'a;

/// Names that a directory on the way may have, and bytes of a small file that is read whole.
const MAX_SMALL: u64 = 1 << 20;

/// The node of a path, no component of which is a symbolic link; `None` where there is none.
fn lookup(volume: &mut dyn Volume, top: u64, path: &[u8]) -> Result<Option<u64>> {
    let mut node = top;
    for component in path.split(|&b| b == b'/').filter(|component| !component.is_empty()) {
        if volume.attributes(node)?.kind != Kind::Directory {
            return Ok(None);
        }
        let names = volume.names(node)?;
        match names.into_iter().find(|name| name.name == component) {
            Some(name) => node = name.node,
            None => return Ok(None),
        }
    }
    Ok(Some(node))
}

/// The content of a small file; `None` where there is none.
fn read_small(volume: &mut dyn Volume, top: u64, path: &[u8]) -> Result<Option<Vec<u8>>> {
    let Some(node) = lookup(volume, top, path)? else { return Ok(None) };
    let attributes = volume.attributes(node)?;
    if attributes.kind != Kind::File {
        return Ok(None);
    }
    ensure!(attributes.size <= MAX_SMALL, "it has {} bytes", attributes.size);
    let mut content = vec![0; attributes.size as usize];
    volume.content(node, &mut |offset, bytes| {
        let end = (offset as usize).saturating_add(bytes.len()).min(content.len());
        if let Some(place) = content.get_mut(offset as usize..end) {
            place.copy_from_slice(&bytes[..place.len()]);
        }
        Ok(())
    })?;
    Ok(Some(content))
}

/// A tree of one file system alone.
///
/// # Errors
/// It cannot be read.
pub fn of_volume(blocks: Arc<dyn Blocks>) -> Result<Tree> {
    let volume = crate::volume::open(blocks)?;
    let top = volume.root();
    let mount = Mount { place: Vec::new(), what: String::new(), volume, top };
    Ok(Tree { mounts: vec![mount], notes: Vec::new() })
}
