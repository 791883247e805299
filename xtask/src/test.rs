//! Everything that CI checks.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::account::{self, Account};
use crate::command::{cargo, is_root, run};
use crate::junit::{self, Report};
use crate::{licences, lint, setup, skips};

/// Installs, checks and tests. What fails does not keep the rest from being tried.
///
/// # Errors
/// Where what the tests need cannot be installed.
pub(crate) fn all() -> Result<ExitCode> {
    let mut ledger = Ledger::default();
    setup::tests()?;
    ledger.step("rustfmt", lint::format);
    ledger.step("clippy", lint::clippy);
    ledger.step("fuzz targets compile", lint::fuzz);
    ledger.step("licences", licences::check);
    if is_root() {
        ledger.tests("tests as root", "root", as_ourselves);
        ledger.tests(&format!("tests as {}", account::NAME), "user", as_ordinary_user);
    } else {
        ledger.tests("tests as an ordinary user", "user", as_ourselves);
        ledger.remarks.push("the tests as root need root: sudo -E cargo xtask test");
    }
    let runs = std::mem::take(&mut ledger.runs);
    ledger.step("skipped tests", || skips::check(&runs));
    ledger.runs = runs;
    Ok(ledger.close())
}

/// Runs nextest in this checkout.
fn as_ourselves() -> Result<Report> {
    let report = Path::new(REPORT);
    forget(report)?;
    let done = run(cargo().args(["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]));
    outcome(done, report)
}

/// Runs the same binaries as a user that cannot see this checkout: `/root` may be closed to
/// it. So it gets an archive of them, and a copy of the sources for the tests' own files.
fn as_ordinary_user() -> Result<Report> {
    let account = Account::ensure()?;
    let archive = account.work.join("tests.tar.zst");
    let source = account.work.join("source");
    let extracted = account.work.join("extracted");
    fs::create_dir(&extracted).with_context(|| format!("making {}", extracted.display()))?;
    run(cargo()
        .args(["nextest", "archive", "--workspace", "--locked", "--archive-file"])
        .arg(&archive))?;
    copy_tree(Path::new("."), &source)?;
    let nextest = account.lend("cargo-nextest")?;
    account.own()?;
    let mut command = account.command(&nextest);
    command.args(["nextest", "run", "--no-fail-fast"]);
    command.arg("--archive-file").arg(&archive).arg("--extract-to").arg(&extracted);
    command.arg("--workspace-remap").arg(&source).current_dir(&source);
    let done = run(&mut command);
    let report = outcome(done, &source.join(REPORT))?;
    // What failed may want to be looked at; the rest is large.
    if report.failed == 0 {
        account.clear()?;
    }
    Ok(report)
}

/// Where .config/nextest.toml lets nextest write its report.
const REPORT: &str = "target/nextest/default/junit.xml";

fn forget(report: &Path) -> Result<()> {
    match fs::remove_file(report) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", report.display()))
        }
        _ => Ok(()),
    }
}

/// A run that failed without a failed test in its report did not test at all.
fn outcome(done: Result<()>, report: &Path) -> Result<Report> {
    let text = fs::read_to_string(report).map_err(anyhow::Error::from);
    match (done, text.map(|text| junit::parse(&text))) {
        (Ok(()), Ok(report)) if report.run == 0 => bail!("no test was run"),
        (Ok(()), Ok(report)) => Ok(report),
        (Err(_), Ok(report)) if report.failed > 0 => Ok(report),
        (Err(error), _) => Err(error),
        (Ok(()), Err(error)) => Err(error).with_context(|| format!("reading {}", report.display())),
    }
}

/// What lies in a checkout and is no source.
const BUILT: [&str; 4] = [".git", "artifacts", "corpus", "target"];

/// Copies a source tree without what was built in it.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("listing {}", from.display()))? {
        let entry = entry.with_context(|| format!("listing {}", from.display()))?;
        let (name, source) = (entry.file_name(), entry.path());
        let target = to.join(&name);
        let what = || format!("copying {}", source.display());
        let kind = entry.file_type().with_context(what)?;
        if BUILT.iter().any(|built| name == *built) {
            continue;
        } else if kind.is_dir() {
            copy_tree(&source, &target)?;
        } else if kind.is_symlink() {
            let link = fs::read_link(&source).with_context(what)?;
            std::os::unix::fs::symlink(link, &target).with_context(what)?;
        } else if kind.is_file() {
            fs::copy(&source, &target).with_context(what)?;
        }
    }
    Ok(())
}

/// What was done and how it went.
#[derive(Default)]
struct Ledger {
    lines: Vec<String>,
    broken: bool,
    runs: Vec<(&'static str, Report)>,
    remarks: Vec<&'static str>,
}

impl Ledger {
    fn step(&mut self, name: &str, step: impl FnOnce() -> Result<()>) {
        let start = Instant::now();
        let done = step();
        self.enter(name, start, done.map(|()| "ok".to_owned()));
    }

    fn tests(&mut self, name: &str, who: &'static str, step: impl FnOnce() -> Result<Report>) {
        let start = Instant::now();
        let done = step().map(|report| {
            self.broken |= report.failed > 0;
            let text = format!(
                "{}: {} run, {} failed, {} skipped",
                if report.failed > 0 { "FAILED" } else { "ok" },
                report.run,
                report.failed,
                report.skipped.len()
            );
            self.runs.push((who, report));
            text
        });
        self.enter(name, start, done);
    }

    fn enter(&mut self, name: &str, start: Instant, done: Result<String>) {
        let text = done.unwrap_or_else(|error| {
            self.broken = true;
            eprintln!("error: {name}: {error:#}");
            format!("FAILED: {error:#}")
        });
        self.lines.push(format!("{name:<26} {:>5} s  {text}", start.elapsed().as_secs()));
    }

    /// Prints everything; its last line is meant for whoever reads only that.
    fn close(self) -> ExitCode {
        println!();
        for line in &self.lines {
            println!("{line}");
        }
        for (who, report) in &self.runs {
            report.flaky.iter().for_each(|test| println!("flaky: {who} {test}"));
        }
        for remark in &self.remarks {
            println!("{remark}");
        }
        let sum =
            |count: fn(&Report) -> u64| self.runs.iter().map(|(_, run)| count(run)).sum::<u64>();
        let skipped = sum(|run| run.skipped.len() as u64);
        let failed = sum(|run| run.failed);
        let passed = (sum(|run| run.run) - failed).saturating_sub(skipped);
        println!("tests: {passed} passed, {failed} failed, {skipped} skipped");
        if self.broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}
