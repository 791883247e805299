//! postroj's configuration files: the user's, and the system's for what that does not say.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use serde::de::DeserializeOwned;

/// A configuration file and its text.
pub(crate) struct Document {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What it says.
    pub(crate) text: String,
}

impl Document {
    /// Reads the tables that `T` names; the others are left to whom they belong to.
    ///
    /// # Errors
    /// It is no TOML, or a key is unknown: in one line, with its number.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        toml::from_str(&self.text).map_err(|error| {
            let before = error.span().map_or(0, |span| span.start).min(self.text.len());
            let line = self.text.as_bytes()[..before].iter().filter(|&&b| b == b'\n').count() + 1;
            anyhow!(
                "reading configuration {}: line {line}: {}",
                self.path.display(),
                error.message()
            )
        })
    }
}

/// The user's and the system's files, as far as there are any.
///
/// # Errors
/// One cannot be read.
pub(crate) fn documents() -> Result<Vec<Document>> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let user = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let directories = user.or(home).into_iter().chain([PathBuf::from("/etc")]);
    let mut documents = Vec::new();
    for directory in directories {
        let path = directory.join("postroj/config.toml");
        match std::fs::read_to_string(&path) {
            Ok(text) => documents.push(Document { path, text }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("reading configuration {}", path.display()));
            }
        }
    }
    Ok(documents)
}
