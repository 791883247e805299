//! What an upper layer of an overlay says that has changed, in docker's three words.

use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result};
use rustix::fs::{FileType, Mode, OFlags, RawDir};
use sys::rooted::Root;

use crate::archive::show;
use crate::unpack::{is_opaque, is_whiteout};

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It is there below as well.
    Changed,
    /// It is not there below.
    Added,
    /// It is there below only.
    Deleted,
}

/// Hears of each path, without a leading slash, with directories before what is in them.
pub type Told<'a> = dyn FnMut(&[u8], Change) -> Result<()> + 'a;

/// Compares an upper layer with the layers `below` it, the highest first.
///
/// # Errors
/// Names the directory that cannot be read; `told`'s.
pub fn difference(upper: &Root, below: &[Root], told: &mut Told<'_>) -> Result<()> {
    let mut todo = vec![(Vec::new(), true)];
    while let Some((path, covers)) = todo.pop() {
        let what = || format!("reading {}", show(&path));
        let directory = open(upper, &path).with_context(what)?;
        let hides = is_opaque(directory.as_fd());
        let names = names(&directory).with_context(what)?;
        // What an opaque directory has not itself is gone.
        if hides && covers {
            for name in names_below(below, &path) {
                if names.binary_search(&name).is_err() {
                    told(&join(&path, &name), Change::Deleted)?;
                }
            }
        }
        let mut directories = Vec::new();
        for name in names {
            let path = join(&path, &name);
            let stat = upper.symlink_metadata(OsStr::from_bytes(&path)).with_context(what)?;
            let is_below = covers && is_in(below, &path);
            let change = match is_below {
                true if is_whiteout(&stat) => Change::Deleted,
                true => Change::Changed,
                false => Change::Added,
            };
            // A mark for what never was is not worth telling.
            if is_whiteout(&stat) && !is_below {
                continue;
            }
            told(&path, change)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                directories.push((path, is_below));
            }
        }
        todo.extend(directories.into_iter().rev());
    }
    Ok(())
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

fn open(root: &Root, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    root.open_in(OsStr::from_bytes(&[b"/", path].concat()), flags, Mode::empty())
}

fn is_in(below: &[Root], path: &[u8]) -> bool {
    let found = below.iter().find_map(|layer| layer.symlink_metadata(OsStr::from_bytes(path)).ok());
    found.is_some_and(|stat| !is_whiteout(&stat))
}

fn names_below(below: &[Root], path: &[u8]) -> Vec<Vec<u8>> {
    let lists = below.iter().filter_map(|layer| names(&open(layer, path).ok()?).ok());
    let mut all: Vec<Vec<u8>> = lists.flatten().collect();
    all.sort_unstable();
    all.dedup();
    all.retain(|name| is_in(below, &join(path, name)));
    all
}

fn names(directory: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); 16 << 10];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}
