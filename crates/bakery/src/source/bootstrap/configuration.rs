//! The `[bootstrap.FAMILY]` tables of postroj's configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use serde::Deserialize;

use crate::configuration;

/// What was configured for one family of distributions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Configuration {
    /// Where the archive is.
    pub(crate) mirror: Option<String>,
    /// Where the archive of security updates is.
    pub(crate) security_mirror: Option<String>,
    /// The keyring for both.
    pub(crate) keyring: Option<PathBuf>,
    /// Whether an expired Release is refused.
    pub(crate) check_valid_until: Option<bool>,
}

#[derive(Deserialize)]
struct Tables {
    #[serde(default)]
    bootstrap: BTreeMap<String, Configuration>,
}

impl Configuration {
    /// Reads the user's and the system's files, as far as there are any.
    ///
    /// # Errors
    /// One cannot be read or understood.
    pub(crate) fn read(family: &str) -> Result<Self> {
        let mut merged = Self::default();
        for document in configuration::documents()? {
            let mut tables: Tables = document.parse()?;
            merged = merged.or(tables.bootstrap.remove(family).unwrap_or_default());
        }
        Ok(merged)
    }

    /// What is not set here is taken from another.
    fn or(self, other: Self) -> Self {
        Self {
            mirror: self.mirror.or(other.mirror),
            security_mirror: self.security_mirror.or(other.security_mirror),
            keyring: self.keyring.or(other.keyring),
            check_valid_until: self.check_valid_until.or(other.check_valid_until),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(text: &str, family: &str) -> Result<Configuration, toml::de::Error> {
        let mut tables: Tables = toml::from_str(text)?;
        Ok(tables.bootstrap.remove(family).unwrap_or_default())
    }

    #[test]
    fn tables_of_a_family() {
        let text = "[other]\nx = 1\n[bootstrap.debian]\nmirror = \"http://deb.example.org/debian\"\n\
            keyring = \"/k.gpg\"\ncheck-valid-until = false\n[bootstrap.ubuntu]\nsecurity-mirror = \"http://x\"\n";
        let debian = parse(text, "debian").unwrap();
        assert_eq!(debian.mirror.as_deref(), Some("http://deb.example.org/debian"));
        assert_eq!(debian.keyring.as_deref(), Some(Path::new("/k.gpg")));
        assert_eq!(debian.check_valid_until, Some(false));
        assert_eq!(debian.security_mirror, None);
        assert_eq!(parse(text, "ubuntu").unwrap().security_mirror.as_deref(), Some("http://x"));
        assert_eq!(parse(text, "fedora").unwrap(), Configuration::default());
        let merged = parse(text, "ubuntu").unwrap().or(debian.clone());
        assert_eq!(merged.mirror, debian.mirror);
        assert!(parse("[bootstrap.debian]\nmirorr = \"x\"", "debian").is_err());
        assert!(parse("bootstrap = 1", "debian").is_err());
    }
}
