//! The catalog's labels: made from the distribution's archive, or taken from the best place that
//! has them finished.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Error, Result, bail};
use distro::catalog::{Catalog, Family, Place, Resolved};
use spec::event::Event;
use spec::platform::Platform;
use spec::reference::Reference;

use super::{Context, ImageSource, Pulled, bootstrap, registry, tar};

/// The source of `debian-12`, `fedora-44` and the like.
pub(crate) struct Source;

impl ImageSource for Source {
    fn accepts(&self, reference: &Reference) -> bool {
        matches!(reference, Reference::Catalog(_))
    }

    fn pull(&self, reference: &Reference, context: &Context<'_>) -> Result<Pulled> {
        let Reference::Catalog(label) = reference else {
            bail!("{reference} is no label of the catalog");
        };
        let catalog = Catalog::load()?;
        let wanted =
            catalog.resolve(label).with_context(|| format!("the catalog has no {label:?}"))?;
        let platform = match context.options.platform.as_deref() {
            Some(text) => Platform::parse(text).map_err(Error::msg)?,
            None => Platform::host(),
        };
        warn_of_age(&wanted, context);
        pull(wanted, &platform.architecture, context)
    }
}

fn pull(wanted: Resolved<'_>, architecture: &str, context: &Context<'_>) -> Result<Pulled> {
    let Resolved { family, release, .. } = wanted;
    let label = wanted.label();
    let mut places = release.places(family, architecture).filter(|place| place.disk.is_none());
    if let Some(suite) = &release.bootstrap {
        let way = bootstrap::way(wanted, suite, context);
        let options = context.options;
        let asked =
            options.mirror.is_some() || options.keyring.is_some() || !options.include.is_empty();
        // Another init, and other packages, come of being made here only.
        let must = asked || wanted.label() != release.label;
        match (way, places.next()) {
            (Ok(way), _) => return bootstrap::pull(&way, context),
            (Err(error), Some(place)) if !must => {
                let text = format!("{error:#}; taking {} instead", place.address());
                context.tell.tell(Event::Warning { text });
                return fetch(place, wanted, architecture, context);
            }
            (Err(error), _) => return Err(error),
        }
    }
    refuse_bootstrap_options(&label, context)?;
    match places.next() {
        Some(place) => fetch(place, wanted, architecture, context),
        None => Err(nowhere(&wanted, architecture)),
    }
}

fn refuse_bootstrap_options(label: &str, context: &Context<'_>) -> Result<()> {
    let options = context.options;
    for (given, name) in [
        (options.mirror.is_some(), "--mirror"),
        (options.keyring.is_some(), "--keyring"),
        (!options.include.is_empty(), "--include"),
    ] {
        if given {
            bail!(
                "{name} is for what is made from its archive here, and {label} comes finished: leave it out"
            );
        }
    }
    Ok(())
}

fn nowhere(wanted: &Resolved<'_>, architecture: &str) -> Error {
    let Resolved { family, release, .. } = *wanted;
    let label = &release.label;
    match release.places(family, architecture).next() {
        Some(disk) => {
            let address = family.with_architecture(disk.address(), architecture);
            Error::msg(format!(
                "{label} comes as the disk image {address} only, which cannot be unpacked here: \
                 unpack its root to a directory, and give that as dir:PATH"
            ))
        }
        None => {
            let known: Vec<&str> = known_architectures(family, &release.from);
            Error::msg(format!(
                "{label} is not there for linux/{architecture}: it is for {}",
                known.join(", ")
            ))
        }
    }
}

fn known_architectures<'a>(family: &'a Family, places: &'a [Place]) -> Vec<&'a str> {
    let of = |place: &'a Place| -> Vec<&'a str> {
        match &place.architectures[..] {
            [] => family.architectures.keys().map(String::as_str).collect(),
            some => some.iter().map(String::as_str).collect(),
        }
    };
    let mut known: Vec<&str> = places.iter().flat_map(of).collect();
    known.sort_unstable();
    known.dedup();
    known
}

fn fetch(
    place: &Place,
    wanted: Resolved<'_>,
    architecture: &str,
    context: &Context<'_>,
) -> Result<Pulled> {
    let label = wanted.label();
    let pulled = match (&place.registry, &place.tarball) {
        (Some(name), _) => {
            let name = Reference::parse(&format!("docker://{name}"), |_| false)?;
            registry::Source.pull(&name, context)
        }
        (_, Some(address)) => {
            let address = wanted.family.with_architecture(address, architecture);
            archive(place, &address, wanted.family, architecture, context)
        }
        _ => bail!("{label} has a place that is neither a registry's nor an archive"),
    };
    let pulled = pulled.with_context(|| format!("pulling {label}"))?;
    Ok(match pulled {
        Pulled::Draft(mut draft) => {
            draft.names.extend(wanted.names());
            Pulled::Draft(draft)
        }
        up_to_date => up_to_date,
    })
}

fn archive(
    place: &Place,
    address: &str,
    family: &Family,
    architecture: &str,
    context: &Context<'_>,
) -> Result<Pulled> {
    if !address.contains("://") {
        let beside = family.file.as_deref().and_then(Path::parent).unwrap_or(Path::new("/"));
        return tar::pull_path(
            &beside.join(PathBuf::from(address)),
            place.sha256.as_deref(),
            context,
        );
    }
    let fetcher = bootstrap::fetcher(context);
    let sha256 = match (&place.sha256, &place.checksum) {
        (Some(sum), _) => sum.clone(),
        (None, Some(list)) => {
            let list = family.with_architecture(list, architecture);
            let text = fetcher
                .read(&list, MAX_LIST)?
                .with_context(|| format!("the list of digests {list} is not there"))?;
            let name = address.rsplit('/').next().unwrap_or_default();
            digest_of(&String::from_utf8_lossy(&text), name)
                .with_context(|| format!("{list} has no SHA-256 of {name}"))?
        }
        (None, None) => bail!("{address} has no digest in the catalog"),
    };
    if let Some(signature) = &place.signature {
        let text = format!(
            "{address} is checked by its digest; its signature {} is not",
            family.with_architecture(signature, architecture)
        );
        context.tell.tell(Event::Warning { text });
    }
    tar::pull_address(address, &sha256, &fetcher, context)
}

/// Beyond every real list of digests.
const MAX_LIST: u64 = 1 << 20;

/// The digest of a file in what sha256sum(1) writes, with `--tag` or without, or in a
/// text that is nothing but the digest.
fn digest_of(text: &str, name: &str) -> Option<String> {
    let is_digest = |word: &&str| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
    text.lines().find_map(|line| {
        let tagged = line.strip_prefix("SHA256 (").and_then(|rest| rest.split_once(") = "));
        let (digest, file) = match tagged {
            Some((file, digest)) => (digest.trim(), file),
            None => match line.split_once(char::is_whitespace) {
                Some((digest, file)) => (digest, file.trim().trim_start_matches(['*', ' '])),
                None => (line.trim(), name),
            },
        };
        let file = file.rsplit('/').next().unwrap_or_default();
        (file == name).then_some(digest).filter(is_digest).map(str::to_ascii_lowercase)
    })
}

fn warn_of_age(wanted: &Resolved<'_>, context: &Context<'_>) {
    let release = wanted.release;
    if !release.is_over(&today()) {
        return;
    }
    let (label, day) = (&release.label, release.end_of_life.as_deref().unwrap_or_default());
    let mut text = format!("{label} has had no free support since {day}");
    if let Some(archive) = &release.archive {
        text += &format!("; its packages are kept at {archive}");
    }
    context.tell.tell(Event::Warning { text });
}

/// As an ISO 8601 day (UTC).
fn today() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let days = now.map_or(0, |since| since.as_secs() / 86400) as i64;
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The day of the Gregorian calendar that is so many days after 1970-01-01
/// (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_is_served() {
        for name in Catalog::builtin().names() {
            assert!(distro::catalog::is_label(name));
            assert!(Source.accepts(&Reference::Catalog(name.into())));
        }
        assert!(!Source.accepts(&Reference::Host));
    }

    #[test]
    fn digests_are_found_however_they_are_written() {
        let sum = "0123456789abcdef".repeat(4);
        let other = "f".repeat(64);
        for text in [
            format!("{other}  b.tar\n{sum}  a.tar\n"),
            format!("{sum} *a.tar\n"),
            format!("{sum}  ./x/a.tar\n"),
            format!(
                "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\nSHA256 (b.tar) = {other}\nSHA256 (a.tar) = {sum}\n"
            ),
            format!("{}\n", sum.to_uppercase()),
        ] {
            assert_eq!(digest_of(&text, "a.tar").as_deref(), Some(&sum[..]), "{text}");
        }
        for text in [
            "",
            "a.tar",
            &format!("{sum}  ba.tar"),
            "12  a.tar",
            &format!("SHA512 (a.tar) = {sum}"),
        ] {
            assert_eq!(digest_of(text, "a.tar"), None, "{text}");
        }
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (days, day) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (19_782, (2024, 2, 29)),
            (20_696, (2026, 8, 31)),
        ] {
            assert_eq!(civil(days), day);
        }
    }
}
