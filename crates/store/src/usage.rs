//! How much the store holds, and how much of it could go.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat, openat, statat};
use sys::rooted::Root;

use crate::Store;
use crate::locks::try_exclusive;
use crate::records::record_path;

/// A kind of object in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// How many.
    pub count: u64,
    /// How many of them are in use.
    pub active: u64,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Bytes on the disk that removing what is not in use would free.
    pub reclaimable: u64,
}

/// What a store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Images; their bytes are those of the layers, and so not to be added to them. Active are those that a machine uses.
    pub images: Share,
    /// Layers; active are those of an image.
    pub layers: Share,
    /// Downloads.
    pub cache: Share,
    /// Configurations and manifests.
    pub blobs: Share,
    /// What is being made (active), and what killed processes left.
    pub temporary: Share,
}

/// What a tree holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measured {
    /// Files of every kind, each name counted.
    pub files: u64,
    /// Bytes of the content of regular files, each file counted once.
    pub content: u64,
    /// Bytes on the disk, each file counted once.
    pub disk: u64,
    /// Directories that could not be read.
    pub unreadable: u64,
}

/// Measures a tree, without following symbolic links.
///
/// # Errors
/// Where the root itself cannot be read; directories below are counted.
pub fn measure(root: &Root) -> Result<Measured> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let dir = root.open_in(".", flags, Mode::empty()).context("reading the root directory")?;
    Ok(measure_dir(dir.as_fd()))
}

impl Store {
    /// Counts and measures everything.
    ///
    /// # Errors
    /// Where the store cannot be read, or a record is damaged.
    pub fn usage(&self) -> Result<Usage> {
        let sizes = self.layer_sizes()?;
        let mut usage = Usage {
            cache: self.files_in("cache/sha256")?,
            blobs: self.files_in("blobs/sha256")?,
            ..Usage::default()
        };
        let partial = self.files_in("cache/partial")?;
        usage.cache.count += partial.count;
        usage.cache.bytes += partial.bytes;
        usage.cache.reclaimable = usage.cache.bytes;
        self.count_images(&sizes, &mut usage)?;
        for entry in self.list("tmp")? {
            usage.temporary.count += 1;
            let Ok(dir) = self.open_dir(&format!("tmp/{entry}")) else { continue };
            let bytes = disk_usage(&dir);
            usage.temporary.bytes += bytes;
            if try_exclusive(&dir).unwrap_or(false) {
                usage.temporary.reclaimable += bytes;
            } else {
                usage.temporary.active += 1;
            }
        }
        Ok(usage)
    }

    fn count_images(&self, sizes: &BTreeMap<String, u64>, usage: &mut Usage) -> Result<()> {
        // Whether a record is leased is found out by locking it, which nobody shall take for a lease.
        let _changes = self.changes()?;
        let mut of_images = BTreeSet::new();
        let mut of_machines = BTreeSet::new();
        for named in self.images()? {
            let leased = self.is_leased(&named.image.id);
            usage.images.count += 1;
            usage.images.active += u64::from(leased);
            if leased {
                of_machines.extend(named.image.layers.iter().cloned());
            }
            of_images.extend(named.image.layers);
        }
        for (id, bytes) in sizes {
            usage.layers.count += 1;
            usage.layers.bytes += bytes;
            usage.layers.active += u64::from(of_images.contains(id));
            if of_images.contains(id) {
                usage.images.bytes += bytes;
            }
            if !of_machines.contains(id) {
                usage.layers.reclaimable += bytes;
                usage.images.reclaimable += if of_images.contains(id) { *bytes } else { 0 };
            }
        }
        Ok(())
    }

    fn is_leased(&self, id: &str) -> bool {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        openat(self.dir(), record_path(id), flags, Mode::empty())
            .is_ok_and(|record| !try_exclusive(&record).unwrap_or(true))
    }

    fn layer_sizes(&self) -> Result<BTreeMap<String, u64>> {
        let mut sizes = BTreeMap::new();
        for id in self.list("layers")? {
            let bytes = self.open_dir(&format!("layers/{id}")).map_or(0, |dir| disk_usage(&dir));
            sizes.insert(id, bytes);
        }
        Ok(sizes)
    }

    fn files_in(&self, dir: &str) -> Result<Share> {
        let mut share = Share::default();
        for file in self.list(dir)? {
            let path = format!("{dir}/{file}");
            if let Ok(stat) = statat(self.dir(), path, AtFlags::SYMLINK_NOFOLLOW) {
                share.count += 1;
                share.bytes += on_disk(&stat);
            }
        }
        Ok(share)
    }
}

/// Bytes on the disk of a tree, as far as it can be read.
pub(crate) fn disk_usage(dir: &OwnedFd) -> u64 {
    measure_dir(dir.as_fd()).disk
}

fn measure_dir(dir: BorrowedFd<'_>) -> Measured {
    let mut measure = Measure { seen: HashSet::new(), found: Measured::default() };
    let mut buffer = vec![MaybeUninit::uninit(); 32 * 1024];
    if measure.descend(dir, &mut buffer).is_err() {
        measure.found.unreadable += 1;
    }
    measure.found
}

struct Measure {
    /// Files with several names.
    seen: HashSet<(u64, u64)>,
    found: Measured,
}

impl Measure {
    fn descend(
        &mut self,
        dir: BorrowedFd<'_>,
        buffer: &mut Vec<MaybeUninit<u8>>,
    ) -> rustix::io::Result<()> {
        let mut below: Vec<CString> = Vec::new();
        let mut entries = RawDir::new(dir, buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(stat) = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let kind = FileType::from_raw_mode(stat.st_mode);
            self.found.files += 1;
            if kind == FileType::Directory {
                below.push(name.to_owned());
            } else if stat.st_nlink > 1 && !self.seen.insert((stat.st_dev, stat.st_ino)) {
                continue;
            }
            self.found.disk += on_disk(&stat);
            if kind == FileType::RegularFile {
                self.found.content += u64::try_from(stat.st_size).unwrap_or(0);
            }
        }
        for name in below {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            // A layer of an ordinary user holds directories of other ids, which
            // only a process in its user namespace can read.
            let result = openat(dir, &name, flags, Mode::empty())
                .and_then(|dir| self.descend(dir.as_fd(), buffer));
            self.found.unreadable += u64::from(result.is_err());
        }
        Ok(())
    }
}

fn on_disk(stat: &Stat) -> u64 {
    // In units of 512 bytes whatever the file system's own blocks are (inode(7)).
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}
