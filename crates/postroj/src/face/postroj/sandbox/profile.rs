//! What a profile shows of the host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

/// Those that come with the program.
const OWN: &str = include_str!("profiles.toml");

/// Where there are more: for all users, and of this one.
const DIRECTORY: &str = "postroj/sandbox.d";

/// As it is written down. What is missing is as in the profile that it inherits.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    about: Option<String>,
    inherits: Option<String>,
    read: Option<Vec<PathBuf>>,
    hide: Option<Vec<PathBuf>>,
    show: Option<Vec<PathBuf>>,
    write: Option<Vec<PathBuf>>,
    network: Option<bool>,
    environment: Option<Vec<String>>,
}

/// What is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Profile {
    /// Shown read-only.
    pub(super) read: Vec<PathBuf>,
    /// Then empty.
    pub(super) hide: Vec<PathBuf>,
    /// Then read-only again.
    pub(super) show: Vec<PathBuf>,
    /// Then shown to be written to.
    pub(super) write: Vec<PathBuf>,
    /// The host's network is there.
    pub(super) network: bool,
    /// Variables that are passed on.
    pub(super) environment: Vec<String>,
}

/// Names and descriptions of all.
///
/// # Errors
/// Names the file that cannot be read.
pub(super) fn list() -> Result<Vec<(String, String)>> {
    let about = |(name, written): (String, Written)| (name, written.about.unwrap_or_default());
    Ok(all()?.into_iter().map(about).collect())
}

/// By its name; or, where there is a `/` in it, from a file with one table.
///
/// # Errors
/// Where there is no such profile, or it is wrong.
pub(super) fn find(name: &str) -> Result<Profile> {
    let mut profiles = all()?;
    let name = match name.contains('/') {
        true => {
            let of_file = read(Path::new(name))?;
            let mut names = of_file.keys().cloned();
            let (Some(only), None) = (names.next(), names.next()) else {
                bail!("the file {name} has to have one profile, a table such as [mine]");
            };
            profiles.extend(of_file);
            only
        }
        false => name.to_owned(),
    };
    resolve(&profiles, &name, profiles.len())
}

/// `depth` is how many more may be inherited.
fn resolve(profiles: &BTreeMap<String, Written>, name: &str, depth: usize) -> Result<Profile> {
    let Some(written) = profiles.get(name).cloned() else {
        let names: Vec<&str> = profiles.keys().map(String::as_str).collect();
        bail!("there is no profile {name}: there are {}", names.join(", "));
    };
    let base = match &written.inherits {
        Some(_) if depth == 0 => bail!("the profile {name} inherits itself"),
        Some(base) => resolve(profiles, base, depth - 1)
            .with_context(|| format!("the profile {name} inherits {base}"))?,
        None => Profile::default(),
    };
    Ok(Profile {
        read: written.read.unwrap_or(base.read),
        hide: written.hide.unwrap_or(base.hide),
        show: written.show.unwrap_or(base.show),
        write: written.write.unwrap_or(base.write),
        network: written.network.unwrap_or(base.network),
        environment: written.environment.unwrap_or(base.environment),
    })
}

/// A later one with the name of an earlier one takes its place.
fn all() -> Result<BTreeMap<String, Written>> {
    let mut profiles = parse(OWN, "profiles.toml")?;
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let user = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or(home);
    for directory in [Some(PathBuf::from("/etc")), user].into_iter().flatten() {
        let directory = directory.join(DIRECTORY);
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
        files.sort();
        for file in files {
            profiles.extend(read(&file)?);
        }
    }
    Ok(profiles)
}

fn read(file: &Path) -> Result<BTreeMap<String, Written>> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the profile {}", file.display()))?;
    parse(&text, &file.display().to_string())
}

fn parse(text: &str, name: &str) -> Result<BTreeMap<String, Written>> {
    toml::from_str(text).map_err(|error| {
        let before = &text[..error.span().map_or(0, |span| span.start)];
        let line = before.matches('\n').count() + 1;
        let column = before.len() - before.rfind('\n').map_or(0, |at| at + 1) + 1;
        anyhow!("{name}:{line}:{column}: {}", error.message())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, name: &str) -> Result<Profile> {
        let profiles = parse(text, "x.toml")?;
        resolve(&profiles, name, profiles.len())
    }

    #[test]
    fn what_is_missing_is_inherited() {
        let online = of(OWN, "online").expect("a profile");
        let default = of(OWN, "default").expect("a profile");
        assert_eq!(online, Profile { network: true, ..default });
        let read_only = of(OWN, "read-only").expect("a profile");
        assert_eq!((read_only.write, read_only.show), (vec![], vec![PathBuf::from(".")]));
    }

    #[test]
    fn wrong_ones_are_explained() {
        let error = |text| format!("{:#}", of(text, "a").expect_err("it is wrong"));
        assert_eq!(error("[b]\n"), "there is no profile a: there are b");
        assert!(error("[a]\ninherits = \"a\"\n").ends_with("the profile a inherits itself"));
        let typo = error("[a]\nnetwrok = true\n");
        assert!(typo.starts_with("x.toml:2:1: unknown field `netwrok`"), "{typo}");
    }
}
