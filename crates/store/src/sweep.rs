//! Removing what nobody needs any more.

use anyhow::Result;
use rustix::fs::{AtFlags, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use crate::Store;
use crate::cache::{finished_path, partial_path};
use crate::changes::{Changes, Trash};
use crate::locks::try_exclusive;
use crate::records::record_path;

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Objects in `tmp/` whose maker is dead.
    pub temporary: u64,
    /// Layers that no image has.
    pub layers: u64,
    /// Names of images that are gone.
    pub names: u64,
    /// Images.
    pub images: u64,
    /// File systems that were made of the layers of images that are gone.
    pub roots: u64,
    /// Downloads.
    pub downloads: u64,
    /// Bytes on the disk, of all of them together.
    pub bytes: u64,
}

impl Store {
    /// Removes what killed processes left, and names without an image. Layers without an image
    /// remain: an interrupted pull goes on with them.
    ///
    /// Nothing that a running process makes or uses is touched.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub fn sweep(&self) -> Result<Swept> {
        self.clean(false, |_| Ok(Swept::default()))
    }

    /// As [`Store::sweep`], with the downloads, the layers and blobs that no image has, and the images that
    /// have no name; with `all`, every image that no machine uses.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub fn prune(&self, all: bool) -> Result<Swept> {
        let mut swept = self.clean(true, |changes| {
            let mut names = self.names_by_id()?;
            let mut images = 0;
            for id in self.ids()? {
                let names = names.remove(&id).unwrap_or_default();
                if all || names.is_empty() {
                    images += u64::from(changes.remove_image(&id, &names)?);
                }
            }
            Ok(Swept { images, ..Swept::default() })
        })?;
        self.prune_downloads(&mut swept)?;
        Ok(swept)
    }

    fn clean(
        &self,
        layers: bool,
        first: impl FnOnce(&Changes<'_>) -> Result<Swept>,
    ) -> Result<Swept> {
        let changes = self.changes()?;
        let mut swept = first(&changes)?;
        let mut trash = Trash::default();
        swept.temporary = changes.abandoned(&mut trash)?;
        swept.temporary += trash.len() as u64;
        swept.names = changes.remove_dangling_names()?;
        if layers {
            swept.layers = changes.unreferenced_layers(&mut trash)? as u64;
            changes.remove_unreferenced_blobs(&mut swept)?;
            changes.remove_unreferenced_roots(&mut swept)?;
        }
        changes.remove_lock_files()?;
        drop(changes);
        swept.bytes += trash.size();
        trash.remove(self)?;
        Ok(swept)
    }

    fn prune_downloads(&self, swept: &mut Swept) -> Result<()> {
        for digest in self.list("cache/sha256")? {
            self.remove_download(&finished_path(&digest), swept)?;
        }
        for digest in self.list("cache/partial")? {
            let path = partial_path(&digest);
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match openat(self.dir(), &path, flags, Mode::empty()) {
                Ok(fd) => {
                    // Held while it goes, so that nobody begins to go on with it.
                    if try_exclusive(&fd).map_err(|e| self.failed("locking", &path, e))? {
                        self.remove_download(&path, swept)?;
                    }
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(self.failed("locking", &path, error)),
            }
        }
        Ok(())
    }

    fn remove_download(&self, path: &str, swept: &mut Swept) -> Result<()> {
        let size = statat(self.dir(), path, AtFlags::SYMLINK_NOFOLLOW)
            .map_or(0, |stat| u64::try_from(stat.st_blocks).unwrap_or(0) * 512);
        if self.unlink(path)? {
            swept.downloads += 1;
            swept.bytes += size;
        }
        Ok(())
    }
}

/// Seconds that a pull may take.
const PULL: u64 = 24 * 60 * 60;

fn age(stat: &rustix::fs::Stat) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let modified = u64::try_from(stat.st_mtime).unwrap_or(0);
    now.map_or(0, |now| now.as_secs().saturating_sub(modified))
}

impl Changes<'_> {
    /// Those that belong to no image, and are not so new that a pull may be about to record them.
    fn remove_unreferenced_blobs(&self, swept: &mut Swept) -> Result<()> {
        let store = self.store;
        let Some(referenced) = self.referenced_blobs()? else { return Ok(()) };
        for digest in store.list("blobs/sha256")? {
            let path = format!("blobs/sha256/{digest}");
            let Ok(stat) = statat(store.dir(), &path, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if !referenced.contains(&digest) && age(&stat) > PULL && store.unlink(&path)? {
                swept.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            }
        }
        Ok(())
    }

    fn remove_dangling_names(&self) -> Result<u64> {
        let store = self.store;
        let mut removed = 0;
        for file in store.list("names")? {
            let leads_somewhere = match store.read_name(&file)? {
                Some((_, id)) => store.exists(&record_path(&id)),
                None => false,
            };
            if !leads_somewhere {
                removed += u64::from(store.unlink(&format!("names/{file}"))?);
            }
        }
        Ok(removed)
    }

    /// Those of pulls that were killed.
    fn remove_lock_files(&self) -> Result<()> {
        let store = self.store;
        for file in store.list("locks")? {
            if file.starts_with('.') {
                continue;
            }
            let path = format!("locks/{file}");
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match openat(store.dir(), &path, flags, Mode::empty()) {
                // Held while it goes: who opened it meanwhile finds it gone, and makes another.
                Ok(fd) => {
                    if try_exclusive(&fd).map_err(|e| store.failed("locking", &path, e))? {
                        store.unlink(&path)?;
                    }
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(store.failed("locking", &path, error)),
            }
        }
        Ok(())
    }
}
