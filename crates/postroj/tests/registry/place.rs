//! A directory for one test, with a store of its own: what is in the store is what the test pulled.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::fixture;

pub(crate) struct Place {
    path: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = fixture::home().join(format!("registry-{}-{number}", std::process::id()));
        for directory in ["config/postroj", "home", "run"] {
            std::fs::create_dir_all(path.join(directory)).unwrap();
        }
        Self { path }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// postroj's own configuration.
    pub(crate) fn configure(&self, text: &str) {
        self.write("config/postroj/config.toml", text);
    }

    pub(crate) fn postroj(&self, args: &[&str]) -> Command {
        let mut command = fixture::postroj(args);
        command
            .env("POSTROJ_STORE", self.path("store"))
            .env("POSTROJ_RUNROOT", self.path("run"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("HOME", self.path("home"))
            .env("REGISTRY_AUTH_FILE", self.path("auth.json"))
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("SSL_CERT_FILE")
            .current_dir(&self.path);
        command
    }

    /// Names in a directory of the store.
    pub(crate) fn stored(&self, directory: &str) -> Vec<String> {
        names(&self.path("store").join(directory))
    }
}

pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

impl Drop for Place {
    fn drop(&mut self) {
        // Layers of an ordinary user's store belong to other ids, which only its namespace can remove.
        let prune = self.postroj(&["system", "prune", "--all"]).output();
        let removed = std::fs::remove_dir_all(&self.path);
        if !std::thread::panicking() {
            removed.unwrap_or_else(|error| panic!("{error}, after {prune:?}"));
        }
    }
}

/// Runs a tool that must succeed; returns what it printed.
#[track_caller]
pub(crate) fn tool(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}: `cargo xtask setup` installs what is missing")
    });
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
