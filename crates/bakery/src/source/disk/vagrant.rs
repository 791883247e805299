//! Boxes of Vagrant's catalog (its documentation, "Creating a Base Box", "Box Metadata").

use anyhow::{Context as _, Error, Result, bail, ensure};
use serde::Deserialize;
use spec::event::Event;
use spec::platform::Platform;
use spec::reference::{Reference, VagrantReference};

use crate::configuration;
use crate::source::registry::address::{Address, is_loopback};
use crate::source::{Context, ImageSource, Pulled, bootstrap, tar};

/// The source of `vagrant:NAME@VERSION`.
pub(crate) struct Source;

/// Where the catalog is, unless `--mirror` or the configuration says otherwise; as Vagrant asks it.
const SERVER: &str = "https://vagrantcloud.com/api/v2/vagrant";
/// Far beyond every real catalog of a box: bytes.
const MAX_CATALOG: u64 = 16 << 20;
/// The best first: a disk as it is, before one that is packed.
const PROVIDERS: [&str; 9] = [
    "libvirt",
    "qemu",
    "virtualbox",
    "vmware_desktop",
    "vmware",
    "parallels",
    "hyperv",
    "lxc",
    "docker",
];

/// The table `[vagrant]` of the configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Settings {
    vagrant: Table,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Table {
    /// Address to which a box's name is appended.
    server: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Catalog {
    versions: Vec<Version>,
}

#[derive(Debug, Deserialize)]
struct Version {
    version: String,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    providers: Vec<Provider>,
}

#[derive(Debug, Deserialize)]
struct Provider {
    name: String,
    url: String,
    #[serde(default)]
    checksum: Option<String>,
    #[serde(default)]
    checksum_type: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
}

impl ImageSource for Source {
    fn accepts(&self, reference: &Reference) -> bool {
        matches!(reference, Reference::Vagrant(_))
    }

    fn pull(&self, reference: &Reference, context: &Context<'_>) -> Result<Pulled> {
        let Reference::Vagrant(wanted) = reference else { bail!("{reference} is no box") };
        let options = context.options;
        ensure!(
            options.include.is_empty() && options.keyring.is_none(),
            "--keyring and --include mean nothing for a box: leave them out"
        );
        let platform = match options.platform.as_deref() {
            Some(text) => Platform::parse(text).map_err(Error::msg)?,
            None => Platform::host(),
        };
        let fetcher = bootstrap::fetcher(context);
        let address = format!("{}/{}", server(context)?.trim_end_matches('/'), wanted.name);
        context.tell.tell(Event::Phase { name: format!("asking for {}", wanted.name) });
        let text = fetcher.read(&address, MAX_CATALOG)?;
        let text =
            text.with_context(|| format!("the catalog has no box {:?}: {address}", wanted.name))?;
        let catalog: Catalog =
            serde_json::from_slice(&text).with_context(|| format!("reading {address}"))?;
        let (version, provider) = choose(&catalog, wanted, &platform.architecture)?;
        let sha256 = provider.sha256();
        ensure!(
            sha256.is_some() || !is_in_the_open(&provider.url),
            "{} would come without encryption, and no SHA-256 says what it should be",
            provider.url
        );
        let name = format!("fetching {version} for {}", provider.name);
        context.tell.tell(Event::Phase { name });
        tar::pull_address(&provider.url, sha256.as_deref(), &fetcher, context)
    }
}

fn server(context: &Context<'_>) -> Result<String> {
    if let Some(mirror) = &context.options.mirror {
        return Ok(mirror.clone());
    }
    for document in configuration::documents()? {
        if let Some(server) = document.parse::<Settings>()?.vagrant.server {
            return Ok(server);
        }
    }
    Ok(SERVER.to_owned())
}

fn choose<'a>(
    catalog: &'a Catalog,
    wanted: &VagrantReference,
    architecture: &str,
) -> Result<(&'a str, &'a Provider)> {
    let active = |version: &&Version| version.status.as_deref().is_none_or(|s| s == "active");
    let mut versions: Vec<&Version> = catalog.versions.iter().filter(active).collect();
    versions.sort_by_key(|version| std::cmp::Reverse(numbers(&version.version)));
    if let Some(asked) = &wanted.version {
        let newest: Vec<&str> = versions.iter().take(5).map(|v| &v.version[..]).collect();
        let newest = newest.join(", ");
        versions.retain(|version| version.version == *asked);
        ensure!(
            !versions.is_empty(),
            "{} has no version {asked}; the newest are {newest}",
            wanted.name
        );
    }
    for version in &versions {
        let suits = |provider: &&Provider| {
            let known = provider.architecture.as_deref();
            known.is_none_or(|known| known == architecture || known == "unknown")
        };
        let rank = |provider: &&Provider| PROVIDERS.iter().position(|name| *name == provider.name);
        let mut known: Vec<(usize, &Provider)> =
            version.providers.iter().filter(suits).filter_map(|p| Some((rank(&p)?, p))).collect();
        known.sort_by_key(|(rank, _)| *rank);
        if let Some((_, provider)) = known.first() {
            return Ok((&version.version, provider));
        }
    }
    bail!("{} has nothing for {architecture} of a provider that is known", wanted.name)
}

/// `1.10` is newer than `1.9`.
fn numbers(version: &str) -> Vec<u64> {
    version.split(['.', '-', '_', '+']).map(|part| part.parse().unwrap_or(0)).collect()
}

impl Provider {
    /// In lower-case hex; `None` where it is another sum.
    fn sha256(&self) -> Option<String> {
        let of_kind = self.checksum_type.as_deref() == Some("sha256");
        let sum = self.checksum.as_deref().filter(|_| of_kind)?.to_ascii_lowercase();
        (sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit())).then_some(sum)
    }
}

/// On this machine nobody listens in.
fn is_in_the_open(address: &str) -> bool {
    let parsed = Address::parse(address);
    parsed.is_none_or(|parsed| parsed.scheme == "http" && !is_loopback(&parsed.host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_for_here() {
        let text = r#"{"versions": [
            {"version": "1.9", "status": "active", "providers": [{"name": "virtualbox", "url": "a"}]},
            {"version": "1.10", "status": "active", "providers": [
                {"name": "virtualbox", "url": "b", "architecture": "amd64"},
                {"name": "libvirt", "url": "c", "architecture": "arm64"},
                {"name": "odd", "url": "d"}]},
            {"version": "2.0", "status": "revoked", "providers": [{"name": "lxc", "url": "e"}]}]}"#;
        let catalog: Catalog = serde_json::from_str(text).unwrap();
        let url = |version: Option<&str>, architecture: &str| {
            let version = version.map(str::to_owned);
            let wanted = VagrantReference { name: "a/b".into(), version };
            choose(&catalog, &wanted, architecture).map(|(_, provider)| provider.url.clone())
        };
        assert_eq!(url(None, "amd64").unwrap(), "b");
        assert_eq!(url(None, "arm64").unwrap(), "c");
        assert_eq!(url(None, "s390x").unwrap(), "a");
        assert_eq!(url(Some("1.9"), "amd64").unwrap(), "a");
        let error = url(Some("2.0"), "amd64").unwrap_err().to_string();
        assert_eq!(error, "a/b has no version 2.0; the newest are 1.10, 1.9");
    }
}
