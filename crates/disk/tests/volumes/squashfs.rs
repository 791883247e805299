//! SquashFS, by mksquashfs with each of its compressors.

use crate::support::compare::Except;
use crate::support::{nasty, run};

#[test]
fn each_compression_and_what_is_left_out() {
    if !crate::is_root() {
        println!("skipped: only root mounts; the tree itself is no exact measure for mksquashfs");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    // Times are 32 bits without a sign.
    let limits = nasty::Limits {
        large: 64 << 20,
        names: 6000,
        times: (0, 4_000_000_000),
        ..nasty::Limits::default()
    };
    nasty::fill(&tree, limits);
    let options: [&[&str]; 9] = [
        &["-comp", "gzip"],
        &["-comp", "xz", "-b", "1M"],
        &["-comp", "zstd"],
        &["-comp", "lz4", "-Xhc"],
        &["-comp", "lzo"],
        &["-noI", "-noD", "-noF", "-noX"],
        &["-no-fragments", "-b", "4096"],
        &["-always-use-fragments", "-b", "65536"],
        &["-no-xattrs", "-no-exports", "-no-duplicates", "-no-tailends"],
    ];
    // It keeps neither access control lists nor fractions.
    let except =
        Except { fractions: true, xattrs: &["system.", "security.selinux"], ..Except::default() };
    for options in options {
        let image = scratch.path().join("image");
        let paths = [tree.to_str().unwrap(), image.to_str().unwrap()];
        let arguments = [&paths[..], options, &["-noappend", "-quiet", "-no-progress"]].concat();
        run("mksquashfs", &arguments);
        println!("{options:?}");
        crate::check(&image, "squashfs", &tree, except);
    }
}
