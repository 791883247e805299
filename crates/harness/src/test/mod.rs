//! Tests that people have: our own scenarios, kola's external tests, autopkgtest's. A [`Suite`] finds
//! them in a tree; each test on each image is a cell as a probe is, with a machine of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::probe::Wish;
use crate::probe::cell::Place;
use crate::probe::machine::Machine;
use crate::probe::recorder::Recorder;

use bench::Bench;
pub use command::Command;
pub use networks::tidy as tidy_networks;
pub use select::Selection;

mod autopkgtest;
mod bench;
mod command;
mod globs;
mod kola;
mod networks;
mod reboot;
mod scenario;
mod select;

/// A test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Test {
    /// By which it is chosen, and known in reports.
    pub name: String,
    /// What it is about; may be empty.
    pub description: String,
    /// By which it is chosen.
    pub tags: Vec<String>,
    /// The file or the tree that it stands in.
    pub source: PathBuf,
    /// Images that it names itself.
    pub images: Vec<String>,
    /// How long it may take on its own, without booting: seconds; 0 for what the user says.
    pub timeout: u64,
    /// Its failure is no failure of the whole, and why.
    pub may_fail: Option<String>,
    /// It is not run, and why.
    pub skip: Option<String>,
    /// A tag without which it is not run.
    pub required_tag: Option<String>,
    /// What there is to do.
    pub kind: Kind,
}

/// What is done in a test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// One of our own.
    Scenario(scenario::Scenario),
    /// One of kola's external tests.
    Kola(kola::External),
    /// One of a Debian source package's.
    Autopkgtest(autopkgtest::Package),
    /// A command in an image that is not booted.
    Command(Command),
}

impl Test {
    /// The word for its kind in listings.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Scenario(_) => "scenario",
            Kind::Kola(_) => "kola",
            Kind::Autopkgtest(_) => "autopkgtest",
            Kind::Command(_) => "run",
        }
    }

    /// The command that runs it alone on the image of `wish`.
    pub(crate) fn command(&self, wish: &Wish) -> Vec<String> {
        if let Kind::Command(command) = &self.kind {
            let words = ["postroj", "run", "--rm"].map(str::to_owned).into_iter();
            let rest = wish.boot.iter().chain([&wish.image]).chain(&command.words).cloned();
            return words.chain(rest).collect();
        }
        let mut words: Vec<String> = ["postroj", "test", "--image"].map(str::to_owned).to_vec();
        words.push(wish.image.clone());
        for package in &wish.packages {
            words.extend(["--package".into(), package.clone()]);
        }
        for one in &wish.repositories {
            words.extend(["--repo".into(), one.to_string()]);
        }
        words.extend(wish.limit_words());
        words.extend(wish.boot_words());
        match &self.kind {
            Kind::Kola(external) => {
                words.extend(external.distro.iter().flat_map(|d| ["--distro".into(), d.clone()]));
            }
            Kind::Autopkgtest(package) => {
                words.extend(package.user.iter().flat_map(|u| ["--user".into(), u.clone()]));
            }
            Kind::Scenario(_) | Kind::Command(_) => {}
        }
        words.extend(self.required_tag.iter().flat_map(|tag| ["--tag".into(), tag.clone()]));
        words.extend([self.source.display().to_string(), self.name.clone()]);
        words
    }
}

/// What finds tests of one kind.
pub trait Suite: Sync {
    /// In listings, and as an option.
    fn name(&self) -> &'static str;

    /// Whether a directory is a tree of such tests.
    fn recognises(&self, directory: &Path) -> bool;

    /// All tests of a tree.
    ///
    /// # Errors
    /// Names the file that is wrong, and where it is.
    fn find(&self, directory: &Path) -> Result<Vec<Test>>;
}

/// Every kind there is.
pub const SUITES: &[&dyn Suite] = &[&scenario::Scenarios, &kola::Kola, &autopkgtest::Autopkgtest];

/// The tests of a file or a tree: of `only` one kind, or of all kinds that are recognised.
///
/// # Errors
/// Where there is none, or one is wrong.
pub fn find(path: &Path, only: Option<&str>) -> Result<Vec<Test>> {
    let path = std::fs::canonicalize(path)
        .with_context(|| format!("cannot find tests in {}", path.display()))?;
    if path.is_file() {
        return Ok(vec![scenario::read(&path)?]);
    }
    let suites = SUITES.iter().filter(|suite| match only {
        Some(name) => suite.name() == name,
        None => suite.recognises(&path),
    });
    let mut tests = Vec::new();
    for suite in suites {
        tests.extend(suite.find(&path)?);
    }
    if tests.is_empty() {
        bail!(
            "there are no tests in {}: neither *.test.toml, nor tests/kola, nor debian/tests/control",
            path.display()
        );
    }
    Ok(tests)
}

/// Marks the tests of kola's that are on its denylist: that of the project, or `file`. `stream` is the
/// distribution's that entries may be for.
///
/// # Errors
/// Names the file that is wrong.
pub fn deny(tests: &mut [Test], file: Option<&Path>, stream: Option<&str>) -> Result<()> {
    kola::deny(tests, file, stream)
}

/// Runs a test. What goes wrong in it is in its steps; what machines it made remain, for evidence.
///
/// # Errors
/// Where it cannot be run.
pub(crate) fn run<'a>(
    test: &'a Test,
    place: &'a Place<'a>,
    recorder: &mut Recorder<'a>,
    machines: &mut BTreeMap<String, Machine>,
) -> Result<()> {
    let evidence = &recorder.wish.evidence;
    std::fs::create_dir_all(evidence)
        .with_context(|| format!("cannot make {}", evidence.display()))?;
    let mut bench = Bench { test, place, recorder, machines };
    if let Some(reason) = &test.skip {
        bench.skip(reason);
        return Ok(());
    }
    match &test.kind {
        Kind::Scenario(scenario) => scenario::run(scenario, &mut bench),
        Kind::Kola(external) => kola::run(external, &mut bench),
        Kind::Autopkgtest(package) => autopkgtest::run(package, &mut bench),
        Kind::Command(command) => command::run(command, &mut bench),
    }
}
