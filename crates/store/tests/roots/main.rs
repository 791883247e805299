//! Layers as one EROFS file, compared with the kernel's own mount of it.

#[path = "../../../disk/tests/support/mod.rs"]
mod support;

use std::fs::File;
use std::path::Path;

use store::tree::Tree;
use support::compare::{Except, compare};
use support::{Mounted, is_root, nasty, run};
use sys::rooted::Root;

fn write(from: &Path, to: &Path) {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(to);
    let root = Root::open(from).unwrap();
    disk::make::erofs::write(&mut Tree::new(&root).unwrap(), &file.unwrap()).unwrap();
}

/// What is no image's stays outside.
const NOT_PORTABLE: &[&str] = &["trusted.", "security.selinux"];

#[test]
fn a_tree_is_the_same_when_the_kernel_mounts_it() {
    let scratch = tempfile::tempdir().unwrap();
    let (tree, image) = (scratch.path().join("tree"), scratch.path().join("image"));
    std::fs::create_dir(&tree).unwrap();
    nasty::fill(&tree, nasty::Limits::default());
    // What was there before does not count.
    std::fs::write(&image, vec![0xff; 3 << 20]).unwrap();
    write(&tree, &image);
    run("fsck.erofs", &[image.to_str().unwrap()]);
    let again = scratch.path().join("again");
    write(&tree, &again);
    run("cmp", &[image.to_str().unwrap(), again.to_str().unwrap()]);
    if !is_root() {
        println!("skipped: the kernel's mount: only root mounts");
        return;
    }
    let mounted = Mounted::new(&image, &scratch.path().join("mnt"), "ro");
    let root = Root::open(&tree).unwrap();
    let except = Except { xattrs: NOT_PORTABLE, ..Except::default() };
    let count = compare(&mut Tree::new(&root).unwrap(), &mounted.path, except);
    assert!(count > 20_000, "{count}");
}
