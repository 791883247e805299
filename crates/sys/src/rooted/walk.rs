//! A look-up inside a root, one component at a time.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;

use super::DIRECTORY;

/// Symbolic links that one look-up may pass, as the kernel's own limit (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// openat2(2) with `RESOLVE_IN_ROOT`, without that call.
pub(super) fn open(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    if path.is_empty() {
        return Err(Errno::NOENT);
    }
    if path.len() >= 4096 {
        return Err(Errno::NAMETOOLONG);
    }
    let mut walk = Walk { root, at: None, names: Vec::new(), todo: Vec::new(), links: 0 };
    walk.push(path);
    loop {
        let Some(name) = walk.todo.pop() else {
            // The path ended in `/`, `.` or `..`: what is wanted is where we are.
            return openat(walk.here(), ".", flags.difference(OFlags::NOFOLLOW), mode);
        };
        match &name[..] {
            b"." => {}
            b".." => walk.up()?,
            _ if walk.todo.is_empty() => {
                if let Some(fd) = walk.last(&name, flags, mode)? {
                    return Ok(fd);
                }
            }
            _ => walk.down(name)?,
        }
    }
}

/// The state of one look-up in user space.
struct Walk<'a> {
    root: BorrowedFd<'a>,
    /// Where we are; `None` is the root.
    at: Option<OwnedFd>,
    /// The names that lead from the root to `at`, none of them a symbolic link.
    names: Vec<Vec<u8>>,
    /// What remains to be walked, last component first.
    todo: Vec<Vec<u8>>,
    links: usize,
}

impl Walk<'_> {
    fn here(&self) -> BorrowedFd<'_> {
        self.at.as_ref().map_or(self.root, AsFd::as_fd)
    }

    /// Puts a path before what remains. A trailing slash counts as `.`.
    fn push(&mut self, path: &[u8]) {
        if path.ends_with(b"/") {
            self.todo.push(b".".to_vec());
        }
        let components = path.split(|&b| b == b'/').filter(|c| !c.is_empty());
        self.todo.extend(components.rev().map(<[u8]>::to_vec));
    }

    /// Goes on with a symbolic link's text.
    fn expand(&mut self, text: &[u8]) -> rustix::io::Result<()> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        if text.starts_with(b"/") {
            self.at = None;
            self.names.clear();
        }
        self.push(text);
        Ok(())
    }

    fn down(&mut self, name: Vec<u8>) -> rustix::io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(self.here(), &name[..], flags, Mode::empty())?;
        match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
            FileType::Symlink => {
                let text = readlinkat(&fd, "", Vec::new())?;
                self.expand(text.as_bytes())
            }
            FileType::Directory => {
                self.at = Some(fd);
                self.names.push(name);
                Ok(())
            }
            _ => Err(Errno::NOTDIR),
        }
    }

    /// To the directory above, by its name: the inode's own `..` may lead out of the
    /// root when somebody moves the directory meanwhile.
    fn up(&mut self) -> rustix::io::Result<()> {
        self.names.pop();
        self.at = None;
        for name in &self.names {
            let flags = DIRECTORY | OFlags::NOFOLLOW;
            self.at = Some(openat(self.here(), &name[..], flags, Mode::empty())?);
        }
        Ok(())
    }

    /// Opens the last component, or expands it and returns `None`.
    fn last(
        &mut self,
        name: &[u8],
        flags: OFlags,
        mode: Mode,
    ) -> rustix::io::Result<Option<OwnedFd>> {
        let follows = !flags.contains(OFlags::NOFOLLOW);
        let failure = match openat(self.here(), name, flags | OFlags::NOFOLLOW, mode) {
            Ok(fd) => {
                // With O_PATH a link is opened itself, without an error.
                let is_link = follows
                    && flags.contains(OFlags::PATH)
                    && FileType::from_raw_mode(fstat(&fd)?.st_mode) == FileType::Symlink;
                if !is_link {
                    return Ok(Some(fd));
                }
                Errno::LOOP
            }
            Err(error) => error,
        };
        // O_DIRECTORY says ENOTDIR of a link, the others ELOOP.
        if !follows || !matches!(failure, Errno::LOOP | Errno::NOTDIR) {
            return Err(failure);
        }
        match readlinkat(self.here(), name, Vec::new()) {
            Ok(text) => self.expand(text.as_bytes()).map(|()| None),
            Err(_) => Err(failure),
        }
    }
}
