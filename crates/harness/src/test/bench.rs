//! What a test works with: its machines, and what is done on them, each as a step that is told of.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use bakery::source::bootstrap::addition::Unsatisfiable;

use super::Test;
use crate::probe::cell::{Place, now, told};
use crate::probe::check::{BUILT_IN, Finding, Probe, Scene};
use crate::probe::inside::{Ask, Look};
use crate::probe::machine::{Machine, Ran};
use crate::probe::packages;
use crate::probe::recorder::{Began, Recorder, passed};
use crate::probe::{Phase, Verdict, Wish};

/// For one test on one image.
pub(super) struct Bench<'a, 'b> {
    pub(super) test: &'a Test,
    pub(super) place: &'a Place<'a>,
    pub(super) recorder: &'b mut Recorder<'a>,
    pub(super) machines: &'b mut BTreeMap<String, Machine>,
}

/// What a test needs cannot be installed.
#[derive(Debug)]
pub(super) enum Installed {
    /// It is there.
    Well,
    /// The archive lacks it, or it contradicts itself.
    Unsatisfiable(String),
    /// The package manager failed, and a step says so.
    Badly,
}

/// How the machine was when a step began.
pub(super) struct Before {
    look: Look,
    since: u64,
}

impl<'a> Bench<'a, '_> {
    pub(super) fn wish(&self) -> &'a Wish {
        self.recorder.wish
    }

    pub(super) fn machine(&mut self, name: &str) -> Result<&mut Machine> {
        self.machines.get_mut(name).with_context(|| format!("there is no machine {name:?}"))
    }

    /// Whether a machine will have a network that leads outside.
    pub(super) fn leads_outside(&self) -> bool {
        let boot = &self.wish().boot;
        let asked =
            boot.iter().position(|word| word == "--network").and_then(|at| boot.get(at + 1));
        let none = |mode: &str| mode == "none" || mode == "internal";
        match asked {
            Some(mode) => !none(mode),
            None => {
                let (default, wishes) = (crate::network::Default::System, Default::default());
                let settled = crate::network::settle(None, default, wishes, self.place.run);
                settled.is_ok_and(|(network, _)| network.mode != spec::network::Mode::None)
            }
        }
    }

    /// How long a test may take where it does not say so itself.
    pub(super) fn limit(&self) -> Duration {
        let own = Some(self.test.timeout).filter(|seconds| *seconds > 0);
        Duration::from_secs(own.unwrap_or(self.wish().phase_timeout))
    }

    pub(super) fn begin(&mut self, phase: &str, name: &str) -> Began {
        self.recorder.begin(phase, name)
    }

    pub(super) fn end(&mut self, began: Began, finding: Finding) -> bool {
        let good = finding.verdict.is_good();
        self.recorder.end(began, finding);
        good
    }

    /// Notes that the test is not run, and why.
    pub(super) fn skip(&mut self, reason: &str) {
        let began = self.begin("test", &self.test.name.clone());
        self.end(began, skipped(reason));
    }

    /// Boots a machine with that name in the test; `packages` says whether some will be installed.
    pub(super) fn boot(
        &mut self,
        name: &str,
        image: &str,
        more: &[String],
        packages: bool,
    ) -> Result<()> {
        let Place { program, run, store } = self.place;
        let is_here = store.find(image).ok().flatten().is_some();
        let began = self.begin("boot", if is_here { "boot" } else { "pull and boot" });
        let mut options = self.wish().boot.clone();
        // A test that names a network knows what it needs.
        if more.iter().any(|word| word == "--network")
            && let Some(at) = options.iter().position(|word| word == "--network")
        {
            options.drain(at..at + 2);
        }
        options.retain(|word| !more.contains(word) || word != "--fast");
        options.extend_from_slice(more);
        if packages {
            options.extend(packages::volumes(store, self.wish())?);
        }
        let full = match name {
            "" => format!("test-{}", std::process::id()),
            name => format!("test-{}-{name}", std::process::id()),
        };
        let machine = Machine::boot(program, run, &full, image, &options, self.wish())
            .with_context(|| format!("cannot boot {image}"))?;
        self.machines.insert(name.to_owned(), machine);
        let seen = if name.is_empty() { "it is up".into() } else { format!("{name} is up") };
        self.end(began, passed(seen));
        Ok(())
    }

    /// Installs packages by their names or paths, with what they need.
    pub(super) fn install(
        &mut self,
        name: &str,
        image: &str,
        wanted: &[String],
    ) -> Result<Installed> {
        let began = self.begin("install", "fetch");
        let store = self.place.store;
        let wish = Wish { image: image.to_owned(), ..self.wish().clone() };
        let (manager, supply) = packages::supply(store, &wish, self.machine(name)?)?;
        supply.add_repositories(self.machine(name)?)?;
        let added = match supply.fetch(self.machine(name)?, wanted) {
            Ok(added) => added,
            Err(error) if error.is::<Unsatisfiable>() => {
                let text = format!("{error:#}");
                // Whether that is a failure, the caller knows.
                self.end(began, passed(format!("cannot be had: {text}")));
                return Ok(Installed::Unsatisfiable(text));
            }
            Err(error) => return Err(error.context("cannot get the packages")),
        };
        self.end(began, passed(told(&added)));
        if added.is_empty() {
            return Ok(Installed::Well);
        }
        let began = self.begin("install", "install");
        let timeout = Duration::from_secs(self.wish().phase_timeout);
        let mut failed = None;
        for command in supply.install(&added, false)? {
            let ran = self.machine(name)?.run(&packages::words(&command), timeout)?;
            self.recorder.write("install.txt", &ran.output);
            if ran.code != Some(0) {
                failed = Some(ran);
                break;
            }
        }
        let Some(ran) = failed else {
            self.end(began, passed("done"));
            return Ok(Installed::Well);
        };
        let explained = manager.explain(&ran.output).map(|e| e.text);
        let cause = explained.or_else(|| tail(&ran.output));
        let seen = seen(&ran, self.wish().phase_timeout);
        self.end(began, Finding::fail("exit status 0", seen, cause));
        Ok(Installed::Badly)
    }

    /// How the machine is, for checks later on.
    pub(super) fn look(&mut self, name: &str) -> Result<Before> {
        let look = self.machine(name)?.ask(&Ask::Look { files: false })?;
        Ok(Before { look, since: now() })
    }

    /// Makes checks, each a step; tells whether all hold.
    pub(super) fn check<'c>(
        &mut self,
        phase: &str,
        name: &str,
        checks: impl Iterator<Item = &'c dyn Probe>,
        before: &Before,
        timeout: Option<u64>,
    ) -> Result<bool> {
        let mut wish = self.wish().clone();
        wish.timeout = timeout.unwrap_or(wish.timeout);
        let mut all = true;
        for check in checks.filter(|check| check.is_due(Phase::Install)) {
            let began = self.begin(phase, &check.title());
            let machine = self.machine(name)?;
            let (before, since) = (&before.look, before.since);
            let mut scene = Scene { machine, wish: &wish, before, files: false, since };
            let finding = check.check(&mut scene).unwrap_or_else(|error| Finding {
                verdict: Verdict::Error,
                expected: "it can be checked".into(),
                seen: format!("{error:#}"),
                cause: None,
            });
            all &= self.end(began, finding);
        }
        Ok(all)
    }

    /// What is checked of every machine in the end, unless that is left out.
    pub(super) fn check_units(&mut self, name: &str, before: &Before) -> Result<bool> {
        let without = &self.wish().without;
        let units = BUILT_IN.iter().filter(|(kind, _)| *kind == "failed-units");
        let due = units.filter(|(kind, _)| !without.iter().any(|out| out == kind));
        self.check("end", name, due.map(|(_, check)| *check), before, None)
    }
}

/// A finding of what was not run.
pub(super) fn skipped(reason: &str) -> Finding {
    let seen = reason.to_owned();
    Finding { verdict: Verdict::Skipped, expected: String::new(), seen, cause: None }
}

/// How a command ended, in words.
pub(super) fn seen(ran: &Ran, seconds: u64) -> String {
    match ran.code {
        Some(code @ 129..=159) => format!("exit status {code}: signal {}", code - 128),
        Some(code) => format!("exit status {code}"),
        None => format!("it was not done after {seconds} s"),
    }
}

/// Of a command's output in a report.
const QUOTED_LINES: usize = 20;

/// How it ends, where it says anything.
pub(super) fn tail(output: &str) -> Option<String> {
    let lines: Vec<&str> = output.trim_end().lines().collect();
    let last = lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n");
    (!last.is_empty()).then(|| format!("its output ends:\n{last}"))
}
