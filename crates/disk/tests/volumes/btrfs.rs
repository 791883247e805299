//! btrfs, by mkfs.btrfs, filled by it or by the kernel.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::compare::{Except, compare};
use crate::support::{Mounted, is_root, nasty, run};

const EXCEPT: Except =
    Except { xattrs: &["security.selinux"], owners: false, fractions: false, names: &[] };

fn make(image: &Path, options: &[&str]) {
    let _ = std::fs::remove_file(image);
    File::create(image).unwrap().set_len(512 << 20).unwrap();
    run("mkfs.btrfs", &[&["-q"], options, &[image.to_str().unwrap()]].concat());
}

#[test]
fn what_the_kernel_wrote() {
    if !is_root() {
        println!("skipped: only root mounts");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let image = scratch.path().join("image");
    for (number, (options, mount)) in [
        (&["-m", "dup", "-d", "single"][..], "compress-force=zlib"),
        (&["-m", "single", "-n", "4096"], "compress-force=lzo"),
        (&["--mixed"], "compress-force=zstd"),
        (&["-O", "^no-holes,^extref"], "max_inline=0"),
    ]
    .into_iter()
    .enumerate()
    {
        println!("{options:?} {mount}");
        make(&image, options);
        let large = if mount.starts_with("compress") { 100 << 20 } else { 6 << 30 };
        {
            let mounted = Mounted::new(&image, &scratch.path().join("mnt"), mount);
            nasty::fill(
                &mounted.path,
                nasty::Limits {
                    large,
                    target: 2000,
                    names: if number == 0 { 20_000 } else { 3000 },
                    ..Default::default()
                },
            );
            more(&mounted.path);
        }
        crate::check(&image, "btrfs", scratch.path(), EXCEPT);
    }
}

/// Extents of which only parts are left, reserved space, shared ones, many attributes, a subvolume and its snapshot.
fn more(root: &Path) {
    let path = root.join("overwritten");
    std::fs::write(&path, "once more, the same text\n".repeat(40_000)).unwrap();
    rustix::fs::sync();
    let file = File::options().write(true).open(&path).unwrap();
    for number in 0..30 {
        file.write_all_at(&nasty::noise(4096, number + 5), number * 28_672).unwrap();
    }
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, 4 << 20).unwrap();
    let copy = root.join("shared");
    run("cp", &["--reflink=always", path.to_str().unwrap(), copy.to_str().unwrap()]);
    let reserved = File::create(root.join("reserved")).unwrap();
    rustix::fs::fallocate(&reserved, rustix::fs::FallocateFlags::empty(), 0, 1 << 20).unwrap();
    reserved.write_all_at(b"in the middle", 300_000).unwrap();
    let path = root.join("attributes/hundreds");
    std::fs::write(&path, b"").unwrap();
    for number in 0..500 {
        let (name, value) = (format!("user.{number}"), nasty::noise(number, 6));
        rustix::fs::lsetxattr(&path, &name[..], &value, rustix::fs::XattrFlags::empty()).unwrap();
    }
    let (below, snapshot) = (root.join("subvolume"), root.join("links/snapshot"));
    run("btrfs", &["subvolume", "create", below.to_str().unwrap()]);
    std::fs::write(below.join("file"), b"in a subvolume").unwrap();
    std::fs::hard_link(below.join("file"), below.join("again")).unwrap();
    run("btrfs", &["subvolume", "snapshot", below.to_str().unwrap(), snapshot.to_str().unwrap()]);
    std::fs::write(below.join("file"), b"changed since").unwrap();
}

#[test]
fn the_default_subvolume_is_the_root() {
    if !is_root() {
        println!("skipped: only root mounts");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let image = scratch.path().join("image");
    make(&image, &[]);
    {
        let mounted = Mounted::new(&image, &scratch.path().join("mnt"), "rw");
        let below = mounted.path.join("@");
        run("btrfs", &["subvolume", "create", below.to_str().unwrap()]);
        std::fs::write(below.join("only here"), b"content").unwrap();
        run("btrfs", &["subvolume", "set-default", below.to_str().unwrap()]);
    }
    let mounted = Mounted::new(&image, &scratch.path().join("mnt"), "ro");
    assert!(mounted.path.join("only here").exists());
    assert_eq!(compare(&mut *crate::open(&image, "btrfs"), &mounted.path, EXCEPT), 2);
}

#[test]
fn what_mkfs_wrote() {
    if !crate::is_root() {
        println!(
            "skipped: only root mounts, and mkfs.btrfs gives the tree's own directory to root"
        );
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (tree, image) = (scratch.path().join("tree"), scratch.path().join("image"));
    std::fs::create_dir(&tree).unwrap();
    // mkfs.btrfs 6.2 writes holes out, takes the times of nobody, and has devices' numbers in another form.
    std::fs::create_dir(tree.join("a")).unwrap();
    for number in 0..1200 {
        let size = number % 50 * 100;
        std::fs::write(tree.join(format!("a/file {number}")), nasty::noise(size, 3)).unwrap();
    }
    make(&image, &["--rootdir", tree.to_str().unwrap()]);
    crate::check(&image, "btrfs", &tree, EXCEPT);
}
