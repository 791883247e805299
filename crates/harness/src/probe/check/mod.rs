//! What can be checked: each kind in a file of its own.

use std::time::Duration;

use anyhow::Result;

use super::inside::{Ask, Look};
use super::machine::Machine;
use super::{Phase, Verdict, Wish};

mod command;
mod errors;
mod failed;
mod file;
mod journal;
mod leftover;
mod network;
mod ports;
mod processes;
mod service;
mod unit;

/// A check.
pub trait Probe {
    /// What is checked, as it stands in reports.
    fn title(&self) -> String;

    /// Whether it is of interest after that.
    fn is_due(&self, after: Phase) -> bool;

    /// Checks.
    ///
    /// # Errors
    /// Where it cannot be checked.
    fn check(&self, scene: &mut Scene<'_>) -> Result<Finding>;
}

/// Kinds of checks that a user asks for, by the option's word after `--check-`.
pub const KINDS: &[(&str, Parse)] = &[
    ("unit", unit::parse),
    ("service", service::parse),
    ("network", network::parse),
    ("file", file::parse),
    ("cmd", command::parse),
    ("journal", journal::parse),
];

/// Reads what a user wants to have checked.
pub type Parse = fn(&str) -> Result<Box<dyn Probe>>;

/// Checks that are made unless they are left out, by name.
pub const BUILT_IN: &[(&str, &dyn Probe)] = &[
    ("failed-units", &failed::Failed),
    ("ports", &ports::Ports),
    ("errors", &errors::Errors),
    ("processes", &processes::Processes),
    ("files", &leftover::Files),
];

/// What a check may look at.
pub struct Scene<'a> {
    pub(crate) machine: &'a mut Machine,
    pub(crate) wish: &'a Wish,
    /// How it was before the packages came.
    pub(crate) before: &'a Look,
    /// With the names of all files, when it is looked at anew.
    pub(crate) files: bool,
    /// When the phase began: microseconds since the epoch.
    pub(crate) since: u64,
}

/// What a check found.
#[derive(Debug)]
pub struct Finding {
    pub(crate) verdict: Verdict,
    pub(crate) expected: String,
    pub(crate) seen: String,
    pub(crate) cause: Option<String>,
}

/// Milliseconds, counted from the last change, which is mostly some time before the package manager's own end: in
/// that time a program that is started in vain has failed. What fails later is found by the last check of units.
const QUIET: u64 = 100;

impl Finding {
    pub(crate) fn pass(seen: impl Into<String>) -> Self {
        Self { verdict: Verdict::Pass, expected: String::new(), seen: seen.into(), cause: None }
    }

    pub(crate) fn fail(
        expected: impl Into<String>,
        seen: impl Into<String>,
        cause: Option<String>,
    ) -> Self {
        Self { verdict: Verdict::Fail, expected: expected.into(), seen: seen.into(), cause }
    }
}

impl Scene<'_> {
    fn timeout(&self) -> u64 {
        self.wish.timeout * 1000
    }

    /// Nothing may have changed for so long until what has just been installed counts as started.
    fn quiet(&self) -> u64 {
        if self.wish.packages.is_empty() { 0 } else { QUIET }
    }

    /// How it is now that the packages came or went.
    fn look(&mut self) -> Result<Look> {
        self.machine.ask(&Ask::Look { files: self.files })
    }

    fn has_systemd(&self) -> Result<bool> {
        Ok(self.machine.init()? == "systemd")
    }

    fn run(&self, command: &[&str]) -> Result<super::machine::Ran> {
        self.machine.run(command, Duration::from_secs(self.wish.timeout))
    }

    /// The last that a unit said, and that was said of it; `None` where that is nothing.
    fn journal_of(&self, unit: &str) -> Option<String> {
        let (own, about) = (format!("_SYSTEMD_UNIT={unit}"), format!("UNIT={unit}"));
        // By fields, since an emulated control group is not what `--unit` looks for.
        let command =
            ["journalctl", "--no-pager", "-q", "-o", "cat", "-n", "10", &own, "+", &about];
        let text = self.run(&command).ok().filter(|ran| ran.code == Some(0))?.output;
        let text = text.trim_end();
        (!text.is_empty()).then(|| format!("the journal of {unit} ends:\n{text}"))
    }

    fn exists(&mut self, path: &str) -> Result<bool> {
        self.machine.ask(&Ask::Exists { path: path.to_owned() })
    }
}
