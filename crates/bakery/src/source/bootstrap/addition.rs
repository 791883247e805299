//! What has to be installed so that a Debian-like system has some more packages: chosen as a
//! bootstrap chooses, fetched, verified, and kept in the store's cache. Nothing is run.

use std::collections::HashSet;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use distro::catalog::Catalog;
use sha2::{Digest as _, Sha256};
use spec::event::{Event, Tell};
use store::Store;

use super::super::Options;
use super::archive::{self, Archive, Host, Trust, public};
use super::configuration::Configuration;
use super::deb::Deb;
use super::fetch::{CONNECTIONS, Fetcher, Wanted};
use super::packages::{self, Entry};
use super::resolver::{self, Chosen};
use super::suite::Suite;
use super::universe::Universe;
use crate::digest::hex;

/// The system that is added to.
#[derive(Debug, Clone, Copy)]
pub struct System<'a> {
    /// Its label in the catalog; only needed where the archive is.
    pub label: Option<&'a str>,
    /// Its architecture in Debian's words.
    pub architecture: &'a str,
    /// Its `/var/lib/dpkg/status`.
    pub status: &'a str,
    /// Where packages may come from besides the release's own archive.
    pub repositories: &'a [Repository],
}

/// A repository of apt's that a user names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// `http://`, `https://` or `file:`.
    pub uri: String,
    /// A suite; or a path that ends with a slash, of one that has nothing but packages and an index.
    pub suite: String,
    /// Of a suite.
    pub components: Vec<String>,
    /// Its keys, binary or armoured; without any, whoever serves it is believed.
    pub keyring: Option<PathBuf>,
}

impl Repository {
    fn archive(&self) -> Archive {
        let is_flat = self.suite.ends_with('/');
        Archive {
            uri: self.uri.trim_end_matches('/').to_owned(),
            suite: self.suite.clone(),
            components: if is_flat { vec![String::new()] } else { self.components.clone() },
            trust: match &self.keyring {
                Some(path) => Trust::Files(vec![path.clone()]),
                None => Trust::Anyone,
            },
            check_valid_until: true,
            optional: false,
        }
    }
}

/// A package that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// By its name in the archive.
    Name(String),
    /// A file here.
    File(PathBuf),
    /// A file elsewhere, which nothing vouches for but who named it.
    Url(String),
}

impl Asked {
    /// Reads what a user wrote: a URL, a path (with a slash, or a name that ends as packages do), a name.
    pub fn parse(text: &str) -> Self {
        if text.contains("://") {
            Self::Url(text.to_owned())
        } else if text.contains('/') || ENDINGS.iter().any(|ending| text.ends_with(ending)) {
            Self::File(text.into())
        } else {
            Self::Name(text.to_owned())
        }
    }
}

/// Of packages' files, whatever manager they are for.
const ENDINGS: [&str; 8] =
    [".deb", ".rpm", ".apk", ".xbps", ".pkg.tar.zst", ".pkg.tar.xz", ".txz", ".tgz"];

/// A package in the store's cache, to be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture in Debian's words.
    pub architecture: String,
    /// By which it is found in the cache.
    pub sha256: String,
    /// Whether it was asked for; others are needed by one that was.
    pub asked: bool,
}

/// The packages contradict each other, or need what there is not: their fault, not ours.
#[derive(Debug)]
pub struct Unsatisfiable(pub String);

impl fmt::Display for Unsatisfiable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unsatisfiable {}

/// Largest package that is read from a file or a URL: bytes.
const MAX_PACKAGE: u64 = 4 << 30;

/// Finds out what is to be installed, in that order, and brings it into the cache.
///
/// The archive is only asked where the system and the given files do not suffice.
///
/// # Errors
/// [`Unsatisfiable`]; else what could not be read or fetched.
pub fn add(
    store: &Store,
    options: &Options,
    tell: &dyn Tell,
    system: &System<'_>,
    asked: &[Asked],
) -> Result<Vec<Added>> {
    let fetcher = Fetcher::new(store, tell).until(options.deadline);
    let (mut files, mut names) = (Vec::new(), Vec::new());
    for one in asked {
        match one {
            Asked::Name(name) => names.push(name.as_str()),
            Asked::File(path) => files.push(given(store, &read(path)?, &path.to_string_lossy())?),
            Asked::Url(url) => {
                let bytes = fetcher.read(url, MAX_PACKAGE)?;
                let bytes = bytes.with_context(|| format!("there is no {}", public(url)))?;
                files.push(given(store, &bytes, &public(url))?);
            }
        }
    }
    let status = installed(system.status);
    let addition = Addition { system, status: &status, files: &files, names: &names };
    if names.is_empty()
        && let Ok(added) = addition.choose(&[], true).map(|chosen| chosen.added)
    {
        return Ok(added);
    }
    addition.with_archive(&fetcher, options, tell)
}

/// Brings a file that was asked for into the cache: gives its name and its SHA-256; `None` for
/// what is no file.
///
/// # Errors
/// What cannot be read or fetched.
pub fn file(store: &Store, tell: &dyn Tell, asked: &Asked) -> Result<Option<(String, String)>> {
    let (bytes, place) = match asked {
        Asked::Name(_) => return Ok(None),
        Asked::File(path) => (read(path)?, path.to_string_lossy().into_owned()),
        Asked::Url(url) => {
            let bytes = Fetcher::new(store, tell).read(url, MAX_PACKAGE)?;
            (bytes.with_context(|| format!("there is no {}", public(url)))?, public(url))
        }
    };
    let place = place.split(['?', '#']).next().unwrap_or_default();
    let name = place.rsplit('/').next().unwrap_or_default();
    ensure!(!name.is_empty(), "{place} has no file's name");
    Ok(Some((name.to_owned(), keep(store, &bytes)?)))
}

/// A package that was given, not found.
struct Given {
    control: String,
    added: Added,
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let what = || format!("cannot read the package {}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).with_context(what)?;
    file.take(MAX_PACKAGE).read_to_end(&mut bytes).with_context(what)?;
    Ok(bytes)
}

fn given(store: &Store, bytes: &[u8], shown: &str) -> Result<Given> {
    let control = Deb::open(bytes)
        .with_context(|| format!("{shown} is no package that can be read"))?
        .control;
    let sha256 = keep(store, bytes)?;
    let added = Added {
        name: control.name.clone(),
        version: control.version.clone(),
        architecture: control.architecture.clone(),
        sha256,
        asked: true,
    };
    Ok(Given { control: control.text, added })
}

fn keep(store: &Store, bytes: &[u8]) -> Result<String> {
    let sha256 = hex(&Sha256::digest(bytes));
    let cache = store.cache();
    if cache.get(&sha256)?.is_none() {
        let mut partial = cache.begin(&sha256)?;
        if !partial.is_complete() {
            if partial.len() > 0 {
                partial.restart()?;
            }
            partial.write_all(bytes)?;
            partial.finish()?;
        }
    }
    Ok(sha256)
}

/// The stanzas of dpkg's status (dpkg(1), "Package states") that are of installed packages.
fn installed(status: &str) -> String {
    let is_installed =
        |stanza: &&str| stanza.lines().any(|line| line == "Status: install ok installed");
    let mut text = String::with_capacity(status.len());
    for stanza in status.split("\n\n").filter(is_installed) {
        text.push_str(stanza.trim_matches('\n'));
        text.push_str("\n\n");
    }
    text
}

struct Addition<'a> {
    system: &'a System<'a>,
    /// Of installed packages only.
    status: &'a str,
    files: &'a [Given],
    names: &'a [&'a str],
}

/// What was chosen: what is in the cache already, and what has to be fetched.
struct Choice {
    added: Vec<Added>,
    fetch: Vec<Wanted>,
}

impl Addition<'_> {
    fn with_archive(
        &self,
        fetcher: &Fetcher<'_>,
        options: &Options,
        tell: &dyn Tell,
    ) -> Result<Vec<Added>> {
        let mut archives: Vec<Archive> = match self.archives(options) {
            Ok(own) => own,
            Err(error) if self.system.repositories.is_empty() => return Err(error),
            Err(error) => {
                let text = format!("only the given repositories are asked: {error:#}");
                tell.tell(Event::Warning { text });
                Vec::new()
            }
        };
        archives.extend(self.system.repositories.iter().map(Repository::archive));
        tell.tell(Event::Phase { name: "reading package lists".into() });
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let suites: Result<Vec<Option<Suite>>> =
            super::in_parallel(&archives, |archive| Suite::fetch(fetcher, archive, now))
                .into_iter()
                .collect();
        let suites: Vec<Suite> = suites?.into_iter().flatten().collect();
        let texts = super::fetch_indices(fetcher, &suites, self.system.architecture)?;
        let indices = super::parse_indices(&texts, &suites)?;
        tell.tell(Event::Phase { name: "resolving".into() });
        let bases: Vec<&str> = suites.iter().map(|suite| &suite.archive.uri[..]).collect();
        let entries: Vec<(&str, &[Entry<'_>])> =
            indices.iter().map(|(suite, entries)| (bases[*suite], &entries[..])).collect();
        // What is installed stays as it is where it can: nobody asked for an upgrade.
        let choice = self.choose(&entries, true).or_else(|_| self.choose(&entries, false))?;
        tell.tell(Event::Phase { name: "downloading".into() });
        for part in choice.fetch.chunks(CONNECTIONS) {
            for fetched in super::in_parallel(part, |wanted| fetcher.file(wanted)) {
                fetched?;
            }
        }
        Ok(choice.added)
    }

    /// The system's own archives.
    fn archives(&self, options: &Options) -> Result<Vec<Archive>> {
        let label = self.system.label.context(
            "the catalog does not know this system, so where its packages come from is not known: \
             give files of them and of all that they need",
        )?;
        let catalog = Catalog::load()?;
        let wanted =
            catalog.resolve(label).with_context(|| format!("the catalog has no {label:?}"))?;
        let configured = Configuration::read(&wanted.family.name)?;
        let host = Host::read(Path::new("/"), wanted.family);
        let suite = wanted.release.bootstrap.as_ref().with_context(|| {
            format!("{label} is not made from an archive: give files of packages and of all that they need")
        })?;
        archive::choose(wanted.family, suite, options, &configured, &host)
    }

    /// Chooses among what is installed, what was given, and archives' entries by the archive's
    /// address. Where `stays`, installed packages count in their own version only.
    fn choose(&self, archives: &[(&str, &[Entry<'_>])], stays: bool) -> Result<Choice> {
        let controls: String =
            self.files.iter().map(|given| given.control.clone() + "\n").collect();
        let given = packages::parse(controls.as_bytes()).context("reading the packages")?;
        let status = packages::parse(self.status.as_bytes()).context("reading dpkg's status")?;
        let named = |entries: &[Entry<'_>]| -> HashSet<String> {
            entries.iter().map(|entry| entry.name.to_owned()).collect()
        };
        let (given_names, installed_names) = (named(&given), named(&status));
        let asked: HashSet<&str> = self.names.iter().copied().collect();
        let here: Vec<Entry<'_>> = status
            .iter()
            .filter(|e| !given_names.contains(e.name) && !asked.contains(e.name))
            .copied()
            .collect();
        let fixed = |name: &str| {
            given_names.contains(name)
                || (stays && installed_names.contains(name) && !asked.contains(name))
        };
        let offered: Vec<Vec<Entry<'_>>> = archives
            .iter()
            .map(|(_, entries)| entries.iter().filter(|e| !fixed(e.name)).copied().collect())
            .collect();
        let numbered = [&given[..], &here[..]].into_iter().chain(offered.iter().map(Vec::as_slice));
        let universe = Universe::new(self.system.architecture, numbered.enumerate());
        let wanted: Vec<&str> =
            self.files.iter().map(|g| &g.added.name[..]).chain(asked.iter().copied()).collect();
        let base: Vec<&str> = here.iter().map(|entry| entry.name).collect();
        let chosen = resolver::resolve(&universe, &base, &wanted)
            .map_err(|error| anyhow!(Unsatisfiable(error.to_string())))?;
        self.choice(&universe, &chosen, archives, &status)
    }

    fn choice(
        &self,
        universe: &Universe<'_>,
        chosen: &[Chosen],
        archives: &[(&str, &[Entry<'_>])],
        status: &[Entry<'_>],
    ) -> Result<Choice> {
        let mut choice = Choice { added: Vec::new(), fetch: Vec::new() };
        for one in chosen {
            let candidate = universe.candidate(one.index);
            let entry = &candidate.entry;
            match candidate.suite {
                GIVEN => {
                    let known = self.files.iter().find(|given| given.added.name == entry.name);
                    choice.added.extend(known.map(|given| given.added.clone()));
                }
                INSTALLED => {}
                number => {
                    let same = |known: &&Entry<'_>| {
                        known.name == entry.name && known.version == entry.version
                    };
                    if status.iter().any(|known| same(&known)) {
                        continue;
                    }
                    let Some((base, _)) = archives.get(number - FIRST_ARCHIVE) else {
                        bail!("a package is of no archive");
                    };
                    let download =
                        entry.download().map_err(|why| anyhow!("{why} in {}", public(base)))?;
                    choice.fetch.push(Wanted {
                        urls: vec![format!(
                            "{base}/{}",
                            download.filename.trim_start_matches("./")
                        )],
                        sha256: download.sha256.to_owned(),
                        size: download.size,
                        what: format!("{} {}", entry.name, entry.version),
                    });
                    choice.added.push(Added {
                        name: entry.name.to_owned(),
                        version: entry.version.to_owned(),
                        architecture: entry.architecture.to_owned(),
                        sha256: download.sha256.to_owned(),
                        asked: self.names.contains(&entry.name),
                    });
                }
            }
        }
        Ok(choice)
    }
}

/// Numbers of the places that a candidate may be of.
const GIVEN: usize = 0;
const INSTALLED: usize = 1;
const FIRST_ARCHIVE: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Package: libc6\nStatus: install ok installed\nVersion: 2\nArchitecture: amd64\n\n\
        Package: gone\nStatus: deinstall ok config-files\nVersion: 1\nArchitecture: all\n\n\
        Package: base\nStatus: install ok installed\nVersion: 1\nArchitecture: all\nDepends: libc6\n";

    fn sha(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    fn offered(name: &str, version: &str, more: &str) -> String {
        format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nFilename: pool/{name}.deb\nSize: 1\nSHA256: {}\n{more}\n",
            sha('a')
        )
    }

    fn choose(files: &[Given], names: &[&str], archive: &str, stays: bool) -> Result<Vec<String>> {
        let system =
            System { label: None, architecture: "amd64", status: STATUS, repositories: &[] };
        let status = installed(STATUS);
        let addition = Addition { system: &system, status: &status, files, names };
        let entries = packages::parse(archive.as_bytes()).unwrap();
        let choice = addition.choose(&[("http://x", &entries)], stays)?;
        let shown =
            |a: &Added| format!("{} {}{}", a.name, a.version, if a.asked { "" } else { "*" });
        Ok(choice.added.iter().map(shown).collect())
    }

    fn file(name: &str, more: &str) -> Given {
        let added = Added {
            name: name.into(),
            version: "9".into(),
            architecture: "all".into(),
            sha256: sha('b'),
            asked: true,
        };
        Given { control: format!("Package: {name}\nVersion: 9\nArchitecture: all\n{more}"), added }
    }

    #[test]
    fn only_what_is_missing_is_added() {
        let archive = offered("web", "1", "Depends: libc6, lib\n")
            + &offered("lib", "3", "")
            + &offered("libc6", "4", "");
        assert_eq!(choose(&[], &["web"], &archive, true).unwrap(), ["lib 3*", "web 1"]);
        let own = [file("own", "Depends: base, lib\n")];
        assert_eq!(choose(&own, &[], &archive, true).unwrap(), ["lib 3*", "own 9"]);
        assert_eq!(choose(&[file("own", "")], &[], "", true).unwrap(), ["own 9"]);
    }

    #[test]
    fn what_is_installed_is_upgraded_only_where_it_must_be() {
        let archive = offered("libc6", "4", "");
        let own = [file("own", "Depends: libc6 (>= 3)\n")];
        assert!(choose(&own, &[], &archive, true).is_err());
        assert_eq!(choose(&own, &[], &archive, false).unwrap(), ["libc6 4*", "own 9"]);
    }

    #[test]
    fn what_cannot_be_had_is_the_packages_fault() {
        let own = [file("own", "Depends: nowhere (>= 3)\n")];
        let error = choose(&own, &[], "", true).unwrap_err();
        let told = error.downcast_ref::<Unsatisfiable>().unwrap().to_string();
        assert!(told.contains("nowhere") && told.contains("own"), "{told}");
        assert_eq!(Asked::parse("./x.deb"), Asked::File("./x.deb".into()));
        assert_eq!(Asked::parse("x.deb"), Asked::File("x.deb".into()));
        assert_eq!(Asked::parse("nginx"), Asked::Name("nginx".into()));
        assert_eq!(Asked::parse("https://x/y.deb"), Asked::Url("https://x/y.deb".into()));
    }
}
