//! The program that a kernel would start.

use sys::rooted::Root;

/// Where a kernel looks for process 1 (Linux, init/main.c, `kernel_init`); it would go on
/// with `/bin/sh`, which boots nothing.
const PATHS: [&str; 3] = ["/sbin/init", "/etc/init", "/bin/init"];

/// The program that a kernel would start as process 1 of a root.
pub struct Entry {
    found: Option<(&'static str, FileId)>,
}

/// Device and inode: equal for every name and link of one file.
type FileId = (u64, u64);

impl Entry {
    /// Looks for it.
    pub fn find(root: &Root) -> Self {
        Self { found: PATHS.into_iter().find_map(|path| Some((path, program(root, path)?))) }
    }

    /// Its path; `None` where a kernel would find nothing.
    pub fn path(&self) -> Option<&'static str> {
        self.found.map(|(path, _)| path)
    }

    /// Whether it is one of these programs, by whatever links it gets there: `/sbin/init`
    /// is a symbolic link to its init nearly everywhere, and a hard link in busybox's images.
    pub fn is_any_of(&self, root: &Root, programs: &[&str]) -> bool {
        self.found
            .is_some_and(|(_, id)| programs.iter().any(|path| program(root, path) == Some(id)))
    }

    /// The first of these programs that can be started.
    pub fn first_of(root: &Root, programs: &[&'static str]) -> Option<&'static str> {
        programs.iter().copied().find(|path| program(root, path).is_some())
    }
}

/// The identity of an executable file.
fn program(root: &Root, path: &str) -> Option<FileId> {
    let stat = root.metadata(path).ok()?;
    let regular = stat.st_mode & 0o170_000 == 0o100_000;
    (regular && stat.st_mode & 0o111 != 0).then_some((stat.st_dev, stat.st_ino))
}
