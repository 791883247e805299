//! Equal files of different layers share their blocks, where the file system can.
//!
//! Only the kernel can do that without a change to either (ioctl_fideduperange(2): btrfs, xfs, bcachefs):
//! it compares them itself, and what is written to one later is not in the other. Hard links are no way:
//! owners, times and attributes of equal files differ, link counts are seen by programs, and what
//! damages one would damage all.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, openat, statat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use sys::extents;
use sys::rooted::Root;

use crate::Store;

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deduplicated {
    /// Regular files that were looked at, each once.
    pub files: u64,
    /// Those whose content another one has too.
    pub equal: u64,
    /// Bytes of these beyond the first of each.
    pub equal_bytes: u64,
    /// Files that shared all their blocks with another before.
    pub shared_before: u64,
    /// Files whose blocks were freed.
    pub freed: u64,
    /// Bytes of these.
    pub freed_bytes: u64,
    /// Files that could not be opened, or were in use.
    pub passed_over: u64,
    /// The file system cannot share blocks.
    pub cannot: bool,
}

/// Less than a block is not worth a look: bytes.
const LEAST: u64 = 4096;

/// What file systems take at once: bytes (btrfs does no more).
const PIECE: u64 = 16 << 20;

struct Candidate {
    layer: usize,
    path: Vec<u8>,
}

impl Store {
    /// Has equal files of all layers share their blocks.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn deduplicate(&self) -> Result<Deduplicated> {
        let mut done = Deduplicated::default();
        let mut roots = Vec::new();
        let mut by_size: HashMap<u64, Vec<Candidate>> = HashMap::new();
        for id in self.list("layers")? {
            // Removed since it was listed, perhaps.
            let Ok(dir) = self.open_dir(&format!("layers/{id}/root")) else { continue };
            let root = Root::from_fd(dir.as_fd().try_clone_to_owned()?);
            let layer = roots.len();
            done.files += walk(dir.as_fd().try_clone_to_owned()?, &mut |path, size| {
                by_size.entry(size).or_default().push(Candidate { layer, path });
            });
            roots.push(root);
        }
        let mut sizes: Vec<(u64, Vec<Candidate>)> =
            by_size.into_iter().filter(|(_, files)| files.len() > 1).collect();
        // The largest first: who interrupts it has the most of it.
        sizes.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
        for (size, candidates) in sizes {
            for equal in equals(&roots, candidates, &mut done) {
                share_all(&roots, &equal, size, &mut done)?;
            }
        }
        Ok(done)
    }
}

/// Tells of each regular file that is large enough, once; gives how many there are.
fn walk(root: OwnedFd, told: &mut dyn FnMut(Vec<u8>, u64)) -> u64 {
    let mut seen = std::collections::HashSet::new();
    let mut todo = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = if path.is_empty() { b"." as &[u8] } else { &path };
        let Ok(dir) = openat(&root, OsStr::from_bytes(name), flags, Mode::empty()) else {
            continue;
        };
        let mut buffer = [MaybeUninit::uninit(); 32 << 10];
        let mut entries = RawDir::new(&dir, &mut buffer);
        while let Some(Ok(entry)) = entries.next() {
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let Ok(stat) = statat(&dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
            let below = [&path[..], slash, name].concat();
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => todo.push(below),
                FileType::RegularFile
                    if stat.st_size as u64 >= LEAST && seen.insert(stat.st_ino) =>
                {
                    told(below, stat.st_size as u64);
                }
                _ => {}
            }
        }
    }
    seen.len() as u64
}

/// The files with equal content, as lists of more than one.
fn equals(
    roots: &[Root],
    candidates: Vec<Candidate>,
    done: &mut Deduplicated,
) -> Vec<Vec<Candidate>> {
    let mut by_content: HashMap<[u8; 32], Vec<Candidate>> = HashMap::new();
    for candidate in candidates {
        let digest = open(roots, &candidate, OFlags::RDONLY).and_then(|file| {
            let (mut file, mut hasher) = (File::from(file), Sha256::new());
            let mut buffer = [0; 64 << 10];
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(hasher.finalize().into()),
                    count => hasher.update(&buffer[..count]),
                }
            }
        });
        match digest {
            Ok(digest) => by_content.entry(digest).or_default().push(candidate),
            Err(_) => done.passed_over += 1,
        }
    }
    by_content.into_values().filter(|equal| equal.len() > 1).collect()
}

fn open(roots: &[Root], candidate: &Candidate, flags: OFlags) -> io::Result<OwnedFd> {
    let path = OsStr::from_bytes(&candidate.path);
    roots[candidate.layer].open_in(path, flags | OFlags::NOFOLLOW, Mode::empty())
}

fn share_all(
    roots: &[Root],
    equal: &[Candidate],
    size: u64,
    done: &mut Deduplicated,
) -> Result<()> {
    let Some((first, others)) = equal.split_first() else { return Ok(()) };
    done.equal += equal.len() as u64;
    done.equal_bytes += others.len() as u64 * size;
    if done.cannot {
        return Ok(());
    }
    let Ok(original) = open(roots, first, OFlags::RDONLY) else {
        done.passed_over += 1;
        return Ok(());
    };
    let block = extents::first_block(original.as_fd()).unwrap_or(None);
    for other in others {
        // Who may not otherwise, must be able to write to it, which a program that runs forbids.
        let file = open(roots, other, OFlags::RDWR).or_else(|_| open(roots, other, OFlags::RDONLY));
        let Ok(file) = file else {
            done.passed_over += 1;
            continue;
        };
        if block.is_some() && extents::first_block(file.as_fd()).unwrap_or(None) == block {
            done.shared_before += 1;
            continue;
        }
        match share(&original, &file, size) {
            Ok(bytes) if bytes > 0 => {
                done.freed += 1;
                done.freed_bytes += bytes;
            }
            Ok(_) => done.passed_over += 1,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV) => {
                    done.cannot = true;
                    return Ok(());
                }
                Some(Errno::PERM | Errno::ACCESS | Errno::TXTBSY) => done.passed_over += 1,
                _ => return Err(error).context("cannot have files share their blocks"),
            },
        }
    }
    Ok(())
}

fn share(original: &OwnedFd, copy: &OwnedFd, size: u64) -> io::Result<u64> {
    let mut at = 0;
    while at < size {
        let length = PIECE.min(size - at);
        match extents::share(original.as_fd(), copy.as_fd(), at, length)? {
            // It was changed meanwhile, or a damaged disk told the digest something else.
            0 => break,
            shared => at += shared,
        }
    }
    Ok(at)
}
