//! kola's external tests (coreos-assembler, `docs/kola/external-tests.md`): executables below `tests/kola`, each
//! a test, which runs as a unit of the system.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{Kind, Suite, Test};
use denylist::Denylist;
use metadata::Metadata;

mod data;
mod denylist;
mod ignition;
mod metadata;
mod run;
mod yaml;

pub(super) use run::run;

/// One test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    /// It is the test.
    pub executable: PathBuf,
    /// What it finds in `KOLA_EXT_DATA`.
    pub data: Option<PathBuf>,
    /// How the system is to be set up: `config.ign` or `config.bu`.
    pub config: Option<PathBuf>,
    /// Distributions that it is for, in kola's words; all where there is none.
    pub distros: Vec<String>,
    /// What the image is to be taken for.
    pub distro: Option<String>,
    /// How its unit is confined.
    pub isolation: Option<Isolation>,
    /// No built-in checks.
    pub skip_base_checks: bool,
    /// It needs a network that leads outside.
    pub needs_internet: bool,
}

/// How a test's unit is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// It can write nothing of the system's.
    Readonly,
    /// It runs as a user of its own.
    Dynamicuser,
}

/// Finds external tests.
pub(super) struct Kola;

/// Where they are in a project.
const TESTS: &str = "tests/kola";

const DENYLIST: &str = "kola-denylist.yaml";

impl Suite for Kola {
    fn name(&self) -> &'static str {
        "kola"
    }

    fn recognises(&self, directory: &Path) -> bool {
        root(directory).is_some()
    }

    fn find(&self, directory: &Path) -> Result<Vec<Test>> {
        let (project, root) =
            root(directory).unwrap_or_else(|| (directory.to_owned(), directory.to_owned()));
        let name = project.file_name().unwrap_or_default().to_string_lossy();
        let mut tests = Vec::new();
        walk(&root, &format!("ext.{name}"), directory, &mut tests)?;
        Ok(tests)
    }
}

/// Marks the tests that are on the denylist: of `file`, or of each test's own project.
///
/// # Errors
/// Names the file that is wrong.
pub(super) fn deny(tests: &mut [Test], file: Option<&Path>, stream: Option<&str>) -> Result<()> {
    let is_kola = |test: &&Test| matches!(test.kind, Kind::Kola(_));
    let mut sources: Vec<PathBuf> =
        tests.iter().filter(is_kola).map(|test| test.source.clone()).collect();
    sources.dedup();
    for source in sources {
        let project = root(&source).map_or_else(|| source.clone(), |(project, _)| project);
        let path = file.map_or_else(|| project.join(DENYLIST), Path::to_owned);
        if file.is_none() && !path.is_file() {
            continue;
        }
        let own = |test: &&mut Test| matches!(test.kind, Kind::Kola(_)) && test.source == source;
        Denylist::read(&path)?.apply(tests.iter_mut().filter(own), stream);
    }
    Ok(())
}

/// The project and its directory of tests: either may be given.
fn root(directory: &Path) -> Option<(PathBuf, PathBuf)> {
    let below = directory.join(TESTS);
    if below.is_dir() {
        return Some((directory.to_owned(), below));
    }
    let project = directory.parent()?.parent()?;
    directory.ends_with(TESTS).then(|| (project.to_owned(), directory.to_owned()))
}

/// Everything in a directory of tests and below it.
fn walk(directory: &Path, prefix: &str, source: &Path, tests: &mut Vec<Test>) -> Result<()> {
    let what = || format!("cannot read {}", directory.display());
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(what)? {
        entries.push(entry.with_context(what)?.path());
    }
    entries.sort();
    let (mut executables, mut data, mut config) = (Vec::new(), None, None);
    let mut metadata = Metadata::default();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Links are followed.
        let about = std::fs::metadata(&path)
            .with_context(|| format!("cannot look at {}", path.display()))?;
        match &name[..] {
            "data" if about.is_dir() => data = Some(std::fs::canonicalize(&path)?),
            _ if about.is_dir() => walk(&path, &format!("{prefix}.{name}"), source, tests)?,
            "kola.json" => metadata = Metadata::of_file(&path)?,
            "config.ign" | "config.bu" | "config.fcc" => config = Some(path),
            _ if about.is_file() && about.permissions().mode() & 0o111 != 0 => {
                executables.push(path)
            }
            _ => {}
        }
    }
    let alone = executables.len() == 1;
    for executable in executables {
        let metadata = Metadata::inline(&executable)?.unwrap_or_else(|| metadata.clone());
        let name = executable.file_name().unwrap_or_default().to_string_lossy();
        let name = match alone && name == "test.sh" {
            true => prefix.to_owned(),
            false => format!("{prefix}.{name}"),
        };
        let external = External {
            data: data.clone(),
            config: config.clone(),
            distros: metadata.distros(),
            distro: None,
            isolation: metadata.isolation,
            skip_base_checks: metadata.tags().iter().any(|tag| tag == "skip-base-checks"),
            needs_internet: metadata.tags().iter().any(|tag| tag == "needs-internet"),
            executable,
        };
        tests.push(Test {
            name,
            description: metadata.description.clone(),
            tags: metadata.tags(),
            source: source.to_owned(),
            images: Vec::new(),
            timeout: metadata.timeout_min.map_or(DEFAULT_TIMEOUT, |minutes| minutes * 60),
            may_fail: None,
            skip: metadata.obstacle(),
            required_tag: metadata.required_tag.clone(),
            kind: Kind::Kola(external),
        });
    }
    Ok(())
}

/// Seconds (kola's `kola/register.go`, `DefaultTimeout`).
const DEFAULT_TIMEOUT: u64 = 600;
