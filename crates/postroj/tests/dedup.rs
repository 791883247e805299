//! Equal files of different images share their blocks, where the file system can.

mod fixture;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fixture::{Own, busybox, home, is_root, out, said};

/// Two images, each of one layer, that have a file of five MB in common.
fn two_images(place: &Own) {
    // No two blocks of it are alike.
    let text: String = (0..5 << 20).step_by(16).map(|n: u32| format!("{n:015}\n")).collect();
    for (name, more) in [("one", "1"), ("two", "22")] {
        let root = place.path(name);
        busybox(&root);
        std::fs::write(root.join("srv/large"), &text).unwrap();
        std::fs::write(root.join("srv/own"), more.repeat(8192)).unwrap();
        let tar = place.path(&format!("{name}.tar"));
        fixture::tar(&root, &tar);
        place.pull(tar.to_str().unwrap());
        std::fs::remove_dir_all(&root).unwrap();
    }
}

fn sum(place: &Own, name: &str) -> String {
    let image = format!("tar:{}", place.path(&format!("{name}.tar")).display());
    out(&mut place.sh(&image, "md5sum /srv/* /bin/busybox; ls -lR /srv /bin"))
}

/// A file system in a file, mounted until this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(file: &Path, at: &Path) -> Result<Self, String> {
        std::fs::File::create(file).unwrap().set_len(512 << 20).unwrap();
        let make = Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(file).output();
        let made = make.expect("the package xfsprogs is installed (`cargo xtask setup`)");
        assert!(made.status.success(), "{made:?}");
        let mount = Command::new("mount").args(["-o", "loop"]).args([file, at]).output().unwrap();
        match mount.status.success() {
            true => Ok(Self(at.to_owned())),
            false => Err(String::from_utf8_lossy(&mount.stderr).trim().to_owned()),
        }
    }

    fn used(&self) -> u64 {
        let synced = Command::new("sync").arg("-f").arg(&self.0).status().unwrap();
        assert!(synced.success());
        let found = rustix::fs::statvfs(&self.0).unwrap();
        (found.f_blocks - found.f_bfree) * found.f_frsize
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).stderr(Stdio::null()).status();
    }
}

#[test]
fn equal_files_share_their_blocks_on_xfs() {
    if !is_root() {
        println!("skipped: only root can mount a file system");
        return;
    }
    let place = Own::new("dedup-xfs");
    std::fs::create_dir_all(place.store()).unwrap();
    let file = home().join(format!("xfs-{}", std::process::id()));
    let mounted = Mounted::new(&file, &place.store());
    std::fs::remove_file(&file).unwrap();
    let mounted = match mounted {
        Ok(mounted) => mounted,
        Err(why) => {
            println!("skipped: a file system in a file cannot be mounted: {why}");
            return;
        }
    };
    two_images(&place);
    let (before, used) = ([sum(&place, "one"), sum(&place, "two")], mounted.used());
    let said = place.json(&["system", "dedup", "--json"]);
    assert_eq!(said["Supported"], true, "{said}");
    let freed = said["FreedBytes"].as_u64().unwrap();
    assert!(freed > 5 << 20, "{said}");
    let less = used - mounted.used();
    assert!(less > 5 << 20 && less <= freed + (1 << 20), "{less} to {said}");
    assert_eq!([sum(&place, "one"), sum(&place, "two")], before);
    // What is shared already is seen, and not counted again.
    let again = place.json(&["system", "dedup", "--json"]);
    assert_eq!(again["FreedBytes"], 0, "{again}");
    assert_eq!(again["SharedBefore"], said["FreedFiles"], "{again}");
    let text = out(&mut place.postroj(&["system", "dedup"]));
    assert!(text.starts_with("Freed 0 B in 0 files"), "{text}");
    place.is_sound();
    let _ = fixture::said(&mut place.postroj(&["system", "prune", "--all"]));
    drop(mounted);
}

#[test]
fn where_the_file_system_cannot_it_says_so() {
    let place = Own::new("dedup");
    two_images(&place);
    let before = [sum(&place, "one"), sum(&place, "two")];
    let told = place.json(&["system", "dedup", "--json"]);
    assert!(told["EqualBytes"].as_u64().unwrap() > 5 << 20, "{told}");
    let text = said(&mut place.postroj(&["system", "dedup"])).out;
    match told["Supported"].as_bool().unwrap() {
        true => assert!(text.starts_with("Freed "), "{text}"),
        false => assert!(text.contains("a store on btrfs or xfs could"), "{text}"),
    }
    assert_eq!([sum(&place, "one"), sum(&place, "two")], before);
    place.is_sound();
}
