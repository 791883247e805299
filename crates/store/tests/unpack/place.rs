//! A place to unpack to, beside something that must not change.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use store::unpack::{Ids, Limits, Options, Style, Summary, unpack_with};
use sys::rooted::Root;

/// `root/` to unpack to, and `outside/` with a canary.
pub(crate) struct Place {
    path: PathBuf,
    before: BTreeMap<PathBuf, String>,
    pub(crate) user_space: bool,
}

impl Place {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = scratch().join(format!("postroj-unpack-{}-{n}", std::process::id()));
        fs::create_dir_all(path.join("root")).unwrap();
        fs::create_dir_all(path.join("outside/dir")).unwrap();
        fs::write(path.join("outside/canary"), "sings").unwrap();
        fs::write(path.join("outside/dir/canary"), "sings, too").unwrap();
        fs::set_permissions(path.join("outside/canary"), PermissionsExt::from_mode(0o640)).unwrap();
        let mut place = Self { path, before: BTreeMap::new(), user_space: false };
        place.before = place.outside();
        place
    }

    /// One whose paths are resolved by the kernel, or in user space.
    pub(crate) fn resolving(user_space: bool) -> Self {
        let mut place = Self::new();
        place.user_space = user_space;
        place
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path.join("root")
    }

    /// The absolute path of the canaries' directory.
    pub(crate) fn outside_path(&self) -> String {
        self.path.join("outside").to_str().unwrap().to_owned()
    }

    pub(crate) fn handle(&self) -> Root {
        let root = Root::open(&self.root()).unwrap();
        if self.user_space { root.without_openat2() } else { root }
    }

    pub(crate) fn unpack(&self, archive: &[u8], style: Style) -> Result<Summary> {
        self.unpack_limited(archive, style, Limits::default())
    }

    pub(crate) fn unpack_limited(
        &self,
        archive: &[u8],
        style: Style,
        limits: Limits,
    ) -> Result<Summary> {
        let options = Options { style, ids: Ids::of_caller(), limits };
        unpack_with(archive, &self.handle(), &options, &mut |entry| {
            assert!(entry.path.is_relative());
            assert!(!entry.path.components().any(|c| c.as_os_str() == ".."));
        })
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub(crate) fn stat(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(self.root().join(path)).is_ok()
    }

    /// Every path below the root, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        walk(&self.root(), &mut |path, _| {
            let below = path.strip_prefix(self.root()).unwrap();
            names.push(below.to_str().unwrap().to_owned());
        });
        names.sort();
        names
    }

    /// Fails if anything beside the root is not as it was.
    pub(crate) fn check_outside(&self, case: &str) {
        assert_eq!(self.outside(), self.before, "{case}: something outside changed");
        assert_eq!(
            fs::read_dir(&self.path).unwrap().count(),
            2,
            "{case}: something was made outside"
        );
    }

    fn outside(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        walk(&self.path.join("outside"), &mut |path, stat| {
            let content =
                if stat.is_file() { fs::read_to_string(path).unwrap() } else { String::new() };
            let facts = format!(
                "{:o} {}:{} links {} size {} mtime {}.{} ctime {}.{} {content:?}",
                stat.mode(),
                stat.uid(),
                stat.gid(),
                stat.nlink(),
                stat.size(),
                stat.mtime(),
                stat.mtime_nsec(),
                stat.ctime(),
                stat.ctime_nsec()
            );
            found.insert(path.to_owned(), facts);
        });
        found
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let above = Root::open(self.path.parent().unwrap()).unwrap();
        let removed = above.remove_all(self.path.file_name().unwrap());
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// In memory where possible: ext4 takes its time to make files where many were just
/// removed (fs/ext4/ialloc.c, recently_deleted).
fn scratch() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.into() } else { std::env::temp_dir() }
}

fn walk(dir: &Path, each: &mut dyn FnMut(&Path, &fs::Metadata)) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        let stat = fs::symlink_metadata(&path).unwrap();
        each(&path, &stat);
        if stat.is_dir() {
            walk(&path, each);
        }
    }
}
