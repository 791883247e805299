//! XFS, by mkfs.xfs, filled by the kernel.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::compare::Except;
use crate::support::{FileBlocks, Mounted, is_root, nasty, run};

/// The kernel shows root an access control list once more, in XFS's own form.
const EXCEPT: Except = Except {
    xattrs: &["trusted.SGI_ACL", "security.selinux"],
    owners: false,
    fractions: false,
    names: &[],
};

fn make(image: &Path, options: &[&str]) {
    let _ = std::fs::remove_file(image);
    File::create(image).unwrap().set_len(400 << 20).unwrap();
    run("mkfs.xfs", &[&["-q"], options, &[image.to_str().unwrap()]].concat());
}

#[test]
fn what_the_kernel_wrote() {
    if !is_root() {
        println!("skipped: only root mounts, and the kernel alone fills an XFS");
        return;
    }
    let options: [&[&str]; 5] = [
        &[],
        &["-b", "size=1024", "-n", "size=8192", "-m", "bigtime=0,reflink=0"],
        &["-i", "size=2048", "-d", "agcount=3"],
        &["-i", "size=256", "-m", "crc=0"],
        &["-m", "rmapbt=1"],
    ];
    let scratch = tempfile::tempdir().unwrap();
    for (number, options) in options.into_iter().enumerate() {
        println!("{options:?}");
        let names = if number == 0 { 20_000 } else { 4000 };
        let image = scratch.path().join("image");
        make(&image, options);
        // This kernel may not know version 4 any more.
        if options.contains(&"crc=0") && !mounts(&image) {
            println!("left out: this kernel does not mount XFS of version 4");
            continue;
        }
        let times = if options.contains(&"crc=0") || options.join(" ").contains("bigtime=0") {
            (-2_000_000_000, 2_147_483_647)
        } else {
            (-2_000_000_000, 7_000_000_000)
        };
        {
            let mounted = Mounted::new(&image, &scratch.path().join("mnt"), "rw");
            nasty::fill(
                &mounted.path,
                nasty::Limits {
                    target: 1000,
                    device: (511, 262_143),
                    xattr: 60_000,
                    names,
                    times,
                    ..Default::default()
                },
            );
            more(&mounted.path, names);
        }
        crate::check(&image, "xfs", scratch.path(), EXCEPT);
    }
}

fn mounts(image: &Path) -> bool {
    Mounted::try_new(image, &image.with_extension("try"), "rw").is_some()
}

/// A file in thousands of pieces, attributes in a tree, directories with gaps, reserved space.
fn more(root: &Path, names: usize) {
    let file = File::create(root.join("pieces")).unwrap();
    for number in 0..4000 {
        file.write_all_at(&nasty::noise(1000, number + 1), number * 16_384).unwrap();
    }
    file.sync_all().unwrap();
    let path = root.join("attributes/tree");
    std::fs::write(&path, b"").unwrap();
    for number in 0..500 {
        let (name, value) = (format!("user.{number}"), nasty::noise(200 + number % 7 * 900, 6));
        rustix::fs::lsetxattr(&path, &name[..], &value, rustix::fs::XattrFlags::empty()).unwrap();
    }
    for number in (0..names).filter(|n| n % 3 > 0 || *n < names / 2) {
        let name = root.join(format!("many/{}-{number}", "entry".repeat(number % 7)));
        if std::fs::remove_file(&name).is_err() {
            std::fs::remove_dir(&name).unwrap();
        }
    }
    let reserved = File::create(root.join("reserved")).unwrap();
    rustix::fs::fallocate(&reserved, rustix::fs::FallocateFlags::empty(), 0, 1 << 20).unwrap();
    reserved.write_all_at(b"in the middle", 300_000).unwrap();
}

#[test]
fn a_journal_that_is_not_clean_is_refused() {
    if !is_root() {
        println!("skipped: only root mounts, and the kernel alone fills an XFS");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (image, copy) = (scratch.path().join("image"), scratch.path().join("copy"));
    make(&image, &[]);
    let mounted = Mounted::new(&image, &scratch.path().join("mnt"), "rw");
    std::fs::write(mounted.path.join("file"), b"content").unwrap();
    File::open(mounted.path.join("file")).unwrap().sync_all().unwrap();
    run("cp", &["--sparse=always", image.to_str().unwrap(), copy.to_str().unwrap()]);
    drop(mounted);
    let error = disk::volume::open(FileBlocks::open(&copy)).map(drop).unwrap_err();
    assert!(format!("{error:#}").contains("xfs_repair"), "{error:#}");
    disk::volume::open(FileBlocks::open(&image)).map(drop).unwrap();
}
