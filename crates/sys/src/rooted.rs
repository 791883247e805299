//! Paths inside a directory whose content is hostile.
//!
//! A [`Root`] resolves every path as if it were the root directory: absolute
//! paths and absolute symbolic links start at it, and `..` stops at it. The
//! kernel does that by itself since Linux 5.6 (openat2(2), `RESOLVE_IN_ROOT`);
//! where a kernel or an old seccomp filter lacks the call, the path is walked here,
//! one component at a time, over descriptors and without following anything.

mod removal;
mod walk;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fchmod, fstat, mkdirat, openat,
    openat2, readlinkat, unlinkat,
};
use rustix::io::Errno;

pub use removal::{chmod_at, remove_tree};

/// Times that a look-up is repeated which raced with a rename (openat2(2), `EAGAIN`)
/// before it is done in user space, where a rename disturbs nothing.
const MAX_RACES: usize = 64;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory that is the root of every path given to it.
///
/// A path may be relative or absolute: both start at the root. None of the methods
/// can reach anything outside, whatever symbolic links there are within, and even
/// while others change the tree.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    in_user_space: bool,
}

impl Root {
    /// Opens a directory of the host by a path that is trusted.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self::from_fd(openat(CWD, path, DIRECTORY, Mode::empty())?))
    }

    /// Takes a directory that is open already, with `O_PATH` or for reading.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd, in_user_space: false }
    }

    /// The same root, resolved in user space even where the kernel could do it.
    #[must_use]
    pub fn without_openat2(mut self) -> Self {
        self.in_user_space = true;
        self
    }

    /// A second handle for the same directory.
    ///
    /// # Errors
    /// As dup(2).
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, in_user_space: self.in_user_space })
    }

    /// Opens a path. `O_CLOEXEC` is added; `mode` counts only where a file is made.
    ///
    /// As everywhere in Unix, the last component is followed where it is a symbolic
    /// link unless `flags` has `O_NOFOLLOW`, and a trailing slash follows it even so.
    ///
    /// # Errors
    /// As openat2(2), except for `EAGAIN`, `ENOSYS` and a filter's `EPERM`.
    pub fn open_in(
        &self,
        path: impl AsRef<Path>,
        flags: OFlags,
        mode: Mode,
    ) -> io::Result<OwnedFd> {
        let path = path.as_ref();
        let flags = flags | OFlags::CLOEXEC;
        // The kernel refuses a mode that would have no effect.
        let makes = flags.intersects(OFlags::CREATE) || flags.contains(OFlags::TMPFILE);
        let mode = if makes { mode } else { Mode::empty() };
        if !self.in_user_space {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            for _ in 0..MAX_RACES {
                match openat2(&self.fd, path, flags, mode, resolve) {
                    Ok(fd) => return Ok(fd),
                    Err(Errno::AGAIN) => {}
                    Err(Errno::NOSYS | Errno::PERM) if !has_openat2() => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(walk::open(self.fd.as_fd(), path.as_os_str().as_bytes(), flags, mode)?)
    }

    /// Opens a directory with `O_PATH`, following symbolic links.
    ///
    /// # Errors
    /// As [`Root::open_in`]; `ENOTDIR` where it is something else.
    pub fn open_dir(&self, path: impl AsRef<Path>) -> io::Result<OwnedFd> {
        self.open_in(path, DIRECTORY, Mode::empty())
    }

    /// Resolves everything but the last component, which is returned as it stands.
    ///
    /// Trailing slashes do not count. The directory is opened with `O_PATH`.
    ///
    /// # Errors
    /// As [`Root::open_in`]; `EINVAL` where there is no last component or it is `..`.
    pub fn parent_of(&self, path: impl AsRef<Path>) -> io::Result<(OwnedFd, OsString)> {
        let (parent, name) = split_last(path.as_ref().as_os_str().as_bytes())?;
        let parent = if parent.is_empty() { b"." } else { parent };
        Ok((self.open_dir(OsStr::from_bytes(parent))?, OsStr::from_bytes(name).to_owned()))
    }

    /// Makes a directory and those above it where they are missing, and opens it with `O_PATH`.
    ///
    /// What is made gets exactly `mode`, whatever the umask. A symbolic link to a directory will do.
    ///
    /// # Errors
    /// As mkdir(2) and [`Root::open_in`]; `ENOTDIR` where something else is in the way.
    pub fn create_dir_all(&self, path: impl AsRef<Path>, mode: Mode) -> io::Result<OwnedFd> {
        let path = path.as_ref().as_os_str().as_bytes();
        let mut upto = path.len();
        let mut missing = Vec::new();
        let mut dir = loop {
            let prefix = if upto == 0 { b"/" } else { &path[..upto] };
            match self.open_dir(OsStr::from_bytes(prefix)) {
                Ok(dir) => break dir,
                Err(error) if error.kind() == io::ErrorKind::NotFound && upto > 0 => {
                    let (parent, _) = split_last(prefix)?;
                    missing.push(upto);
                    upto = parent.len();
                }
                Err(error) => return Err(error),
            }
        };
        while let Some(end) = missing.pop() {
            let (_, name) = split_last(&path[..end])?;
            match mkdirat(&dir, name, mode) {
                Ok(()) => chmod_at(dir.as_fd(), OsStr::from_bytes(name), mode)?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            dir = match openat(&dir, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(made) => made,
                // Somebody was quicker with a link, or it was there and dangles.
                Err(Errno::LOOP | Errno::NOTDIR) => {
                    self.open_dir(OsStr::from_bytes(&path[..end]))?
                }
                Err(error) => return Err(error.into()),
            };
        }
        Ok(dir)
    }

    /// Reads a regular file of at most `limit` bytes, following symbolic links.
    ///
    /// # Errors
    /// As [`Root::open_in`]; `EFBIG` beyond the limit; `EINVAL` where it is no regular file.
    pub fn read(&self, path: impl AsRef<Path>, limit: u64) -> io::Result<Vec<u8>> {
        // Without O_NONBLOCK a fifo in the place of the file would hang the caller.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(self.open_in(path, flags, Mode::empty())?);
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL.into());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size > limit {
            return Err(Errno::FBIG.into());
        }
        // The size is only a hint: it may change, and is 0 for kernel files.
        let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        file.take(limit.saturating_add(1)).read_to_end(&mut content)?;
        if content.len() as u64 > limit {
            return Err(Errno::FBIG.into());
        }
        Ok(content)
    }

    /// Puts a regular file in the place of whatever non-directory has that name.
    ///
    /// A symbolic link there is replaced, not followed. The file gets exactly `mode`,
    /// whatever the umask.
    ///
    /// # Errors
    /// As [`Root::parent_of`], unlink(2), open(2) and write(2).
    pub fn write(&self, path: impl AsRef<Path>, content: &[u8], mode: Mode) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match openat(&parent, &name, flags, mode) {
            Err(Errno::EXIST) => {
                unlinkat(&parent, &name, AtFlags::empty())?;
                openat(&parent, &name, flags, mode)?
            }
            other => other?,
        };
        fchmod(&fd, mode)?;
        File::from(fd).write_all(content)
    }

    /// The text of a symbolic link, which is not to be trusted.
    ///
    /// # Errors
    /// As readlink(2); `EINVAL` where it is no symbolic link.
    pub fn read_link(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        let (parent, name) = self.parent_of(path)?;
        let text = readlinkat(&parent, &name, Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(text.into_bytes())))
    }

    /// What a path leads to, symbolic links followed.
    ///
    /// # Errors
    /// As [`Root::open_in`].
    pub fn metadata(&self, path: impl AsRef<Path>) -> io::Result<Stat> {
        Ok(fstat(self.open_in(path, OFlags::PATH, Mode::empty())?)?)
    }

    /// What has that name, be it a symbolic link.
    ///
    /// # Errors
    /// As [`Root::open_in`].
    pub fn symlink_metadata(&self, path: impl AsRef<Path>) -> io::Result<Stat> {
        Ok(fstat(self.open_in(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?)?)
    }

    /// Whether a path leads to anything, symbolic links followed.
    ///
    /// # Errors
    /// As [`Root::open_in`], unless the failure itself says that there is nothing.
    pub fn exists(&self, path: impl AsRef<Path>) -> io::Result<bool> {
        match self.open_in(path, OFlags::PATH, Mode::empty()) {
            Ok(_) => Ok(true),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// Removes whatever has that name, with all that is in it. See [`remove_tree`].
    ///
    /// # Errors
    /// As [`Root::parent_of`] and [`remove_tree`].
    pub fn remove_all(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        remove_tree(parent.as_fd(), &name)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether openat2 can be called at all: `EPERM` is also what an old seccomp
/// filter says to what it does not know.
fn has_openat2() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER
        .get_or_init(|| openat2(CWD, ".", DIRECTORY, Mode::empty(), ResolveFlags::empty()).is_ok())
}

/// A path without its last component, and that component.
fn split_last(path: &[u8]) -> io::Result<(&[u8], &[u8])> {
    let end = path.iter().rposition(|&b| b != b'/').map_or(0, |last| last + 1);
    let start = path[..end].iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
    match &path[start..end] {
        b"" | b".." => Err(Errno::INVAL.into()),
        // `a/.` is a directory's name for itself: its last component is `a`.
        b"." if start > 0 => split_last(&path[..start]),
        b"." => Err(Errno::INVAL.into()),
        name => Ok((&path[..start], name)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;

    /// `root/`, the root of the tests, and `outside/canary`, which must never change.
    pub(super) struct Scratch(PathBuf);

    impl Scratch {
        pub(super) fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path =
                std::env::temp_dir().join(format!("postroj-rooted-{}-{n}", std::process::id()));
            fs::create_dir_all(path.join("root")).unwrap();
            fs::create_dir(path.join("outside")).unwrap();
            fs::write(path.join("outside/canary"), "sings").unwrap();
            fs::set_permissions(path.join("outside/canary"), fs::Permissions::from_mode(0o640))
                .unwrap();
            Self(path)
        }

        pub(super) fn path(&self) -> &Path {
            &self.0
        }

        pub(super) fn root(&self) -> Root {
            Root::open(&self.0.join("root")).unwrap()
        }

        pub(super) fn assert_outside_is_whole(&self) {
            let names: Vec<_> = fs::read_dir(self.0.join("outside"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            assert_eq!(names, ["canary"]);
            let canary = self.0.join("outside/canary");
            assert_eq!(fs::read_to_string(&canary).unwrap(), "sings");
            assert_eq!(fs::metadata(&canary).unwrap().permissions().mode() & 0o7777, 0o640);
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

    fn both(scratch: &Scratch) -> [(&'static str, Root); 2] {
        [("kernel", scratch.root()), ("user space", scratch.root().without_openat2())]
    }

    /// The tree that the table below walks; each file holds its own path.
    fn plant(scratch: &Scratch) {
        let root = scratch.path().join("root");
        for dir in ["usr/lib", "etc", "a/b/c", "tmp"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for file in ["etc/passwd", "usr/lib/x", "a/b/c/f", "canary"] {
            fs::write(root.join(file), file).unwrap();
        }
        let out = scratch.path().join("outside");
        for (link, text) in [
            ("lib", "usr/lib"),
            ("abslib", "/usr/lib"),
            ("slashlib", "/usr/lib///"),
            ("up", "../../../../../outside"),
            ("upcanary", "../outside/canary"),
            ("abs", out.to_str().unwrap()),
            ("a/b/toroot", "/"),
            ("a/b/back", "../../etc"),
            ("a/b/c/far", "../../../../../../etc/passwd"),
            ("loop1", "loop2"),
            ("loop2", "loop1"),
            ("self", "self/x"),
            ("dangling", "nothing/here"),
            ("tofile", "/etc/passwd"),
            ("dotdot", ".."),
            ("chain0", "etc/passwd"),
            ("new", "tmp/made"),
        ] {
            symlink(text, root.join(link)).unwrap();
        }
        for i in 1..=40 {
            symlink(format!("chain{}", i - 1), root.join(format!("chain{i}"))).unwrap();
        }
    }

    /// Path, flags, and what is read or the error.
    type Row = (&'static str, OFlags, Result<&'static str, i32>);

    const READ: OFlags = OFlags::RDONLY;
    const HERE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW);

    #[rustfmt::skip]
    const TABLE: &[Row] = &[
        ("etc/passwd", READ, Ok("etc/passwd")),
        ("/etc/passwd", READ, Ok("etc/passwd")),
        ("//etc//./passwd", READ, Ok("etc/passwd")),
        ("./etc/../etc/passwd", READ, Ok("etc/passwd")),
        ("../etc/passwd", READ, Ok("etc/passwd")),
        ("../../../../etc/passwd", READ, Ok("etc/passwd")),
        ("a/../../../canary", READ, Ok("canary")),
        ("lib/x", READ, Ok("usr/lib/x")),
        ("abslib/x", READ, Ok("usr/lib/x")),
        ("slashlib/x", READ, Ok("usr/lib/x")),
        ("lib/../lib/x", READ, Ok("usr/lib/x")),
        ("a/b/toroot/canary", READ, Ok("canary")),
        ("a/b/toroot/../canary", READ, Ok("canary")),
        ("a/b/toroot/a/b/toroot/lib/x", READ, Ok("usr/lib/x")),
        ("a/b/back/passwd", READ, Ok("etc/passwd")),
        ("a/b/c/far", READ, Ok("etc/passwd")),
        ("dotdot/canary", READ, Ok("canary")),
        ("tofile", READ, Ok("etc/passwd")),
        ("chain39", READ, Ok("etc/passwd")),
        ("chain40", READ, Err(libc::ELOOP)),
        ("up/canary", READ, Err(libc::ENOENT)),
        ("upcanary", READ, Err(libc::ENOENT)),
        ("abs/canary", READ, Err(libc::ENOENT)),
        ("../outside/canary", READ, Err(libc::ENOENT)),
        ("loop1", READ, Err(libc::ELOOP)),
        ("self", READ, Err(libc::ELOOP)),
        ("dangling", READ, Err(libc::ENOENT)),
        ("dangling/x", READ, Err(libc::ENOENT)),
        ("etc/passwd/x", READ, Err(libc::ENOTDIR)),
        ("etc/passwd/..", READ, Err(libc::ENOTDIR)),
        ("etc/passwd/", READ, Err(libc::ENOTDIR)),
        ("tofile/x", READ, Err(libc::ENOTDIR)),
        ("nothing", READ, Err(libc::ENOENT)),
        ("nothing/..", READ, Err(libc::ENOENT)),
        ("", READ, Err(libc::ENOENT)),
        ("a\0b", READ, Err(libc::EINVAL)),
        ("tofile", HERE, Err(libc::ELOOP)),
        ("lib", HERE.union(OFlags::DIRECTORY), Err(libc::ENOTDIR)),
        ("etc/passwd", READ.union(OFlags::DIRECTORY), Err(libc::ENOTDIR)),
        ("lib/x", HERE, Ok("usr/lib/x")),
        ("etc/passwd", OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL), Err(libc::EEXIST)),
        ("tofile", OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL), Err(libc::EEXIST)),
        ("new", OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL), Err(libc::EEXIST)),
        ("tofile", OFlags::RDWR.union(OFlags::CREATE), Ok("etc/passwd")),
        ("/", OFlags::RDWR.union(OFlags::CREATE), Err(libc::EISDIR)),
    ];

    #[test]
    fn one_table_for_both_ways_to_resolve() {
        let scratch = Scratch::new();
        plant(&scratch);
        for (way, root) in both(&scratch) {
            for &(path, flags, expected) in TABLE {
                let found = root.open_in(path, flags, Mode::RUSR).map(|fd| {
                    let mut text = String::new();
                    File::from(fd).read_to_string(&mut text).unwrap();
                    text
                });
                match (found, expected) {
                    (Ok(text), Ok(wanted)) => assert_eq!(text, wanted, "{way}: {path:?}"),
                    (Err(error), Err(wanted)) if error.raw_os_error() == Some(wanted) => {}
                    (found, _) => panic!("{way}: {path:?}: {found:?} instead of {expected:?}"),
                }
            }
            let long = "a/".repeat(2048);
            let failure = root.open_in(&long, READ, Mode::empty()).unwrap_err();
            assert_eq!(failure.raw_os_error(), Some(libc::ENAMETOOLONG), "{way}");
        }
        scratch.assert_outside_is_whole();
    }

    #[test]
    fn directories_are_where_the_kernel_says() {
        let scratch = Scratch::new();
        plant(&scratch);
        let root = scratch.path().join("root");
        for (way, handle) in both(&scratch) {
            for (path, real) in [
                ("/", "."),
                (".", "."),
                ("..", "."),
                ("lib", "usr/lib"),
                ("lib/", "usr/lib"),
                ("lib/..", "usr"),
                ("a/b/toroot", "."),
                ("a/b/back/..", "."),
                ("dotdot", "."),
                ("a/b/c/..", "a/b"),
            ] {
                let found = fstat(handle.open_dir(path).unwrap()).unwrap();
                let wanted = rustix::fs::stat(root.join(real)).unwrap();
                assert_eq!(found.st_ino, wanted.st_ino, "{way}: {path}");
            }
        }
    }

    #[test]
    fn making_files_stays_inside() {
        for user_space in [false, true] {
            let scratch = Scratch::new();
            plant(&scratch);
            let mut root = scratch.root();
            root.in_user_space = user_space;
            let make = OFlags::WRONLY | OFlags::CREATE;
            root.open_in("new", make, Mode::RUSR).unwrap();
            assert!(scratch.path().join("root/tmp/made").exists());
            root.open_in("../../made", make, Mode::RUSR).unwrap();
            assert!(scratch.path().join("root/made").exists());
            assert!(root.open_in("up/made", make, Mode::RUSR).is_err());

            root.create_dir_all("/lib/x y/z//", Mode::RWXU).unwrap();
            assert!(scratch.path().join("root/usr/lib/x y/z").is_dir());
            root.create_dir_all("../q/./r", Mode::RWXU).unwrap();
            assert!(scratch.path().join("root/q/r").is_dir());
            root.create_dir_all("", Mode::RWXU).unwrap();
            for (path, errno) in [
                ("dangling", libc::ENOENT),
                ("dangling/x", libc::ENOENT),
                ("etc/passwd/x", libc::ENOTDIR),
                ("tofile", libc::ENOTDIR),
                ("up/x", libc::ENOENT),
                ("loop1/x", libc::ELOOP),
            ] {
                let failure = root.create_dir_all(path, Mode::RWXU).unwrap_err();
                assert_eq!(failure.raw_os_error(), Some(errno), "{path}");
            }

            root.write("upcanary", b"mine", Mode::RUSR).unwrap();
            assert_eq!(root.read("upcanary", 4).unwrap(), b"mine");
            root.write("lib/x", b"new", Mode::RUSR | Mode::WUSR).unwrap();
            assert_eq!(fs::read(scratch.path().join("root/usr/lib/x")).unwrap(), b"new");
            assert!(root.write("etc", b"", Mode::RUSR).is_err());
            scratch.assert_outside_is_whole();
        }
    }

    #[test]
    fn parents_are_resolved_and_names_are_not() {
        let scratch = Scratch::new();
        plant(&scratch);
        let inode =
            |path: &str| rustix::fs::stat(scratch.path().join("root").join(path)).unwrap().st_ino;
        for (way, root) in both(&scratch) {
            for (path, parent, name) in [
                ("canary", ".", "canary"),
                ("/canary", ".", "canary"),
                ("lib", ".", "lib"),
                ("lib/", ".", "lib"),
                ("lib//./.", ".", "lib"),
                ("lib/x", "usr/lib", "x"),
                ("/abslib//nothing", "usr/lib", "nothing"),
                ("../../x", ".", "x"),
                ("a/b/../x", "a", "x"),
            ] {
                let (found, last) = root.parent_of(path).unwrap();
                assert_eq!(last, name, "{way}: {path}");
                assert_eq!(fstat(found).unwrap().st_ino, inode(parent), "{way}: {path}");
            }
            for path in ["", "/", ".", "..", "a/..", "//", "./."] {
                let failure = root.parent_of(path).unwrap_err();
                assert_eq!(failure.raw_os_error(), Some(libc::EINVAL), "{way}: {path:?}");
            }
            assert!(root.parent_of("up/x").is_err());
        }
    }

    #[test]
    fn reading_is_bounded_and_only_of_files() {
        let scratch = Scratch::new();
        plant(&scratch);
        rustix::fs::mknodat(CWD, scratch.path().join("root/fifo"), FileType::Fifo, Mode::RUSR, 0)
            .unwrap();
        for (way, root) in both(&scratch) {
            assert_eq!(root.read("tofile", 10).unwrap(), b"etc/passwd", "{way}");
            for (path, limit, errno) in [
                ("tofile", 9, libc::EFBIG),
                ("etc", 9, libc::EINVAL),
                ("fifo", 9, libc::EINVAL),
                ("nothing", 9, libc::ENOENT),
            ] {
                let failure = root.read(path, limit).unwrap_err();
                assert_eq!(failure.raw_os_error(), Some(errno), "{way}: {path}");
            }
            assert_eq!(root.read_link("/a/b/back").unwrap(), Path::new("../../etc"));
            assert_eq!(root.read_link("canary").unwrap_err().raw_os_error(), Some(libc::EINVAL));
            assert!(root.exists("lib/x").unwrap());
            assert!(!root.exists("up").unwrap());
            assert!(!root.exists("etc/passwd/x").unwrap());
            assert!(!root.exists("loop1").unwrap());
            let is_link = |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
            assert!(is_link(root.symlink_metadata("lib").unwrap()));
            assert!(!is_link(root.metadata("lib").unwrap()));
        }
    }

    #[test]
    fn a_directory_that_turns_into_a_link_leads_nowhere() {
        let scratch = Scratch::new();
        let root = scratch.path().join("root");
        fs::create_dir_all(root.join("real/sub")).unwrap();
        fs::write(root.join("real/canary"), "inside").unwrap();
        symlink("../outside", root.join("link")).unwrap();
        symlink(scratch.path().join("outside"), root.join("link2")).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for other in ["link", "link2"] {
                        let (real, other) = (root.join("real"), root.join(other));
                        let swap = rustix::fs::RenameFlags::EXCHANGE;
                        rustix::fs::renameat_with(CWD, &real, CWD, &other, swap).unwrap();
                        rustix::fs::renameat_with(CWD, &real, CWD, &other, swap).unwrap();
                    }
                }
            });
            let mut seen = [0u32; 2];
            for (which, (_, handle)) in both(&scratch).into_iter().enumerate() {
                for _ in 0..20_000 {
                    for path in ["real/canary", "real/sub/../canary", "real/../real/canary"] {
                        if let Ok(content) = handle.read(path, 100) {
                            assert_eq!(content, b"inside", "{path}");
                            seen[which] += 1;
                        }
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
            assert!(seen.iter().all(|&n| n > 1000), "the race was hardly run: {seen:?}");
        });
        scratch.assert_outside_is_whole();
    }
}
