//! One cell: a machine, the phases of its packages, and the checks after each.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use bakery::source::bootstrap::addition::{Asked, Unsatisfiable};
use distro::package::{Cause, Operation, PackageManager};
use engine::state::RunDirectory;
use store::Store;

use super::check::{self, Finding, Probe, Scene};
use super::inside::{Ask, Look};
pub use super::machine::Program;
use super::machine::{Machine, Ran};
use super::packages::{self, CACHE, Commands, Package, Supply, words};
use super::recorder::{Began, Recorder, passed};
use super::{Cell, News, Phase, Verdict, Wish};

/// Where things are.
pub struct Place<'a> {
    /// This program.
    pub program: Program,
    /// Its images.
    pub store: &'a Store,
    /// Its machines.
    pub run: &'a RunDirectory,
}

/// Probes one cell. What goes wrong is in the result.
pub fn run(wish: &Wish, place: &Place<'_>, tell: &mut dyn FnMut(News)) -> Cell {
    let mut recorder = Recorder::new(wish, tell);
    if let Some(test) = &wish.test {
        let mut machines = BTreeMap::new();
        let error = crate::test::run(test, place, &mut recorder, &mut machines).err();
        return recorder.finish(error, machines.into_values().collect());
    }
    let mut probing = Probing { wish, place, recorder, machine: None };
    let error = probing.all().err();
    let machines = probing.machine.take().into_iter().collect();
    probing.recorder.finish(error, machines)
}

struct Probing<'a> {
    wish: &'a Wish,
    place: &'a Place<'a>,
    recorder: Recorder<'a>,
    machine: Option<Machine>,
}

impl Probing<'_> {
    fn all(&mut self) -> Result<()> {
        let wish = self.wish;
        std::fs::create_dir_all(&wish.evidence)
            .with_context(|| format!("cannot make {}", wish.evidence.display()))?;
        let checks = checks(wish)?;
        self.boot()?;
        let files = wish.phases.contains(&Phase::Purge) && !wish.packages.is_empty();
        let before: Look = self.machine()?.ask(&Ask::Look { files })?;
        if wish.packages.is_empty() {
            self.check_all("boot", Phase::Install, &checks, &before, now())?;
            return Ok(());
        }
        let store = self.place.store;
        let machine = self.machine()?;
        let (manager, supply) = packages::supply(store, wish, machine)?;
        machine.manager = Some(manager);
        let installed = packages::list(machine, manager)?;
        if !wish.repositories.is_empty() {
            let began = self.begin("install", "repositories");
            let seen = supply.add_repositories(self.machine()?)?;
            self.end(began, passed(seen));
        }
        self.write("packages-before.txt", &installed);
        let mut packages = Packages { manager, supply, added: Vec::new() };
        for &phase in &wish.phases {
            let since = now();
            if !self.phase(phase, &mut packages)? {
                // What follows would only fail of the same.
                return Ok(());
            }
            self.check_all(phase.word(), phase, &checks, &before, since)?;
        }
        Ok(())
    }

    fn machine(&mut self) -> Result<&mut Machine> {
        self.machine.as_mut().context("there is no machine")
    }

    fn boot(&mut self) -> Result<()> {
        let wish = self.wish;
        let is_here = self.place.store.find(&wish.image).ok().flatten().is_some();
        let began = self.begin("boot", if is_here { "boot" } else { "pull and boot" });
        let mut options = wish.boot.clone();
        if !wish.packages.is_empty() {
            options.extend(packages::volumes(self.place.store, wish)?);
        }
        let Place { program, run, .. } = self.place;
        let what = || format!("cannot boot {}", wish.image);
        let name = format!("probe-{}", std::process::id());
        let suits = |plan: &spec::plan::Plan| {
            wish.packages.is_empty() || plan.mounts.iter().any(|mount| mount.target == CACHE)
        };
        let pooled = match wish.pool {
            true => Machine::from_pool(program, run, &name, suits, wish).with_context(what)?,
            false => None,
        };
        let seen = if pooled.is_some() { "it came out of a pool" } else { "it is up" };
        let machine = match pooled {
            Some(machine) => machine,
            None => Machine::boot(program, run, &name, &wish.image, &options, wish)
                .with_context(what)?,
        };
        let finding = Finding {
            verdict: Verdict::Pass,
            expected: String::new(),
            seen: seen.into(),
            cause: None,
        };
        self.machine = Some(machine);
        self.end(began, finding);
        Ok(())
    }

    /// Does something with the packages; tells whether that went well.
    fn phase(&mut self, phase: Phase, packages: &mut Packages<'_>) -> Result<bool> {
        let wish = self.wish;
        let has_from = !wish.from.is_empty();
        let asked = match phase {
            Phase::Install if has_from => &wish.from,
            _ => &wish.packages,
        };
        if matches!(phase, Phase::Install | Phase::Upgrade) {
            let began = self.begin(phase.word(), "fetch");
            match packages.supply.fetch(self.machine()?, asked) {
                Ok(added) => {
                    let seen = told(&added);
                    packages.added = added;
                    self.end(began, passed(seen));
                }
                // Of packages from the archive that would be the archive's fault, or a typing error.
                Err(error) if error.is::<Unsatisfiable>() => {
                    let finding = Finding {
                        verdict: Verdict::Fail,
                        expected: "what it needs can be had".into(),
                        seen: "dependency missing".into(),
                        cause: Some(format!("{error:#}")),
                    };
                    self.end(began, finding);
                    return Ok(false);
                }
                Err(error) => return Err(error.context("cannot get the packages")),
            }
        }
        let began = self.begin(phase.word(), phase.word());
        let commands = self.commands(phase, packages)?;
        let nothing = commands.is_empty();
        for command in commands {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let timeout = Duration::from_secs(wish.phase_timeout);
            let ran = self.machine()?.run(&words, timeout)?;
            self.write(&format!("{}.txt", phase.word()), &ran.output);
            if ran.code == Some(0)
                && let Some(complaint) = packages.manager.complaint(&ran.output)
            {
                let finding = Finding {
                    verdict: Verdict::Fail,
                    expected: "nothing fails".into(),
                    seen: "a script failed, and the package manager went on".into(),
                    cause: Some(complaint.text),
                };
                self.end(began, finding);
                return Ok(false);
            }
            if ran.code != Some(0) {
                let finding = self.failed(&ran, packages.manager)?;
                let good = finding.verdict.is_good();
                self.end(began, finding);
                return Ok(good);
            }
        }
        self.end(began, passed(if nothing { "there is nothing to be done" } else { "done" }));
        Ok(true)
    }

    /// What the package manager is told in a phase.
    fn commands(&mut self, phase: Phase, packages: &Packages<'_>) -> Result<Commands> {
        let Packages { manager, supply, added } = packages;
        let asked: Vec<Package> = added.iter().filter(|a| a.asked).cloned().collect();
        let names = names(&asked, &self.wish.packages);
        match phase {
            Phase::Install | Phase::Upgrade if added.is_empty() => Ok(Vec::new()),
            Phase::Install | Phase::Upgrade => supply.install(added, phase == Phase::Upgrade),
            Phase::Reinstall => packages::reinstall(*manager, &asked),
            Phase::Remove => packages::commands(*manager, &Operation::Remove(&words(&names))),
            Phase::Purge => match supply.purgeable(self.machine()?, &names, added)? {
                left if left.is_empty() => Ok(Vec::new()),
                left => packages::commands(*manager, &Operation::Purge(&words(&left))),
            },
        }
    }

    /// Why a package manager failed.
    fn failed(&mut self, ran: &Ran, of: &dyn PackageManager) -> Result<Finding> {
        let explained = of.explain(&ran.output);
        let lines: Vec<&str> = ran.output.lines().collect();
        let tail = lines[lines.len().saturating_sub(10)..].join("\n");
        let verdict = match &explained {
            Some(explanation) if !explanation.cause.is_of_package() => Verdict::Error,
            _ => Verdict::Fail,
        };
        let seen = match ran.code {
            Some(code) => format!("exit status {code}"),
            None => format!("it was not done after {} s", self.wish.phase_timeout),
        };
        let remedy = match &explained {
            Some(explanation) if explanation.cause == Cause::Unreachable => {
                "; --network gives the machine a network"
            }
            _ => "",
        };
        let mut cause = explained.map_or(tail, |explanation| explanation.text) + remedy;
        if ran.code.is_none() {
            let look: Look = self.machine()?.ask(&Ask::Look { files: false })?;
            let busy = look.units.iter().filter(|unit| unit.active == "activating");
            let busy: Vec<&str> = busy.map(|unit| unit.name.as_str()).collect();
            if !busy.is_empty() {
                cause = format!("it waits for {}, which stays activating", busy.join(", "));
            }
        }
        Ok(Finding { verdict, expected: "exit status 0".into(), seen, cause: Some(cause) })
    }

    fn check_all(
        &mut self,
        word: &'static str,
        phase: Phase,
        checks: &[Box<dyn Probe>],
        before: &Look,
        since: u64,
    ) -> Result<()> {
        let wish = self.wish;
        let built_in = check::BUILT_IN.iter().filter(|(name, _)| {
            // Without packages nothing can have come with them.
            !wish.without.iter().any(|without| without == name)
                && (!wish.packages.is_empty() || *name == "failed-units")
        });
        let asked = checks.iter().map(AsRef::as_ref);
        let due: Vec<&dyn Probe> = asked
            .chain(built_in.map(|(_, probe)| *probe))
            .filter(|probe| probe.is_due(phase))
            .collect();
        let files = phase == Phase::Purge;
        for probe in due {
            let began = self.begin(word, &probe.title());
            let machine = self.machine.as_mut().context("there is no machine")?;
            let mut scene = Scene { machine, wish, before, files, since };
            let finding = probe.check(&mut scene).unwrap_or_else(|error| Finding {
                verdict: Verdict::Error,
                expected: "it can be checked".into(),
                seen: format!("{error:#}"),
                cause: None,
            });
            self.end(began, finding);
        }
        Ok(())
    }

    fn begin(&mut self, phase: &str, name: &str) -> Began {
        self.recorder.begin(phase, name)
    }

    fn end(&mut self, began: Began, finding: Finding) {
        self.recorder.end(began, finding);
    }

    fn write(&mut self, name: &str, text: &str) {
        self.recorder.write(name, text);
    }
}

/// What is to be installed, on one line.
pub(crate) fn told(added: &[Package]) -> String {
    let shown = |a: &Package| format!("{} {}", a.name, a.version).trim_end().to_owned();
    let asked: Vec<String> = added.iter().filter(|a| a.asked).map(shown).collect();
    match (asked.is_empty(), added.len() - asked.len()) {
        (true, 0) => "all are installed already".into(),
        (_, 0) => asked.join(", "),
        (_, needed) => format!("{}, and {needed} that it needs", asked.join(", ")),
    }
}

/// Names of the packages that were asked for, those too that the image has already.
fn names(added: &[Package], asked: &[String]) -> Vec<String> {
    let mut names: Vec<String> = added.iter().map(|a| a.name.clone()).collect();
    for text in asked {
        if let Asked::Name(name) = Asked::parse(text)
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

struct Packages<'a> {
    manager: &'static dyn PackageManager,
    supply: Box<dyn Supply + 'a>,
    /// By the last installation.
    added: Vec<Package>,
}

/// Reads the checks that were asked for.
///
/// # Errors
/// Names the one that makes no sense.
pub fn checks(wish: &Wish) -> Result<Vec<Box<dyn Probe>>> {
    read_checks(&wish.checks)
}

/// The same of a list: kinds, and what is given for each.
pub(crate) fn read_checks(checks: &[(String, String)]) -> Result<Vec<Box<dyn Probe>>> {
    let read = |(kind, text): &(String, String)| {
        let known = check::KINDS.iter().find(|(name, _)| name == kind);
        let (_, parse) = known.with_context(|| format!("no check is called {kind:?}"))?;
        parse(text).with_context(|| format!("--check-{kind}"))
    };
    checks.iter().map(read).collect()
}

/// Words for a shell.
#[must_use]
pub fn quoted(words: &[String]) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=,+@%".contains(&b);
    let quote = |word: &String| {
        if !word.is_empty() && word.bytes().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// Microseconds since the epoch.
pub(crate) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_command_can_be_pasted() {
        let words = ["a", "x y", "it's", "", "http://h/?a=b&c"].map(str::to_owned);
        assert_eq!(quoted(&words), r"a 'x y' 'it'\''s' '' 'http://h/?a=b&c'");
    }
}
