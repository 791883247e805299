//! What dependencies may be: the part of deny.toml that can be checked without a network.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use toml::{Table, Value as Toml};

use crate::command::{cargo, find, output, run, succeeds};
use crate::spdx;

/// Checks licences, sources and duplicates; asks cargo-deny too where it is installed.
///
/// # Errors
/// Lists the packages that deny.toml does not allow.
pub(crate) fn check() -> Result<()> {
    let text = std::fs::read_to_string("deny.toml").context("reading deny.toml")?;
    let rules = Rules::parse(&text).context("reading deny.toml")?;
    let mut metadata = cargo();
    metadata.args(["metadata", "--locked", "--format-version", "1"]);
    for target in &rules.targets {
        metadata.args(["--filter-platform", target]);
    }
    let metadata: Value =
        serde_json::from_str(&output(&mut metadata)?).context("reading cargo's metadata")?;
    let packages = packages(&metadata)?;
    let verdict = judge(&packages, &rules);
    for warning in &verdict.warnings {
        eprintln!("warning: {warning}");
    }
    for refusal in &verdict.refusals {
        eprintln!("error: {refusal}");
    }
    if !verdict.refusals.is_empty() {
        bail!("{} dependencies are not as deny.toml wants them", verdict.refusals.len());
    }
    eprintln!("{} packages: licences and sources are as deny.toml wants them", packages.len());
    cargo_deny()
}

/// cargo-deny itself, for the advisories; their database comes from the network.
fn cargo_deny() -> Result<()> {
    if find("cargo-deny").is_none() && !succeeds(cargo().args(["deny", "--version"])) {
        eprintln!(
            "advisories: not checked, for want of cargo-deny (`cargo install --locked cargo-deny`)"
        );
        return Ok(());
    }
    let mut deny = cargo();
    deny.args(["deny", "--locked"]);
    if succeeds(cargo().args(["deny", "--locked", "fetch", "db"])) {
        return run(deny.args(["check", "--disable-fetch"]));
    }
    eprintln!("advisories: not checked, because their database cannot be fetched");
    run(deny.args(["check", "bans", "licenses", "sources"]))
}

/// The rules that are ours to apply.
struct Rules {
    targets: Vec<String>,
    allow: BTreeSet<String>,
    /// Licences that single crates may have besides.
    exceptions: BTreeMap<String, BTreeSet<String>>,
    skip: Vec<Skip>,
}

/// A crate that may be there in another version too.
struct Skip {
    name: String,
    /// Its first components.
    version: String,
}

impl Skip {
    fn covers(&self, package: &Package) -> bool {
        let rest = package.version.strip_prefix(self.version.as_str());
        self.name == package.name
            && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl Rules {
    fn parse(text: &str) -> Result<Self> {
        let table: Table = text.parse()?;
        let array = |section: &str, key: &str| -> &[Toml] {
            let value = table.get(section).and_then(|section| section.get(key));
            value.and_then(Toml::as_array).map_or(&[], Vec::as_slice)
        };
        let strings = |values: &[Toml]| -> Vec<String> {
            values.iter().filter_map(Toml::as_str).map(str::to_owned).collect()
        };
        let mut exceptions = BTreeMap::new();
        for entry in array("licenses", "exceptions") {
            let name = field(entry, "crate")?.to_owned();
            let allow = entry.get("allow").and_then(Toml::as_array).map_or(&[][..], Vec::as_slice);
            exceptions.insert(name, strings(allow).into_iter().collect());
        }
        let mut skip = Vec::new();
        for entry in array("bans", "skip") {
            let (name, version) =
                field(entry, "crate")?.split_once('@').context("a skip is NAME@VERSION")?;
            skip.push(Skip { name: name.to_owned(), version: version.to_owned() });
        }
        let allow: BTreeSet<String> = strings(array("licenses", "allow")).into_iter().collect();
        if allow.is_empty() {
            bail!("licenses.allow is empty");
        }
        Ok(Self { targets: strings(array("graph", "targets")), allow, exceptions, skip })
    }
}

fn field<'a>(entry: &'a Toml, key: &str) -> Result<&'a str> {
    entry.get(key).and_then(Toml::as_str).with_context(|| format!("{key} is missing in {entry:?}"))
}

/// What counts of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Package {
    name: String,
    version: String,
    licence: Option<String>,
    /// `None` for those of the workspace.
    source: Option<String>,
}

/// The packages that are part of the graph; cargo lists others too.
fn packages(metadata: &Value) -> Result<Vec<Package>> {
    let nodes = metadata["resolve"]["nodes"].as_array().context("cargo resolved nothing")?;
    let used: BTreeSet<&str> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
    let all = metadata["packages"].as_array().context("cargo knows no packages")?;
    let word = |value: &Value| value.as_str().map(str::to_owned);
    all.iter()
        .filter(|package| package["id"].as_str().is_some_and(|id| used.contains(id)))
        .map(|package| {
            Ok(Package {
                name: word(&package["name"]).context("a package without a name")?,
                version: word(&package["version"]).context("a package without a version")?,
                licence: word(&package["license"]),
                source: word(&package["source"]),
            })
        })
        .collect()
}

#[derive(Default)]
struct Verdict {
    refusals: Vec<String>,
    warnings: Vec<String>,
}

fn judge(packages: &[Package], rules: &Rules) -> Verdict {
    let mut verdict = Verdict::default();
    let mut versions: BTreeMap<&str, Vec<&Package>> = BTreeMap::new();
    let mut registry = None;
    for package in packages {
        versions.entry(&package.name).or_default().push(package);
        let named = format!("{} {}", package.name, package.version);
        match &package.source {
            Some(source) if !source.starts_with("registry+") => {
                verdict
                    .refusals
                    .push(format!("{named}: comes from {source}, not from the registry"));
            }
            Some(source) if *registry.get_or_insert(source) != source => {
                verdict.refusals.push(format!("{named}: comes from a second registry, {source}"));
            }
            _ => {}
        }
        let own = rules.exceptions.get(&package.name);
        let allowed = |licence: &str| {
            rules.allow.contains(licence) || own.is_some_and(|own| own.contains(licence))
        };
        match package
            .licence
            .as_deref()
            .map(|licence| (licence, spdx::satisfied(licence, &allowed)))
        {
            None => verdict.refusals.push(format!("{named}: says no licence")),
            Some((licence, Ok(false))) => {
                verdict.refusals.push(format!("{named}: the licence {licence} is not allowed"));
            }
            Some((licence, Err(error))) => {
                verdict.refusals.push(format!("{named}: the licence {licence:?} is none: {error}"));
            }
            Some((_, Ok(true))) => {}
        }
    }
    for (name, found) in versions {
        let unlisted: Vec<&str> = found
            .iter()
            .filter(|package| !rules.skip.iter().any(|skip| skip.covers(package)))
            .map(|package| package.version.as_str())
            .collect();
        if unlisted.len() > 1 {
            verdict.warnings.push(format!("{name} is there in versions {}", unlisted.join(", ")));
        }
    }
    for skip in &rules.skip {
        if !packages.iter().any(|package| skip.covers(package)) {
            let Skip { name, version } = skip;
            verdict.warnings.push(format!("deny.toml skips {name}@{version}, which is not there"));
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"
        [graph]
        targets = ["x86_64-unknown-linux-gnu"]
        [licenses]
        allow = ["MIT"]
        exceptions = [{ crate = "roots", allow = ["CDLA-Permissive-2.0"] }]
        [bans]
        skip = [{ crate = "old@0.1", reason = "because" }]
    "#;

    fn package(name: &str, version: &str, licence: Option<&str>, source: Option<&str>) -> Package {
        Package {
            name: name.into(),
            version: version.into(),
            licence: licence.map(str::to_owned),
            source: source.map(str::to_owned),
        }
    }

    fn verdict(packages: &[Package]) -> (Vec<String>, Vec<String>) {
        let verdict = judge(packages, &Rules::parse(RULES).unwrap());
        (verdict.refusals, verdict.warnings)
    }

    #[test]
    fn what_is_allowed() {
        let here = Some("registry+https://index.example.org");
        let (refusals, warnings) = verdict(&[
            package("own", "0.1.0", Some("MIT"), None),
            package("either", "1.0.0", Some("GPL-3.0 OR MIT"), here),
            package("roots", "1.0.0", Some("CDLA-Permissive-2.0"), here),
            package("old", "0.1.7", Some("MIT"), here),
            package("old", "0.2.0", Some("MIT"), here),
        ]);
        assert!(refusals.is_empty(), "{refusals:?}");
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn what_is_refused() {
        let here = Some("registry+https://index.example.org");
        for (package, part) in [
            (package("a", "1.0.0", None, here), "says no licence"),
            (package("a", "1.0.0", Some("GPL-3.0"), here), "GPL-3.0 is not allowed"),
            (package("a", "1.0.0", Some("CDLA-Permissive-2.0"), here), "is not allowed"),
            (package("a", "1.0.0", Some("MIT OR"), here), "is none"),
            (package("a", "1.0.0", Some("MIT"), Some("git+https://x")), "not from the registry"),
            (package("a", "1.0.0", Some("MIT"), Some("registry+https://x")), "second registry"),
        ] {
            let first = super::tests::package("first", "1.0.0", Some("MIT"), here);
            let (refusals, _) = verdict(&[first, package]);
            assert!(matches!(&refusals[..], [one] if one.contains(part)), "{part}: {refusals:?}");
        }
    }

    #[test]
    fn duplicates_and_stale_skips_are_warned_of() {
        let (refusals, warnings) = verdict(&[
            package("twice", "1.0.0", Some("MIT"), None),
            package("twice", "2.0.0", Some("MIT"), None),
            package("old", "0.10.0", Some("MIT"), None),
        ]);
        assert!(refusals.is_empty());
        assert_eq!(
            warnings,
            [
                "twice is there in versions 1.0.0, 2.0.0",
                "deny.toml skips old@0.1, which is not there"
            ]
        );
    }

    #[test]
    fn rules_without_licences_are_a_mistake() {
        assert!(Rules::parse("[licenses]\nallow = []").is_err());
        assert!(Rules::parse("[bans]\nskip = [{ crate = \"a\" }]\n").is_err());
        assert!(Rules::parse("[licenses").is_err());
    }
}
