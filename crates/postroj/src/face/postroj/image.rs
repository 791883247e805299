//! The image of a machine: found in the store, or pulled, or a directory as it is.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use harness::Provision;
use plan::RootSource;
use spec::image::{Config, Facts, Image};
use spec::platform::Platform;
use spec::reference::Reference;
use spec::request::{MountRequest, Request};
use store::{Lease, Store};
use sys::rooted::Root;

use super::pull::PullPolicy;
use super::{Here, reference};

/// An image that is ready to run, and stays so until this is dropped.
pub(super) struct Ready {
    pub(super) root: RootSource,
    pub(super) config: Config,
    pub(super) facts: Facts,
    /// What the store knows of it; `None` for what is no image of the store.
    pub(super) image: Option<Image>,
    _lease: Option<Lease>,
}

/// `platform` is what the user asked for.
pub(super) fn open(
    text: &str,
    policy: PullPolicy,
    platform: Option<&Platform>,
    here: &Here,
) -> Result<Ready> {
    let store = here.store()?;
    // A name as it was pulled needs no catalog and no grammar.
    let asks = matches!(policy, PullPolicy::Always | PullPolicy::Newer) && !is_id(&store, text)?;
    if !asks
        && !text.contains('/')
        && let Some(ready) = find(&store, text, platform)?
    {
        return Ok(ready);
    }
    let reference = reference::parse(text)?;
    match &reference {
        Reference::Host => return suiting(host()?, text, platform),
        Reference::Directory(path) => return suiting(directory(path)?, text, platform),
        _ => {}
    }
    let name = reference.to_string();
    // Whether a file has changed is only told by reading it.
    let by_content =
        matches!(reference, Reference::Tar(_) | Reference::Layout(_) | Reference::Disk(_));
    if policy == PullPolicy::Missing
        && !by_content
        && let Some(ready) = find(&store, &name, platform)?
    {
        return Ok(ready);
    }
    if policy != PullPolicy::Never {
        // Of what is read from a file, only reading tells whether it is missing.
        let policy = if asks { policy } else { PullPolicy::Always };
        pull(&name, policy, platform, here)?;
    }
    find(&store, &name, platform)?.with_context(|| match policy {
        PullPolicy::Never => {
            format!("the image {name} is not here: pull it, or leave --pull=never out")
        }
        _ => format!("the image {name} was removed right after it was pulled"),
    })
}

/// Whether that is an id, as `images` prints it or longer, of an image that is here: nobody has a newer one of it.
fn is_id(store: &Store, text: &str) -> Result<bool> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    Ok(digits.len() >= ID && store.find(text)?.is_some_and(|image| image.id.starts_with(digits)))
}

/// Digits of an id that `images` prints.
const ID: usize = 12;

/// The image of that name, for the platform that was asked for: it has a name of its own beside the
/// plain one.
fn find(store: &Store, name: &str, platform: Option<&Platform>) -> Result<Option<Ready>> {
    let Some(platform) = platform else { return from_store(store, name) };
    if let Some(ready) = from_store(store, name)?.filter(|ready| ready.suits(platform)) {
        return Ok(Some(ready));
    }
    from_store(store, &harness::name_for(name, platform))
}

impl Ready {
    fn suits(&self, platform: &Platform) -> bool {
        self.facts.architecture.as_deref() == Some(&platform.architecture)
    }
}

/// What is no image of the store is for what it is for.
fn suiting(ready: Ready, name: &str, platform: Option<&Platform>) -> Result<Ready> {
    match platform.filter(|platform| !ready.suits(platform)) {
        Some(platform) => bail!(
            "{name} is for {}, not for {platform}: leave --platform out",
            ready.facts.architecture.as_deref().unwrap_or("no processor that is known")
        ),
        None => Ok(ready),
    }
}

fn from_store(store: &Store, name: &str) -> Result<Option<Ready>> {
    let Some(image) = store.find(name)? else { return Ok(None) };
    let lease = store.lease(&image)?;
    let layers = image.layers.iter().map(|id| path_text(&store.layer_path(id)));
    Ok(Some(Ready {
        root: RootSource::Layers(layers.collect::<Result<_>>()?),
        config: image.config.clone(),
        facts: image.facts.clone(),
        image: Some(image),
        _lease: Some(lease),
    }))
}

fn directory(path: &std::path::Path) -> Result<Ready> {
    let root = Root::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let facts = distro::facts::read(&root)
        .with_context(|| format!("cannot read the facts of {}", path.display()))?;
    let config = Config { cmd: vec![distro::facts::shell(&root).to_owned()], ..Config::default() };
    let root = RootSource::Layers(vec![path_text(path)?]);
    Ok(Ready { root, config, facts, image: None, _lease: None })
}

fn host() -> Result<Ready> {
    let ready = directory(std::path::Path::new("/"))?;
    let mounts = harness::host::disk_mounts()?;
    Ok(Ready { root: RootSource::Host { mounts }, ..ready })
}

fn path_text(path: &std::path::Path) -> Result<String> {
    path.to_str().map(str::to_owned).with_context(|| format!("{} is not UTF-8", path.display()))
}

/// Finds the images that a machine mounts; they stay as long as what this gives.
pub(super) fn mounted(
    request: &mut Request,
    policy: PullPolicy,
    here: &Here,
) -> Result<Vec<Ready>> {
    let mut all = Vec::new();
    for mount in &mut request.mounts {
        let MountRequest::Image { image, layers, .. } = mount else { continue };
        let ready = open(image, policy, None, here)?;
        let RootSource::Layers(found) = &ready.root else {
            bail!("{image} is no image that could be mounted");
        };
        layers.clone_from(found);
        all.push(ready);
    }
    Ok(all)
}

/// What an image must have besides what it has.
pub(super) struct Wants<'a> {
    /// Packages.
    pub(super) install: &'a [String],
    /// An init, where there is none.
    pub(super) init: bool,
    /// The image whose package manager installs them, where the image itself has none.
    pub(super) with: Option<&'a str>,
}

/// The image of that name with what it must have: from the store where that was asked for before, else made.
pub(super) fn provisioned(
    ready: Ready,
    name: &str,
    wants: &Wants<'_>,
    here: &Here,
) -> Result<Ready> {
    let mut packages = wants.install.to_vec();
    if wants.init {
        packages.extend(harness::bootable(&ready.facts)?.unwrap_or_default());
    }
    if packages.is_empty() {
        return Ok(ready);
    }
    let Some(base) = &ready.image else {
        if wants.install.is_empty() {
            return Ok(ready);
        }
        bail!("packages are added to images of the store only: pull {name} first")
    };
    let helper = helper(&ready.facts, name, wants.with, here)?;
    let with = helper.as_ref().and_then(|helper| helper.image.clone());
    let with_id = with.as_ref().map(|image| image.id.clone());
    let provision = Provision::new(base.clone(), with, &packages)
        .with_context(|| format!("cannot add anything to {name}"))?;
    let (store, id) = (here.store()?, provision.id()?);
    if let Some(made) = from_store(&store, &id)? {
        return Ok(made);
    }
    let mut command = here.again();
    command.args(["provision", "--install", &packages.join(",")]);
    if let Some(id) = &with_id {
        command.args(["--install-with", id]);
    }
    command.args(["--", &base.id, name]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    succeeds(&mut command, "the installation of packages")?;
    from_store(&store, &id)?.with_context(|| format!("{name} was removed right after it was made"))
}

/// The image whose package manager installs packages in one that has none.
fn helper(facts: &Facts, name: &str, with: Option<&str>, here: &Here) -> Result<Option<Ready>> {
    if with.is_none() && facts.package_manager.is_some() {
        return Ok(None);
    }
    let label = match with {
        Some(with) => Some(with.to_owned()),
        None => harness::helper(facts)?,
    };
    let label = label.with_context(|| {
        format!(
            "{name} has no package manager, and which system it is made of is not known: \
             --install-with names an image that has the package manager of its kind"
        )
    })?;
    let platform =
        facts.architecture.as_ref().map(|word| Platform::parse(&format!("linux/{word}")));
    let platform = platform.transpose().map_err(anyhow::Error::msg)?;
    let foreign = platform.filter(|p| p.architecture != Platform::host().architecture);
    let ready = open(&label, PullPolicy::Missing, foreign.as_ref(), here)?;
    match &ready.image {
        Some(_) => Ok(Some(ready)),
        None => bail!("packages are installed by images of the store only: pull {label} first"),
    }
}

/// In a process of its own: it needs another user namespace than the machine will.
fn pull(name: &str, policy: PullPolicy, platform: Option<&Platform>, here: &Here) -> Result<()> {
    let mut command = here.again();
    command.args(["pull", "--quiet", "--policy", policy.word()]);
    if let Some(platform) = platform {
        // The plain name goes on meaning what it means.
        command.args(["--beside", "--platform", &platform.to_string()]);
    }
    // Standard output is the payload's: the puller's status goes where the progress goes.
    command.args(["--", name]).stdin(Stdio::null()).stdout(Stdio::null());
    succeeds(&mut command, "the pull")
}

/// Waits for this program's other process, and ends as that does where it fails.
pub(super) fn succeeds(command: &mut Command, what: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {what}"))?;
    match status.code() {
        Some(0) => Ok(()),
        // It has said why.
        Some(code) => std::process::exit(code),
        None => bail!("{what} was ended by a signal"),
    }
}
