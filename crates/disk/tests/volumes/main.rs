//! Every file system that is read, made by its own tools, compared with the kernel's mount entry by entry;
//! and what is broken on purpose.

#[path = "../support/mod.rs"]
mod support;

mod btrfs;
mod erofs;
mod hostile;
mod squashfs;
mod xfs;

use std::path::{Path, PathBuf};

use disk::Volume;
use support::compare::{Except, compare};
use support::{FileBlocks, Mounted, is_root};

/// Opens an image, which must be of that kind.
fn open(image: &Path, kind: &str) -> Box<dyn Volume> {
    let blocks = FileBlocks::open(image);
    let found = disk::volume::FORMATS.iter().find(|format| format.recognises(&*blocks).unwrap());
    let format = found.expect("a file system that is known");
    assert_eq!(format.name(), kind);
    format.open(blocks).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Compares an image with the kernel's mount of it; as an ordinary user with the tree that it was made of.
fn check(image: &Path, kind: &str, tree: &Path, except: Except) {
    let mut volume = open(image, kind);
    let mounted = is_root().then(|| Mounted::new(image, &image.with_extension("mnt"), "ro"));
    let with: PathBuf = mounted.as_ref().map_or(tree.to_owned(), |mounted| mounted.path.clone());
    let count = compare(&mut *volume, &with, except);
    assert!(count > 1000, "only {count} entries");
}
