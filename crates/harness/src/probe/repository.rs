//! Repositories of packages that a user names, in the words of apt's sources.list(5) for every package manager.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// A repository besides those that an image has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// `http://`, `https://`, or `file:` of a directory of this host.
    pub url: String,
    /// What it is called, which pacman has to know: its database is `NAME.db`.
    pub name: Option<String>,
    /// apt's: the suite, or a path with a slash at its end.
    pub suite: Option<String>,
    /// apt's.
    pub components: Vec<String>,
    /// The file of its key, absolute; without one, whoever serves it is believed.
    pub key: Option<PathBuf>,
}

/// Where a directory of the host is inside, with the repository's number behind it.
const INSIDE: &str = "/run/host/repository-";

impl Repository {
    /// Reads `[deb ][\[signed-by=FILE|trusted=yes name=NAME\]] URL|DIRECTORY [SUITE [COMPONENT…]]`. `key` is that of repositories
    /// that name none themselves.
    ///
    /// # Errors
    /// Says what is wrong, or missing.
    pub fn parse(text: &str, key: Option<&Path>) -> Result<Self> {
        let what = || format!("{text:?} is no repository");
        let rest = text.trim();
        let rest = rest.strip_prefix("deb").filter(|r| r.starts_with([' ', '['])).unwrap_or(rest);
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(inner) => inner.split_once(']').with_context(what)?,
            None => ("", rest),
        };
        let (mut key, mut trusted, mut name) = (key.map(Path::to_owned), false, None);
        for option in options.split_whitespace() {
            match option.split_once('=') {
                Some(("signed-by", file)) => key = Some(file.into()),
                Some(("trusted", "yes")) => trusted = true,
                Some(("name", text)) => name = Some(text.to_owned()),
                Some(("arch", _)) => {}
                _ => bail!(
                    "{option} is no option of a repository: signed-by=FILE, trusted=yes and name=NAME are"
                ),
            }
        }
        let mut words = rest.split_whitespace().map(str::to_owned);
        let url = address(&words.next().with_context(what)?)?;
        let suite = words.next();
        let components: Vec<String> = words.collect();
        let flat = suite.as_ref().is_some_and(|suite| suite.ends_with('/'));
        ensure!(!flat || components.is_empty(), "{text:?}: what has a path has no components");
        let key = match (key, trusted) {
            (_, true) => None,
            (Some(file), false) => {
                Some(std::fs::canonicalize(&file).with_context(|| {
                    format!("cannot find the repository's key {}", file.display())
                })?)
            }
            (None, false) => bail!(
                "{text:?} has no key: give --repo-key FILE, or say '[trusted=yes] {rest}' if it is not signed",
                rest = rest.trim()
            ),
        };
        let name = name.or_else(|| database(&url));
        Ok(Self { url, name, suite, components, key })
    }

    /// The directory of this host that it is.
    #[must_use]
    pub fn directory(&self) -> Option<&str> {
        self.url.strip_prefix("file:").map(|path| path.strip_prefix("//").unwrap_or(path))
    }

    /// Options of `boot` by which a machine has what is on this host of these.
    pub(crate) fn volumes(all: &[Self]) -> Vec<String> {
        let of = |(number, one): (usize, &Self)| {
            let volume = format!("{}:{INSIDE}{number}:ro", one.directory()?);
            Some(["--volume".to_owned(), volume])
        };
        all.iter().enumerate().filter_map(of).flatten().collect()
    }

    /// Its address as the machine has it; `number` is its place among all.
    pub(crate) fn inside(&self, number: usize) -> String {
        self.directory().map_or_else(|| self.url.clone(), |_| format!("file://{INSIDE}{number}"))
    }

    /// Suite and components, with a space between.
    pub(crate) fn parts(&self) -> Option<String> {
        let suite = self.suite.clone()?;
        Some(self.components.iter().fold(suite, |parts, component| parts + " " + component))
    }
}

/// As [`Repository::parse`] reads it.
impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "[signed-by={}", key.display())?,
            None => write!(f, "[trusted=yes")?,
        }
        if let Some(name) = &self.name {
            write!(f, " name={name}")?;
        }
        write!(f, "] {}", self.url)?;
        self.parts().map_or(Ok(()), |parts| write!(f, " {parts}"))
    }
}

/// The name of a directory with one database of pacman's.
fn database(url: &str) -> Option<String> {
    let entries = std::fs::read_dir(url.strip_prefix("file:")?).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names = names.filter_map(|name| name.strip_suffix(".db").map(str::to_owned));
    names.next().filter(|_| names.next().is_none())
}

/// A directory as `file:` and its absolute path; what is elsewhere as it is.
fn address(text: &str) -> Result<String> {
    let path = match text.split_once(':') {
        Some(("http" | "https", rest)) if rest.starts_with("//") => return Ok(text.to_owned()),
        Some(("file", rest)) => rest.strip_prefix("//").unwrap_or(rest),
        _ if text.contains("://") => {
            bail!("{text}: repositories are at http, https and file addresses")
        }
        _ => text,
    };
    let path = std::fs::canonicalize(path)
        .with_context(|| format!("cannot find the repository's directory {path}"))?;
    ensure!(path.is_dir(), "the repository {} is no directory", path.display());
    let path = path.to_str().context("the repository's path is not UTF-8")?;
    // It is a part of a line, and of a volume.
    ensure!(
        !path.contains([':', ']']) && !path.contains(char::is_whitespace),
        "the repository's path {path:?} has a blank, a colon or a bracket"
    );
    Ok(format!("file:{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_is_written() {
        let temp = tempfile::tempdir().unwrap();
        let here = temp.path().canonicalize().unwrap();
        let key = here.join("key.asc");
        std::fs::write(&key, "x").unwrap();
        let (here, key) = (here.to_str().unwrap(), key.to_str().unwrap());
        for (text, shown) in [
            (
                format!(
                    "deb [signed-by={key} arch=amd64] https://x.example.org/a stable main contrib"
                ),
                format!("[signed-by={key}] https://x.example.org/a stable main contrib"),
            ),
            (format!("[trusted=yes] {here} ./"), format!("[trusted=yes] file:{here} ./")),
            (format!("deb [trusted=yes] file://{here} /"), format!("[trusted=yes] file:{here} /")),
            (format!("[signed-by={key}] http://x/y"), format!("[signed-by={key}] http://x/y")),
        ] {
            let read = Repository::parse(&text, None).unwrap();
            assert_eq!(read.to_string(), shown);
            assert_eq!(Repository::parse(&shown, None).unwrap(), read);
        }
        let read = Repository::parse("https://x/y", Some(Path::new(key))).unwrap();
        assert_eq!(read.key.as_deref(), Some(Path::new(key)));
        assert_eq!(read.inside(1), "https://x/y");
        let local = Repository::parse(here, Some(Path::new(key))).unwrap();
        assert_eq!(local.inside(1), "file:///run/host/repository-1");
        assert_eq!(
            Repository::volumes(&[read, local]),
            ["--volume".to_owned(), format!("{here}:/run/host/repository-1:ro")]
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("https://x/y", "has no key: give --repo-key"),
            ("[trusted=yes] ftp://x/y", "http, https and file"),
            ("[trusted=yes] /nowhere/at/all", "cannot find the repository's directory"),
            ("[trusted=yes] https://x/y ./ main", "no components"),
            ("[signed-by=/nowhere] https://x/y", "cannot find the repository's key"),
            ("[pin=1] https://x/y", "pin=1 is no option"),
            ("[trusted=yes", "is no repository"),
            ("deb", "cannot find"),
            ("", "is no repository"),
        ] {
            let error = format!("{:#}", Repository::parse(text, None).unwrap_err());
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
