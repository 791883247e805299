//! The `[registry]` table of postroj's configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;
use spec::reference::DEFAULT_REGISTRY;

use crate::configuration;

/// What was configured for registries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Settings {
    /// The registry of short names, instead of Docker's.
    default: Option<String>,
    /// What short names stand for, such as `fedora = "registry.fedoraproject.org/fedora"`.
    short_names: BTreeMap<String, String>,
    /// By host, with its port if it has one.
    hosts: BTreeMap<String, Host>,
    /// Seconds of silence after which a connection counts as dead.
    timeout: Option<u64>,
    /// Bytes that a layer may have when it is unpacked.
    max_layer_bytes: Option<u64>,
    /// Entries that a layer may have.
    max_layer_entries: Option<u64>,
}

/// What was configured for one registry.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Host {
    /// It is spoken to without encryption.
    pub(crate) plain_http: bool,
    /// Certificates that may have signed its own, in PEM, besides the system's.
    pub(crate) ca: Option<PathBuf>,
    /// Registries, with a prefix of the repository's path or without, that are asked first.
    pub(crate) mirrors: Vec<String>,
}

#[derive(Deserialize)]
struct Tables {
    #[serde(default)]
    registry: Settings,
}

/// 128 GiB: beyond every real layer.
const MAX_LAYER: u64 = 128 << 30;

impl Settings {
    /// Reads the configuration files.
    ///
    /// # Errors
    /// One cannot be read or understood.
    pub fn read() -> Result<Self> {
        let mut merged = Self::default();
        for document in configuration::documents()? {
            merged = merged.or(document.parse::<Tables>()?.registry);
        }
        Ok(merged)
    }

    /// What is not set here is taken from another.
    fn or(mut self, other: Self) -> Self {
        for (name, meaning) in other.short_names {
            self.short_names.entry(name).or_insert(meaning);
        }
        for (name, host) in other.hosts {
            self.hosts.entry(name).or_insert(host);
        }
        Self {
            default: self.default.or(other.default),
            timeout: self.timeout.or(other.timeout),
            max_layer_bytes: self.max_layer_bytes.or(other.max_layer_bytes),
            max_layer_entries: self.max_layer_entries.or(other.max_layer_entries),
            ..self
        }
    }

    /// A registry's image by its full name, where it has a short one.
    pub fn expand(&self, name: &str) -> String {
        let first = name.split('/').next().unwrap_or_default();
        let has_host =
            name.contains('/') && (first.contains(['.', ':', '[']) || first == "localhost");
        if has_host {
            return name.to_owned();
        }
        let end = name.find([':', '@']).unwrap_or(name.len());
        let (path, rest) = name.split_at(end);
        if let Some(full) = self.short_names.get(path) {
            return format!("{full}{rest}");
        }
        match self.default.as_deref() {
            None | Some(DEFAULT_REGISTRY) => name.to_owned(),
            Some(registry) => format!("{registry}/{name}"),
        }
    }

    pub(crate) fn host(&self, name: &str) -> Host {
        self.hosts.get(name).cloned().unwrap_or_default()
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.unwrap_or(30).max(1))
    }

    pub(crate) fn limits(&self) -> store::unpack::Limits {
        let default = store::unpack::Limits::default();
        store::unpack::Limits {
            max_bytes: self.max_layer_bytes.unwrap_or(MAX_LAYER),
            max_entries: self.max_layer_entries.unwrap_or(default.max_entries),
            ..default
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        toml::from_str::<Tables>(text).unwrap().registry
    }

    #[test]
    fn short_names_and_hosts() {
        let user = settings(
            "[registry]\ndefault = \"quay.io\"\n[registry.short-names]\nfedora = \"r.example.org/f\"\n\
             [registry.hosts.\"a:5000\"]\nplain-http = true\nmirrors = [\"m/x\"]\n",
        );
        let system = settings(
            "[registry]\ndefault = \"x\"\ntimeout = 3\n[registry.short-names]\nfedora = \"y\"\n",
        );
        let merged = user.or(system);
        for (name, full) in [
            ("fedora:40", "r.example.org/f:40"),
            ("fedora@sha256:1", "r.example.org/f@sha256:1"),
            ("alpine", "quay.io/alpine"),
            ("a/alpine", "quay.io/a/alpine"),
            ("docker.io/a", "docker.io/a"),
            ("localhost/a", "localhost/a"),
            ("[::1]:5/a", "[::1]:5/a"),
        ] {
            assert_eq!(merged.expand(name), full);
        }
        assert_eq!(Settings::default().expand("alpine"), "alpine");
        assert!(merged.host("a:5000").plain_http && !merged.host("b").plain_http);
        assert_eq!(merged.host("a:5000").mirrors, ["m/x"]);
        assert_eq!(merged.timeout(), Duration::from_secs(3));
        assert_eq!(merged.limits().max_bytes, MAX_LAYER);
        assert!(toml::from_str::<Tables>("[registry]\ntiemout = 1").is_err());
        assert_eq!(settings("[bootstrap.debian]\nmirror = \"x\""), Settings::default());
    }
}
