//! The systems that can be asked for by name. All that is known of them is in
//! `distros/*.toml`, one file a family, and in the user's own files of the same form; no code
//! names a release.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use check::{Fault, check};
pub use files::is_label;

mod check;
mod files;

/// All known families and their releases. What comes first counts before what comes later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    families: Vec<Family>,
}

/// Distributions that share archives, keys and manners: one file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Family {
    /// Its `ID` of os-release(5), such as `debian`.
    #[serde(rename = "family")]
    pub name: String,
    /// Name of its package manager; `none` where there is none.
    #[serde(default)]
    pub package_manager: String,
    /// The init that its images have or get; `none` where they have none.
    #[serde(default)]
    pub init: String,
    /// Packages that make an installation a system that boots, by the name of its init;
    /// `debian-12+openrc` asks for another than [`DEFAULT_INIT`].
    #[serde(default)]
    pub bootable: BTreeMap<String, Vec<String>>,
    /// The architectures that its releases are for, in OCI's (Go's) words, and in the family's own:
    /// what `{architecture}` stands for in addresses.
    #[serde(default)]
    pub architectures: BTreeMap<String, String>,
    /// Last components of the paths that its archives have on mirrors, by which a host's apt
    /// sources are recognised.
    #[serde(default)]
    pub archives: Vec<String>,
    /// Base names, without a suffix, of the keyring files that hold the archive's keys.
    #[serde(default)]
    pub keyrings: Vec<String>,
    /// Absolute path of the keyring in an installed system, for `Signed-By` (sources.list(5)).
    #[serde(default)]
    pub signed_by: String,
    /// Oldest first.
    #[serde(rename = "release", default)]
    pub releases: Vec<Release>,
    /// The file that it is from; `None` for what is built in.
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

/// One release of a family.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Release {
    /// The name that users and records use, such as `debian-12`.
    pub label: String,
    /// Other spellings, such as `debian-bookworm`.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// ISO 8601 day on which its last free support ends; none for a rolling release, and
    /// for one whose day is not known.
    pub end_of_life: Option<String>,
    /// Where its packages are kept after that day.
    pub archive: Option<String>,
    /// Another package manager than the family's.
    pub package_manager: Option<String>,
    /// Another init than the family's.
    pub init: Option<String>,
    /// What is special about booting it.
    #[serde(default)]
    pub quirks: Vec<Quirk>,
    /// How it is made from its archive, which comes before all that is in `from`.
    pub bootstrap: Option<Bootstrap>,
    /// Where it can be had finished, the best first.
    #[serde(default)]
    pub from: Vec<Place>,
}

/// What is special about booting a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quirk {
    /// Its systemd is older than 226 and knows only control groups of version 1.
    CgroupV1,
    /// Its `/usr` is deployed by OSTree and not to be written.
    Ostree,
}

/// How a Debian-like release is made from its archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Bootstrap {
    /// The suite's name in the archive, which is also its code name.
    pub suite: String,
    /// Archive components.
    pub components: Vec<String>,
    /// Suites that belong to it besides its own.
    #[serde(default)]
    pub extras: Vec<Extra>,
    /// How `/bin`, `/lib` and `/sbin` come to be.
    pub usr: Usr,
    /// In which style its apt sources are written.
    pub sources: SourcesStyle,
}

/// A finished image: exactly one of `registry`, `tarball` and `disk` says where.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Place {
    /// Full name in a registry, such as `quay.io/fedora/fedora:43`.
    pub registry: Option<String>,
    /// A tar archive of the root: an address, or a path, which is relative to the catalog's file.
    pub tarball: Option<String>,
    /// Address of a disk image.
    pub disk: Option<String>,
    /// SHA-256 of the archive, in lower-case hex.
    pub sha256: Option<String>,
    /// Address of a list of digests, as sha256sum(1) or sha512sum(1) write it.
    pub checksum: Option<String>,
    /// Address of an OpenPGP signature.
    pub signature: Option<String>,
    /// The architectures that it has, in OCI's words; all of the family's where it says nothing.
    #[serde(default)]
    pub architectures: Vec<String>,
}

/// A suite that belongs to a release and is named after it, as `<suite>-updates`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extra {
    /// Served by the release's own archive.
    Updates,
    /// Served by an archive of its own.
    Security,
}

impl Extra {
    /// What is put behind the release's suite and a dash.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Updates => "updates",
            Self::Security => "security",
        }
    }
}

/// How `/bin`, `/lib` and `/sbin` come to be (the merged `/usr` of Debian's
/// UsrMerge wiki page and DEP 17).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Usr {
    /// Directories of their own.
    Split,
    /// Symbolic links that no package ships: made before anything is unpacked.
    LinksFirst,
    /// Symbolic links that base-files ships.
    Shipped,
}

/// The two styles of sources.list(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourcesStyle {
    /// `deb URI SUITE COMPONENT…` in `/etc/apt/sources.list`.
    OneLine,
    /// Stanzas in `/etc/apt/sources.list.d/<family>.sources`.
    Deb822,
}

impl Catalog {
    /// All families.
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// What a label means, with the init that may follow it after a `+`.
    pub fn resolve(&self, label: &str) -> Option<Resolved<'_>> {
        let (name, init) = match label.split_once('+') {
            Some((name, init)) => (name, Some(init)),
            None => (label, None),
        };
        let (family, release) = self.find_with_family(name)?;
        let bootable = family.bootable.get_key_value(init.unwrap_or(DEFAULT_INIT));
        // Only what is made here can be made with another init.
        let (init, bootable) = match (init, bootable) {
            (Some(_), Some((init, packages))) if release.bootstrap.is_some() => {
                (&init[..], &packages[..])
            }
            (Some(_), _) => return None,
            (None, Some((init, packages))) => (&init[..], &packages[..]),
            (None, None) => (DEFAULT_INIT, &[][..]),
        };
        Some(Resolved { family, release, init, bootable })
    }

    /// The release that a label or one of its other spellings means.
    pub fn find(&self, label: &str) -> Option<&Release> {
        self.find_with_family(label).map(|(_, release)| release)
    }

    /// As [`Self::find`], with the family.
    pub fn find_with_family(&self, label: &str) -> Option<(&Family, &Release)> {
        self.families.iter().find_map(|family| {
            let release = family.releases.iter().find(|release| release.has_name(label))?;
            Some((family, release))
        })
    }

    /// The family of a system, by what it says of itself (os-release(5)): the one that it is, else the
    /// first that it is like.
    pub fn family_of(&self, os_release: &BTreeMap<String, String>) -> Option<&Family> {
        let words = ["ID", "ID_LIKE"].iter().filter_map(|name| os_release.get(*name));
        let mut words = words.flat_map(|value| value.split_ascii_whitespace());
        words.find_map(|word| self.families.iter().find(|family| family.name == word))
    }

    /// The release that a system is, by what it says of itself (os-release(5)): its own family's whose name ends
    /// in its `VERSION_ID`, or in the first part of that.
    pub fn release_of(&self, os_release: &BTreeMap<String, String>) -> Option<&Release> {
        let (id, version) = (os_release.get("ID")?, os_release.get("VERSION_ID")?);
        let major = version.split('.').next().unwrap_or(version);
        let family = self.families.iter().find(|family| &family.name == id)?;
        let ends_in = |release: &&Release, version: &str| {
            release.names().any(|name| name.strip_suffix(version).is_some_and(|n| n.ends_with('-')))
        };
        let with = |version: &str| family.releases.iter().find(|release| ends_in(release, version));
        with(version).or_else(|| with(major))
    }

    /// Every release with its family; those that another one's label hides are left out.
    pub fn releases(&self) -> impl Iterator<Item = (&Family, &Release)> {
        let all = self.families.iter().flat_map(|f| f.releases.iter().map(move |r| (f, r)));
        all.filter(|(_, release)| {
            self.find(&release.label).is_some_and(|found| std::ptr::eq(found, *release))
        })
    }

    /// Every label and every other spelling.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.families.iter().flat_map(|family| &family.releases).flat_map(Release::names)
    }
}

/// What a label of the catalog means.
#[derive(Debug, Clone, Copy)]
pub struct Resolved<'a> {
    /// Its family.
    pub family: &'a Family,
    /// The release.
    pub release: &'a Release,
    /// The name of the init.
    pub init: &'a str,
    /// Packages that bring it.
    pub bootable: &'a [String],
}

impl Resolved<'_> {
    /// The label in its canonical spelling.
    pub fn label(&self) -> String {
        self.spelled(&self.release.label)
    }

    /// The label and its other spellings.
    pub fn names(&self) -> Vec<String> {
        self.release.names().map(|name| self.spelled(name)).collect()
    }

    fn spelled(&self, name: &str) -> String {
        if self.init == DEFAULT_INIT { name.to_owned() } else { format!("{name}+{}", self.init) }
    }
}

/// What a label has where it names no init.
pub const DEFAULT_INIT: &str = "systemd";

/// What stands where there is no init or no package manager.
pub const NONE: &str = "none";

impl Release {
    /// The label and the other spellings.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.label.as_str()).chain(self.aliases.iter().map(String::as_str))
    }

    fn has_name(&self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }

    /// Whether it has had no support any more since before `today`, an ISO 8601 day.
    pub fn is_over(&self, today: &str) -> bool {
        self.end_of_life.as_deref().is_some_and(|day| day < today)
    }

    /// Its package manager, or [`NONE`].
    pub fn package_manager<'a>(&'a self, family: &'a Family) -> &'a str {
        self.package_manager.as_deref().unwrap_or(&family.package_manager)
    }

    /// Its init, or [`NONE`].
    pub fn init<'a>(&'a self, family: &'a Family) -> &'a str {
        self.init.as_deref().unwrap_or(&family.init)
    }

    /// Where it can be had finished for an architecture (OCI's word), the best first.
    pub fn places<'a>(
        &'a self,
        family: &'a Family,
        architecture: &'a str,
    ) -> impl Iterator<Item = &'a Place> {
        self.from.iter().filter(move |place| match &place.architectures[..] {
            [] => {
                family.architectures.is_empty() || family.architectures.contains_key(architecture)
            }
            some => some.iter().any(|known| known == architecture),
        })
    }
}

impl Place {
    /// Where it is, whatever it is.
    pub fn address(&self) -> &str {
        [&self.registry, &self.tarball, &self.disk].into_iter().flatten().next().map_or("", |a| a)
    }
}

impl Family {
    /// An address of this family with the family's word for an architecture (OCI's word) in it.
    pub fn with_architecture(&self, address: &str, architecture: &str) -> String {
        let own = self.architectures.get(architecture).map_or(architecture, String::as_str);
        address.replace("{architecture}", own)
    }
}
