//! An image's layers as one file system in a file, which a virtual machine mounts: made once, when it is
//! needed, and removed with the image.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, renameat, statat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use spec::image::Image;
use sys::rooted::Root;

use crate::changes::{Changes, remove};
use crate::sweep::Swept;
use crate::tree::Tree;
use crate::{Store, hex};

const ROOTS: &str = "roots";

impl Store {
    /// The image's layers as one EROFS file, if there is one already.
    ///
    /// It stays as long as the image: whoever uses it holds a [lease](Store::lease) of that.
    pub fn root_image(&self, image: &Image) -> Option<PathBuf> {
        let name = file_name(image);
        self.exists(&name).then(|| self.path().join(name))
    }

    /// Makes the image's layers one EROFS file, unless there is one; whoever else is at it is waited for,
    /// and `waiting` called once then.
    ///
    /// The owners in it are those that this process sees: an ordinary user is to be in the namespace in which
    /// layers are unpacked.
    ///
    /// # Errors
    /// Where a layer cannot be read, something in it has no place in EROFS, or the store cannot be written.
    pub fn make_root_image(&self, image: &Image, waiting: &mut dyn FnMut()) -> Result<PathBuf> {
        if let Some(there) = self.root_image(image) {
            return Ok(there);
        }
        let name = file_name(image);
        let _lock = self.lock(&name, waiting)?;
        if let Some(there) = self.root_image(image) {
            return Ok(there);
        }
        let (temporary, lock) = self.changes()?.temporary_directory()?;
        let made = self.write_root_image(image, &temporary).and_then(|()| {
            let changes = self.changes()?;
            let failed = |error| self.failed("keeping", &name, error);
            match mkdirat(self.dir(), ROOTS, Mode::RWXU) {
                Ok(()) => self.flush(".")?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(failed(error)),
            }
            renameat(self.dir(), image_in(&temporary), self.dir(), &name).map_err(failed)?;
            self.flush(ROOTS)?;
            drop(changes);
            Ok(self.path().join(&name))
        });
        // What cannot be removed now, a sweep will.
        let _ = remove(self, &temporary);
        drop(lock);
        made
    }

    fn write_root_image(&self, image: &Image, directory: &str) -> Result<()> {
        let path = image_in(directory);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = openat(self.dir(), &path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| self.failed("making", &path, error))?;
        let file = File::from(fd);
        let layers: Vec<PathBuf> = image.layers.iter().map(|id| self.layer_path(id)).collect();
        self.with_merged(&layers, |root| {
            disk::make::erofs::write(&mut Tree::new(root)?, &file)?;
            file.sync_all().context("flushing it")
        })
        .context("making a file system of the image's layers")
    }
}

/// A directory as one EROFS file, with the owners that this process sees. It must not change meanwhile.
///
/// # Errors
/// Where something cannot be read, has no place in EROFS, or the file is there.
pub fn write_directory(directory: &Path, file: &Path) -> Result<()> {
    let root = Root::open(directory)?;
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).open(file)?;
    disk::make::erofs::write(&mut Tree::new(&root)?, &file)
}

impl Changes<'_> {
    /// Removes those whose image is gone. A machine that has one open keeps it (unlink(2)).
    pub(crate) fn remove_unreferenced_roots(&self, swept: &mut Swept) -> Result<()> {
        let store = self.store;
        if !store.exists(ROOTS) {
            return Ok(());
        }
        // Where a record is damaged, nobody knows.
        let Ok(images) = store.images() else { return Ok(()) };
        let needed: BTreeSet<String> = images.iter().map(|named| file_name(&named.image)).collect();
        for file in store.list(ROOTS)? {
            let path = format!("{ROOTS}/{file}");
            let size = statat(store.dir(), &path, AtFlags::SYMLINK_NOFOLLOW)
                .map_or(0, |stat| u64::try_from(stat.st_blocks).unwrap_or(0) * 512);
            if !needed.contains(&path) && store.unlink(&path)? {
                swept.roots += 1;
                swept.bytes += size;
            }
        }
        Ok(())
    }
}

fn image_in(directory: &str) -> String {
    format!("{directory}/root.erofs")
}

/// Of the layers, so that images share it as they share those, and of who writes it.
fn file_name(image: &Image) -> String {
    let revision = disk::make::erofs::REVISION;
    let key = format!("erofs {revision}\n{}", image.layers.join("\n"));
    format!("{ROOTS}/{}.erofs", hex(Sha256::digest(key)))
}
