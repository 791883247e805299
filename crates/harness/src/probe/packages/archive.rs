//! Packages of Debian and its kin: found and fetched outside, so that the machine needs no network, and
//! installed inside by apt, which sees nothing but files.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bakery::source::Options;
use bakery::source::bootstrap::addition::{self, Added, Asked, System};
use distro::package::{Operation, PackageManager};
use spec::event::Silent;
use spec::image::{Facts, Origin};
use store::Store;

use super::super::Wish;
use super::super::inside::Ask;
use super::super::machine::Machine;
use super::super::repository::Repository;
use super::{Commands, NAMED, Package, Supply, bring, commands};

/// How packages of Debian and its kin come into a machine.
pub(super) struct Archive<'a> {
    store: &'a Store,
    manager: &'static dyn PackageManager,
    label: Option<String>,
    /// Something is removed later, and what it needed with it.
    removes: bool,
    /// How long a download may take.
    patience: Duration,
    repositories: Vec<addition::Repository>,
}

impl<'a> Archive<'a> {
    pub(super) fn new(
        store: &'a Store,
        wish: &Wish,
        facts: &Facts,
        manager: &'static dyn PackageManager,
    ) -> Result<Self> {
        let known = store.find(&wish.image)?.and_then(|image| match image.origin {
            Origin::Bootstrap(bootstrap) => Some(bootstrap.label),
            _ => None,
        });
        let label = known.or_else(|| {
            let field = |name: &str| facts.os_release.get(name).cloned();
            let label = format!("{}-{}", field("ID")?, field("VERSION_ID")?);
            distro::catalog::is_label(&label).then_some(label)
        });
        let removes = wish.phases.iter().any(|phase| !phase.installs());
        let patience = Duration::from_secs(wish.phase_timeout);
        let repositories = wish.repositories.iter().map(of_apt).collect::<Result<_>>()?;
        Ok(Self { store, manager, label, removes, patience, repositories })
    }
}

/// A repository as apt has them.
fn of_apt(repository: &Repository) -> Result<addition::Repository> {
    let Repository { url, suite, components, key, .. } = repository;
    let suite = suite.clone().with_context(|| {
        format!(
            "the repository {url} has no suite, which apt needs: URL SUITE COMPONENT, or URL ./"
        )
    })?;
    let (uri, components, keyring) = (url.clone(), components.clone(), key.clone());
    Ok(addition::Repository { uri, suite, components, keyring })
}

/// dpkg's status.
fn status(machine: &mut Machine) -> Result<String> {
    machine.ask(&Ask::Read { path: "/var/lib/dpkg/status".into() })
}

impl Supply for Archive<'_> {
    /// Packages are looked for outside.
    fn add_repositories(&self, _: &mut Machine) -> Result<String> {
        Ok("they are asked from outside".into())
    }

    fn fetch(&self, machine: &mut Machine, asked: &[String]) -> Result<Vec<Package>> {
        let status = status(machine)?;
        let asked: Vec<Asked> = asked.iter().map(|text| Asked::parse(text)).collect();
        let architecture = architecture(&status).context("dpkg's status names no architecture")?;
        let (label, repositories) = (self.label.as_deref(), &self.repositories[..]);
        let system = System { label, architecture, status: &status, repositories };
        let options =
            Options { deadline: Some(Instant::now() + self.patience), ..Options::default() };
        let added = addition::add(self.store, &options, &Silent, &system, &asked)?;
        let file = |added: &Added| {
            // An epoch's colon would be a directory's name to some, and a URL's scheme to others.
            let version = added.version.replace(':', "%3a");
            format!("{}_{version}_{}.deb", added.name, added.architecture)
        };
        let files: Vec<(String, String)> =
            added.iter().map(|a| (file(a), a.sha256.clone())).collect();
        let packages = added.iter().zip(&files).map(|(added, (file, _))| Package {
            name: added.name.clone(),
            version: added.version.clone(),
            asked: added.asked,
            path: Some(format!("{NAMED}/{file}")),
        });
        let packages = packages.collect();
        bring(self.store, machine, &files)?;
        Ok(packages)
    }

    fn install(&self, packages: &[Package], _: bool) -> Result<Commands> {
        let files: Vec<&str> = packages.iter().filter_map(|p| p.path.as_deref()).collect();
        let automatic: Vec<&str> =
            packages.iter().filter(|p| !p.asked).map(|p| &p.name[..]).collect();
        let mut all = commands(self.manager, &Operation::InstallFiles(&files))?;
        if self.removes && !automatic.is_empty() {
            all.extend(commands(self.manager, &Operation::MarkAutomatic(&automatic))?);
        }
        Ok(all)
    }

    fn purgeable(
        &self,
        machine: &mut Machine,
        asked: &[String],
        all: &[Package],
    ) -> Result<Vec<String>> {
        Ok(purgeable(&status(machine)?, asked, all))
    }
}

/// Those of these packages of which something is there: all where they are installed, else what
/// is left of their configuration.
fn purgeable(status: &str, asked: &[String], all: &[Package]) -> Vec<String> {
    let of_asked = |name: &str, state: &str| {
        state.ends_with(" installed") && asked.iter().any(|known| known == name)
    };
    let left = |name: &str, state: &str| {
        state.ends_with(" config-files") && all.iter().any(|known| known.name == name)
    };
    known(status)
        .filter(|(name, state)| of_asked(name, state) || left(name, state))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Names and states in dpkg's status.
fn known(status: &str) -> impl Iterator<Item = (&str, &str)> {
    status.split("\n\n").filter_map(|stanza| {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name));
        Some((field("Package: ")?, field("Status: ")?))
    })
}

/// That of dpkg itself.
fn architecture(status: &str) -> Option<&str> {
    let stanza =
        status.split("\n\n").find(|stanza| stanza.lines().any(|l| l == "Package: dpkg"))?;
    stanza.lines().find_map(|line| line.strip_prefix("Architecture: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_purged_is_known() {
        let status = "Package: web\nStatus: install ok installed\nVersion: 1\n\n\
            Package: common\nStatus: deinstall ok config-files\nVersion: 2\n\n\
            Package: other\nStatus: deinstall ok config-files\nVersion: 3\n\n\
            Package: gone\nStatus: purge ok not-installed\n";
        let package = |name: &str| Package {
            name: name.into(),
            version: "1".into(),
            asked: name == "web",
            path: None,
        };
        let all = ["web", "common", "gone"].map(package);
        assert_eq!(purgeable(status, &["web".into(), "gone".into()], &all), ["web", "common"]);
    }
}
