//! Whiteouts: how a layer says that something of the layers below it is gone
//! (image-spec 1.1, layer.md, "Representing Changes").

use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Mode, OFlags, RawDir, openat};
use rustix::io::Errno;
use sys::rooted::{Root, remove_tree};

use super::failed;
use crate::archive::show;

/// What a whiteout says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mark<'a> {
    /// This path is gone.
    Gone { directory: &'a [u8], name: &'a [u8] },
    /// All that the layers below have in this directory is gone.
    Opaque { directory: &'a [u8] },
    /// Says nothing: AUFS's own book-keeping, which old images hold.
    Nothing,
}

/// Reads a cleaned path; `None` where it is no whiteout.
pub(super) fn parse(path: &[u8]) -> Result<Option<Mark<'_>>> {
    let slash = path.iter().rposition(|&b| b == b'/');
    let directory = &path[..slash.unwrap_or(0)];
    let name = &path[slash.map_or(0, |slash| slash + 1)..];
    ensure!(
        !directory.split(|&b| b == b'/').any(|component| component.starts_with(b".wh.")),
        "a whiteout is no directory"
    );
    Ok(match name.strip_prefix(b".wh.") {
        None => None,
        Some(b".wh..opq") => Some(Mark::Opaque { directory }),
        Some(rest) if rest.starts_with(b".wh.") => Some(Mark::Nothing),
        Some(b"" | b"." | b"..") => bail!("it is a whiteout of no name"),
        Some(name) => Some(Mark::Gone { directory, name }),
    })
}

/// What a layer has brought itself, and so is not to be removed by its own whiteouts.
#[derive(Default)]
pub(super) struct Whiteout {
    /// Cleaned paths and all that lead to them.
    brought: HashSet<Vec<u8>>,
    remembered: usize,
}

impl Whiteout {
    /// Remembers an entry.
    pub(super) fn brought(&mut self, path: &[u8], limit: usize) -> Result<()> {
        let mut end = path.len();
        while end > 0 && !self.brought.contains(&path[..end]) {
            self.remembered += end + 64;
            ensure!(self.remembered <= limit, "the layer has too many names to remember");
            self.brought.insert(path[..end].to_vec());
            end = path[..end].iter().rposition(|&b| b == b'/').unwrap_or(0);
        }
        Ok(())
    }

    /// Removes what the layers below have; what they lack is gone already.
    pub(super) fn apply(&mut self, mark: &Mark<'_>, root: &Root) -> Result<()> {
        let (directory, name) = match mark {
            Mark::Gone { directory, name } => (*directory, Some(*name)),
            Mark::Opaque { directory } => (*directory, None),
            Mark::Nothing => return Ok(()),
        };
        let path = OsStr::from_bytes(if directory.is_empty() { b"." } else { directory });
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = match root.open_in(path, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
                _ => return Err(error).with_context(|| format!("opening {}", show(directory))),
            },
        };
        let mut path = directory.to_vec();
        match name {
            Some(name) => self.remove(dir.as_fd(), name, &mut path),
            None => self.remove_all_in(dir.as_fd(), &mut path),
        }
    }

    fn remove_all_in(&self, dir: BorrowedFd<'_>, path: &mut Vec<u8>) -> Result<()> {
        let mut names = Vec::new();
        let mut buffer = vec![MaybeUninit::uninit(); 32 * 1024];
        let mut entries = RawDir::new(dir, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|e| failed("reading the directory", e))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        drop(buffer);
        names.iter().map(CString::as_bytes).try_for_each(|name| self.remove(dir, name, path))
    }

    /// Removes one name as far as the layer has not brought it, or something in it.
    fn remove(&self, dir: BorrowedFd<'_>, name: &[u8], path: &mut Vec<u8>) -> Result<()> {
        let length = path.len();
        if length > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        let result = if self.brought.contains(&path[..]) {
            self.remove_in_brought(dir, name, path)
        } else {
            match remove_tree(dir, OsStr::from_bytes(name)) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                other => other.with_context(|| format!("removing {}", show(path))),
            }
        };
        path.truncate(length);
        result
    }

    fn remove_in_brought(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &mut Vec<u8>,
    ) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(dir, name, flags, Mode::empty()) {
            Ok(below) => self.remove_all_in(below.as_fd(), path),
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => Ok(()),
            Err(error) => Err(failed(&format!("opening {}", show(path)), error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_whiteouts() {
        for (path, mark) in [
            ("a/b", None),
            ("a/.wh", None),
            ("a/x.wh.b", None),
            (".wh.a", Some(Mark::Gone { directory: b"", name: b"a" })),
            ("a/.wh.b c", Some(Mark::Gone { directory: b"a", name: b"b c" })),
            (".wh..wh..opq", Some(Mark::Opaque { directory: b"" })),
            ("a/b/.wh..wh..opq", Some(Mark::Opaque { directory: b"a/b" })),
            (".wh..wh.plnk", Some(Mark::Nothing)),
            (".wh..wh.", Some(Mark::Nothing)),
        ] {
            assert_eq!(parse(path.as_bytes()).unwrap(), mark, "{path}");
        }
        for path in [".wh.", "a/.wh.", ".wh..", "a/.wh...", ".wh.a/b", "a/.wh.b/c"] {
            assert!(parse(path.as_bytes()).is_err(), "{path}");
        }
    }
}
