//! The image of a machine: found in the store, or pulled, or a directory as it is.

use std::process::Stdio;

use anyhow::{Context, Result, bail};
use plan::RootSource;
use spec::image::{Config, Facts};
use spec::reference::Reference;
use store::{Lease, Store};
use sys::rooted::Root;

use super::pull::PullPolicy;
use super::{Here, reference};

/// An image that is ready to run, and stays so until this is dropped.
pub(super) struct Ready {
    pub(super) root: RootSource,
    pub(super) config: Config,
    pub(super) facts: Facts,
    _lease: Option<Lease>,
}

pub(super) fn open(text: &str, policy: PullPolicy, here: &Here) -> Result<Ready> {
    let store = here.store()?;
    // A name as it was pulled needs no catalog and no grammar.
    let asks = matches!(policy, PullPolicy::Always | PullPolicy::Newer);
    if !asks
        && !text.contains('/')
        && let Some(ready) = from_store(&store, text)?
    {
        return Ok(ready);
    }
    let reference = reference::parse(text)?;
    match &reference {
        Reference::Host => return host(),
        Reference::Directory(path) => return directory(path),
        _ => {}
    }
    let name = reference.to_string();
    // Whether a file has changed is only told by reading it.
    let by_content = matches!(reference, Reference::Tar(_) | Reference::Layout(_));
    if policy == PullPolicy::Missing
        && !by_content
        && let Some(ready) = from_store(&store, &name)?
    {
        return Ok(ready);
    }
    if policy != PullPolicy::Never {
        // Of what is read from a file, only reading tells whether it is missing.
        let policy = if asks { policy } else { PullPolicy::Always };
        pull(&name, policy, here)?;
    }
    from_store(&store, &name)?.with_context(|| match policy {
        PullPolicy::Never => {
            format!("the image {name} is not here: pull it, or leave --pull=never out")
        }
        _ => format!("the image {name} was removed right after it was pulled"),
    })
}

fn from_store(store: &Store, name: &str) -> Result<Option<Ready>> {
    let Some(image) = store.find(name)? else { return Ok(None) };
    let lease = store.lease(&image)?;
    let layers = image.layers.iter().map(|id| path_text(&store.layer_path(id)));
    Ok(Some(Ready {
        root: RootSource::Layers(layers.collect::<Result<_>>()?),
        config: image.config,
        facts: image.facts,
        _lease: Some(lease),
    }))
}

fn directory(path: &std::path::Path) -> Result<Ready> {
    let root = Root::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let facts = distro::facts::read(&root)
        .with_context(|| format!("cannot read the facts of {}", path.display()))?;
    let config = Config { cmd: vec![distro::facts::shell(&root).to_owned()], ..Config::default() };
    Ok(Ready { root: RootSource::Layers(vec![path_text(path)?]), config, facts, _lease: None })
}

fn host() -> Result<Ready> {
    let ready = directory(std::path::Path::new("/"))?;
    let mounts = harness::host::disk_mounts()?;
    Ok(Ready { root: RootSource::Host { mounts }, ..ready })
}

fn path_text(path: &std::path::Path) -> Result<String> {
    path.to_str().map(str::to_owned).with_context(|| format!("{} is not UTF-8", path.display()))
}

/// In a process of its own: it needs another user namespace than the machine will.
fn pull(name: &str, policy: PullPolicy, here: &Here) -> Result<()> {
    let mut command = here.again();
    // Standard output is the payload's: the puller's status goes where the progress goes.
    command
        .args(["pull", "--quiet", "--policy", policy.word(), "--", name])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let status = command.status().context("cannot start the pull")?;
    match status.code() {
        Some(0) => Ok(()),
        // It has said why.
        Some(code) => std::process::exit(code),
        None => bail!("the pull was ended by a signal"),
    }
}
