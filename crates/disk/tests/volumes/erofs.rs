//! EROFS, by mkfs.erofs.

use crate::support::compare::Except;
use crate::support::{nasty, run};

#[test]
fn plain_and_compressed() {
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    nasty::fill(&tree, nasty::Limits { large: 64 << 20, names: 6000, ..nasty::Limits::default() });
    // mkfs.erofs 1.5 takes no more than 254 bytes.
    std::fs::remove_file(tree.join("names").join("n".repeat(255))).unwrap();
    let options: [&[&str]; 7] = [
        &["-x2"],
        &["-T1000000000"],
        &["--chunksize=4096"],
        &["-zlz4"],
        &["-zlz4hc,12", "-C65536"],
        &["-zlz4hc", "-Elegacy-compress"],
        &["-zlz4hc", "-Eztailpacking", "-x0"],
    ];
    for options in options {
        let image = scratch.path().join("image");
        let _ = std::fs::remove_file(&image);
        let paths = [image.to_str().unwrap(), tree.to_str().unwrap()];
        run("mkfs.erofs", &[&["--quiet"], options, &paths].concat());
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
