//! What the fuzz targets share.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use store::unpack::Limits;
use sys::rooted::Root;

/// The bootstrap source's parsers. They are private to bakery, whose whole (with a TLS
/// stack) would have to be built with sanitizers, so they are compiled here once more.
#[allow(dead_code, missing_docs)]
#[path = "../../crates/bakery/src/source/bootstrap"]
pub mod bootstrap {
    pub mod apt_conf;
    pub mod ar;
    pub mod date;
    pub mod deb;
    pub mod deb822;
    pub mod keyring;
    pub mod packages;
    pub mod relation;
    pub mod release;
    pub mod sources_list;
    pub mod version;
}

#[allow(dead_code)]
#[path = "../../crates/bakery/src/compression.rs"]
mod compression;

/// The same for what registries ask for.
#[allow(dead_code, missing_docs)]
#[path = "../../crates/bakery/src/source/registry/challenge.rs"]
pub mod challenge;

/// What a machine's systemd answers.
#[allow(dead_code)]
#[path = "../../crates/engine/src/bus.rs"]
pub mod bus;

/// Images of disks, and trees that become some.
pub mod image;

/// bubblewrap's options.
#[allow(dead_code)]
#[path = "../../crates/postroj/src/face/bwrap/options.rs"]
mod bwrap_options;

/// Reads a command line of `bwrap`, where every descriptor gives `words` again; the operations and
/// the command that it asks for, or `None` where it is refused.
pub fn bwrap(words: &[u8]) -> Option<(spec::sandbox::Sandbox, Vec<String>)> {
    use std::os::unix::ffi::OsStringExt;
    thread_local!(static GIVEN: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) });
    GIVEN.set(words.to_vec());
    let content = |fd: i32| match fd {
        0..3 => Ok(GIVEN.with_borrow(Clone::clone)),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    };
    let words = words.split(|&b| b == 0).map(|word| std::ffi::OsString::from_vec(word.to_vec()));
    let args = std::iter::once("bwrap".into()).chain(words).collect();
    let mut reader = bwrap_options::Reader::new(content, 0);
    let read = reader.read(args).and_then(|()| reader.finish());
    read.ok().map(|()| (reader.sandbox, reader.warnings))
}

/// A root to unpack into, in memory, whose surroundings must not change.
pub struct Cage {
    dir: PathBuf,
}

/// How many there are.
static CAGES: AtomicU32 = AtomicU32::new(0);

/// The content of the file beside the root.
const CANARY: &[u8] = b"alive";

impl Cage {
    /// Makes it, `inside` holding what a system has: a link to a directory, one to the outside.
    pub fn new() -> Self {
        let number = CAGES.fetch_add(1, Ordering::Relaxed);
        let dir = format!("/dev/shm/postroj-fuzz-{}-{number}", std::process::id()).into();
        let cage = Self { dir };
        cage.clear();
        fs::create_dir_all(cage.root().join("usr/bin")).expect("a root");
        std::os::unix::fs::symlink("usr/bin", cage.root().join("bin")).expect("a link");
        std::os::unix::fs::symlink("../outside", cage.root().join("out")).expect("a link");
        fs::create_dir(cage.dir.join("outside")).expect("a neighbour");
        fs::write(cage.dir.join("canary"), CANARY).expect("a canary");
        cage
    }

    /// The root that may change.
    pub fn open(&self) -> Root {
        Root::open(&self.root()).expect("the root opens")
    }

    /// Checks that nothing but the root changed.
    pub fn check(&self) {
        assert_eq!(names(&self.dir), ["canary", "outside", "root"]);
        assert!(names(&self.dir.join("outside")).is_empty(), "something was written outside");
        assert_eq!(fs::read(self.dir.join("canary")).expect("the canary"), CANARY);
        let links = std::os::unix::fs::MetadataExt::nlink;
        assert_eq!(links(&fs::metadata(self.dir.join("canary")).expect("the canary")), 1);
    }

    fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    fn clear(&self) {
        if let (Some(parent), Some(name)) = (self.dir.parent(), self.dir.file_name()) {
            let parent = Root::open(parent).expect("the parent opens");
            let _ = parent.remove_all(name);
        }
    }
}

impl Default for Cage {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        self.clear();
        CAGES.fetch_sub(1, Ordering::Relaxed);
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().display().to_string()).collect();
    names.sort();
    names
}

/// Limits that an input of a few kilobytes can meet, and that a small disk can bear.
pub fn limits() -> Limits {
    Limits {
        max_entries: 200,
        max_bytes: 1 << 20,
        max_file: 1 << 20,
        max_path: 1024,
        max_extension: 16 << 10,
        max_remembered: 64 << 10,
    }
}

/// A disk in memory.
pub fn blocks(data: &[u8]) -> std::sync::Arc<dyn disk::Blocks> {
    std::sync::Arc::new(disk::span::Memory(data.to_vec()))
}

/// Walks a tree, with all content up to a limit; whether it is whole does not matter.
pub fn walk(mut tree: disk::tree::Tree) {
    let (mut entries, mut bytes) = (0, 0);
    let _ = tree.walk(&mut |entry, content| {
        entries += 1;
        anyhow::ensure!(entries < 10_000, "enough");
        assert!(!entry.path.contains(&0) && !entry.path.starts_with(b"/"));
        assert!(entry.path.split(|&b| b == b'/').all(|name| name != b".." && name != b"."));
        if entry.attributes.kind != disk::Kind::File || entry.same_as.is_some() {
            return Ok(());
        }
        let mut end = 0;
        content(&mut |offset, piece| {
            assert!(offset >= end && !piece.is_empty());
            end = offset + piece.len() as u64;
            assert!(end <= entry.attributes.size);
            bytes += piece.len();
            anyhow::ensure!(bytes < 64 << 20, "enough");
            Ok(())
        })
    });
}

/// Walks a file system of a kind, where these bytes hold one.
pub fn volume(data: &[u8], kind: &str) {
    let blocks = blocks(data);
    let known = disk::volume::FORMATS.iter().find(|format| format.name() == kind);
    let format = known.expect("it is one of ours");
    let _ = format.identity(&*blocks);
    if format.recognises(&*blocks).is_ok_and(|known| known)
        && let Ok(tree) = disk::tree::of_volume(blocks)
    {
        walk(tree);
    }
}
