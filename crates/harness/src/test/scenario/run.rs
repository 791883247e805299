//! Goes through a scenario's steps.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use regex_lite::Regex;

use super::{Act, Content, FileOf, Scenario, StepOf};
use crate::probe::Verdict;
use crate::probe::cell::read_checks;
use crate::probe::check::{Finding, Probe};
use crate::probe::machine::Ran;
use crate::probe::recorder::passed;
use crate::test::bench::{Before, Bench, Installed, seen, skipped, tail};
use crate::test::networks::Shared;

/// The exit status of a step that says that the test cannot be done here, as automake and autopkgtest have it.
const SKIPPED: i32 = 77;

/// # Errors
/// Where it cannot be gone through.
pub(in crate::test) fn run(scenario: &Scenario, bench: &mut Bench<'_, '_>) -> Result<()> {
    let shared = match scenario.machines.len() {
        1 => None,
        _ => Some(Shared::new(bench.place.run)?),
    };
    boot(scenario, bench, shared.as_ref())?;
    let mut before = BTreeMap::new();
    for machine in &scenario.machines {
        before.insert(machine.name.clone(), bench.look(&machine.name)?);
    }
    for file in &scenario.files {
        put(file, bench)?;
    }
    for (number, step) in scenario.steps.iter().enumerate() {
        let going = Going { scenario, step, number: number + 1, shared: shared.as_ref() };
        if !going.through(bench, &before)? {
            // What follows would only fail of the same.
            return Ok(());
        }
    }
    if !scenario.without_units {
        for machine in &scenario.machines {
            bench.check_units(&machine.name, &before[&machine.name])?;
        }
    }
    Ok(())
}

fn boot(scenario: &Scenario, bench: &mut Bench<'_, '_>, shared: Option<&Shared<'_>>) -> Result<()> {
    for machine in &scenario.machines {
        let image = machine.image.clone().unwrap_or_else(|| bench.wish().image.clone());
        let mut options = scenario.boot.clone();
        if let Some(shared) = shared {
            options.extend(["--network".into(), shared.mode()]);
            options.extend(["--hostname".into(), machine.name.clone()]);
        }
        let installs =
            |step: &StepOf| step.machine == machine.name && matches!(step.act, Act::Install(_));
        bench.boot(&machine.name, &image, &options, scenario.steps.iter().any(installs))?;
    }
    match shared {
        Some(shared) => introduce(scenario, bench, shared),
        None => Ok(()),
    }
}

/// Tells all machines the names and addresses of all.
fn introduce(scenario: &Scenario, bench: &mut Bench<'_, '_>, shared: &Shared<'_>) -> Result<()> {
    const MARK: &str = "# of the test";
    let hosts: String = shared.hosts()?.lines().map(|line| format!("{line} {MARK}\n")).collect();
    let script = format!(
        "{{ grep -v '{MARK}$' /etc/hosts; printf '%s' \"$0\"; }} >/etc/hosts.test && \
         cat /etc/hosts.test >/etc/hosts && rm /etc/hosts.test"
    );
    for machine in &scenario.machines {
        let command = ["sh", "-c", &script, &hosts];
        let ran = bench.machine(&machine.name)?.run(&command, Duration::from_secs(60))?;
        if ran.code != Some(0) {
            bail!("cannot write /etc/hosts of {}: {}", machine.name, ran.output.trim());
        }
    }
    Ok(())
}

fn put(file: &FileOf, bench: &mut Bench<'_, '_>) -> Result<()> {
    let began = bench.begin("files", &file.path);
    let machine = bench.machines.get(&file.machine).context("there is no such machine")?;
    let quiet = Duration::from_secs(60);
    let made = "mkdir -p -- \"$(dirname -- \"$0\")\"";
    let ran = machine.run(&["sh", "-ec", made, &file.path], quiet)?;
    if ran.code != Some(0) {
        bail!("cannot make the directory of {}: {}", file.path, ran.output.trim());
    }
    match &file.content {
        Content::Copy(path) => machine.put(path, &file.path)?,
        Content::Text(text) => {
            let mut temporary = tempfile_in(&bench.recorder.wish.evidence)?;
            temporary.1.write_all(text.as_bytes())?;
            let copied = machine.put(&temporary.0, &file.path);
            let _ = std::fs::remove_file(&temporary.0);
            copied?;
        }
    }
    if let Some(mode) = file.mode {
        let ran = machine.run(&["chmod", &format!("{mode:o}"), &file.path], quiet)?;
        if ran.code != Some(0) {
            bail!("cannot set the mode of {}: {}", file.path, ran.output.trim());
        }
    }
    bench.end(began, passed("it is there"));
    Ok(())
}

fn tempfile_in(directory: &std::path::Path) -> Result<(std::path::PathBuf, std::fs::File)> {
    let path = directory.join("file.tmp");
    let file =
        std::fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok((path, file))
}

/// One step, and what it belongs to.
struct Going<'a> {
    scenario: &'a Scenario,
    step: &'a StepOf,
    number: usize,
    shared: Option<&'a Shared<'a>>,
}

impl Going<'_> {
    /// Tells whether it went well.
    fn through(
        &self,
        bench: &mut Bench<'_, '_>,
        before: &BTreeMap<String, Before>,
    ) -> Result<bool> {
        let Self { scenario, step, .. } = self;
        let machine = &step.machine;
        let phase = if machine.is_empty() { "test" } else { machine };
        let title = if step.name.is_empty() { step.act.title() } else { step.name.clone() };
        match &step.act {
            Act::Check(checks) => {
                let checks: Vec<Box<dyn Probe>> = read_checks(checks)?;
                let timeout = step.timeout.or(scenario.timeout);
                let checks = checks.iter().map(AsRef::as_ref);
                bench.check(phase, machine, checks, &before[machine], timeout)
            }
            Act::Install(packages) => {
                let of = scenario.machines.iter().find(|of| of.name == *machine);
                let image = of.and_then(|of| of.image.clone());
                let image = image.unwrap_or_else(|| bench.wish().image.clone());
                match bench.install(machine, &image, packages)? {
                    Installed::Well => Ok(true),
                    Installed::Badly => Ok(false),
                    Installed::Unsatisfiable(why) => {
                        let began = bench.begin(phase, &title);
                        let finding = Finding::fail(
                            "what it needs can be had",
                            "dependency missing",
                            Some(why),
                        );
                        Ok(bench.end(began, finding))
                    }
                }
            }
            Act::Reboot => {
                let began = bench.begin(phase, &title);
                bench.machine(machine)?.restart().context("cannot restart the machine")?;
                if let Some(shared) = self.shared {
                    introduce(scenario, bench, shared)?;
                }
                Ok(bench.end(began, passed("it is up again")))
            }
            Act::Run { script, exit, output, user } => {
                let began = bench.begin(phase, &title);
                let seconds = step.timeout.or(scenario.timeout).unwrap_or(bench.wish().timeout);
                let ran = self.script(bench, script, user.as_deref(), seconds)?;
                let finding = found(&ran, *exit, output.as_deref(), seconds)?;
                let good = finding.verdict == Verdict::Pass;
                bench.end(began, finding);
                Ok(good)
            }
        }
    }

    fn script(
        &self,
        bench: &mut Bench<'_, '_>,
        script: &str,
        user: Option<&str>,
        seconds: u64,
    ) -> Result<Ran> {
        let mut options = vec!["-e".to_owned(), "LC_ALL=C.UTF-8".into()];
        options.extend(user.into_iter().flat_map(|user| ["--user".into(), user.to_owned()]));
        let command = ["sh", "-e", "-c", script];
        let timeout = Duration::from_secs(seconds);
        let ran =
            bench.machine(&self.step.machine)?.run_with(&options, &command, false, timeout)?;
        bench.recorder.write(&format!("step-{}.txt", self.number), &ran.output);
        Ok(ran)
    }
}

/// What a script's end means.
fn found(ran: &Ran, exit: i32, output: Option<&str>, seconds: u64) -> Result<Finding> {
    if ran.code == Some(SKIPPED) && exit != SKIPPED {
        let last = ran.output.trim_end().lines().last().unwrap_or_default();
        return Ok(skipped(if last.is_empty() { "exit status 77" } else { last }));
    }
    if ran.code != Some(exit) {
        let expected = format!("exit status {exit}");
        return Ok(Finding::fail(expected, seen(ran, seconds), tail(&ran.output)));
    }
    let Some(pattern) = output else { return Ok(passed(format!("exit status {exit}"))) };
    match Regex::new(pattern)?.find(&ran.output) {
        Some(found) => Ok(passed(found.as_str().trim())),
        None => {
            let expected = format!("output that matches {pattern}");
            Ok(Finding::fail(expected, "output that does not match", tail(&ran.output)))
        }
    }
}
