//! Packages of a cell: how they come into its machine, and go again. Whatever is done inside is done by the
//! system's own package manager, of which [`distro::package`] says what it is told.

mod archive;
mod own;

use anyhow::{Context, Error, Result};
use distro::package::{self, Operation, PackageManager};
use store::Store;

use super::Wish;
use super::inside::Ask;
use super::machine::Machine;
use super::repository::Repository;

/// Where the store's downloads are inside, and where copies with names are: managers look through links, and
/// people shall see in their messages what they are about.
pub const CACHE: &str = "/run/host/packages";
const NAMED: &str = "/var/cache/postroj";

/// A package that is to be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Empty where only the repository knows it.
    pub(crate) version: String,
    /// Whether it was asked for; others are needed by one that was.
    pub(crate) asked: bool,
    /// Its path inside; `None` for one of the system's own repositories.
    path: Option<String>,
}

/// Command lines, to be run in this order until one fails.
pub(crate) type Commands = Vec<Vec<String>>;

/// How packages come into a machine.
pub(crate) trait Supply {
    /// Makes the repositories that the user named known to who will look for packages; tells what was done.
    ///
    /// # Errors
    /// One cannot be added.
    fn add_repositories(&self, machine: &mut Machine) -> Result<String>;

    /// Finds out what is to be installed, and brings it to where the machine has it.
    ///
    /// # Errors
    /// [`bakery::source::bootstrap::addition::Unsatisfiable`]; else what could not be had.
    fn fetch(&self, machine: &mut Machine, asked: &[String]) -> Result<Vec<Package>>;

    /// Installs them; `upgrades` where an older version is there.
    fn install(&self, packages: &[Package], upgrades: bool) -> Result<Commands>;

    /// Which of these are still there in any way.
    fn purgeable(
        &self,
        machine: &mut Machine,
        asked: &[String],
        all: &[Package],
    ) -> Result<Vec<String>>;
}

/// The supply of a machine, with its package manager.
pub(crate) fn supply<'a>(
    store: &'a Store,
    wish: &Wish,
    machine: &Machine,
) -> Result<(&'static dyn PackageManager, Box<dyn Supply + 'a>)> {
    let facts = machine.facts()?;
    let manager = facts.package_manager.as_deref().and_then(package::by_name);
    let manager = manager.context("the image has no package manager")?;
    let supply: Box<dyn Supply + 'a> = match manager.name() {
        "apt" => Box::new(archive::Archive::new(store, wish, &facts, manager)?),
        _ => Box::new(own::Own::new(store, manager, wish)),
    };
    Ok((manager, supply))
}

/// Options of `boot` for a machine that packages will be installed in.
///
/// # Errors
/// Where the store's cache cannot be made, or a repository would have to be mounted where that cannot be.
pub(crate) fn volumes(store: &Store, wish: &Wish) -> Result<Vec<String>> {
    let volumes = Repository::volumes(&wish.repositories);
    if wish.isolation() == Some("vm") {
        anyhow::ensure!(
            volumes.is_empty(),
            "a directory cannot be a repository of a virtual machine: serve it over HTTP"
        );
        return Ok(volumes);
    }
    let cache = store.cache().path();
    let cache = cache.to_str().context("the store's path is not UTF-8")?;
    std::fs::create_dir_all(cache).context("cannot make the store's cache")?;
    let own = ["--volume".to_owned(), format!("{cache}:{CACHE}:ro")];
    Ok(own.into_iter().chain(volumes).collect())
}

/// Brings downloads inside: names that they get there, and digests by which the store has them.
fn bring(store: &Store, machine: &mut Machine, files: &[(String, String)]) -> Result<()> {
    let (directory, mounted) = (NAMED.to_owned(), machine.mounts(CACHE));
    let copies = |(name, sha256): &(String, String)| (name.clone(), format!("{CACHE}/{sha256}"));
    let copies = if mounted { files.iter().map(copies).collect() } else { Vec::new() };
    machine.ask::<()>(&Ask::Copy { directory, files: copies })?;
    if !mounted {
        for (name, sha256) in files {
            machine.put(&store.cache().path().join(sha256), &format!("{NAMED}/{name}"))?;
        }
    }
    Ok(())
}

/// The command lines of an operation.
pub(crate) fn commands(
    manager: &dyn PackageManager,
    operation: &Operation<'_>,
) -> Result<Commands> {
    Ok(package::work(manager, operation).map_err(Error::msg)?.commands)
}

/// Names and versions of what is installed, a line each with a tab between.
pub(crate) fn list(machine: &mut Machine, manager: &dyn PackageManager) -> Result<String> {
    let mut listed = String::new();
    for command in commands(manager, &Operation::List)? {
        listed = asked(machine, &command)?;
    }
    Ok(listed)
}

/// What a command that only tells something prints.
fn asked(machine: &Machine, command: &[String]) -> Result<String> {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let ran = machine.run(&words, std::time::Duration::from_secs(60))?;
    if ran.code != Some(0) {
        let last = ran.output.lines().last().unwrap_or_default();
        anyhow::bail!("{} failed: {last}", words.join(" "));
    }
    Ok(ran.output)
}

/// Installs again what is installed.
pub(crate) fn reinstall(manager: &dyn PackageManager, packages: &[Package]) -> Result<Commands> {
    let names: Vec<String> =
        packages.iter().filter(|p| p.path.is_none()).map(|p| p.name.clone()).collect();
    let files: Vec<String> = packages.iter().filter_map(|p| p.path.clone()).collect();
    let mut all = Vec::new();
    if !names.is_empty() {
        all.extend(commands(manager, &Operation::Reinstall(&words(&names)))?);
    }
    if !files.is_empty() {
        all.extend(commands(manager, &Operation::ReinstallFiles(&words(&files)))?);
    }
    Ok(all)
}

/// For the words of an operation.
pub(crate) fn words(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}
