//! Our own tests: `NAME.test.toml`, a list of steps on one machine or several.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Suite, Test};

mod file;
mod run;

pub(super) use file::read;
pub(super) use run::run;

/// What a file describes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scenario {
    /// At least one; a single one without a name has none.
    pub machines: Vec<MachineOf>,
    /// They are put there before the first step.
    pub files: Vec<FileOf>,
    /// In their order.
    pub steps: Vec<StepOf>,
    /// Options of `boot`.
    pub boot: Vec<String>,
    /// For each step: seconds.
    pub timeout: Option<u64>,
    /// The built-in check is left out.
    pub without_units: bool,
}

/// A machine of a scenario.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineOf {
    /// By which steps and the other machines know it.
    pub name: String,
    /// Another than the test's.
    pub image: Option<String>,
}

/// A file that is put into a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOf {
    /// Whose.
    pub machine: String,
    /// Absolute.
    pub path: String,
    /// What is in it.
    pub content: Content,
    /// Permissions.
    pub mode: Option<u32>,
}

/// Where a file's content comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// It stands in the test.
    Text(String),
    /// A file or a directory beside the test.
    Copy(PathBuf),
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepOf {
    /// As it stands in reports; may be empty.
    pub name: String,
    /// Where.
    pub machine: String,
    /// What.
    pub act: Act,
    /// Seconds.
    pub timeout: Option<u64>,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// Runs a script by the image's shell.
    Run {
        /// For `sh -e -c`.
        script: String,
        /// The exit status that is expected.
        exit: i32,
        /// What its output has to match.
        output: Option<String>,
        /// Whose; root's otherwise.
        user: Option<String>,
    },
    /// Checks of a probe, by their kind and what is given for it.
    Check(Vec<(String, String)>),
    /// Installs packages.
    Install(Vec<String>),
    /// Restarts the machine.
    Reboot,
}

/// Of a script in reports: characters.
const TITLE: usize = 50;

impl Act {
    pub(super) fn title(&self) -> String {
        match self {
            Self::Run { script, .. } => {
                let script = script.trim();
                let first = script.lines().next().unwrap_or_default();
                let short: String = first.chars().take(TITLE).collect();
                let more = if short.len() < script.len() { " …" } else { "" };
                format!("run {short}{more}")
            }
            Self::Check(_) => "check".into(),
            Self::Install(packages) => format!("install {}", packages.join(" ")),
            Self::Reboot => "reboot".into(),
        }
    }
}

/// Finds `*.test.toml`.
pub(super) struct Scenarios;

const SUFFIX: &str = ".test.toml";

impl Suite for Scenarios {
    fn name(&self) -> &'static str {
        "scenario"
    }

    fn recognises(&self, directory: &Path) -> bool {
        !files(directory).is_empty()
    }

    fn find(&self, directory: &Path) -> Result<Vec<Test>> {
        files(directory).iter().map(|path| read(path)).collect()
    }
}

/// All such files below a directory, sorted; what is hidden or built is passed over.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_directory && !name.starts_with('.') && name != "target" {
                waiting.push(entry.path());
            } else if name.ends_with(SUFFIX) {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}
