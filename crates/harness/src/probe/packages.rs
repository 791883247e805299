//! Packages of a cell: found and fetched outside, installed inside by the system's own package
//! manager, which sees nothing but files.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bakery::source::Options;
use bakery::source::bootstrap::addition::{self, Added, Asked, System};
use distro::package::{self, Operations};
use spec::event::Silent;
use spec::image::Origin;
use store::Store;

use super::inside::Ask;
use super::machine::Machine;

/// Where the store's downloads are inside, and where copies with names are: apt looks through links, and
/// people shall see in its messages what it is about.
pub(crate) const CACHE: &str = "/run/host/packages";
const NAMED: &str = "/var/cache/postroj";

/// How packages come into a machine.
pub(crate) struct Supply<'a> {
    store: &'a Store,
    operations: &'static dyn Operations,
    label: Option<String>,
}

impl<'a> Supply<'a> {
    pub(crate) fn new(store: &'a Store, image: &str, machine: &Machine) -> Result<Self> {
        let root = machine.root()?;
        let manager = package::find(&root).context("the image has no package manager")?;
        let Some(operations) = manager.operations() else {
            bail!("packages of {} cannot be probed yet: only apt's can", manager.name());
        };
        let known = store.find(image)?.and_then(|image| match image.origin {
            Origin::Bootstrap(bootstrap) => Some(bootstrap.label),
            _ => None,
        });
        let label = known.or_else(|| {
            let facts = distro::facts::read(&root).ok()?;
            let field = |name: &str| facts.os_release.get(name).cloned();
            let label = format!("{}-{}", field("ID")?, field("VERSION_ID")?);
            distro::catalog::is_label(&label).then_some(label)
        });
        Ok(Self { store, operations, label })
    }

    pub(crate) fn operations(&self) -> &'static dyn Operations {
        self.operations
    }

    /// dpkg's status.
    pub(crate) fn status(machine: &mut Machine) -> Result<String> {
        machine.ask(&Ask::Read { path: "/var/lib/dpkg/status".into() })
    }

    /// Brings packages into the cache, with what they need that the machine lacks; gives up after `patience`.
    pub(crate) fn fetch(
        &self,
        machine: &mut Machine,
        asked: &[String],
        patience: Duration,
    ) -> Result<Vec<Added>> {
        let status = Self::status(machine)?;
        let asked: Vec<Asked> = asked.iter().map(|text| Asked::parse(text)).collect();
        let architecture = architecture(&status).context("dpkg's status names no architecture")?;
        let system = System { label: self.label.as_deref(), architecture, status: &status };
        let options = Options { deadline: Some(Instant::now() + patience), ..Options::default() };
        addition::add(self.store, &options, &Silent, &system, &asked)
    }

    /// Copies packages to where they have names inside; gives their paths.
    pub(crate) fn name(&self, machine: &mut Machine, added: &[Added]) -> Result<Vec<String>> {
        let name = |added: &Added| {
            // An epoch's colon would be a directory's name to some, and a URL's scheme to others.
            let version = added.version.replace(':', "%3a");
            format!("{}_{version}_{}.deb", added.name, added.architecture)
        };
        let files: Vec<(String, String)> =
            added.iter().map(|a| (name(a), format!("{CACHE}/{}", a.sha256))).collect();
        let paths = files.iter().map(|(name, _)| format!("{NAMED}/{name}")).collect();
        machine.ask::<()>(&Ask::Copy { directory: NAMED.into(), files })?;
        Ok(paths)
    }
}

/// Names and versions of what dpkg's status says is installed, as `dpkg-query -W` has them.
pub(crate) fn list(status: &str) -> String {
    let installed = known(status).filter(|(_, state, _)| state.ends_with(" installed"));
    installed.map(|(name, _, version)| format!("{name}\t{version}\n")).collect()
}

/// Those of these packages of which something is there: all where they are installed, else what
/// is left of their configuration.
pub(crate) fn purgeable(status: &str, asked: &[String], all: &[Added]) -> Vec<String> {
    let of_asked = |name: &str, state: &str| {
        state.ends_with(" installed") && asked.iter().any(|known| known == name)
    };
    let left = |name: &str, state: &str| {
        state.ends_with(" config-files") && all.iter().any(|known| known.name == name)
    };
    known(status)
        .filter(|(name, state, _)| of_asked(name, state) || left(name, state))
        .map(|(name, ..)| name.to_owned())
        .collect()
}

/// Names, states and versions in dpkg's status.
fn known(status: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    status.split("\n\n").filter_map(|stanza| {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name));
        let version = field("Version: ").unwrap_or_default();
        Some((field("Package: ")?, field("Status: ")?, version))
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
        assert_eq!(list(status), "web\t1\n");
        let added = |name: &str| Added {
            name: name.into(),
            version: "1".into(),
            architecture: "all".into(),
            sha256: String::new(),
            asked: name == "web",
        };
        let all = ["web", "common", "gone"].map(added);
        assert_eq!(purgeable(status, &["web".into(), "gone".into()], &all), ["web", "common"]);
    }
}
