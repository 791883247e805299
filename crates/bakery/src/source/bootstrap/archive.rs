//! Which archives a release is made from: those that were asked for, or configured, or
//! that the host's own apt uses.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use distro::catalog::{Bootstrap, Extra, Family};

use super::super::Options;
use super::apt_conf;
use super::configuration::Configuration;
use super::keyring::Keyring;
use super::sources_list::{self, SignedBy, Source};

/// One suite of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Archive {
    /// Without a slash at its end.
    pub(crate) uri: String,
    /// Such as `bookworm-updates`; ends with a slash where it is a path below the URI, without components
    /// (sources.list(5), "exact path").
    pub(crate) suite: String,
    /// Its components.
    pub(crate) components: Vec<String>,
    /// Whose signatures are good.
    pub(crate) trust: Trust,
    /// An expired Release is refused.
    pub(crate) check_valid_until: bool,
    /// The archive may lack it.
    pub(crate) optional: bool,
}

/// Where the keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trust {
    /// In these files.
    Files(Vec<PathBuf>),
    /// In these files, and only those with these fingerprints.
    Fingerprints(Vec<PathBuf>, Vec<String>),
    /// Here, armoured.
    Embedded(String),
    /// Whoever serves it is believed, as with apt's `trusted=yes`.
    Anyone,
}

/// What the host's apt knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Host {
    /// Its sources, in apt's order.
    pub(crate) sources: Vec<Source>,
    /// Files that hold a family's keys.
    pub(crate) keyrings: Vec<PathBuf>,
}

/// Where keyrings are installed (apt-secure(8), sources.list(5)), the usual place first.
const KEYRING_DIRECTORIES: [&str; 3] =
    ["usr/share/keyrings", "etc/apt/keyrings", "etc/apt/trusted.gpg.d"];

impl Host {
    /// Reads what is below a root; what cannot be read is as if it were not there.
    pub(crate) fn read(root: &Path, family: &Family) -> Self {
        let mut sources = Vec::new();
        let list = std::fs::read_to_string(root.join("etc/apt/sources.list")).unwrap_or_default();
        sources.extend(sources_list::parse_one_line(&list));
        for path in files_of(&root.join("etc/apt/sources.list.d")) {
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            match path.extension().and_then(|e| e.to_str()) {
                Some("list") => sources.extend(sources_list::parse_one_line(&text)),
                Some("sources") => {
                    sources.extend(sources_list::parse_deb822(&text).unwrap_or_default());
                }
                _ => {}
            }
        }
        let valid_until = valid_until(root);
        for source in &mut sources {
            source.check_valid_until = source.check_valid_until.or(valid_until);
            source.uris = source.uris.iter().flat_map(|uri| expand(root, uri)).collect();
        }
        let directories = KEYRING_DIRECTORIES.into_iter();
        let files = directories.flat_map(|directory| files_of(&root.join(directory)));
        let keyrings = files.filter(|path| is_keyring(path, family)).collect();
        Self { sources, keyrings }
    }
}

/// Decides on the suites of a release.
///
/// # Errors
/// There is no archive, or no keyring; says how to give one.
pub(crate) fn choose(
    family: &Family,
    release: &Bootstrap,
    options: &Options,
    configured: &Configuration,
    host: &Host,
) -> Result<Vec<Archive>> {
    let keyring = options.keyring.as_ref().or(configured.keyring.as_ref());
    let mirror = options.mirror.as_ref().or(configured.mirror.as_ref());
    let main = match mirror {
        Some(uri) => Place { uri: uri.clone(), source: None },
        None => best(family, release, host, false).ok_or_else(|| no_archive(family, release))?,
    };
    let security = match (&configured.security_mirror, &options.mirror) {
        (Some(uri), _) => Some(Place { uri: uri.clone(), source: None }),
        (None, Some(_)) => None,
        (None, None) => best(family, release, host, true),
    };
    let mut archives = Vec::new();
    let mut add = |place: &Place<'_>, suite: String, optional: bool| -> Result<()> {
        check_uri(&place.uri)?;
        archives.push(Archive {
            uri: place.uri.trim_end_matches('/').to_owned(),
            trust: trust(family, &suite, place.source, keyring, host)?,
            suite,
            components: release.components.clone(),
            check_valid_until: configured
                .check_valid_until
                .or(place.source.and_then(|source| source.check_valid_until))
                .unwrap_or(true),
            optional,
        });
        Ok(())
    };
    add(&main, release.suite.clone(), false)?;
    for extra in &release.extras {
        let suite = format!("{}-{}", release.suite, extra.suffix());
        match (extra, &security) {
            (Extra::Updates, _) => add(&main, suite, true)?,
            (Extra::Security, Some(place)) => add(place, suite, false)?,
            (Extra::Security, None) => {}
        }
    }
    Ok(archives)
}

impl Archive {
    /// It has neither `dists` nor components.
    pub(crate) fn is_flat(&self) -> bool {
        self.suite.ends_with('/')
    }

    /// Where its Release is, without a slash at the end.
    pub(crate) fn base(&self) -> String {
        let parts = self.suite.split('/').filter(|part| !part.is_empty() && *part != ".");
        match self.is_flat() {
            true => parts.fold(self.uri.clone(), |base, part| base + "/" + part),
            false => format!("{}/dists/{}", self.uri, self.suite),
        }
    }

    /// Reads the keys; `None` where none are needed.
    ///
    /// # Errors
    /// A file cannot be read, or holds no key.
    pub(crate) fn keyring(&self) -> Result<Option<Keyring>> {
        let read = |paths: &[PathBuf]| -> Result<Keyring> {
            let mut all = Keyring::default();
            for path in paths {
                all.extend(Keyring::read(path)?);
            }
            Ok(all)
        };
        match &self.trust {
            Trust::Anyone => Ok(None),
            Trust::Files(paths) => read(paths).map(Some),
            Trust::Fingerprints(paths, fingerprints) => {
                let keyring = read(paths)?.confined_to(fingerprints);
                ensure!(!keyring.is_empty(), "no keyring has the keys {}", fingerprints.join(" "));
                Ok(Some(keyring))
            }
            Trust::Embedded(text) => Keyring::parse(text.as_bytes())
                .context("reading the key in apt's sources")
                .map(Some),
        }
    }

    /// The one-line style (sources.list(5)), without a password.
    pub(crate) fn line(&self) -> String {
        format!("deb {} {} {}", public(&self.uri), self.suite, self.components.join(" "))
    }
}

/// A URI without the name and password that it may have.
pub(crate) fn public(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else { return uri.to_owned() };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// An archive's address, and the host's source that it was taken from.
struct Place<'a> {
    uri: String,
    source: Option<&'a Source>,
}

/// The source of the host that looks most like the family's own archive. That it is
/// the right one is known only when its signature was verified.
fn best<'a>(
    family: &Family,
    release: &Bootstrap,
    host: &'a Host,
    security: bool,
) -> Option<Place<'a>> {
    let mut best: Option<(i32, Place<'a>)> = None;
    for source in &host.sources {
        let Some(uri) = source.uris.iter().find(|uri| check_uri(uri).is_ok()) else { continue };
        let score = score(family, release, source, uri, security);
        if score > best.as_ref().map_or(0, |(known, _)| *known) {
            best = Some((score, Place { uri: uri.clone(), source: Some(source) }));
        }
    }
    best.map(|(_, place)| place)
}

/// How much a source looks like the family's archive; nothing at all at 0 and below.
fn score(family: &Family, release: &Bootstrap, source: &Source, uri: &str, security: bool) -> i32 {
    let is_security = |suite: &String| suite.ends_with("-security") || suite.ends_with("/updates");
    if !source.components.iter().any(|c| c == "main")
        || !source.suites.iter().any(|suite| is_security(suite) == security)
    {
        return 0;
    }
    let base = |suite: &str| suite.split(['-', '/']).next().unwrap_or_default().to_owned();
    let known = |suite: &String| {
        family.releases.iter().any(|r| r.bootstrap.as_ref().is_some_and(|b| b.suite == base(suite)))
    };
    let path_end = uri.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let mut score = 0;
    score += 4 * i32::from(family.archives.iter().any(|name| name == path_end));
    score += 2 * i32::from(source.suites.iter().any(|suite| base(suite) == release.suite));
    score += i32::from(source.suites.iter().any(known));
    score += match &source.signed_by {
        Some(SignedBy::Names(names)) if names.iter().any(|n| is_keyring(Path::new(n), family)) => 8,
        Some(SignedBy::Names(names)) if names.iter().any(|n| n.starts_with('/')) => -4,
        _ => 0,
    };
    score
}

/// The keys for a suite: the given keyring, else what the source says. A source that is
/// for another release of the family may name a keyring that lacks this one's keys, so
/// the family's own keyrings count as well then.
fn trust(
    family: &Family,
    suite: &str,
    source: Option<&Source>,
    given: Option<&PathBuf>,
    host: &Host,
) -> Result<Trust> {
    if let Some(path) = given {
        return Ok(Trust::Files(vec![path.clone()]));
    }
    let signed_by = source.and_then(|source| source.signed_by.as_ref());
    let same_suite = source.is_some_and(|source| source.suites.iter().any(|known| known == suite));
    match signed_by {
        Some(SignedBy::Embedded(key)) => Ok(Trust::Embedded(key.clone())),
        Some(SignedBy::Names(names)) => {
            let (paths, prints): (Vec<String>, Vec<String>) =
                names.iter().cloned().partition(|name| name.starts_with('/'));
            let mut paths: Vec<PathBuf> = paths.into_iter().map(PathBuf::from).collect();
            if paths.is_empty() {
                return Ok(Trust::Fingerprints(host.keyrings.clone(), prints));
            }
            if !same_suite {
                paths.extend(
                    host.keyrings
                        .iter()
                        .filter(|path| !paths.contains(path))
                        .cloned()
                        .collect::<Vec<_>>(),
                );
            }
            Ok(Trust::Files(paths))
        }
        None if host.keyrings.is_empty() => Err(anyhow!(
            "this host has no keyring of {}: install the package {}, or give one with --keyring",
            family.name,
            family.keyrings.join(" or ")
        )),
        None => Ok(Trust::Files(host.keyrings.clone())),
    }
}

fn no_archive(family: &Family, release: &Bootstrap) -> anyhow::Error {
    anyhow!(
        "this host's apt has no source of {}: say where to get {} from with --mirror URL, or in the \
         configuration as [bootstrap.{}] mirror",
        family.name,
        release.suite,
        family.name
    )
}

fn check_uri(uri: &str) -> Result<()> {
    let known = ["http://", "https://", "file:/", "copy:/"];
    if !known.iter().any(|scheme| uri.starts_with(scheme)) {
        bail!("the archive {uri:?} is of a kind that is not known; http, https and file are");
    }
    ensure!(
        uri.len() < 1024 && uri.bytes().all(|b| b.is_ascii_graphic()),
        "the archive {:?} is no URL",
        uri.chars().take(100).collect::<String>()
    );
    Ok(())
}

/// `mirror+file:PATH` is a list of mirrors, best first (apt-transport-mirror(1)).
fn expand(root: &Path, uri: &str) -> Vec<String> {
    let Some(path) = uri.strip_prefix("mirror+file:") else { return vec![uri.to_owned()] };
    let text = std::fs::read_to_string(root.join(path.trim_start_matches('/'))).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_whitespace().next()).map(String::from).collect()
}

fn is_keyring(path: &Path, family: &Family) -> bool {
    let good = matches!(path.extension().and_then(|e| e.to_str()), Some("gpg" | "pgp" | "asc"));
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    good && stem.is_some_and(|stem| family.keyrings.iter().any(|name| name == stem))
}

/// The files of a directory, sorted.
/// Whether apt itself refuses an expired Release, where it was told.
fn valid_until(root: &Path) -> Option<bool> {
    let parts = files_of(&root.join("etc/apt/apt.conf.d")).into_iter();
    // apt.conf(5): other names are passed over, and the main file comes last.
    let parts = parts.filter(|path| path.extension().is_none_or(|e| e == "conf"));
    let texts = parts.chain([root.join("etc/apt/apt.conf")]).map(std::fs::read_to_string);
    texts.flatten().filter_map(|text| apt_conf::check_valid_until(&text)).next_back()
}

fn files_of(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use distro::catalog::Catalog;

    use super::*;

    const DEBIAN: &str = "Types: deb\nURIs: http://deb.example.org/debian/\nSuites: bookworm bookworm-updates\n\
        Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
        Types: deb\nURIs: http://deb.example.org/debian-security\nSuites: bookworm-security\nComponents: main\n\
        Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n";

    fn host(deb822: &str, one_line: &str) -> Host {
        let mut sources = sources_list::parse_one_line(one_line);
        sources.extend(sources_list::parse_deb822(deb822).unwrap());
        let keyrings = vec![PathBuf::from("/usr/share/keyrings/debian-archive-keyring.gpg")];
        Host { sources, keyrings }
    }

    fn chosen(
        label: &str,
        options: &Options,
        configured: &Configuration,
        host: &Host,
    ) -> Result<Vec<Archive>> {
        let (family, release) = Catalog::builtin().find_with_family(label).unwrap();
        choose(family, release.bootstrap.as_ref().unwrap(), options, configured, host)
    }

    fn lines(label: &str, host: &Host) -> Vec<String> {
        let archives = chosen(label, &Options::default(), &Configuration::default(), host).unwrap();
        archives.iter().map(Archive::line).collect()
    }

    #[test]
    fn every_release_comes_from_where_the_host_gets_its_own() {
        assert_eq!(
            lines("debian-11", &host(DEBIAN, "")),
            [
                "deb http://deb.example.org/debian bullseye main",
                "deb http://deb.example.org/debian bullseye-updates main",
                "deb http://deb.example.org/debian-security bullseye-security main",
            ]
        );
        assert_eq!(
            lines("debian-sid", &host(DEBIAN, "")),
            ["deb http://deb.example.org/debian sid main"]
        );
        let one_line = "deb http://only.example.org/debian bookworm main";
        assert_eq!(
            lines("debian-12", &host("", one_line)),
            [
                "deb http://only.example.org/debian bookworm main",
                "deb http://only.example.org/debian bookworm-updates main",
            ]
        );
    }

    #[test]
    fn other_archives_are_told_apart() {
        let others = "deb [signed-by=/etc/apt/keyrings/docker.asc] https://docker.example.org/linux/debian bookworm stable\n\
            deb [signed-by=/usr/share/keyrings/tor.gpg] https://tor.example.org/torproject bookworm main\n\
            deb https://cloud.example.org/apt cloud-sdk-bookworm main\n\
            deb http://archive.example.org/ubuntu jammy main universe\n\
            deb http://archive.example.org/ubuntu jammy-security main universe\n";
        assert_eq!(
            lines("debian-12", &host(DEBIAN, others)),
            lines("debian-12", &host(DEBIAN, ""))
        );
        let error =
            chosen("debian-12", &Options::default(), &Configuration::default(), &host("", others));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("--mirror URL") && error.contains("[bootstrap.debian]"), "{error}");
        let mut host = host(DEBIAN, others);
        host.keyrings = vec!["/usr/share/keyrings/ubuntu-archive-keyring.gpg".into()];
        assert_eq!(
            lines("ubuntu-24.04", &host)[2],
            "deb http://archive.example.org/ubuntu noble-security main universe"
        );
    }

    #[test]
    fn wishes_come_before_configuration_and_that_before_the_host() {
        let options = Options {
            mirror: Some("http://user:secret@mirror.example.org/debian".into()),
            keyring: Some("/k.gpg".into()),
            ..Options::default()
        };
        let configured = Configuration {
            mirror: Some("http://configured.example.org/debian".into()),
            keyring: Some("/configured.gpg".into()),
            check_valid_until: Some(false),
            ..Configuration::default()
        };
        let archives = chosen("debian-12", &options, &configured, &host(DEBIAN, "")).unwrap();
        assert_eq!(archives.len(), 2);
        assert_eq!(archives[0].line(), "deb http://mirror.example.org/debian bookworm main");
        assert!(archives[0].uri.contains("secret"));
        assert!(!archives[0].optional && archives[1].optional);
        assert_eq!(archives[0].trust, Trust::Files(vec!["/k.gpg".into()]));
        assert!(!archives[0].check_valid_until);
        let archives =
            chosen("debian-12", &Options::default(), &configured, &host(DEBIAN, "")).unwrap();
        assert_eq!(archives[0].line(), "deb http://configured.example.org/debian bookworm main");
        assert_eq!(
            archives[2].line(),
            "deb http://deb.example.org/debian-security bookworm-security main"
        );
        let security =
            Configuration { security_mirror: Some("file:/srv/security".into()), ..configured };
        let archives = chosen("debian-12", &options, &security, &Host::default()).unwrap();
        assert_eq!(archives[2].line(), "deb file:/srv/security bookworm-security main");
        let ftp = Options { mirror: Some("ftp://x.example.org/debian".into()), ..options };
        assert!(chosen("debian-12", &ftp, &security, &Host::default()).is_err());
    }

    #[test]
    fn keys_are_those_that_the_source_names() {
        let trust = |text: &str, label: &str| {
            let host = host(text, "");
            chosen(label, &Options::default(), &Configuration::default(), &host).unwrap()[0]
                .trust
                .clone()
        };
        let usual = || PathBuf::from("/usr/share/keyrings/debian-archive-keyring.gpg");
        let stanza = |signed_by: &str| {
            format!(
                "Types: deb\nURIs: http://deb.example.org/debian\nSuites: bookworm\nComponents: main\n{signed_by}"
            )
        };
        let own = stanza("Signed-By: /own.gpg\n");
        assert_eq!(trust(&own, "debian-12"), Trust::Files(vec!["/own.gpg".into()]));
        assert_eq!(trust(&own, "debian-13"), Trust::Files(vec!["/own.gpg".into(), usual()]));
        assert_eq!(trust(&stanza(""), "debian-12"), Trust::Files(vec![usual()]));
        assert_eq!(
            trust(&stanza("Signed-By: ABCD EF01\n"), "debian-12"),
            Trust::Fingerprints(vec![usual()], vec!["ABCD".into(), "EF01".into()])
        );
        let key = stanza("Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n x\n");
        assert!(
            matches!(trust(&key, "debian-12"), Trust::Embedded(text) if text.contains("BLOCK-----\n\nx"))
        );
        let bare = Host { keyrings: Vec::new(), ..host(&stanza(""), "") };
        let error =
            chosen("debian-12", &Options::default(), &Configuration::default(), &bare).unwrap_err();
        assert!(error.to_string().contains("debian-archive-keyring"), "{error}");
    }

    #[test]
    fn a_host_is_read() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("etc/apt/sources.list", "deb mirror+file:/etc/apt/mirrors.txt noble main\n");
        put("etc/apt/mirrors.txt", "# best first\nhttp://near.example.org/ubuntu/\tpriority:1\n");
        put("etc/apt/sources.list.d/a.sources", DEBIAN);
        put("etc/apt/sources.list.d/b.sources", "not deb822");
        put("etc/apt/sources.list.d/c.save", "deb http://old.example.org/debian bookworm main");
        put("etc/apt/apt.conf.d/10no", "Acquire::Check-Valid-Until \"true\";");
        put("etc/apt/apt.conf.d/20no.conf", "Acquire { Check-Valid-Until \"false\"; };");
        put("etc/apt/apt.conf.d/30yes.dpkg-old", "Acquire::Check-Valid-Until \"true\";");
        put("usr/share/keyrings/debian-archive-keyring.gpg", "");
        put("usr/share/keyrings/debian-archive-keyring.txt", "");
        put("usr/share/keyrings/other.gpg", "");
        let (family, _) = Catalog::builtin().find_with_family("debian-12").unwrap();
        let host = Host::read(root.path(), family);
        assert_eq!(host.sources.len(), 3);
        assert!(host.sources.iter().all(|s| s.check_valid_until == Some(false)));
        assert_eq!(host.sources[0].uris, ["http://near.example.org/ubuntu/"]);
        assert_eq!(
            host.keyrings,
            [root.path().join("usr/share/keyrings/debian-archive-keyring.gpg")]
        );
        let nothing = Host::read(&root.path().join("nowhere"), family);
        assert_eq!(nothing, Host::default());
    }

    #[test]
    fn a_password_is_not_shown() {
        for (uri, shown) in [
            ("http://u:p@h.example.org/x@y", "http://h.example.org/x@y"),
            ("http://h.example.org", "http://h.example.org"),
            ("file:/srv/a@b", "file:/srv/a@b"),
        ] {
            assert_eq!(public(uri), shown);
        }
    }
}
