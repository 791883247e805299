//! Paths inside a directory whose content is hostile.
//!
//! A [`Root`] resolves every path as if it were the root directory: absolute
//! paths and absolute symbolic links start at it, and `..` stops at it. The
//! kernel does that by itself since Linux 5.6 (openat2(2), `RESOLVE_IN_ROOT`);
//! where a kernel or an old seccomp filter lacks the call, the path is walked here,
//! one component at a time, over descriptors and without following anything.

mod removal;
#[cfg(test)]
mod tests;
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
