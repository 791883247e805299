//! Records of images, their names, and leases.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::fs::{FlockOperation, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::{Errno, read};
use sha2::{Digest, Sha256};
use spec::image::Image;

use crate::changes::{Changes, Trash};
use crate::locks::{try_exclusive, wait_for};
use crate::names::{FileName, escape, unescape};
use crate::{Store, Swept, hex, is_digest};

/// An image with its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Sorted; perhaps none.
    pub names: Vec<String>,
    /// The image.
    pub image: Image,
}

/// What [`Store::untag`] removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untagged {
    /// The names that are gone.
    pub names: Vec<String>,
    /// The image that they named.
    pub id: String,
    /// Whether the image itself is gone as well.
    pub deleted: bool,
    /// How many layers went with it.
    pub layers: usize,
}

/// The right to use an image's layers, which stay as long as this is held.
///
/// A process that inherits or is sent the descriptor holds it as well.
#[derive(Debug)]
pub struct Lease {
    record: OwnedFd,
}

impl AsFd for Lease {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.record.as_fd()
    }
}

/// Greatest size of a record; real ones have a few kilobytes.
const MAX_RECORD: usize = 16 << 20;

/// Fewest hex digits that are taken for the beginning of an id.
const MIN_PREFIX: usize = 4;

impl Store {
    /// The image of that name, or whose id begins with it: at least four hex digits, with or without `sha256:` before
    /// them.
    ///
    /// # Errors
    /// Where several ids begin so, or the record is damaged or cannot be read.
    pub fn find(&self, name: &str) -> Result<Option<Image>> {
        let found = match escape(name)? {
            FileName::Link(file) => self.read_record(&format!("names/{file}"))?,
            long @ FileName::Long(_) => match self.read_long_name(&long.path())? {
                Some((id, _)) => self.read_record(&record_path(&id))?,
                None => None,
            },
        };
        let record = match found {
            Some(record) => Some(record),
            None => match self.find_id(name)? {
                Some(id) => self.read_record(&record_path(&id))?,
                None => None,
            },
        };
        record.map(|record| record.image().with_context(|| damaged(name))).transpose()
    }

    /// Holds an image that was found, so that nobody removes it.
    ///
    /// # Errors
    /// Where it was removed in between.
    pub fn lease(&self, image: &Image) -> Result<Lease> {
        ensure!(is_digest(&image.id), "{:?} is no id of an image", image.id);
        let path = record_path(&image.id);
        let failed = |error| self.failed("leasing", &path, error);
        loop {
            let record = match self.open_record(&path) {
                Ok(record) => record,
                Err(Errno::NOENT) => bail!("image {} was removed meanwhile", short(&image.id)),
                Err(error) => return Err(failed(error)),
            };
            wait_for(&record, FlockOperation::LockShared).map_err(failed)?;
            // Gone, or replaced by a newer record of the same image.
            if fstat(&record).map_err(failed)?.st_nlink > 0 {
                return Ok(Lease { record });
            }
        }
    }

    /// All images, sorted by their first name; those without a name last.
    ///
    /// # Errors
    /// Where a record is damaged or cannot be read.
    pub fn images(&self) -> Result<Vec<Named>> {
        let mut names = self.names_by_id()?;
        let mut images = Vec::new();
        for id in self.ids()? {
            // Removed since it was listed.
            let Some(record) = self.read_record(&record_path(&id))? else { continue };
            let image = record.verified().with_context(|| damaged(&id))?;
            images.push(Named { names: names.remove(&id).unwrap_or_default(), image });
        }
        images.sort_by(|a, b| {
            let key = |named: &Named| (named.names.is_empty(), named.names.first().cloned());
            (key(a), &a.image.id).cmp(&(key(b), &b.image.id))
        });
        Ok(images)
    }

    /// Records an image whose layers are committed, and gives it these names; names that
    /// others had move to it.
    ///
    /// # Errors
    /// Where a layer is missing, the id is recorded with other layers, or the store cannot be written.
    pub fn record(&self, image: &Image, names: &[String]) -> Result<()> {
        check_ids(image)?;
        for name in names {
            escape(name)?;
        }
        self.flush_layers(&image.layers)?;
        let changes = self.changes()?;
        for layer in &image.layers {
            let path = format!("layers/{layer}");
            ensure!(self.exists(&path), "image {} lacks its layer {layer}", short(&image.id));
        }
        changes.write_record(image)?;
        for name in names {
            changes.write_name(name, &image.id)?;
        }
        // From here on the record protects them.
        self.forget_unrecorded(&image.layers);
        Ok(())
    }

    /// Gives an image a further name; if another image had it, it moves.
    ///
    /// # Errors
    /// Where the image is not recorded, or the store cannot be written.
    pub fn tag(&self, image: &Image, name: &str) -> Result<()> {
        ensure!(is_digest(&image.id), "{:?} is no id of an image", image.id);
        let changes = self.changes()?;
        ensure!(
            self.exists(&record_path(&image.id)),
            "image {} was removed meanwhile",
            short(&image.id)
        );
        changes.write_name(name, &image.id)
    }

    /// Removes a name, and with the last one the image; by an id, an image with at
    /// most one name.
    ///
    /// # Errors
    /// Where there is no such image, a machine uses it, or an id has several names.
    pub fn untag(&self, name: &str) -> Result<Untagged> {
        let changes = self.changes()?;
        let names = self.names()?;
        let by_name = names.get(name).cloned();
        let id = match &by_name {
            Some(id) => id.clone(),
            None => self.find_id(name)?.with_context(|| format!("there is no image {name:?}"))?,
        };
        let all: Vec<String> =
            names.into_iter().filter(|(_, other)| *other == id).map(|(name, _)| name).collect();
        if by_name.is_some() && all.len() > 1 {
            self.unlink(&escape(name)?.path())?;
            self.flush("names")?;
            return Ok(Untagged { names: vec![name.into()], id, deleted: false, layers: 0 });
        }
        ensure!(
            all.len() <= 1,
            "image {} has several names: remove them one by one: {}",
            short(&id),
            all.join(", ")
        );
        let mut trash = Trash::default();
        ensure!(
            changes.remove_image(&id, &all)?,
            "image {name} is in use by a running machine: stop that first"
        );
        let layers = changes.unreferenced_layers(&mut trash)?;
        changes.remove_unreferenced_roots(&mut Swept::default())?;
        drop(changes);
        trash.remove(self)?;
        Ok(Untagged { names: all, id, deleted: true, layers })
    }

    /// The ids of all records.
    pub(crate) fn ids(&self) -> Result<Vec<String>> {
        let files = self.list("images")?;
        let id =
            |file: &String| file.strip_suffix(".json").filter(|id| is_digest(id)).map(Into::into);
        Ok(files.iter().filter_map(id).collect())
    }

    /// All names with the ids they lead to, whether there are records or not.
    pub(crate) fn names(&self) -> Result<BTreeMap<String, String>> {
        let mut names = BTreeMap::new();
        for file in self.list("names")? {
            if let Some((name, id)) = self.read_name(&file)? {
                names.insert(name, id);
            }
        }
        Ok(names)
    }

    pub(crate) fn names_by_id(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let mut by_id: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, id) in self.names()? {
            by_id.entry(id).or_default().push(name);
        }
        Ok(by_id)
    }

    /// What a file in `names/` says; `None` where it is none of ours, or just went.
    pub(crate) fn read_name(&self, file: &str) -> Result<Option<(String, String)>> {
        let path = format!("names/{file}");
        if file.starts_with("%%") {
            let found = self.read_long_name(&path)?;
            return Ok(found.map(|(id, name)| (name, id)));
        }
        let text = match readlinkat(self.dir(), &path, Vec::with_capacity(128)) {
            Ok(text) => text.into_string().unwrap_or_default(),
            Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
            Err(error) => return Err(self.failed("reading", &path, error)),
        };
        let id = text.strip_prefix("../images/").and_then(|rest| rest.strip_suffix(".json"));
        Ok(unescape(file).zip(id.filter(|id| is_digest(id)).map(Into::into)))
    }

    /// The id and the name in the file of a long name.
    fn read_long_name(&self, path: &str) -> Result<Option<(String, String)>> {
        let Some(content) = self.read_small(path)? else { return Ok(None) };
        let text = String::from_utf8(content).ok();
        let parts = text.as_deref().and_then(|text| text.split_once('\n'));
        let ours = parts.filter(|(id, name)| {
            is_digest(id) && escape(name).is_ok_and(|file| file.path() == path)
        });
        Ok(ours.map(|(id, name)| (id.to_owned(), name.to_owned())))
    }

    /// The one id that begins with a text.
    fn find_id(&self, text: &str) -> Result<Option<String>> {
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if prefix.len() < MIN_PREFIX || !is_hex {
            return Ok(None);
        }
        let mut ids = self.ids()?;
        ids.retain(|id| id.starts_with(prefix));
        ensure!(
            ids.len() <= 1,
            "{prefix:?} is the beginning of {} ids: give more digits",
            ids.len()
        );
        Ok(ids.pop())
    }

    fn open_record(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        openat(self.dir(), path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }

    pub(crate) fn read_record(&self, path: &str) -> Result<Option<Record>> {
        Ok(self.read_small(path)?.map(Record))
    }

    /// Reads a file of the store as a whole; `None` where there is none.
    pub(crate) fn read_small(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let failed = |error| self.failed("reading", path, error);
        let fd = match self.open_record(path) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut content = Vec::with_capacity(32 * 1024);
        loop {
            let room = content.capacity() - content.len();
            let length = rustix::io::retry_on_intr(|| read(&fd, spare_capacity(&mut content)))
                .map_err(failed)?;
            // Of a regular file, what is not filled is the end: no second call to hear of it.
            if length < room {
                return Ok(Some(content));
            }
            ensure!(content.len() < MAX_RECORD, "{path} is larger than {MAX_RECORD} bytes");
            content.reserve(content.len());
        }
    }
}

impl Changes<'_> {
    fn write_record(&self, image: &Image) -> Result<()> {
        let store = self.store;
        let path = record_path(&image.id);
        let mut content = serde_json::to_vec(image).context("encoding a record")?;
        let digest = hex(Sha256::digest(&content));
        content.extend_from_slice(format!("\n\"sha256:{digest}\"\n").as_bytes());
        let _replaced = match store.open_record(&path) {
            Err(Errno::NOENT) => None,
            Err(error) => return Err(store.failed("reading", &path, error)),
            Ok(old) => {
                if let Some(record) = store.read_record(&path)? {
                    if record.0 == content {
                        return Ok(());
                    }
                    let other = record.verified().ok().filter(|old| old.layers != image.layers);
                    ensure!(other.is_none(), "image {} exists with other layers", short(&image.id));
                }
                // A lease holds the file itself: one that is held must not be replaced, and
                // what it says of this image is as good.
                if !try_exclusive(&old).map_err(|e| store.failed("locking", &path, e))? {
                    return Ok(());
                }
                Some(old)
            }
        };
        self.publish_file(&path, &content)
    }

    fn write_name(&self, name: &str, id: &str) -> Result<()> {
        let file = escape(name)?;
        match file {
            FileName::Link(_) => {
                self.publish_link(&file.path(), &format!("../{}", record_path(id)))
            }
            FileName::Long(_) => {
                self.publish_file(&file.path(), format!("{id}\n{name}").as_bytes())
            }
        }
    }

    /// Removes a record and its names; `false` where a machine uses it.
    pub(crate) fn remove_image(&self, id: &str, names: &[String]) -> Result<bool> {
        let store = self.store;
        let path = record_path(id);
        let _lock = match store.open_record(&path) {
            Ok(record) => {
                if !try_exclusive(&record).map_err(|e| store.failed("locking", &path, e))? {
                    return Ok(false);
                }
                Some(record)
            }
            // Only a name was left.
            Err(Errno::NOENT) => None,
            Err(error) => return Err(store.failed("locking", &path, error)),
        };
        for name in names {
            store.unlink(&escape(name)?.path())?;
        }
        store.unlink(&path)?;
        store.flush("names")?;
        store.flush("images")?;
        Ok(true)
    }

    /// The layers that records need; `None` where a record is damaged, so that
    /// nobody knows.
    pub(crate) fn referenced_layers(&self) -> Result<Option<BTreeSet<String>>> {
        let mut layers = BTreeSet::new();
        for id in self.store.ids()? {
            let Some(record) = self.store.read_record(&record_path(&id))? else { continue };
            match record.verified() {
                Ok(image) => layers.extend(image.layers),
                Err(_) => return Ok(None),
            }
        }
        Ok(Some(layers))
    }

    /// The SHA-256 of the blobs that records need; `None` as [`Changes::referenced_layers`].
    pub(crate) fn referenced_blobs(&self) -> Result<Option<BTreeSet<String>>> {
        let mut blobs = BTreeSet::new();
        for id in self.store.ids()? {
            let Some(record) = self.store.read_record(&record_path(&id))? else { continue };
            match record.verified() {
                Ok(image) => {
                    let of_origin = image.origin.digests().into_iter();
                    let hex = of_origin.filter_map(|d| d.strip_prefix("sha256:"));
                    blobs.extend(hex.map(str::to_owned));
                    blobs.insert(image.id);
                }
                Err(_) => return Ok(None),
            }
        }
        Ok(Some(blobs))
    }
}

/// The content of a record's file.
pub(crate) struct Record(Vec<u8>);

impl Record {
    /// The image, of which only the form is checked: that is fast.
    pub(crate) fn image(&self) -> Result<Image> {
        let line = self.0.split(|&b| b == b'\n').next().unwrap_or_default();
        let image: Image = serde_json::from_slice(line)?;
        check_ids(&image)?;
        Ok(image)
    }

    /// The image, its digest checked as well.
    pub(crate) fn verified(&self) -> Result<Image> {
        let mut lines = self.0.split(|&b| b == b'\n');
        let line = lines.next().unwrap_or_default();
        let wanted = format!("\"sha256:{}\"", hex(Sha256::digest(line)));
        ensure!(lines.next() == Some(wanted.as_bytes()), "its digest is wrong");
        self.image()
    }
}

pub(crate) fn record_path(id: &str) -> String {
    format!("images/{id}.json")
}

/// As many digits of an id as people like to read.
pub(crate) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Ids become paths.
fn check_ids(image: &Image) -> Result<()> {
    for id in [&image.id].into_iter().chain(&image.layers) {
        ensure!(is_digest(id), "{id:?} is no id: 64 lower-case hex digits");
    }
    Ok(())
}

fn damaged(name: &str) -> String {
    format!(
        "the record of image {name} is damaged: remove it with `postroj rmi {name}`, and pull it again"
    )
}
