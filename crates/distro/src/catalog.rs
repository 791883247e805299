//! The releases that can be bootstrapped, by label. All that is known of them is
//! in `distros/*.toml`, one file a family; nothing else names a release.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;

/// Every family's file, as it is built into the binary.
const FILES: &[&str] =
    &[include_str!("../distros/debian.toml"), include_str!("../distros/ubuntu.toml")];

/// All known families and their releases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    families: Vec<Family>,
}

/// Distributions that share archives, keys and manners.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Family {
    /// Its `ID` of os-release(5), such as `debian`.
    #[serde(rename = "family")]
    pub name: String,
    /// Last components of the paths that its archives have on mirrors.
    pub archives: Vec<String>,
    /// Base names, without a suffix, of the keyring files that hold the archive's keys.
    pub keyrings: Vec<String>,
    /// Absolute path of the keyring in an installed system, for `Signed-By` (sources.list(5)).
    pub signed_by: String,
    /// Packages that make an installation a system that boots, by the name of its init;
    /// `debian-12+openrc` asks for another than [`DEFAULT_INIT`].
    pub bootable: BTreeMap<String, Vec<String>>,
    /// Oldest first.
    #[serde(rename = "release")]
    pub releases: Vec<Release>,
}

/// One release of a family.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Release {
    /// The name that users and records use, such as `debian-12`.
    pub label: String,
    /// Other spellings, such as `debian-bookworm`.
    pub aliases: Vec<String>,
    /// The suite's name in the archive, which is also its code name.
    pub suite: String,
    /// Archive components.
    pub components: Vec<String>,
    /// Suites that belong to it besides its own.
    pub extras: Vec<Extra>,
    /// How `/bin`, `/lib` and `/sbin` come to be.
    pub usr: Usr,
    /// In which style its apt sources are written.
    pub sources: SourcesStyle,
    /// ISO 8601 day on which its last free support ends; none for a rolling release.
    pub end_of_life: Option<String>,
}

/// A suite that belongs to a release and is named after it, as `<suite>-updates`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourcesStyle {
    /// `deb URI SUITE COMPONENT…` in `/etc/apt/sources.list`.
    OneLine,
    /// Stanzas in `/etc/apt/sources.list.d/<family>.sources`.
    Deb822,
}

impl Catalog {
    /// The catalog that is built in.
    pub fn builtin() -> &'static Self {
        static BUILTIN: OnceLock<Catalog> = OnceLock::new();
        BUILTIN.get_or_init(|| Self::parse(FILES).expect("the built-in catalog was tested"))
    }

    /// Reads the files of a catalog.
    ///
    /// # Errors
    /// Says what is wrong: TOML, an unknown or missing key, or a name that occurs twice.
    pub fn parse(files: &[&str]) -> Result<Self, String> {
        let mut families = Vec::new();
        for text in files {
            let family: Family = toml::from_str(text).map_err(|error| error.to_string())?;
            check_family(&family)?;
            families.push(family);
        }
        let catalog = Self { families };
        let mut names: Vec<&str> = catalog.names().collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("the catalog has {:?} twice", pair[0])),
            None => Ok(catalog),
        }
    }

    /// All families.
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// What a label means, with the init that may follow it after a `+`.
    pub fn resolve(&self, label: &str) -> Option<Resolved<'_>> {
        let (name, init) = label.split_once('+').unwrap_or((label, DEFAULT_INIT));
        let (family, release) = self.find_with_family(name)?;
        let (init, bootable) = family.bootable.get_key_value(init)?;
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

    /// Every label, oldest release of a family first.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.families.iter().flat_map(|family| &family.releases).map(|r| r.label.as_str())
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

impl Release {
    /// The label and the other spellings.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.label.as_str()).chain(self.aliases.iter().map(String::as_str))
    }

    fn has_name(&self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }
}

/// Whether the built-in catalog has this label or other spelling. Called for every
/// reference, so it reads the text and parses nothing.
pub fn is_label(name: &str) -> bool {
    if name.contains('+') {
        return Catalog::builtin().resolve(name).is_some();
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        return false;
    }
    let quoted = format!("\"{name}\"");
    let is_name_line = |line: &&str| line.starts_with("label = ") || line.starts_with("aliases = ");
    FILES
        .iter()
        .flat_map(|text| text.lines())
        .filter(is_name_line)
        .any(|line| line.contains(&quoted))
}

fn check_family(family: &Family) -> Result<(), String> {
    let fail = |what: String| Err(format!("the catalog's family {:?}: {what}", family.name));
    if family.releases.is_empty() || family.keyrings.is_empty() || family.archives.is_empty() {
        return fail("it needs releases, keyrings and archives".into());
    }
    if !family.signed_by.starts_with('/') {
        return fail("signed-by is no absolute path".into());
    }
    if !family.bootable.contains_key(DEFAULT_INIT) {
        return fail(format!("bootable lacks {DEFAULT_INIT}"));
    }
    for release in &family.releases {
        let prefix = format!("{}-", family.name);
        if let Some(name) = release.names().find(|name| !name.starts_with(&prefix)) {
            return fail(format!("{name:?} does not begin with {prefix:?}"));
        }
        let word = |text: &String| !text.is_empty() && !text.contains(char::is_whitespace);
        if release.components.is_empty() || !release.components.iter().all(word) {
            return fail(format!("{:?} has no usable components", release.label));
        }
        if !word(&release.suite) {
            return fail(format!("{:?} has no suite", release.label));
        }
        if let Some(day) = &release.end_of_life
            && !is_day(day)
        {
            return fail(format!("{day:?} is no day such as 2028-06-30"));
        }
    }
    Ok(())
}

fn is_day(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts[..] else { return false };
    let within = |text: &str, length: usize, low: u32, high: u32| {
        text.len() == length && text.parse().is_ok_and(|n: u32| (low..=high).contains(&n))
    };
    within(year, 4, 1993, 2999) && within(month, 2, 1, 12) && within(day, 2, 1, 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_mean_the_same_release() {
        let catalog = Catalog::builtin();
        for (label, alias, suite) in [
            ("debian-11", "debian-bullseye", "bullseye"),
            ("debian-12", "debian-bookworm", "bookworm"),
            ("debian-13", "debian-trixie", "trixie"),
            ("debian-sid", "debian-unstable", "sid"),
            ("ubuntu-20.04", "ubuntu-focal", "focal"),
            ("ubuntu-22.04", "ubuntu-jammy", "jammy"),
            ("ubuntu-24.04", "ubuntu-noble", "noble"),
        ] {
            let release = catalog.find(label).expect(label);
            assert_eq!(release.suite, suite);
            assert_eq!(catalog.find(alias), Some(release));
            let (family, _) = catalog.find_with_family(alias).expect(alias);
            assert!(label.starts_with(&family.name));
        }
        assert_eq!(catalog.find("debian-7"), None);
        assert_eq!(catalog.labels().count(), 7);
    }

    #[test]
    fn the_quick_look_agrees_with_the_catalog() {
        for name in Catalog::builtin().names() {
            assert!(is_label(name), "{name}");
        }
        let words =
            FILES.iter().flat_map(|text| text.split(|c: char| c == '"' || c.is_whitespace()));
        let others =
            ["", "debian", "debian-1", "debian-122", "ebian-12", "a\"b", ", ", "*", "main"];
        for word in words.chain(others) {
            assert_eq!(is_label(word), Catalog::builtin().find(word).is_some(), "{word:?}");
        }
        assert!(!is_label(&"d".repeat(1 << 20)));
    }

    fn family(extra: &str, release: &str) -> String {
        format!(
            "family = \"x\"\narchives = [\"x\"]\nkeyrings = [\"x\"]\nsigned-by = \"/x\"\n{extra}\n\
             [bootable]\nsystemd = [\"s\"]\nrunit = [\"r\"]\n\
             [[release]]\nlabel = \"x-1\"\naliases = []\nsuite = \"one\"\ncomponents = [\"main\"]\n\
             extras = []\nusr = \"shipped\"\nsources = \"deb822\"\n{release}\n"
        )
    }

    #[test]
    fn an_init_may_follow_a_label() {
        let text = family("", "");
        let catalog = Catalog::parse(&[&text]).expect("a good catalog");
        let plain = catalog.resolve("x-1").expect("the label alone");
        assert_eq!((&plain.label()[..], plain.bootable), ("x-1", &["s".to_owned()][..]));
        let other = catalog.resolve("x-1+runit").expect("with an init");
        assert_eq!((&other.label()[..], other.bootable), ("x-1+runit", &["r".to_owned()][..]));
        for bad in ["x-1+", "x-1+upstart", "+runit", "x-2+runit", "x-1+runit+runit"] {
            assert!(catalog.resolve(bad).is_none(), "{bad}");
            assert!(!is_label(bad), "{bad}");
        }
        assert!(is_label("debian-12+openrc") && !is_label("debian-12+systemd-"));
    }

    #[test]
    fn a_release_more_is_one_entry_more() {
        let second = "[[release]]\nlabel = \"x-2\"\naliases = [\"x-two\"]\nsuite = \"two\"\n\
            components = [\"main\"]\nextras = [\"updates\"]\nusr = \"split\"\nsources = \"one-line\"";
        let text = family("", second);
        let catalog = Catalog::parse(&[&text]).expect("a good catalog");
        let release = catalog.find("x-two").expect("the second release");
        assert_eq!(release.label, "x-2");
        assert_eq!(release.extras, [Extra::Updates]);
        assert_eq!(release.end_of_life, None);
    }

    #[test]
    fn mistakes_are_told() {
        for (extra, release, part) in [
            ("colour = \"red\"", "", "colour"),
            ("", "color = 1", "color"),
            ("", "end-of-life = \"soon\"", "no day"),
            ("", "end-of-life = \"2028-13-01\"", "no day"),
            ("", "[[release]]\nlabel = \"x-2\"", "missing field"),
            (
                "",
                "[[release]]\nlabel = \"y-2\"\naliases = []\nsuite = \"two\"\ncomponents = [\"main\"]\n\
                 extras = []\nusr = \"split\"\nsources = \"deb822\"",
                "does not begin",
            ),
            (
                "",
                "[[release]]\nlabel = \"x-2\"\naliases = [\"x-1\"]\nsuite = \"two\"\n\
                 components = [\"main\"]\nextras = []\nusr = \"split\"\nsources = \"deb822\"",
                "twice",
            ),
            (
                "",
                "[[release]]\nlabel = \"x-2\"\naliases = []\nsuite = \"two\"\ncomponents = []\n\
                 extras = []\nusr = \"split\"\nsources = \"deb822\"",
                "components",
            ),
            (
                "",
                "[[release]]\nlabel = \"x-2\"\naliases = []\nsuite = \"two\"\ncomponents = [\"main\"]\n\
                 extras = [\"backports\"]\nusr = \"split\"\nsources = \"deb822\"",
                "backports",
            ),
        ] {
            let error = Catalog::parse(&[&family(extra, release)]).expect_err(part);
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(Catalog::parse(&["family = 3"]).is_err());
    }
}
