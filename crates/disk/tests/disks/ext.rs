//! ext2, ext3 and ext4 as the kernel and `mkfs -d` write them.

use disk::tree::of_volume;

use super::listing::{compare, of_kernel, of_tree};
use super::scene::{NASTY, NASTY_OF_ROOT, Scene, is_root};

/// Kinds of file systems: options of mkfs.
const KINDS: &[(&str, &str)] = &[
    ("ext4", "-t ext4"),
    ("ext4 of 1 KiB", "-t ext4 -b 1024 -I 256"),
    ("ext3", "-t ext3"),
    ("ext2", "-t ext2 -b 1024 -I 128"),
    ("ext4 with inline data", "-t ext4 -O inline_data -I 512"),
    ("ext4 with large values", "-t ext4 -O ea_inode,large_dir"),
    ("ext4 in meta groups", "-t ext4 -O meta_bg,^resize_inode -b 1024 -g 1024"),
    ("ext4 of 32 bits", "-t ext4 -O ^64bit,^metadata_csum,^flex_bg,^resize_inode,^sparse_super"),
];

#[test]
fn as_the_kernel_writes_and_shows_them() {
    if !is_root() {
        println!("skipped: only root can mount a file system");
        return;
    }
    for (what, options) in KINDS {
        let scene = Scene::new();
        scene.sh(&format!("truncate -s 128M x.img; mkfs {options} -q x.img"));
        scene.mounted("x.img", "rw", |at| {
            let run = |script: &str| scene.sh(&format!("set -- {}\n{script}", at.display()));
            run(NASTY);
            run(NASTY_OF_ROOT);
            if options.contains("ea_inode") {
                run("cd \"$1\"; setfattr -n user.huge -v \"$(printf 'h%.0s' $(seq 20000))\" tiny");
            }
            // A hole where the kernel has to split its tree, room that is never written, and a file at the end.
            run("cd \"$1\"; fallocate -l 1M reserved || true; fallocate -n -l 1M small || true; cat /dev/zero >last 2>/dev/null || true; rm pieces");
        });
        let kernel = scene.mounted("x.img", "ro", of_kernel);
        let mut tree = of_volume(scene.open("x.img")).unwrap();
        compare(&of_tree(&mut tree).unwrap(), &kernel, what);
    }
}

#[test]
fn as_mkfs_makes_them_of_a_directory() {
    // The kernel's own are compared in every kind.
    for (what, options) in [KINDS[0], KINDS[3], KINDS[4], KINDS[7]] {
        let scene = Scene::new();
        scene.sh(&format!("mkdir tree; set -- tree\n{NASTY}"));
        if is_root() {
            scene.sh(&format!("set -- tree\n{NASTY_OF_ROOT}"));
        }
        scene.sh(&format!(
            "chmod u+r tree/empty; truncate -s 128M x.img; mkfs {options} -q -d tree x.img"
        ));
        let mut ours = of_tree(&mut of_volume(scene.open("x.img")).unwrap()).unwrap();
        assert!(ours.remove(&b"lost+found"[..]).is_some());
        let mut source = of_kernel(&scene.path("tree"));
        // It takes times in seconds, some attributes not at all, and the root's time not either.
        for listing in [&mut ours, &mut source] {
            listing.remove(&b""[..]);
            for row in listing.values_mut() {
                let (before, after) = row.split_once("mtime: (").unwrap();
                let (_, after) = after.split_once("), size").unwrap();
                let (after, rest) = after.split_once("xattrs: {").unwrap();
                let (_, rest) = rest.split_once("}, target").unwrap();
                *row = format!("{before}{after}{rest}");
            }
        }
        compare(&ours, &source, what);
    }
}

#[test]
fn a_journal_that_was_not_written_back() {
    if !is_root() {
        println!("skipped: only root can mount a file system");
        return;
    }
    for options in ["-t ext4", "-t ext3 -b 1024", "-t ext4 -O ^64bit,^metadata_csum"] {
        let scene = Scene::new();
        scene.sh(&format!("truncate -s 128M x.img; mkfs {options} -q x.img"));
        scene.mounted("x.img", "rw,commit=1000", |at| {
            scene.sh(&format!("set -- {}\n{NASTY}", at.display()));
            // What was deleted and given to another use must stay so.
            scene.sh("cd x.img.mnt; rm -r many plain; sync -f .; for i in $(seq 300); do mkdir d$i; echo $i >d$i/f; done; rm -r d1*");
            // In the state of a machine that lost its power: in the journal, and nowhere else.
            scene.sh("sync -f x.img.mnt; cp --sparse=always x.img crashed.img; dumpe2fs -h crashed.img 2>/dev/null | grep -q needs_recovery");
        });
        let ours = of_tree(&mut of_volume(scene.open("crashed.img")).unwrap()).unwrap();
        let kernel = scene.mounted("crashed.img", "rw", of_kernel);
        compare(&ours, &kernel, options);
    }
}

#[test]
fn fast_commits_are_refused_where_they_count() {
    if !is_root() {
        println!("skipped: only root can mount a file system");
        return;
    }
    let scene = Scene::new();
    scene.sh("truncate -s 128M x.img; mkfs -t ext4 -O fast_commit -q x.img");
    scene.mounted("x.img", "rw,commit=1000", |_| {
        scene.sh("cd x.img.mnt; mkdir a; echo 1 >a/b; sync -f .; cp --sparse=always ../x.img ../whole.img");
        scene.sh("cd x.img.mnt; echo 2 >a/c; sync a/c; cp --sparse=always ../x.img ../fast.img");
    });
    let ours = of_tree(&mut of_volume(scene.open("whole.img")).unwrap()).unwrap();
    assert!(ours.contains_key(&b"a/b"[..]), "{ours:?}");
    let error = of_volume(scene.open("fast.img")).err().expect("fast commits");
    assert!(format!("{error:#}").contains("run e2fsck -p"), "{error:#}");
}
