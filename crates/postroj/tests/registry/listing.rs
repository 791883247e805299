//! What a tree holds, entry by entry, in words: printed by this very program, on the host or,
//! bound into a machine, within.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixture::said;
use crate::place::Place;

pub(crate) const ROOT: &str = "POSTROJ_TEST_LIST";

/// Not a test of its own: prints the tree that the environment names.
#[test]
fn list() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    for line in of(Path::new(&root), true) {
        println!("= {line}");
    }
}

/// A line for each entry, sorted; owners and device nodes only where they can be as in the image.
pub(crate) fn of(root: &Path, owners: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut links: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut paths = Vec::new();
    walk(root, Path::new(""), &mut paths);
    paths.sort();
    for path in paths {
        let whole = root.join(&path);
        let stat = std::fs::symlink_metadata(&whole).unwrap();
        let kind = stat.file_type();
        // What no layer dates has the time of its unpacking.
        let time = stat.mtime();
        let time = if time > 1_500_000_000 { "now".to_owned() } else { time.to_string() };
        let mut line = format!("{} {:o} {time}", path.display(), stat.mode());
        if owners {
            line += &format!(" {}:{}", stat.uid(), stat.gid());
        }
        if kind.is_file() {
            let content = std::fs::read(&whole).unwrap();
            let sum =
                content.iter().fold(0u64, |sum, &b| sum.wrapping_mul(31).wrapping_add(b.into()));
            line += &format!(" {} bytes {sum:x}", content.len());
        } else if kind.is_symlink() {
            line += &format!(" -> {}", std::fs::read_link(&whole).unwrap().display());
        } else if kind.is_char_device() || kind.is_block_device() {
            line += &format!(" device {:x}", stat.rdev());
        }
        if !kind.is_dir() && stat.nlink() > 1 {
            // The first of several is like a single one: its others may be hidden by a layer above.
            match links.get(&(stat.dev(), stat.ino())) {
                Some(first) => line += &format!(" same as {}", first.display()),
                None => drop(links.insert((stat.dev(), stat.ino()), path.clone())),
            }
        }
        for (name, value) in xattrs(&whole) {
            line += &format!(" {name}={value}");
        }
        lines.push(line.replace('\n', "\\n"));
    }
    lines
}

fn walk(root: &Path, at: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(root.join(at)).unwrap() {
        let entry = entry.unwrap();
        let path = at.join(entry.file_name());
        paths.push(path.clone());
        if entry.file_type().unwrap().is_dir() {
            walk(root, &path, paths);
        }
    }
}

fn xattrs(path: &Path) -> Vec<(String, String)> {
    let mut list = vec![0; 4096];
    let Ok(length) = rustix::fs::llistxattr(path, &mut list[..]) else { return Vec::new() };
    let mut found = Vec::new();
    for name in list[..length].split(|&b| b == 0).filter(|n| !n.is_empty()) {
        let name = std::ffi::OsStr::from_bytes(name);
        let text = name.to_str().unwrap();
        // Overlayfs's own, of the mount or of the host; and what umoci notes for itself.
        let foreign = ["trusted.", "user.overlay.", "user.rootlesscontainers", "security.selinux"];
        if foreign.iter().any(|start| text.starts_with(start)) {
            continue;
        }
        let mut value = vec![0; 4096];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        found.push((text.to_owned(), format!("{:02x?}", &value[..length])));
    }
    found.sort();
    found
}

/// The tree at a path of an image, as a machine sees it.
pub(crate) fn in_machine(place: &Place, image: &str, path: &str) -> Vec<String> {
    let program = std::env::current_exe().unwrap();
    // The test's program lies where an ordinary user's machine may not look.
    let copy = place.path("lister");
    std::fs::copy(program, &copy).unwrap();
    let volume = format!("{}:/lister:ro", copy.display());
    let variable = format!("{ROOT}={path}");
    let mut command: Command = place.postroj(&["run", "-v", &volume, "-e", &variable, image]);
    let said = said(command.args(["/lister", "listing::list", "--exact", "--nocapture"]));
    assert_eq!(said.code, 0, "{said:?}");
    said.out.lines().filter_map(|line| line.strip_prefix("= ")).map(str::to_owned).collect()
}
