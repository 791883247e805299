//! Stores to play with.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use spec::image::{Config, Facts, Image, Origin};
use store::Store;
use sys::rooted::Root;

/// A directory that goes with its owner.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        // In memory where possible: nothing here is about disks, and flushing takes its time.
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
        let path = base.join(format!("postroj-store-{}-{n}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Where the store is.
    pub(crate) fn dir(&self) -> PathBuf {
        self.0.join("store")
    }

    /// A handle as another process would have it.
    pub(crate) fn open(&self) -> Store {
        Store::open(&self.dir()).unwrap()
    }

    /// Everything in the store, with what tells a change.
    pub(crate) fn everything(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut todo = vec![self.dir()];
        while let Some(path) = todo.pop() {
            let stat = fs::symlink_metadata(&path).unwrap();
            if stat.is_dir() {
                todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            let facts = format!(
                "{:o} {} {} {}.{}",
                stat.mode(),
                stat.ino(),
                stat.size(),
                stat.ctime(),
                stat.ctime_nsec()
            );
            found.insert(path, facts);
        }
        found
    }

    /// The names in a directory of the store.
    pub(crate) fn list(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.dir().join(dir)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let above = Root::open(self.0.parent().unwrap()).unwrap();
        let removed = above.remove_all(self.0.file_name().unwrap());
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// An id that begins with a number.
pub(crate) fn id(n: u32) -> String {
    format!("{n:08x}{}", "0".repeat(56))
}

/// An image of one layer, both with the id of that number.
pub(crate) fn image(n: u32) -> Image {
    Image {
        id: id(n),
        layers: vec![id(n)],
        config: Config { cmd: vec!["/bin/sh".into()], ..Config::default() },
        facts: Facts::default(),
        origin: Origin::Tar { path: "/x.tar".into(), digest: format!("sha256:{}", id(n)) },
        created: 1,
        size: 5,
    }
}

/// Makes, commits and records an image.
pub(crate) fn add(store: &Store, n: u32, names: &[&str]) -> Image {
    let image = image(n);
    let layer = store.new_layer().unwrap();
    fs::create_dir(layer.path().join("dir")).unwrap();
    fs::write(layer.path().join("dir/file"), format!("of {n}")).unwrap();
    layer.commit(&image.id).unwrap();
    let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
    store.record(&image, &names).unwrap();
    image
}

/// An error as the user sees it.
pub(crate) fn text<T>(result: anyhow::Result<T>) -> String {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => format!("{error:#}"),
    }
}
