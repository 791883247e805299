//! Which archives a release is made from: those that were asked for, or configured, or that the
//! host's own apt uses.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail, ensure};
use distro::catalog::{Bootstrap, Extra, Family};

use super::super::super::Options;
use super::super::configuration::Configuration;
use super::super::sources_list::{SignedBy, Source};
use super::host::is_keyring;
use super::{Archive, Host, Trust};

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

#[cfg(test)]
mod tests {
    use distro::catalog::Catalog;

    use super::super::super::sources_list;
    use super::super::host::tests::DEBIAN;
    use super::*;

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
}
