//! EROFS, by mkfs.erofs.

use crate::support::compare::Except;
use crate::support::{nasty, run};

#[test]
fn plain() {
    is_read(&[&["-x2"], &["-T1000000000"], &["--chunksize=4096"]]);
}

#[test]
fn compressed() {
    is_read(&[&["-zlz4"], &["-zlz4hc,12", "-C65536"]]);
}

#[test]
fn compressed_in_other_layouts() {
    is_read(&[&["-zlz4hc", "-Elegacy-compress"], &["-zlz4hc", "-Eztailpacking", "-x0"]]);
}

/// Made with each of these options, it holds what the tree does.
fn is_read(each: &[&[&str]]) {
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    nasty::fill(&tree, nasty::Limits { large: 64 << 20, names: 6000, ..nasty::Limits::default() });
    // mkfs.erofs 1.5 takes no more than 254 bytes.
    std::fs::remove_file(tree.join("names").join("n".repeat(255))).unwrap();
    for options in each {
        let image = scratch.path().join("image");
        let _ = std::fs::remove_file(&image);
        let paths = [image.to_str().unwrap(), tree.to_str().unwrap()];
        run("mkfs.erofs", &[&["--quiet"], *options, &paths].concat());
        println!("{options:?}");
        if !crate::is_root() && options.iter().any(|option| option.starts_with("-T")) {
            // There is nothing to compare with.
            continue;
        }
        crate::check(
            &image,
            "erofs",
            &tree,
            Except { xattrs: &["security.selinux"], ..Except::default() },
        );
    }
}
