//! The catalog: what can be asked for by name, and whether a file of it is sound.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use distro::catalog::{Bootstrap, Catalog, Family, Place, Release, check};

use super::table;

/// Care for the catalog of systems
#[derive(Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// Look for faults in files of the catalog, and tell their line and column
    Check(Check),
}

#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// Files [default: what is built in, and those in the distro.d of /etc/postroj and
    /// $XDG_CONFIG_HOME/postroj]
    file: Vec<PathBuf>,
}

pub(super) fn run(verb: &Verb) -> Result<u8> {
    let Verb::Check(args) = verb;
    let mut texts = Vec::new();
    for path in &args.file {
        texts.push((path.display().to_string(), read(path)?));
    }
    if args.file.is_empty() {
        let builtin = Catalog::texts().iter().map(|text| ("built in".into(), (*text).to_owned()));
        texts.extend(builtin);
        for path in Catalog::files()? {
            texts.push((path.display().to_string(), read(&path)?));
        }
    }
    let (mut releases, mut faults) = (0, 0);
    for (name, text) in &texts {
        match check(text) {
            Ok(family) => releases += family.releases.len(),
            Err(found) => {
                found.iter().for_each(|fault| eprintln!("{name}:{fault}"));
                faults += found.len();
            }
        }
    }
    if faults > 0 {
        return Ok(1);
    }
    println!("{releases} releases in {} files are sound", texts.len());
    Ok(0)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// `images --catalog`.
pub(super) fn list(json: bool, quiet: bool) -> Result<u8> {
    let catalog = Catalog::load()?;
    if json {
        let list: Vec<_> =
            catalog.releases().map(|(family, release)| as_json(family, release)).collect();
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(0);
    }
    if quiet {
        catalog.releases().for_each(|(_, release)| println!("{}", release.label));
        return Ok(0);
    }
    let heading = ["NAME", "ALSO", "PACKAGES", "INIT", "UNTIL", "FROM"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    for (family, release) in catalog.releases() {
        rows.push(vec![
            release.label.clone(),
            release.aliases.join(" "),
            release.package_manager(family).to_owned(),
            release.init(family).to_owned(),
            release.end_of_life.clone().unwrap_or_default(),
            origin(release),
        ]);
    }
    print!("{}", table::render(&rows));
    Ok(0)
}

/// The first place that counts.
fn origin(release: &Release) -> String {
    match (&release.bootstrap, release.from.first()) {
        (Some(_), _) => "its own archive".into(),
        (None, Some(place)) => place.address().to_owned(),
        (None, None) => String::new(),
    }
}

fn as_json(family: &Family, release: &Release) -> serde_json::Value {
    let made = release.bootstrap.iter().map(|bootstrap: &Bootstrap| {
        serde_json::json!({ "Bootstrap": bootstrap.suite, "Components": bootstrap.components })
    });
    let finished = release.from.iter().map(|place: &Place| {
        let mut shown = serde_json::Map::new();
        for (name, value) in [
            ("Registry", &place.registry),
            ("Tarball", &place.tarball),
            ("Disk", &place.disk),
            ("Sha256", &place.sha256),
            ("Checksum", &place.checksum),
            ("Signature", &place.signature),
        ] {
            if let Some(value) = value {
                shown.insert(name.into(), value.clone().into());
            }
        }
        if !place.architectures.is_empty() {
            shown.insert("Architectures".into(), place.architectures.clone().into());
        }
        shown.into()
    });
    let from: Vec<serde_json::Value> = made.chain(finished).collect();
    serde_json::json!({
        "Name": release.label,
        "Aliases": release.aliases,
        "Family": family.name,
        "PackageManager": release.package_manager(family),
        "Init": release.init(family),
        "Bootable": family.bootable,
        "Architectures": family.architectures.keys().collect::<Vec<_>>(),
        "EndOfLife": release.end_of_life,
        "Archive": release.archive,
        "Quirks": release.quirks,
        "From": from,
        "File": family.file,
    })
}
