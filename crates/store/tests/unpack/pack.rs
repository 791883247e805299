//! We pack, and we and GNU tar unpack: nothing is lost on the way.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat};
use store::pack::{Options, pack};
use store::unpack::Style;
use sys::rooted::Root;

use crate::place::Place;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A tree with some of everything that a root file system may hold.
fn fill(tree: &Path) {
    let long = tree.join("usr/share").join("n".repeat(120)).join("m".repeat(200));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("f".repeat(255)), "far below").unwrap();
    fs::write(tree.join("usr/file"), "content".repeat(100_000)).unwrap();
    fs::write(tree.join("usr/empty"), "").unwrap();
    fs::write(tree.join("usr/naïve name\nof two lines"), "x").unwrap();
    fs::write(tree.join("usr").join(std::ffi::OsStr::from_bytes(b"latin1 \xe4")), "y").unwrap();
    fs::hard_link(tree.join("usr/file"), tree.join("usr/share/hard")).unwrap();
    fs::hard_link(tree.join("usr/file"), tree.join("another")).unwrap();
    symlink("/usr/file", tree.join("usr/link")).unwrap();
    symlink("t".repeat(3000), tree.join("usr/long link")).unwrap();
    symlink("dangling\nand of two lines", tree.join("usr/odd link")).unwrap();
    mknodat(CWD, tree.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let sparse = fs::File::create(tree.join("usr/sparse")).unwrap();
    // More extents than one block of a map holds.
    for i in 0..200 {
        sparse.write_all_at(b"data", i * 65_536 + 100).unwrap();
    }
    sparse.set_len(200 * 65_536 + 12_345).unwrap();
    fs::File::create(tree.join("usr/hole")).unwrap().set_len(1 << 20).unwrap();
    let none = XattrFlags::empty();
    rustix::fs::setxattr(tree.join("usr/file"), "user.bytes", b"a\nb\0c=", none).unwrap();
    rustix::fs::setxattr(tree.join("usr"), "user.empty", b"", none).unwrap();
    // What belongs to overlayfs of this host means nothing elsewhere.
    rustix::fs::setxattr(tree.join("usr"), "user.overlay.opaque", b"y", none).unwrap();
    if is_root() {
        std::os::unix::fs::chown(tree.join("usr/empty"), Some(7), Some(3_000_000_000)).unwrap();
        std::os::unix::fs::lchown(tree.join("usr/link"), Some(8), Some(9)).unwrap();
        // VFS_CAP_REVISION_2 | effective, cap_net_raw (linux/capability.h).
        let capability = [1u8, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let file = tree.join("usr/empty");
        rustix::fs::setxattr(file, "security.capability", &capability, none).unwrap();
        let device = rustix::fs::makedev(1, 3);
        let (kind, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(0o666));
        mknodat(CWD, tree.join("null"), kind, mode, device).unwrap();
    }
    for (path, mode) in [("usr/file", 0o4711), ("usr/share", 0o3775), ("usr/hole", 0), (".", 0o751)]
    {
        // Nobody but root reads a file without any bit.
        let mode = if is_root() { mode } else { mode | 0o400 };
        fs::set_permissions(tree.join(path), PermissionsExt::from_mode(mode)).unwrap();
    }
    let old = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH - OLD);
    fs::File::options().write(true).open(tree.join("usr/sparse")).unwrap().set_times(old).unwrap();
}

/// Before the epoch, with a fraction.
const OLD: std::time::Duration = std::time::Duration::from_millis(1250);

fn packed(place: &Place) -> Vec<u8> {
    let mut archive = Vec::new();
    pack(&place.handle(), &mut archive, &Options::default()).unwrap();
    archive
}

/// All attributes, by name.
fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut list = [0; 4096];
    let length = rustix::fs::llistxattr(path, &mut list[..]).unwrap();
    let names = list[..length].split(|&b| b == 0).filter(|name| !name.is_empty());
    let mut all: Vec<_> = names
        .map(|name| {
            let mut value = [0; 4096];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            (String::from_utf8(name.to_vec()).unwrap(), value[..length].to_vec())
        })
        .filter(|(name, _)| !name.starts_with("user.overlay.") && name != "security.selinux")
        .collect();
    all.sort();
    all
}

/// Everything of a tree but its inode numbers and change times.
fn told(tree: &Path) -> Vec<String> {
    let mut told = vec![tell(tree, tree)];
    walk(tree, &mut |path| told.push(tell(tree, path)));
    told.sort();
    told
}

#[track_caller]
fn compare(ours: &Place, theirs: &Place) {
    let (ours, theirs) = (told(&ours.root()), told(&theirs.root()));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.len(), theirs.len());
}

fn tell(tree: &Path, path: &Path) -> String {
    let stat = fs::symlink_metadata(path).unwrap();
    let content = match stat.is_file() {
        true => format!("{:x}", checksum(&fs::read(path).unwrap())),
        false => fs::read_link(path).map_or_else(|_| String::new(), |to| format!("{to:?}")),
    };
    let size = if stat.is_dir() { 0 } else { stat.len() };
    let links = if stat.is_dir() { 0 } else { stat.nlink() };
    format!(
        "{:?} {:o} {}:{} {size} links {links} device {} at {}.{} {:?} {content}",
        path.strip_prefix(tree).unwrap(),
        stat.mode(),
        stat.uid(),
        stat.gid(),
        stat.rdev(),
        stat.mtime(),
        stat.mtime_nsec(),
        xattrs(path),
    )
}

fn checksum(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

fn walk(dir: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        each(&path);
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            walk(&path, each);
        }
    }
}

#[test]
fn what_we_pack_we_unpack_the_same() {
    let source = Place::new();
    fill(&source.root());
    let archive = packed(&source);
    let place = Place::new();
    place.unpack(&archive, Style::Plain).unwrap();
    compare(&place, &source);
    for name in ["usr/sparse", "usr/hole"] {
        assert_eq!(place.stat(name).blocks(), source.stat(name).blocks(), "{name}");
    }
    assert_eq!(place.stat("another").ino(), place.stat("usr/share/hard").ino());
    // The same tree is the same archive, wherever it lies.
    let again = packed(&place);
    assert!(archive == again, "two archives of one tree differ");
}

#[test]
fn gnu_tar_lists_and_extracts_what_we_pack() {
    let source = Place::new();
    fill(&source.root());
    let archive = packed(&source);
    let file = source.root().parent().unwrap().join("outside/archive");
    fs::write(&file, &archive).unwrap();
    let tar = |args: &[&str], dir: &Path| {
        let mut command = Command::new("tar");
        command.arg("-C").arg(dir).args(args).arg("-f").arg(&file);
        let output = command.stdin(Stdio::null()).output().expect("tar is on every Debian system");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command:?}: {said}");
        assert_eq!(said, "", "{command:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let listed = tar(&["--list"], &source.root());
    let mut count = 1;
    walk(&source.root(), &mut |_| count += 1);
    assert_eq!(listed.lines().count(), count);
    assert_eq!(listed.lines().next(), Some("./"));
    let place = Place::new();
    let all = ["--extract", "--xattrs", "--xattrs-include=*", "--preserve-permissions"];
    // With names cut, GNU tar makes links late, and so changes the times of directories.
    let quiet = ["--warning=no-timestamp", "--absolute-names"];
    tar(&[&all[..], &quiet].concat(), &place.root());
    compare(&place, &source);
    fs::remove_file(file).unwrap();
}

#[test]
fn what_is_left_out_is_there_but_empty() {
    let source = Place::new();
    let tree = source.root();
    fs::create_dir_all(tree.join("keep")).unwrap();
    fs::create_dir_all(tree.join("store/deep")).unwrap();
    fs::write(tree.join("store/deep/file"), "x").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("keep/socket")).unwrap();
    let store = fs::metadata(tree.join("store")).unwrap();
    let options = Options { without: vec![(store.dev(), store.ino())], ..Options::default() };
    let mut archive = Vec::new();
    pack(&source.handle(), &mut archive, &options).unwrap();
    let place = Place::new();
    place.unpack(&archive, Style::Plain).unwrap();
    assert_eq!(place.names(), ["keep", "store"]);
}

#[test]
fn what_cannot_be_packed_is_named() {
    let source = Place::new();
    fs::write(source.root().join("closed"), "x").unwrap();
    fs::set_permissions(source.root().join("closed"), PermissionsExt::from_mode(0o000)).unwrap();
    let pack_to = |writer: &mut dyn std::io::Write| {
        let root = Root::open(&source.root()).unwrap();
        pack(&root, writer, &Options::default()).map_err(|error| format!("{error:#}"))
    };
    if is_root() {
        pack_to(&mut Vec::new()).unwrap();
    } else {
        let error = pack_to(&mut Vec::new()).unwrap_err();
        assert!(error.contains("packing closed: opening it: Permission denied"), "{error}");
        fs::set_permissions(source.root().join("closed"), PermissionsExt::from_mode(0o600))
            .unwrap();
    }
    let mut full = fs::File::options().write(true).open("/dev/full").unwrap();
    let error = pack_to(&mut full).unwrap_err();
    assert!(error.contains("No space left on device"), "{error}");
}
