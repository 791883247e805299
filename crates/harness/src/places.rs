//! Where this user's images and machines are kept.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// The two directories that everything else is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Images: survives a reboot.
    pub store: PathBuf,
    /// Machines: does not.
    pub run: PathBuf,
}

impl Places {
    /// By user and environment: `/var/lib/postroj` and `/run/postroj` for root, else
    /// `$XDG_DATA_HOME/postroj` and `$XDG_RUNTIME_DIR/postroj` (XDG Base Directory
    /// Specification 0.8). To be asked before a user namespace is entered.
    ///
    /// # Errors
    /// Where there is neither a home nor `XDG_DATA_HOME`.
    pub fn of_user(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        if rustix::process::getuid().is_root() {
            return Ok(Self { store: "/var/lib/postroj".into(), run: "/run/postroj".into() });
        }
        Self::of_home(variable)
    }

    /// The same for who is an ordinary user of the host, though perhaps root of a user namespace.
    ///
    /// # Errors
    /// As [`Places::of_user`].
    pub fn of_home(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let uid = rustix::process::getuid();
        let absolute =
            |name: &str| variable(name).filter(|v| v.starts_with('/')).map(PathBuf::from);
        let store = absolute("XDG_DATA_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
            .context("neither HOME nor XDG_DATA_HOME is set: give --store DIR")?;
        // Without a login session there is no runtime directory; who else owns this one is checked.
        let run = absolute("XDG_RUNTIME_DIR").map_or_else(
            || PathBuf::from(format!("/tmp/postroj-{}", uid.as_raw())),
            |dir| dir.join("postroj"),
        );
        Ok(Self { store: store.join("postroj"), run })
    }
}
