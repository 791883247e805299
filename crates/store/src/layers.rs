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

/// In a layer's directory: it was committed without a flush, in the boot of that id.
pub(crate) const UNFLUSHED: &str = "unflushed";

/// Names the time since the machine was started (proc_sys_kernel(5), `random/boot_id`).
fn boot_id() -> Vec<u8> {
    std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()
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

    /// Protects a layer until an image with it is recorded, or this store and its clones are gone;
    /// `false` where there is no such layer.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn hold_layer(&self, id: &str) -> Result<bool> {
        if !self.has_layer(id) {
            return Ok(false);
        }
        let name = format!("layers/{id}");
        let failed = |error| self.failed("holding", &name, error);
        let changes = self.changes()?;
        let lock = match self.open_dir(&name) {
            Ok(lock) => lock,
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(failed(error)),
        };
        if self.is_unflushed(id)?.is_some_and(|boot| boot != boot_id()) {
            // What was written before the power failed may not be on the disk.
            let mut trash = Trash::default();
            if try_exclusive(&lock).map_err(failed)? {
                changes.discard(&name, lock, &mut trash)?;
                drop(changes);
                trash.remove(self)?;
            }
            return Ok(false);
        }
        // Nobody has it exclusively: that takes the lock that we have.
        wait_for(&lock, FlockOperation::LockShared).map_err(failed)?;
        self.unrecorded().push((id.to_owned(), lock));
        Ok(true)
    }

    /// Writes layers that were committed without a flush to the disk. [`Store::record`] does it
    /// too: this is for who has something else to do meanwhile.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn flush_layers(&self, ids: &[String]) -> Result<()> {
        let mut unflushed = Vec::new();
        for id in ids {
            if self.is_unflushed(id)?.is_some() {
                unflushed.push(id);
            }
        }
        if unflushed.is_empty() {
            return Ok(());
        }
        let dir = self.open_dir("layers").map_err(|e| self.failed("flushing", "layers", e))?;
        syncfs(&dir).map_err(|error| self.failed("flushing", "layers", error))?;
        for id in unflushed {
            self.unlink(&format!("layers/{id}/{UNFLUSHED}"))?;
            self.flush(&format!("layers/{id}"))?;
        }
        Ok(())
    }

    /// The boot in which a layer was committed without a flush; `None` for one that is on the disk.
    fn is_unflushed(&self, id: &str) -> Result<Option<Vec<u8>>> {
        self.read_small(&format!("layers/{id}/{UNFLUSHED}"))
    }

    fn unrecorded(&self) -> std::sync::MutexGuard<'_, Vec<(String, OwnedFd)>> {
        self.inner.unrecorded.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Releases layers that a record now protects.
    pub(crate) fn forget_unrecorded(&self, ids: &[String]) {
        self.unrecorded().retain(|(id, _)| !ids.contains(id));
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
    pub fn commit(self, id: &str) -> Result<()> {
        // Long: not under the lock.
        let lock = self.lock.as_ref().context("a layer is committed once")?;
        syncfs(lock).map_err(|error| self.store.failed("flushing", &self.name, error))?;
        self.publish(id)
    }

    /// As [`NewLayer::commit`], except that only [`Store::record`] flushes it, with all others of the
    /// image at once. Until then it counts only as long as the machine runs.
    ///
    /// # Errors
    /// As [`NewLayer::commit`].
    pub fn commit_unflushed(self, id: &str) -> Result<()> {
        let lock = self.lock.as_ref().context("a layer is committed once")?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        openat(lock, UNFLUSHED, flags, Mode::RUSR | Mode::WUSR)
            .and_then(|fd| rustix::io::write(&fd, &boot_id()))
            .map_err(|error| self.store.failed("committing", &self.name, error))?;
        self.publish(id)
    }

    fn publish(mut self, id: &str) -> Result<()> {
        ensure!(is_digest(id), "{id:?} is no id of a layer: 64 lower-case hex digits");
        let store = self.store.clone();
        let lock = self.lock.take().context("a layer is committed once")?;
        let to = format!("layers/{id}");
        let failed = |error| store.failed("committing", &to, error);
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
        store.unrecorded().push((id.to_owned(), held));
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
