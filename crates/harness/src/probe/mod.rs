//! Probes: does a package install, start, answer, upgrade and go away on a system?
//!
//! A [`Wish`] says what is to be probed on one image, which is a *cell*; [`cell::run`] does it on a machine of its own
//! and tells [`News`] as it goes. What can be checked is a list of [`check`]s, each a file of its own. What is seen
//! of a machine is seen by [`inside`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::test::Test;
use repository::Repository;

pub mod cell;
pub mod check;
pub(crate) mod evidence;
pub mod inside;
pub(crate) mod machine;
pub(crate) mod packages;
pub(crate) mod recorder;
pub mod remembered;
pub mod repository;

pub use recorder::result;

pub use packages::CACHE;

/// What to probe in one cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// The image, as the user spelled it.
    pub image: String,
    /// In which of several ways, where there are some: its name.
    #[serde(default)]
    pub variant: String,
    /// Packages that are installed together: names, paths, URLs.
    pub packages: Vec<String>,
    /// What is installed first, for an upgrade.
    pub from: Vec<String>,
    /// Where packages may come from besides the image's own repositories.
    #[serde(default)]
    pub repositories: Vec<Repository>,
    /// What is done with the packages, in this order.
    pub phases: Vec<Phase>,
    /// Checks: their kind, and what the user gave for it.
    pub checks: Vec<(String, String)>,
    /// Built-in checks that are left out.
    pub without: Vec<String>,
    /// Ports that may be listened on besides those that checks name.
    pub allowed_ports: Vec<u16>,
    /// For each check: seconds.
    pub timeout: u64,
    /// For what the package manager does: seconds.
    pub phase_timeout: u64,
    /// Until the system is up: seconds.
    pub boot_timeout: u64,
    /// More options for `boot`.
    pub boot: Vec<String>,
    /// What is done on the machine instead of installing and checking.
    pub test: Option<Test>,
    /// A machine comes out of a pool of the image, where there is one that suits.
    #[serde(default)]
    pub pool: bool,
    /// The machine remains when something fails.
    pub keep: bool,
    /// Where evidence goes.
    pub evidence: PathBuf,
    /// There is evidence even where all is well.
    pub always_evidence: bool,
}

impl Wish {
    /// A machine of an image that is booted, and nothing else, with the usual patience.
    #[must_use]
    pub fn new(image: &str) -> Self {
        Self {
            image: image.to_owned(),
            variant: String::new(),
            packages: Vec::new(),
            from: Vec::new(),
            repositories: Vec::new(),
            phases: Vec::new(),
            checks: Vec::new(),
            without: Vec::new(),
            allowed_ports: Vec::new(),
            timeout: TIMEOUT,
            phase_timeout: PHASE_TIMEOUT,
            boot_timeout: BOOT_TIMEOUT,
            boot: Vec::new(),
            test: None,
            pool: false,
            keep: false,
            evidence: PathBuf::new(),
            always_evidence: false,
        }
    }

    /// What tells a cell from the others: an image and what is installed on it.
    pub fn title(&self) -> String {
        let image = self.system();
        match (&self.test, &self.packages[..]) {
            (Some(test), _) => format!("{image} {}", test.name),
            (None, []) => image,
            (None, packages) => format!("{image} {}", packages.join("+")),
        }
    }

    /// The image, and the processor and the variant where those were asked for.
    #[must_use]
    pub fn system(&self) -> String {
        let mut system = self.image.clone();
        if let Some(platform) = self.platform() {
            system += &format!(" ({platform})");
        }
        if !self.variant.is_empty() {
            system += &format!(" [{}]", self.variant);
        }
        system
    }

    /// The same for another processor than the image's own choice would be.
    #[must_use]
    pub fn on(mut self, platform: Option<&str>) -> Self {
        let words = platform.into_iter().flat_map(|name| ["--platform".into(), name.to_owned()]);
        self.boot.extend(words);
        self
    }

    /// The processor that was asked for.
    #[must_use]
    pub fn platform(&self) -> Option<&str> {
        self.boot_option("--platform")
    }

    /// What the machine is to be, where that was said: `container` or `vm`.
    #[must_use]
    pub fn isolation(&self) -> Option<&str> {
        self.boot_option("--isolation")
    }

    fn boot_option(&self, option: &str) -> Option<&str> {
        let at = self.boot.iter().position(|word| word == option)?;
        self.boot.get(at + 1).map(String::as_str)
    }

    /// The command that probes this cell alone.
    pub fn command(&self) -> Vec<String> {
        if let Some(test) = &self.test {
            return test.command(self);
        }
        let mut words = vec!["postroj".to_owned(), "probe".into()];
        let mut add = |option: &str, value: &str| words.extend([option.into(), value.into()]);
        add("--image", &self.image);
        self.packages.iter().for_each(|package| add("--package", package));
        self.from.iter().for_each(|package| add("--from-version", package));
        self.repositories.iter().for_each(|one| add("--repo", &one.to_string()));
        if !self.packages.is_empty() {
            let phases: Vec<&str> = self.phases.iter().map(|phase| phase.word()).collect();
            add("--phase", &phases.join(","));
        }
        self.checks.iter().for_each(|(kind, text)| add(&format!("--check-{kind}"), text));
        self.without.iter().for_each(|name| add("--without", name));
        self.allowed_ports.iter().for_each(|port| add("--allow-port", &port.to_string()));
        words.extend(self.limit_words());
        words.extend(self.boot_words());
        if self.packages.len() > 1 {
            words.push("--together".into());
        }
        words
    }

    /// How long things may take, where that is not as usual.
    pub(crate) fn limit_words(&self) -> Vec<String> {
        let limits = [
            ("--timeout", self.timeout, TIMEOUT),
            ("--phase-timeout", self.phase_timeout, PHASE_TIMEOUT),
            ("--boot-timeout", self.boot_timeout, BOOT_TIMEOUT),
        ];
        let others = limits.into_iter().filter(|(_, own, usual)| own != usual);
        others.flat_map(|(option, own, _)| [option.to_owned(), own.to_string()]).collect()
    }

    /// Options of `boot` as `probe` and `test` take them.
    pub(crate) fn boot_words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if let Some(at) = self.boot.iter().position(|word| word == "--network")
            && let Some(mode) = self.boot.get(at + 1).filter(|mode| *mode != "none")
        {
            words.extend(["--network".into(), mode.clone()]);
        }
        for option in ["--platform", "--isolation"] {
            let value = self.boot_option(option).into_iter();
            words.extend(value.flat_map(|value| [option.to_owned(), value.to_owned()]));
        }
        if self.boot.iter().any(|word| word == "--fast") {
            words.push("--fast".into());
        }
        if self.pool {
            words.push("--pool".into());
        }
        words
    }
}

/// For each check, where nobody says otherwise: seconds.
pub const TIMEOUT: u64 = 30;
/// For each phase of a package: seconds.
pub const PHASE_TIMEOUT: u64 = 600;
/// Until a system has to be up: seconds.
pub const BOOT_TIMEOUT: u64 = 600;

/// Something that is done with packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// For the first time; the older version where there is one.
    Install,
    /// Over the older version.
    Upgrade,
    /// The same version again.
    Reinstall,
    /// Without its configuration.
    Remove,
    /// With its configuration.
    Purge,
}

impl Phase {
    /// All there are.
    pub const ALL: [Self; 5] =
        [Self::Install, Self::Upgrade, Self::Reinstall, Self::Remove, Self::Purge];

    /// As the command line has it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Install => "install",
            Self::Upgrade => "upgrade",
            Self::Reinstall => "reinstall",
            Self::Remove => "remove",
            Self::Purge => "purge",
        }
    }

    /// The packages are there after it.
    #[must_use]
    pub fn installs(self) -> bool {
        matches!(self, Self::Install | Self::Upgrade | Self::Reinstall)
    }
}

/// What came of a step or a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Not as it should be.
    Fail,
    /// It could not be tested.
    Error,
    /// It was not tested.
    Skipped,
    /// It failed, and passed when it was tried again.
    Flaky,
}

impl Verdict {
    /// In lower case.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Error => "error",
            Self::Skipped => "skipped",
            Self::Flaky => "flaky",
        }
    }

    /// Nothing is wrong.
    #[must_use]
    pub fn is_good(self) -> bool {
        matches!(self, Self::Pass | Self::Flaky | Self::Skipped)
    }
}

/// One thing that was done or checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What was being done with the packages; `boot` before.
    pub phase: String,
    /// What was checked, such as `unit nginx.service`; the phase's own word for what it did.
    pub name: String,
    /// What came of it.
    pub verdict: Verdict,
    /// What should have been.
    pub expected: String,
    /// What was.
    pub seen: String,
    /// Why, where that is known; may have several lines.
    pub cause: Option<String>,
    /// Seconds from the cell's start to the step's.
    pub start: f64,
    /// How long it took: seconds.
    pub seconds: f64,
}

/// What came of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// What was probed.
    pub wish: Wish,
    /// What came of it.
    pub verdict: Verdict,
    /// Why it is not `pass`, on one line.
    pub reason: String,
    /// What was done.
    pub steps: Vec<Step>,
    /// Seconds since the epoch.
    pub started: u64,
    /// How long it took: seconds.
    pub seconds: f64,
    /// How often it was tried.
    pub attempts: u32,
    /// The machine that was kept.
    pub machine: Option<String>,
}

impl Cell {
    /// Of a cell that came to nothing.
    #[must_use]
    pub fn without_result(wish: &Wish, verdict: Verdict, reason: &str) -> Self {
        Self {
            wish: wish.clone(),
            verdict,
            reason: reason.to_owned(),
            steps: Vec::new(),
            started: engine::state::now(),
            seconds: 0.0,
            attempts: 1,
            machine: None,
        }
    }

    /// The same where what came of it cannot be kept, as on a disk that is full: nobody could look into it.
    pub(crate) fn unkept(self, error: &anyhow::Error) -> Self {
        let before = match &self.reason[..] {
            "" => self.verdict.word().to_owned(),
            reason => format!("{}: {reason}", self.verdict.word()),
        };
        let reason = format!("{error:#}; what came of it is not kept ({before})");
        Self { verdict: Verdict::Error, reason, ..self }
    }
}

/// What a cell tells while it is at it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum News {
    /// What it does now.
    Doing(String),
    /// What it has done.
    Step(Step),
    /// That was all.
    Done(Box<Cell>),
}
