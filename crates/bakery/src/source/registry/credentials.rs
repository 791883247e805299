//! Names and passwords for registries, where docker and podman keep them: docker's
//! `config.json`, podman's `auth.json` (containers-auth.json(5)), and credential helpers
//! (github.com/docker/docker-credential-helpers).

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};
use spec::reference::DEFAULT_REGISTRY;

/// What proves to a registry who one is.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A name and a password.
    Password(String, String),
    /// A refresh token, to be exchanged.
    IdentityToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// The key of Docker's own registry in docker's file.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Looks for the credential for a repository of a registry; `None` where there is none.
///
/// # Errors
/// A file cannot be understood, or a helper fails.
pub(crate) fn find(registry: &str, repository: &str) -> Result<Option<Credential>> {
    for path in files() {
        let Some(document) = read(&path)? else { continue };
        let found = in_document(&document, registry, repository)
            .with_context(|| format!("reading credentials from {}", path.display()))?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Keeps a credential for a registry; returns the file it is in.
///
/// # Errors
/// The file cannot be understood or written.
pub(crate) fn store(registry: &str, name: &str, password: &str) -> Result<PathBuf> {
    change(|document| {
        let auth = BASE64_STANDARD.encode(format!("{name}:{password}"));
        let auths = document.entry("auths").or_insert_with(|| json!({}));
        let auths = auths.as_object_mut().context("its auths are no object")?;
        auths.insert(key_of(registry), json!({ "auth": auth }));
        Ok(true)
    })
}

/// Forgets a registry's credential; returns the file it was in.
///
/// # Errors
/// There is none, or the file cannot be written.
pub(crate) fn forget(registry: &str) -> Result<PathBuf> {
    change(|document| {
        let auths = document.get_mut("auths").and_then(Value::as_object_mut);
        Ok(auths.is_some_and(|auths| auths.remove(&key_of(registry)).is_some()))
    })
    .with_context(|| format!("logging out of {registry}"))
}

fn change(edit: impl FnOnce(&mut Map<String, Value>) -> Result<bool>) -> Result<PathBuf> {
    let path = own_file().context("neither REGISTRY_AUTH_FILE nor XDG_RUNTIME_DIR is set")?;
    let writing = || format!("writing credentials to {}", path.display());
    let mut document = read(&path)?.unwrap_or_default();
    ensure!(edit(&mut document)?, "{} has no such credential", path.display());
    let directory = path.parent().with_context(writing)?;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory).with_context(writing)?;
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let mut options = std::fs::File::options();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(writing)?;
    file.write_all(&serde_json::to_vec_pretty(&document)?)
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&temporary, &path))
        .with_context(writing)?;
    Ok(path)
}

/// As podman: the first is where `login` writes.
fn files() -> Vec<PathBuf> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    if let Some(only) = std::env::var_os("REGISTRY_AUTH_FILE") {
        return vec![only.into()];
    }
    let home = absolute("HOME");
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
    let docker = absolute("DOCKER_CONFIG").or_else(|| Some(home.as_ref()?.join(".docker")));
    let mut files: Vec<PathBuf> = own_file().into_iter().collect();
    files.extend(config.map(|dir| dir.join("containers/auth.json")));
    files.extend(docker.map(|dir| dir.join("config.json")));
    files
}

fn own_file() -> Option<PathBuf> {
    if let Some(only) = std::env::var_os("REGISTRY_AUTH_FILE") {
        return Some(only.into());
    }
    if let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR") {
        return Some(Path::new(&runtime).join("containers/auth.json"));
    }
    rustix::process::geteuid().is_root().then(|| "/run/containers/0/auth.json".into())
}

fn read(path: &Path) -> Result<Option<Map<String, Value>>> {
    let reading = || format!("reading credentials from {}", path.display());
    match std::fs::read(path) {
        Ok(text) if text.iter().all(u8::is_ascii_whitespace) => Ok(None),
        Ok(text) => Ok(Some(serde_json::from_slice(&text).with_context(reading)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        // Another user's, in whose environment sudo left us: as if it were not there.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(error).with_context(reading),
    }
}

fn key_of(registry: &str) -> String {
    if registry == DEFAULT_REGISTRY { DOCKER_HUB.into() } else { registry.into() }
}

/// From the most specific key to the registry alone; helpers of the registry come first.
fn in_document(
    document: &Map<String, Value>,
    registry: &str,
    repository: &str,
) -> Result<Option<Credential>> {
    let own = document.get("credHelpers").and_then(|helpers| helpers.get(registry));
    let every = document.get("credsStore");
    let server = key_of(registry);
    if let Some(helper) = own.or(every).and_then(Value::as_str).filter(|name| !name.is_empty())
        && let Some(found) = ask(helper, &server)?
    {
        return Ok(Some(found));
    }
    let Some(auths) = document.get("auths").and_then(Value::as_object) else { return Ok(None) };
    let mut key = format!("{registry}/{repository}");
    loop {
        if let Some(entry) = auths.get(&key) {
            return in_entry(entry).with_context(|| format!("the entry {key:?}"));
        }
        match key.rfind('/') {
            Some(slash) => key.truncate(slash),
            None => break,
        }
    }
    // Docker once wrote addresses.
    let plain = |key: &str| {
        let key = key.strip_prefix("https://").or(key.strip_prefix("http://")).unwrap_or(key);
        key.split('/').next().unwrap_or_default().to_owned()
    };
    let found = auths.iter().find(|(key, _)| **key == server || plain(key) == registry);
    found.map_or(Ok(None), |(_, entry)| in_entry(entry))
}

fn in_entry(entry: &Value) -> Result<Option<Credential>> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).filter(|t| !t.is_empty());
    if let Some(token) = text("identitytoken") {
        return Ok(Some(Credential::IdentityToken(token.to_owned())));
    }
    if let Some(auth) = text("auth") {
        let plain = BASE64_STANDARD.decode(auth).context("its auth is no base64")?;
        let plain = String::from_utf8(plain).context("its auth is no text")?;
        let (name, password) = plain.split_once(':').context("its auth has no colon")?;
        let password = password.trim_end_matches('\0');
        return Ok(Some(Credential::Password(name.to_owned(), password.to_owned())));
    }
    Ok(text("username")
        .zip(text("password"))
        .map(|(name, password)| Credential::Password(name.to_owned(), password.to_owned())))
}

/// Asks a credential helper.
fn ask(helper: &str, server: &str) -> Result<Option<Credential>> {
    ensure!(!helper.contains('/'), "{helper:?} is no name of a credential helper");
    let program = format!("docker-credential-{helper}");
    let asking = || format!("asking {program} for {server}");
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .with_context(asking)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that needs no question says so by its answer.
        let _ = stdin.write_all(server.as_bytes());
    }
    let output = child.wait_with_output().with_context(asking)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if said.contains("credentials not found") {
            return Ok(None);
        }
        bail!("{program} failed for {server}: {said}");
    }
    let answer: Value = serde_json::from_slice(&output.stdout).with_context(asking)?;
    let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(match (text("Username"), text("Secret")) {
        (name, secret) if name.is_empty() && secret.is_empty() => None,
        (name, secret) if name == "<token>" => Some(Credential::IdentityToken(secret)),
        (name, secret) => Some(Credential::Password(name, secret)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(document: Value, registry: &str, repository: &str) -> Option<Credential> {
        in_document(document.as_object().unwrap(), registry, repository).unwrap()
    }

    fn password(name: &str) -> Option<Credential> {
        Some(Credential::Password(name.into(), "secret".into()))
    }

    #[test]
    fn the_most_specific_entry_counts() {
        let auth = |name: &str| json!({ "auth": BASE64_STANDARD.encode(format!("{name}:secret")) });
        let document = json!({"auths": {
            "r.example.org": auth("all"),
            "r.example.org/a/b": auth("ab"),
            "https://index.docker.io/v1/": auth("hub"),
            "https://old.example.org/v2/": auth("old"),
            "id.example.org": {"identitytoken": "tok"},
            "plain.example.org": {"username": "u", "password": "secret"},
            "empty.example.org": {},
        }});
        for (registry, repository, wanted) in [
            ("r.example.org", "a/b", password("ab")),
            ("r.example.org", "a/b/c", password("ab")),
            ("r.example.org", "a/bc", password("all")),
            ("docker.io", "library/x", password("hub")),
            ("old.example.org", "x", password("old")),
            ("plain.example.org", "x", password("u")),
            ("id.example.org", "x", Some(Credential::IdentityToken("tok".into()))),
            ("empty.example.org", "x", None),
            ("other.example.org", "x", None),
        ] {
            assert_eq!(found(document.clone(), registry, repository), wanted, "{registry}");
        }
        assert_eq!(found(json!({}), "x", "y"), None);
        let bad = json!({"auths": {"x": {"auth": "!"}}});
        assert!(in_document(bad.as_object().unwrap(), "x", "y").is_err());
    }
}
