//! A suite of an archive: where it is, and whose signatures are good.

mod choice;
mod host;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use super::keyring::Keyring;
pub(crate) use choice::choose;
pub(crate) use host::Host;

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

#[cfg(test)]
mod tests {
    use super::*;

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
