//! Layers: unpacked trees, filled in `tmp/` and moved to their place as a whole.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, chmodat, mkdirat, openat, renameat, syncfs,
};
use rustix::io::Errno;
use sys::rooted::Root;

use crate::changes::{Changes, Trash, remove};
use crate::locks::{try_exclusive, wait_for};
use crate::{Store, failure, is_digest};

/// A layer that is being filled; removed when dropped, unless it was committed.
pub struct NewLayer {
    store: Store,
    /// `tmp/…`; empty once it has moved.
    name: String,
    path: PathBuf,
    root: Root,
    lock: Option<OwnedFd>,
}

impl Store {
    /// Makes an empty directory to be filled.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub fn new_layer(&self) -> Result<NewLayer> {
        let (name, lock) = self.changes()?.temporary_directory()?;
        let path = self.path().join(&name).join("root");
        let failed = |error| failure::failed("making", &path, error);
        let mode = Mode::from_raw_mode(0o755);
        mkdirat(&lock, "root", mode).map_err(failed)?;
        chmodat(&lock, "root", mode, AtFlags::empty()).map_err(failed)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = openat(&lock, "root", flags, Mode::empty()).map_err(failed)?;
        Ok(NewLayer {
            store: self.clone(),
            name,
            path,
            root: Root::from_fd(root),
            lock: Some(lock),
        })
    }

    /// Where a layer's root is, if there is such a layer.
    pub fn layer_path(&self, id: &str) -> PathBuf {
        debug_assert!(is_digest(id), "{id:?} is no id");
        self.path().join("layers").join(id).join("root")
    }

    /// Whether there is such a layer.
    pub fn has_layer(&self, id: &str) -> bool {
        is_digest(id) && self.exists(&format!("layers/{id}/root"))
    }

    /// Releases layers that a record now protects.
    pub(crate) fn forget_unrecorded(&self, ids: &[String]) {
        let mut held = self.inner.unrecorded.lock().unwrap_or_else(|e| e.into_inner());
        held.retain(|(id, _)| !ids.contains(id));
    }
}

impl NewLayer {
    /// The absolute path of the directory that is being filled.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same directory, for paths that are not to be trusted.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Makes it the layer of that id; if there is one already, that is kept instead.
    ///
    /// Everything is on the disk then. Until an image with it is recorded, it is protected as
    /// long as some clone of the [`Store`] that made it is there.
    ///
    /// # Errors
    /// Where the store cannot be written; the layer is removed then.
    pub fn commit(mut self, id: &str) -> Result<()> {
        ensure!(is_digest(id), "{id:?} is no id of a layer: 64 lower-case hex digits");
        let store = self.store.clone();
        let lock = self.lock.take().context("a layer is committed once")?;
        let to = format!("layers/{id}");
        let failed = |error| store.failed("committing", &to, error);
        // Long: not under the lock.
        syncfs(&lock).map_err(failed)?;
        let changes = store.changes()?;
        // Others may hold it as well from now on; under the lock, since changing it releases it for a moment.
        wait_for(&lock, FlockOperation::LockShared).map_err(failed)?;
        let held = match renameat(store.dir(), &self.name, store.dir(), &to) {
            Ok(()) => {
                self.name.clear();
                store.flush("layers")?;
                lock
            }
            Err(Errno::EXIST | Errno::NOTEMPTY) => {
                let there = store.open_dir(&to).map_err(failed)?;
                // Nobody has it exclusively: that takes the lock that we have.
                wait_for(&there, FlockOperation::LockShared).map_err(failed)?;
                self.lock = Some(lock);
                there
            }
            Err(error) => {
                self.lock = Some(lock);
                return Err(failed(error));
            }
        };
        let mut unrecorded = store.inner.unrecorded.lock().unwrap_or_else(|e| e.into_inner());
        unrecorded.push((id.to_owned(), held));
        drop(changes);
        Ok(())
    }
}

impl Drop for NewLayer {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // What cannot be removed now, a sweep will.
            let _ = remove(&self.store, &self.name);
        }
    }
}

impl fmt::Debug for NewLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewLayer").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Changes<'_> {
    /// Moves the layers that no record names and nobody holds to the trash; says how many.
    pub(crate) fn unreferenced_layers(&self, trash: &mut Trash) -> Result<usize> {
        let store = self.store;
        let Some(referenced) = self.referenced_layers()? else {
            return Ok(0);
        };
        let before = trash.len();
        for id in store.list("layers")? {
            if referenced.contains(&id) || !is_digest(&id) {
                continue;
            }
            let name = format!("layers/{id}");
            let failed = |error| store.failed("removing", &name, error);
            let lock = store.open_dir(&name).map_err(failed)?;
            if try_exclusive(&lock).map_err(failed)? {
                self.discard(&name, lock, trash)?;
            }
        }
        if trash.len() > before {
            store.flush("layers")?;
        }
        Ok(trash.len() - before)
    }
}
