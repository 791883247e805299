//! Images in files: OCI layouts (image-spec 1.1, image-layout.md), such layouts in a tar
//! archive, the archives of `docker save`, skopeo's directories, and podman's store.

mod archive;
mod docker;
mod skopeo;
mod storage;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Error, Result, anyhow, bail, ensure};
use spec::event::Event;
use spec::image::Origin;
use spec::oci::{self, Descriptor, Document, Index, MAX_MANIFEST};
use spec::platform::Platform;
use spec::reference::{DiskReference, LayoutKind, LayoutReference, Reference};
use store::Store;

use self::archive::Archive;
use self::skopeo::Skopeo;
use super::assembly::{self, Blobs, Found, small};
use super::registry::chosen;
use super::registry::settings::Settings;
use super::{Context, ImageSource, Pulled};
use crate::digest;

/// The source of `oci:`, `oci-archive:`, `docker-archive:`, skopeo's `dir:` and `containers-storage:`.
pub(crate) struct Source;

impl ImageSource for Source {
    fn accepts(&self, reference: &Reference) -> bool {
        matches!(reference, Reference::Layout(_))
    }

    fn pull(&self, reference: &Reference, context: &Context<'_>) -> Result<Pulled> {
        let Reference::Layout(layout) = reference else { bail!("{reference} is no layout") };
        let platform = context.options.platform.as_deref().map(Platform::parse).transpose();
        let platform = platform.map_err(Error::msg)?;
        context.tell.tell(Event::Phase { name: "reading".into() });
        pull(layout, platform.as_ref(), context).with_context(|| format!("reading {reference}"))
    }
}

fn pull(
    layout: &LayoutReference,
    platform: Option<&Platform>,
    context: &Context<'_>,
) -> Result<Pulled> {
    let name = layout.name.as_deref();
    let (found, docker, storage, skopeo);
    if layout.kind == LayoutKind::ContainersStorage {
        (found, storage) = storage::find(&layout.path, name.context("it names no image")?)?;
        return finish(layout, found, &storage, platform, context);
    }
    let place = open(layout, context.store)?;
    let blobs: &dyn Blobs = match layout.kind {
        LayoutKind::Directory => {
            found = skopeo::find(&*place, platform)?;
            skopeo = Skopeo(&*place);
            &skopeo
        }
        LayoutKind::DockerArchive => {
            (found, docker) = docker::find(&*place, name)?;
            &docker
        }
        _ => {
            let layout = Layout(&*place);
            found = find(&layout, name, platform)?;
            &Layout(&*place)
        }
    };
    finish(layout, found, blobs, platform, context)
}

fn open(layout: &LayoutReference, store: &Store) -> Result<Box<dyn Place>> {
    Ok(match layout.kind {
        LayoutKind::Oci | LayoutKind::Directory => Box::new(Directory(layout.path.clone())),
        _ => Box::new(Archive::open(&layout.path, store)?),
    })
}

fn finish(
    layout: &LayoutReference,
    found: Found,
    blobs: &dyn Blobs,
    platform: Option<&Platform>,
    context: &Context<'_>,
) -> Result<Pulled> {
    let shown = platform.map(Platform::to_string);
    let up_to_date = context.previous.is_some_and(|image| match &image.origin {
        Origin::Oci(oci) => {
            !context.options.force && oci.resolved == found.resolved && oci.platform == shown
        }
        _ => false,
    });
    if up_to_date {
        return Ok(Pulled::UpToDate);
    }
    let limits = Settings::read()?.limits();
    assembly::draft(found, blobs, &layout.to_string(), shown, &limits, context)
}

/// Files by their names.
pub(super) trait Place: Sync {
    /// Opens a file; says how many bytes it has.
    fn file<'s>(&'s self, name: &str) -> Result<(Box<dyn Read + Send + 's>, u64)>;
}

/// A layout that lies unpacked.
struct Directory(PathBuf);

impl Place for Directory {
    fn file<'s>(&'s self, name: &str) -> Result<(Box<dyn Read + Send + 's>, u64)> {
        // It may be somebody else's: a link in it shall lead nowhere else.
        let root = sys::rooted::Root::open(&self.0)?;
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
        let file = root.open_in(name, flags, rustix::fs::Mode::empty());
        let file = File::from(file.with_context(|| format!("opening {name}"))?);
        let stat = file.metadata()?;
        ensure!(stat.is_file(), "{name} is no regular file");
        Ok((Box::new(file), stat.len()))
    }
}

/// Reads a file that must be small.
pub(super) fn read(place: &dyn Place, name: &str, limit: u64) -> Result<Vec<u8>> {
    let (reader, size) = place.file(name)?;
    ensure!(size <= limit, "{name} has {size} bytes, of which {limit} are allowed");
    let mut bytes = Vec::new();
    reader.take(limit).read_to_end(&mut bytes).with_context(|| format!("reading {name}"))?;
    Ok(bytes)
}

struct Layout<'a>(&'a dyn Place);

impl Blobs for Layout<'_> {
    fn open<'s>(&'s self, blob: &Descriptor) -> Result<Box<dyn Read + Send + 's>> {
        let hex = blob.sha256().map_err(Error::msg)?;
        Ok(self.0.file(&format!("blobs/sha256/{hex}"))?.0)
    }
}

/// Names that tools give to an image in an index.
const NAMES: [&str; 2] = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];

fn find(layout: &Layout<'_>, name: Option<&str>, platform: Option<&Platform>) -> Result<Found> {
    let bytes = read(layout.0, "index.json", MAX_MANIFEST)?;
    let what = || "reading index.json".to_owned();
    let index = match oci::parse(&bytes).map_err(Error::msg).with_context(what)? {
        Document::Index(index) => index,
        Document::Manifest(_) => bail!("its index.json is no index"),
    };
    let first = named(&index, name, platform)?;
    let mut blob = first.clone();
    let mut outer = None;
    // An index in the index, for several platforms.
    loop {
        let what = || format!("reading the manifest {}", blob.digest);
        let bytes = small(&blob, layout, MAX_MANIFEST).with_context(what)?;
        match oci::parse(&bytes).map_err(Error::msg).with_context(what)? {
            Document::Manifest(manifest) => {
                let (resolved, digest) = (first.digest.clone(), blob.digest);
                return Ok(Found { resolved, index: outer, digest, bytes, manifest });
            }
            Document::Index(index) => {
                ensure!(outer.is_none(), "it has an index in an index in its index");
                blob = chosen(&index, platform)?.clone();
                outer = Some(bytes);
            }
        }
    }
}

fn named<'i>(
    index: &'i Index,
    name: Option<&str>,
    platform: Option<&Platform>,
) -> Result<&'i Descriptor> {
    let names = |d: &'i Descriptor| NAMES.iter().filter_map(|key| d.annotations.get(*key));
    let mut all: Vec<&Descriptor> = index.manifests.iter().collect();
    if let Some(name) = name {
        let is_it = |d: &Descriptor| {
            let mut names = NAMES.iter().filter_map(|key| d.annotations.get(*key));
            names.any(|n| n == name) || d.digest == name
        };
        all.retain(|d| is_it(d));
    }
    let list = || {
        let names: Vec<&str> = index.manifests.iter().flat_map(names).map(String::as_str).collect();
        if names.is_empty() { "without names".to_owned() } else { names.join(", ") }
    };
    match (&all[..], name) {
        ([only], _) => Ok(only),
        ([], Some(name)) => Err(anyhow!("it has no image {name:?}; it has {}", list())),
        ([], None) => bail!("it holds no image"),
        _ => {
            let only = Index { manifests: all.into_iter().cloned().collect(), ..index.clone() };
            let chosen = chosen(&only, platform)
                .with_context(|| format!("it holds several images: say which: {}", list()))?;
            let found = index.manifests.iter().find(|d| d.digest == chosen.digest);
            found.context("it was there a moment ago")
        }
    }
}

/// The full names of the images in an archive or a layout, for whoever loads all of them: each
/// with the reference that leads to it.
///
/// # Errors
/// It cannot be read, or is no archive of images.
pub fn names(layout: &LayoutReference, store: &Store) -> Result<Vec<(LayoutReference, String)>> {
    if matches!(layout.kind, LayoutKind::Directory | LayoutKind::ContainersStorage) {
        return Ok(Vec::new());
    }
    let place = open(layout, store)?;
    let names: Vec<String> = match layout.kind {
        LayoutKind::DockerArchive => docker::names(&*place)?,
        _ => {
            let bytes = read(&*place, "index.json", MAX_MANIFEST)?;
            let index: Index = serde_json::from_slice(&bytes).context("reading index.json")?;
            // podman puts whole names where others put tags.
            let whole = |name: &&String| name.contains('/');
            let full = |d: &Descriptor| {
                let [reference, containerd] = NAMES.map(|key| d.annotations.get(key));
                containerd.or(reference.filter(whole)).cloned()
            };
            index.manifests.iter().filter_map(full).collect()
        }
    };
    let one = |name: String| (LayoutReference { name: Some(name.clone()), ..layout.clone() }, name);
    Ok(names.into_iter().map(one).collect())
}

/// What a path is: a layout or an archive of images, an archive of a root, or a root itself.
///
/// # Errors
/// It cannot be read.
pub fn sniff(path: &Path) -> Result<Reference> {
    let layout =
        |kind| Reference::Layout(LayoutReference { kind, path: path.to_owned(), name: None });
    if std::fs::metadata(path)?.is_dir() {
        let is_layout = path.join("oci-layout").is_file() && path.join("index.json").is_file();
        return Ok(if is_layout {
            layout(LayoutKind::Oci)
        } else if skopeo::is_one(path) {
            layout(LayoutKind::Directory)
        } else {
            Reference::Directory(path.into())
        });
    }
    Ok(match archive::sniff(path)? {
        Some(kind) => layout(kind),
        None if super::disk::sniff(path)? => Reference::Disk(DiskReference::of(path.into())),
        None => Reference::Tar(path.into()),
    })
}

/// Of `dir:`: whether skopeo wrote it, or it is a root.
pub fn sniff_directory(path: &Path) -> Reference {
    match skopeo::is_one(path) {
        true => Reference::Layout(LayoutReference {
            kind: LayoutKind::Directory,
            path: path.to_owned(),
            name: None,
        }),
        false => Reference::Directory(path.to_owned()),
    }
}

/// The digest of some bytes.
pub(super) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", digest::of(bytes))
}

/// A file without a name in the store, for what must be read in any order.
///
/// # Errors
/// The store cannot be written.
pub fn scratch(store: &Store) -> Result<File> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let directory = store.path().join("tmp");
    let made = openat(CWD, &directory, flags, Mode::RUSR | Mode::WUSR);
    Ok(made.with_context(|| format!("making a file in {}", directory.display()))?.into())
}
