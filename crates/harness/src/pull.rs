//! From a reference to an image in the store.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::{Context as _, Error, Result, bail};
use bakery::source::{self, Content, Context, Draft, Layers, Options, Pulled};
use engine::state::RunDirectory;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use sha2::{Digest, Sha256};
use spec::event::{Event, Tell};
use spec::image::{Config, Facts, Image, Origin};
use spec::platform::Platform;
use spec::reference::Reference;
use store::Store;
use sys::rooted::Root;

use crate::bake;

/// What to pull, and with what.
pub struct Pull<'a> {
    /// The image.
    pub reference: &'a Reference,
    /// Where it goes.
    pub store: &'a Store,
    /// Where the machines that finish it are recorded.
    pub run: &'a RunDirectory,
    /// The user's wishes.
    pub options: &'a Options,
    /// It is named with its platform only, and what the plain name means stays so.
    pub beside: bool,
    /// Who hears of progress.
    pub tell: &'a dyn Tell,
}

/// What a pull did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The image was there already.
    UpToDate,
    /// It was not there.
    Downloaded,
    /// It replaced an older one of the same name.
    DownloadedNewer,
}

/// Brings an image into the store. Of several at once for one reference, in however
/// many processes, one works and the others wait for its result.
///
/// # Errors
/// As the source's and the recipe's.
pub fn pull(pull: &Pull<'_>) -> Result<(Image, Status)> {
    let Pull { reference, store, run, options, beside, tell } = pull;
    let Some(source) = source::find(reference) else {
        bail!("{reference} is nothing that can be pulled");
    };
    let platform = options.platform.as_deref().map(Platform::parse).transpose();
    let platform = platform.map_err(Error::msg)?;
    let name = match platform.as_ref().filter(|_| *beside) {
        Some(platform) => name_for(&reference.to_string(), platform),
        None => reference.to_string(),
    };
    let mut waiting = || tell.tell(Event::Phase { name: "waiting for another pull".into() });
    let _lock = store.lock(&name, &mut waiting)?;
    run.reap();
    store.sweep().context("cannot clean up after an interrupted pull")?;
    let previous = store.find(&name)?;
    let context = Context { store, tell: *tell, options, previous: previous.as_ref() };
    match (source.pull(reference, &context)?, previous) {
        (Pulled::UpToDate, Some(image)) => Ok((image, Status::UpToDate)),
        (Pulled::UpToDate, None) => bail!("{reference} is said to be up to date, but is not there"),
        (Pulled::Draft(draft), previous) => {
            let mut draft = *draft;
            if let Some(platform) = &platform {
                let plain = if *beside { Vec::new() } else { draft.names.clone() };
                draft.names.push(reference.to_string());
                draft.names.iter_mut().for_each(|name| *name = name_for(name, platform));
                draft.names.extend(plain);
            }
            let image = finish(draft, &name, store, run, *tell)?;
            let status = match previous {
                Some(previous) if previous.id == image.id => Status::UpToDate,
                Some(_) => Status::DownloadedNewer,
                None => Status::Downloaded,
            };
            Ok((image, status))
        }
    }
}

/// The name of an image that was asked for by its platform; nothing else is called so, for
/// it is no reference.
#[must_use]
pub fn name_for(name: &str, platform: &Platform) -> String {
    format!("{name}@{platform}")
}

fn finish(
    draft: Draft,
    name: &str,
    store: &Store,
    run: &RunDirectory,
    tell: &dyn Tell,
) -> Result<Image> {
    let Draft { content, config, origin, mut names } = draft;
    let image = match content {
        Content::Root(layer, recipe) => {
            let path = layer.path().to_str().context("the store's path is not UTF-8")?.to_owned();
            let architecture = distro::facts::architecture_of(layer.root());
            bake::bake(&path, architecture, &recipe, run, tell)?;
            tell.tell(Event::Phase { name: "writing to disk".into() });
            let (facts, size) = (facts_of(layer.root(), name)?, size_of(layer.root())?);
            let digest = Sha256::digest(serde_json::to_vec(&origin)?);
            let id: String = digest.iter().map(|b| format!("{b:02x}")).collect();
            layer.commit(&id)?;
            let layers = vec![id.clone()];
            Image { id, layers, config, facts, origin, created: now(), size }
        }
        Content::Layers(layers) => {
            tell.tell(Event::Phase { name: "writing to disk".into() });
            of_layers(layers, config, origin, name, store)?
        }
    };
    names.push(name.to_owned());
    store.record(&image, &names)?;
    Ok(image)
}

fn of_layers(
    layers: Layers,
    config: Config,
    origin: Origin,
    name: &str,
    store: &Store,
) -> Result<Image> {
    let paths: Vec<_> = layers.ids.iter().map(|id| store.layer_path(id)).collect();
    let (mut facts, size) = std::thread::scope(|scope| {
        let flush = scope.spawn(|| store.flush_layers(&layers.ids));
        let known = known_of(&paths, name, store);
        flush.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        known
    })?;
    // What has no program that is known has no architecture that can be seen.
    if facts.architecture.is_none() && !layers.architecture.is_empty() {
        facts.architecture = Some(layers.architecture);
    }
    let created = layers.created.unwrap_or_else(now);
    Ok(Image { id: layers.image, layers: layers.ids, config, facts, origin, created, size })
}

/// The facts of the layers together, and the sum of their sizes.
pub(crate) fn known_of(paths: &[PathBuf], name: &str, store: &Store) -> Result<(Facts, u64)> {
    let facts = store.with_merged(paths, |root| facts_of(root, name))?;
    let mut size = 0;
    for path in paths {
        size += size_of(&Root::open(path).with_context(|| format!("opening {}", path.display()))?)?;
    }
    Ok((facts, size))
}

fn facts_of(root: &Root, name: &str) -> Result<Facts> {
    distro::facts::read(root).with_context(|| format!("cannot read the facts of {name}"))
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Bytes of file content below a root.
pub(crate) fn size_of(root: &Root) -> Result<u64> {
    Ok(size_below(root.open_in("/", DIRECTORY, Mode::empty())?)?)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// One descriptor is open for each level that it goes down.
fn size_below(directory: OwnedFd) -> std::io::Result<u64> {
    let mut size = 0;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        match entry.file_type() {
            FileType::Directory if !matches!(name.to_bytes(), b"." | b"..") => {
                let below = rustix::fs::openat(&directory, name, DIRECTORY, Mode::empty())?;
                size += size_below(below)?;
            }
            FileType::RegularFile => {
                let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                size += stat.st_size as u64;
            }
            _ => {}
        }
    }
    Ok(size)
}
