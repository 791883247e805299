//! GNU tar packs, we unpack, and nothing is lost.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::process::Command;

use store::unpack::Style;

use crate::place::Place;

#[test]
fn what_gnu_tar_packs_comes_out_the_same() {
    let source = Place::new();
    let tree = source.root();
    fs::create_dir_all(tree.join("usr/share/deep").join("n".repeat(120)).join("m".repeat(120)))
        .unwrap();
    fs::write(tree.join("usr/file"), "content".repeat(10_000)).unwrap();
    fs::write(tree.join("usr/empty"), "").unwrap();
    fs::write(tree.join("usr/naïve name\nof two lines"), "x").unwrap();
    fs::hard_link(tree.join("usr/file"), tree.join("usr/share/hard")).unwrap();
    symlink("/usr/file", tree.join("usr/link")).unwrap();
    symlink("t".repeat(3000), tree.join("usr/long")).unwrap();
    let sparse = fs::File::create(tree.join("usr/sparse")).unwrap();
    // More extents than one header holds.
    for i in 0..60 {
        sparse.write_all_at(b"data", i * 65_536 + 100).unwrap();
    }
    sparse.set_len(60 * 65_536 + 12_345).unwrap();
    for format in [
        &["--format=gnu", "-S"][..],
        &["--format=pax", "-S"],
        &["--format=pax", "-S", "--sparse-version=0.1"],
        &["--format=pax", "-S", "--sparse-version=0.0"],
        &["--format=pax", "--xattrs"],
    ] {
        let packed = Command::new("tar")
            .args(format)
            .args(["-c", "-f", "-", "-C"])
            .arg(&tree)
            .arg(".")
            .output()
            .expect("tar is on every Debian system");
        assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
        let place = Place::new();
        place.unpack(&packed.stdout, Style::Plain).unwrap_or_else(|e| panic!("{format:?}: {e:#}"));
        assert_eq!(place.names(), source.names(), "{format:?}");
        for name in source.names() {
            let (ours, theirs) = (place.stat(&name), source.stat(&name));
            assert_eq!(ours.mode(), theirs.mode(), "{name}");
            assert_eq!((ours.uid(), ours.gid()), (theirs.uid(), theirs.gid()), "{name}");
            assert_eq!(ours.mtime(), theirs.mtime(), "{name}");
            assert_eq!(ours.nlink(), theirs.nlink(), "{name}");
            if format[0].ends_with("pax") {
                assert_eq!(ours.mtime_nsec(), theirs.mtime_nsec(), "{name}");
            }
            if theirs.is_file() {
                let read = |place: &Place| fs::read(place.root().join(&name)).unwrap();
                assert!(read(&place) == read(&source), "{format:?}: {name}");
            }
            if theirs.is_symlink() {
                let read = |place: &Place| fs::read_link(place.root().join(&name)).unwrap();
                assert_eq!(read(&place), read(&source));
            }
        }
        if format[1] == "-S" {
            assert!(place.stat("usr/sparse").blocks() * 512 < 1 << 20, "{format:?}");
        }
    }
}
