//! The store of podman, buildah and skopeo on this machine (containers-storage.conf(5)), read without them.
//!
//! A layer lies there unpacked, and beside it what its archive was apart from the files' content (vbatts/tar-split);
//! the two make the same archive again, to the last bit, so that its digest tells whether all is right.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Error, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use spec::oci::{self, Descriptor, Document, MAX_CONFIG, MAX_MANIFEST};
use spec::reference::Reference;
use sys::rooted::Root;

use super::super::assembly::{Blobs, Found};
use super::digest_of;
use crate::compression::Compression;

/// Drivers whose layers are directories, and where a layer's directory is.
const DRIVERS: [(&str, &str, &str); 2] = [("overlay", "overlay", "diff"), ("vfs", "vfs/dir", "")];

/// Lists of images and layers that are read: bytes.
const MAX_LIST: u64 = 64 << 20;
/// A line of what was an archive: bytes.
const MAX_LINE: u64 = 64 << 20;
/// The media type of a layer that is not compressed.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

#[derive(Deserialize)]
struct Image {
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    layer: String,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "kebab-case")]
struct Layer {
    id: String,
    #[serde(default)]
    parent: String,
    #[serde(default)]
    diff_digest: String,
    #[serde(default)]
    diff_size: u64,
}

/// One image of such a store.
pub(super) struct Storage {
    root: PathBuf,
    driver: (&'static str, &'static str, &'static str),
    image: String,
    /// Ids of layers by the digests of their archives.
    layers: HashMap<String, String>,
}

impl Blobs for Storage {
    fn open<'s>(&'s self, blob: &Descriptor) -> Result<Box<dyn Read + Send + 's>> {
        if let Some(id) = self.layers.get(&blob.digest) {
            return Ok(Box::new(Assembled::open(&self.root, self.driver, id)?));
        }
        Ok(Box::new(File::open(self.big_data(&blob.digest))?))
    }
}

impl Storage {
    /// Where something of the image is kept (containers/storage, `makeBigDataBaseName`).
    fn big_data(&self, key: &str) -> PathBuf {
        let plain = key.bytes().all(|b| matches!(b, b'.' | b'0'..=b'9' | b'a'..=b'z'));
        let name = match plain {
            true => key.to_owned(),
            false => format!("={}", BASE64_STANDARD.encode(key)),
        };
        let (driver, ..) = self.driver;
        self.root.join(format!("{driver}-images")).join(&self.image).join(name)
    }
}

/// Finds an image by a name, or the beginning of an id, in a store: `DRIVER@ROOT` and the like, or the
/// user's own where that is empty.
pub(super) fn find(place: &Path, name: &str) -> Result<(Found, Storage)> {
    let place = place.to_str().context("the store's path is no text")?;
    let (driver, roots) = match place {
        "" => (None, own()),
        place => {
            // What follows is for the running store, and for options of mounts.
            let place = place.split(['+', ':']).next().unwrap_or_default();
            match place.split_once('@') {
                Some((driver, root)) => (Some(driver), vec![root.into()]),
                None => (None, vec![place.into()]),
            }
        }
    };
    for root in &roots {
        for known in DRIVERS.into_iter().filter(|(name, ..)| driver.is_none_or(|d| d == *name)) {
            let list = root.join(format!("{0}-images/images.json", known.0));
            let Some(images) = list_of::<Image>(&list)? else { continue };
            if let Some(image) = chosen(images, name)? {
                return open(root, known, &image);
            }
        }
    }
    let shown: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
    Err(anyhow!("there is no image {name:?} in {}", shown.join(" or ")))
}

fn chosen(images: Vec<Image>, name: &str) -> Result<Option<Image>> {
    let mut wanted = vec![name.to_owned(), format!("localhost/{name}")];
    if let Ok(Reference::Registry(full)) = Reference::parse(&format!("docker://{name}"), |_| false)
    {
        let tag = full.tag.as_deref().unwrap_or("latest");
        let last = name.rsplit('/').next().unwrap_or(name);
        wanted.push(full.to_string());
        if !last.contains([':', '@']) {
            wanted.extend([format!("{name}:{tag}"), format!("localhost/{name}:{tag}")]);
        }
    }
    let named = |image: &Image| image.names.iter().flatten().any(|name| wanted.contains(name));
    let is_id = name.len() >= 3 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let (mut named, others): (Vec<Image>, Vec<Image>) = images.into_iter().partition(named);
    if let Some(image) = named.pop() {
        return Ok(Some(image));
    }
    let mut ids = others.into_iter().filter(|image| is_id && image.id.starts_with(name));
    let found = ids.next();
    ensure!(ids.next().is_none(), "several images have an id that begins with {name}");
    Ok(found)
}

fn open(
    root: &Path,
    driver: (&'static str, &'static str, &'static str),
    image: &Image,
) -> Result<(Found, Storage)> {
    let list = root.join(format!("{0}-layers/layers.json", driver.0));
    let all =
        list_of::<Layer>(&list)?.with_context(|| format!("there is no {}", list.display()))?;
    let all: HashMap<String, Layer> = all.into_iter().map(|l| (l.id.clone(), l)).collect();
    let (mut chain, mut next) = (Vec::new(), image.layer.clone());
    while !next.is_empty() {
        let layer = all.get(&next).with_context(|| format!("its layer {next} is not there"))?;
        ensure!(chain.len() <= all.len(), "its layers stand on each other in a circle");
        next.clone_from(&layer.parent);
        chain.push(layer.clone());
    }
    chain.reverse();
    let layers = chain.iter().map(|layer| (layer.diff_digest.clone(), layer.id.clone())).collect();
    let storage = Storage { root: root.to_owned(), driver, image: image.id.clone(), layers };
    let path = storage.big_data("manifest");
    let reading = || format!("reading {}", path.display());
    let bytes = small(&path, MAX_MANIFEST).with_context(reading)?;
    let Document::Manifest(mut manifest) =
        oci::parse(&bytes).map_err(Error::msg).with_context(reading)?
    else {
        bail!("{} is no manifest of one image", path.display())
    };
    ensure!(manifest.config.size <= MAX_CONFIG, "its configuration is too large");
    manifest.layers = chain
        .into_iter()
        .map(|layer| Descriptor {
            media_type: LAYER.into(),
            digest: layer.diff_digest,
            size: layer.diff_size,
            ..Descriptor::default()
        })
        .collect();
    let digest = digest_of(&bytes);
    let found = Found { resolved: digest.clone(), index: None, digest, bytes, manifest };
    Ok((found, storage))
}

/// `None` where there is no such list.
fn list_of<T: DeserializeOwned>(path: &Path) -> Result<Option<Vec<T>>> {
    let reading = || format!("reading {}", path.display());
    match small(path, MAX_LIST) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(reading),
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(reading)?)),
    }
}

fn small(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(io::Error::other(format!("it is larger than {limit} bytes"))),
        false => Ok(bytes),
    }
}

/// Where the caller's store may be, in the order in which it is looked for.
fn own() -> Vec<PathBuf> {
    #[derive(Deserialize, Default)]
    struct Tables {
        #[serde(default)]
        storage: Table,
    }
    #[derive(Deserialize, Default)]
    struct Table {
        graphroot: Option<String>,
        rootless_storage_path: Option<String>,
    }
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let home = variable("HOME").unwrap_or_else(|| "/root".into());
    let below = |name: &str, rest: &str| {
        variable(name).unwrap_or_else(|| format!("{home}/{rest}")) + "/containers/storage"
    };
    // An ordinary user's pull runs as root of a user namespace.
    let is_root = rustix::process::geteuid().is_root() && sys::userns::is_initial();
    let mut files: Vec<String> = variable("CONTAINERS_STORAGE_CONF").into_iter().collect();
    let system = ["/etc/containers/storage.conf", "/usr/share/containers/storage.conf"];
    if !is_root {
        files.push(below("XDG_CONFIG_HOME", ".config") + ".conf");
    }
    let users = files.len();
    files.extend(system.map(str::to_owned));
    let mut roots: Vec<PathBuf> = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let tables: Tables = toml::from_str(&text).unwrap_or_default();
        let rootless = tables.storage.rootless_storage_path.filter(|_| !is_root);
        roots.extend(rootless.map(|path| path.replace("$HOME", &home).into()));
        let counts = is_root || number < users;
        roots.extend(tables.storage.graphroot.filter(|_| counts).map(PathBuf::from));
    }
    roots.push(match is_root {
        true => "/var/lib/containers/storage".into(),
        false => below("XDG_DATA_HOME", ".local/share").into(),
    });
    let mut seen = Vec::new();
    roots.retain(|root| !seen.contains(root) && (seen.push(root.clone()), true).1);
    roots
}

/// A layer's archive, put together again.
struct Assembled {
    records: Box<dyn BufRead + Send>,
    root: Root,
    now: Now,
}

/// What is being read.
enum Now {
    Bytes(io::Cursor<Vec<u8>>),
    File { file: File, left: u64 },
}

/// A line of tar-split (its package `tar/storage`, `Entry`).
#[derive(Deserialize)]
struct Record {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(default)]
    name: Option<String>,
    /// Where the name is no text.
    #[serde(default)]
    name_raw: Option<String>,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    payload: Option<String>,
}

impl Assembled {
    fn open(root: &Path, driver: (&str, &str, &str), id: &str) -> Result<Self> {
        let is_name = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric());
        ensure!(is_name, "{id:?} is no id of a layer");
        let (name, layers, tree) = driver;
        let path = root.join(format!("{name}-layers/{id}.tar-split.gz"));
        let opening = || format!("opening {}", path.display());
        let plain = Compression::Gzip.decoder(File::open(&path).with_context(opening)?)?;
        let tree = root.join(layers).join(id).join(tree);
        let root = Root::open(&tree).with_context(|| format!("opening {}", tree.display()))?;
        let now = Now::Bytes(io::Cursor::new(Vec::new()));
        Ok(Self { records: Box::new(BufReader::new(plain)), root, now })
    }

    /// What comes next; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Now>> {
        let mut line = Vec::new();
        (&mut self.records).take(MAX_LINE).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(None);
        }
        let decode = |text: &str| BASE64_STANDARD.decode(text).map_err(io::Error::other);
        let record: Record = serde_json::from_slice(&line)?;
        let payload = record.payload.as_deref().unwrap_or_default();
        Ok(Some(match record.kind {
            1 if record.size == 0 => Now::Bytes(io::Cursor::new(Vec::new())),
            1 => {
                let name = match &record.name_raw {
                    Some(raw) => decode(raw)?,
                    None => record.name.unwrap_or_default().into_bytes(),
                };
                let path = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&name);
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
                let named = |error| io::Error::other(format!("{}: {error}", path.display()));
                let file =
                    File::from(self.root.open_in(path, flags, Mode::empty()).map_err(named)?);
                if !file.metadata()?.is_file() {
                    return Err(named(io::Error::other("it is no regular file")));
                }
                Now::File { file, left: record.size }
            }
            2 => Now::Bytes(io::Cursor::new(decode(payload)?)),
            kind => return Err(io::Error::other(format!("there is no entry of type {kind}"))),
        }))
    }
}

impl Read for Assembled {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = match &mut self.now {
                Now::Bytes(bytes) => bytes.read(buffer)?,
                Now::File { file, left } => {
                    let count = file.take(*left).read(buffer)?;
                    if count == 0 && *left > 0 {
                        return Err(io::Error::other("a file is shorter than it was"));
                    }
                    *left -= count as u64;
                    count
                }
            };
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            match self.next()? {
                Some(next) => self.now = next,
                None => return Ok(0),
            }
        }
    }
}
