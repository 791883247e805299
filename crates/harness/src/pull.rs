//! From a reference to an image in the store.

use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result, bail};
use bakery::source::{self, Context, Draft, Options, Pulled};
use engine::state::RunDirectory;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use sha2::{Digest, Sha256};
use spec::event::{Event, Tell};
use spec::image::Image;
use spec::reference::Reference;
use store::Store;

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
    let Pull { reference, store, run, options, tell } = pull;
    let Some(source) = source::find(reference) else {
        bail!("{reference} is a registry's image, and registries cannot be pulled from yet");
    };
    let name = reference.to_string();
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
            let image = finish(*draft, &name, store, run, *tell)?;
            let status = match previous {
                Some(previous) if previous.id == image.id => Status::UpToDate,
                Some(_) => Status::DownloadedNewer,
                None => Status::Downloaded,
            };
            Ok((image, status))
        }
    }
}

fn finish(
    draft: Draft,
    name: &str,
    store: &Store,
    run: &RunDirectory,
    tell: &dyn Tell,
) -> Result<Image> {
    let path = draft.layer.path().to_str().context("the store's path is not UTF-8")?.to_owned();
    bake::bake(&path, &draft.recipe, run, tell)?;
    tell.tell(Event::Phase { name: "writing to disk".into() });
    let facts = distro::facts::read(draft.layer.root())
        .with_context(|| format!("cannot read the facts of {name}"))?;
    let size = size_of(draft.layer.root())?;
    let origin = serde_json::to_vec(&draft.origin)?;
    let id: String = Sha256::digest(&origin).iter().map(|b| format!("{b:02x}")).collect();
    draft.layer.commit(&id)?;
    let image = Image {
        layers: vec![id.clone()],
        id,
        config: draft.config,
        facts,
        origin: draft.origin,
        created: now(),
        size,
    };
    let mut names = draft.names;
    names.push(name.to_owned());
    store.record(&image, &names)?;
    Ok(image)
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Bytes of file content below a root.
fn size_of(root: &sys::rooted::Root) -> Result<u64> {
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
