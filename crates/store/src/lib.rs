//! postroj's store: blobs, layers, records, leases, locks, garbage collection.
//!
//! # Layout, version 1
//!
//! ```text
//! version                  "1"
//! images/ID.json           two lines of JSON: the image, and the SHA-256 of the first line
//! names/NAME               symbolic link to ../images/ID.json; NAME with %XX for what no file name can hold
//! names/%%SHA256           for a name that is too long: a file with the id, and the name from the second line on
//! layers/ID/root/          an unpacked layer, as overlayfs wants it
//! layers/ID/unflushed      it may not be on the disk yet: the id of the boot in which it was made
//! blobs/sha256/HEX         configurations and manifests, as they were fetched
//! cache/sha256/HEX         finished downloads
//! cache/partial/HEX        unfinished downloads, to be resumed
//! roots/HEX.erofs          all layers of an image as one file system; HEX is made of their ids; made when needed
//! locks/SHA256             of a pull's key; locks/.changes for changes of records, names and layers
//! tmp/RANDOM/              what is being made, and what is being removed
//! ```
//!
//! # Crash-only
//!
//! There is no clean shutdown, and nothing to repair. Whatever is made, is made in `tmp/`, flushed to the disk,
//! and renamed to its place, so that a reader finds a whole object or none; what is to be
//! removed is renamed into `tmp/` first. What a killed process left there, [`Store::sweep`] removes.
//!
//! Locks are flock(2), which the kernel releases with the process, never files that exist:
//!
//! - `locks/.changes`, exclusive, held for moments: by whoever makes or removes a record, a name, a
//!   layer or an entry of `tmp/`. Readers do without.
//! - a directory in `tmp/`: exclusive, by who fills or empties it. One without a lock is garbage.
//! - a directory in `layers/`: shared, by the [`Store`] that committed it, until the image is
//!   recorded. One without a lock and without a record that names it is the beginning of an
//!   interrupted pull, which the next one goes on with; [`Store::prune`] removes it.
//! - `images/ID.json`: shared, by [`Lease`]: the image is in use and stays.
//! - `locks/SHA256`: exclusive, by the one that pulls a key ([`Store::lock`]).
//! - `cache/partial/HEX`: exclusive, by the one that downloads it.
//!
//! # Modes
//!
//! The store itself and `layers/` have mode 0755, all else 0700, the directory of each layer
//! included. An ordinary user's machines run as that user, and root's open their layers before they
//! give up root, so nobody else need pass; and nobody else shall: a layer holds set-user-id programs
//! with known holes, which a user of the host must not reach (CVE-2021-41091).

mod blobs;
mod cache;
mod changes;
mod check;
mod dedup;
mod failure;
mod header;
mod layers;
mod locks;
mod names;
mod pax;
mod records;
pub mod roots;
mod sweep;
mod usage;

pub mod archive;
pub mod difference;
pub mod merged;
pub mod pack;
pub mod tree;
pub mod unpack;

use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, chmodat, mkdirat, openat};
use rustix::io::Errno;

pub use cache::{Cache, Partial};
pub use dedup::Deduplicated;
pub use layers::NewLayer;
pub use locks::Lock;
pub use records::{Lease, Named, Untagged};
pub use sweep::Swept;
pub use usage::{Measured, Share, Usage, measure};

/// The layout that this program reads and writes.
const VERSION: u32 = 1;

/// Every directory of the layout, with its mode.
const DIRECTORIES: [(&str, u32); 9] = [
    ("tmp", 0o700),
    ("locks", 0o700),
    ("images", 0o700),
    ("names", 0o700),
    ("layers", 0o755),
    ("blobs", 0o700),
    ("blobs/sha256", 0o700),
    ("cache", 0o700),
    ("cache/sha256", 0o700),
];

const PARTIAL: (&str, u32) = ("cache/partial", 0o700);

/// A handle for a store; clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    dir: OwnedFd,
    /// Layers that were committed and not yet recorded, each with its shared lock.
    unrecorded: Mutex<Vec<(String, OwnedFd)>>,
}

impl Store {
    /// Opens the store at a path; makes it where there is nothing, or an empty directory.
    ///
    /// Does not write to one that exists, so that images in a read-only store can be run.
    ///
    /// # Errors
    /// Where it cannot be made or read, has the layout of a newer version, or is
    /// something else.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = std::path::absolute(dir)
            .with_context(|| format!("opening the store at {}", dir.display()))?;
        let opened = match open_dir(&path) {
            Err(Errno::NOENT) => {
                make_dir(&path)?;
                open_dir(&path)
            }
            other => other,
        };
        let dir = opened.map_err(|e| failure::failed("opening the store at", &path, e))?;
        let inner = Inner { path, dir, unrecorded: Mutex::default() };
        let store = Self { inner: Arc::new(inner) };
        if !store.has_version()? {
            store.make_layout()?;
        }
        Ok(store)
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    fn dir(&self) -> &OwnedFd {
        &self.inner.dir
    }

    fn failed(&self, what: &str, name: &str, error: Errno) -> anyhow::Error {
        failure::failed(what, &self.path().join(name), error)
    }

    /// `false` where there is no version yet.
    fn has_version(&self) -> Result<bool> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = match openat(self.dir(), "version", flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(self.failed("reading", "version", error)),
        };
        let mut buffer = [0; 32];
        let length = rustix::io::read(&fd, &mut buffer)
            .map_err(|error| self.failed("reading", "version", error))?;
        let text = std::str::from_utf8(&buffer[..length]).unwrap_or_default().trim();
        match text.parse::<u32>() {
            Ok(VERSION) => Ok(true),
            Ok(newer) if newer > VERSION => bail!(
                "the store at {} has the layout {newer} of a newer postroj, and this one knows layout {VERSION}: \
                 use the newer one, or another store",
                self.path().display()
            ),
            _ => bail!(
                "the store at {} is damaged: its version is {text:?}; move it away, and pull again",
                self.path().display()
            ),
        }
    }

    fn make_layout(&self) -> Result<()> {
        let known = |name: &str| DIRECTORIES.iter().any(|(dir, _)| *dir == name);
        for name in self.list(".")? {
            ensure!(
                known(&name) || matches!(&name[..], "version" | "lost+found"),
                "{} is no store of postroj, and not empty: it holds {name:?}",
                self.path().display()
            );
        }
        for (name, mode) in DIRECTORIES.iter().copied().chain([PARTIAL]) {
            let mode = Mode::from_raw_mode(mode);
            match mkdirat(self.dir(), name, mode) {
                // The umask may have taken bits away.
                Ok(()) => chmodat(self.dir(), name, mode, AtFlags::empty())
                    .map_err(|error| self.failed("making", name, error))?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(self.failed("making", name, error)),
            }
        }
        // Last: with it, the layout is whole.
        let changes = self.changes()?;
        changes.publish_file("version", format!("{VERSION}\n").as_bytes())
    }
}

fn open_dir(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
}

fn make_dir(path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        // As the XDG base directory specification asks for what is missing on the way.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .map_err(|e| failure::failed("making", parent, failure::errno(&e)))?;
    }
    let mode = Mode::from_raw_mode(0o755);
    match mkdirat(CWD, path, mode) {
        Ok(()) => chmodat(CWD, path, mode, AtFlags::empty()),
        Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
    }
    .map_err(|error| failure::failed("making the store at", path, error))
}

/// Whether a text is the lower-case hex of a SHA-256, as all ids here are.
fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn hex(digest: impl AsRef<[u8]>) -> String {
    use std::fmt::Write;
    digest.as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
