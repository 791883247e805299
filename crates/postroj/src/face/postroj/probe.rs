//! `probe` and `matrix`: does my software work on all of them?

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use harness::host::Host;
use harness::matrix::{self, Happening, Journal, Settings};
use harness::probe::cell::{Place, Program};
use harness::probe::{Cell, Verdict, Wish, cell as cells, inside as eyes};
use harness::report::{self, Run};
use rustix::process::Signal;
use spec::request::Request;

use super::Here;
use super::show::Show;
use cache::Cache;

mod cache;
mod commands;
mod file;
pub(super) mod shared;
pub(super) mod variant;
mod what;

pub(super) use what::absolute;
use what::{What, wishes};

/// Probe a package: does it install, start, answer, upgrade and go away on these systems?
///
/// Every image and package given is a cell: a machine of its own, with a network of its own that nobody
/// else is on. Exit status: 0 all is well, 1 something failed, 2 usage, 3 something could
/// not be tested, 77 everything was skipped.
#[derive(Debug, clap::Args)]
#[command(visible_alias = "pkgprobe")]
pub(super) struct Args {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    how: How,
}

/// Go through what a file describes, or run a command in many images
///
/// The file has [[probe]], [[test]] and [[run]] tables, whose keys are the options of `probe`, `test` and of
/// `matrix` itself.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "postroj matrix [OPTIONS] [FILE]\n       postroj matrix --image REF [OPTIONS] -- [COMMAND [ARG]...]"
)]
pub(super) struct MatrixArgs {
    /// The file
    #[arg(default_value = "postroj.toml", conflicts_with = "image")]
    file: PathBuf,
    #[command(flatten)]
    run: commands::What,
    #[command(flatten)]
    how: How,
}

/// How it is gone about.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct How {
    /// Cells at once [default: as many as there are processors, and memory for]
    #[arg(short, long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Begin no further cell when one has failed
    #[arg(long)]
    fail_fast: bool,
    /// A cell that may fail, by a part of its image's and package's names
    #[arg(long, value_name = "TEXT")]
    allow_fail: Vec<String>,
    /// Try a cell that is not well again
    #[arg(long, value_name = "TIMES", default_value_t = 0)]
    pub(super) retry: u32,
    /// What passed in another attempt only counts as failed.
    #[arg(skip)]
    pub(super) flaky_fails: bool,
    /// Every so many-th cell only, such as 1/3
    #[arg(long, value_name = "NUMBER/COUNT", value_parser = shard)]
    shard: Option<(usize, usize)>,
    /// Go on with what was interrupted or could not be tested, by the results in the --evidence directory
    #[arg(long, requires = "evidence")]
    resume: bool,
    /// Pass over cells that passed within the last day with the same image, package files and checks
    #[arg(long, conflicts_with = "resume")]
    cache: bool,
    /// Keep evidence of every cell there, not only of those that are not well
    #[arg(long, value_name = "DIR")]
    pub(super) evidence: Option<PathBuf>,
    /// Write a report: junit, tap, json, markdown, html, github or gitlab; on standard output without a FILE
    #[arg(long, value_name = "FORMAT[=FILE]", value_parser = wanted_report)]
    report: Vec<(String, Option<PathBuf>)>,
    /// Leave the machine of a cell that is not well running
    #[arg(long)]
    pub(super) keep_on_failure: bool,
    /// Open a shell in the machine of a cell that is not well
    #[arg(long)]
    pub(super) shell_on_failure: bool,
}

/// One machine
#[derive(Debug, clap::Args)]
pub(super) struct Inside {
    machine: String,
}

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const ERROR: u8 = 3;
const SKIPPED: u8 = 77;

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    go(&args.how, here, |_| wishes(std::slice::from_ref(&args.what), &args.how))
}

pub(super) fn matrix(args: &MatrixArgs, here: &Here) -> Result<u8> {
    if !args.run.image.is_empty() {
        return go(&args.how, here, |_| commands::wishes(&args.run, &args.how));
    }
    if let Some(option) = commands::idle(&args.run) {
        let error = anyhow::anyhow!("{option} is for a command in images: give --image");
        return Ok(usage(&error));
    }
    let read = || -> Result<file::File> {
        let name = args.file.display().to_string();
        let text =
            std::fs::read_to_string(&args.file).with_context(|| format!("cannot read {name}"))?;
        file::read(&name, &text)
    };
    let file = match read() {
        Ok(file) => file,
        Err(error) => return Ok(usage(&error)),
    };
    go(&args.how, here, |_| {
        let mut all = wishes(&file.probe, &args.how)?;
        for what in &file.test {
            all.extend(super::test::wishes(what, &args.how)?);
        }
        for what in &file.run {
            all.extend(commands::wishes(what, &args.how)?);
        }
        Ok(all)
    })
}

pub(super) fn usage(error: &anyhow::Error) -> u8 {
    eprintln!("postroj: {error:#}");
    USAGE
}

/// Goes through the cells that `decide` decides on, once everything is there that it may ask.
pub(super) fn go(
    how: &How,
    here: &Here,
    decide: impl FnOnce(&Path) -> Result<Vec<Wish>>,
) -> Result<u8> {
    // Everything that is started from here on runs from the same copy.
    let run = here.run_directory()?;
    let host = Host::new(run.path())?;
    let ids = plan::id_mapping(&Request::default(), &host.launcher)?;
    sys::exe::protect(|owner| harness::host::within_reach(&ids, owner))
        .context("cannot keep postroj's own file out of the machines' reach")?;
    drop(host);
    run.reap();
    // Made before anything is put into it.
    here.store()?;
    let directory = match &how.evidence {
        Some(path) => std::path::absolute(path)?,
        None => here.places()?.store.join("probes").join(run_name()),
    };
    let wishes = match decide(&directory) {
        Ok(wishes) => part(named(wishes, &directory), how),
        Err(error) => return Ok(usage(&error)),
    };
    match through(&wishes, how, here, &run, &directory) {
        Ok(code) => Ok(code),
        Err(error) => {
            eprintln!("postroj: {error:#}");
            Ok(ERROR)
        }
    }
}

/// Seconds since the epoch and a process id: no two at a time have the same.
fn run_name() -> String {
    format!("{}-{}", engine::state::now(), std::process::id())
}

fn through(
    wishes: &[Wish],
    how: &How,
    here: &Here,
    run: &engine::state::RunDirectory,
    directory: &Path,
) -> Result<u8> {
    let (mut journal, mut known) = Journal::open(directory, how.resume)?;
    let remembered = how.cache.then(|| Cache::open(here)).transpose()?;
    known.extend(remembered.iter().flat_map(|cache| cache.known(wishes)));
    let settings = Settings {
        jobs: how.jobs.map_or_else(matrix::room, usize::from),
        fail_fast: how.fail_fast,
        retries: how.retry,
    };
    let program = program(here);
    let command = |_: &Wish| program.verb(&["probe-cell"]);
    let on_stdout = how.report.iter().any(|(_, file)| file.is_none());
    harness::test::tidy_networks(run.path());
    let mut show = Show::new(wishes, &how.allow_fail, on_stdout);
    let begun = std::time::Instant::now();
    let started = engine::state::now();
    let mut tell = |happening: Happening| show.happens(happening);
    let (cells, interrupted) =
        matrix::run(wishes, &known, &settings, &mut journal, run, &command, &mut tell)?;
    harness::test::tidy_networks(run.path());
    if let Some(cache) = &remembered {
        cache.keep(&cells, &known);
    }
    let seconds = begun.elapsed().as_secs_f64();
    show.over(&cells, seconds, directory);
    let told = Run { cells, started, seconds, directory: directory.to_owned() };
    let reported: Vec<Result<()>> = how
        .report
        .iter()
        .map(|(format, file)| write_report(format, file.as_deref(), &told))
        .collect();
    // Forges read them where they stand.
    for report in report::REPORTS.iter().filter(|report| report.is_wanted_here()) {
        eprint!("{}", report.render(&told));
    }
    after(how, &program, &told.cells)?;
    if how.evidence.is_none() {
        tidy(directory, &told.cells);
    }
    // Machines and evidence are seen to whatever became of the reports.
    reported.into_iter().collect::<Result<()>>()?;
    match interrupted {
        Some(signal) => Ok(128 + signal as u8),
        None => Ok(match code(&told.cells, &how.allow_fail) {
            0 if how.flaky_fails && told.cells.iter().any(is_second) => FAILED,
            code => code,
        }),
    }
}

fn write_report(format: &str, file: Option<&Path>, told: &Run) -> Result<()> {
    let text = report::find(format).context("no such report")?.render(told);
    match file {
        Some(path) => std::fs::write(path, text)
            .with_context(|| format!("cannot write the report {}", path.display())),
        None => std::io::stdout().write_all(text.as_bytes()).context("cannot write the report"),
    }
}

/// It passed, but not in its first attempt.
fn is_second(cell: &Cell) -> bool {
    cell.verdict == Verdict::Flaky && cell.attempts > 1
}

fn program(here: &Here) -> Program {
    Program { options: here.options() }
}

/// A shell where one is wanted, and what it was opened in goes after it.
fn after(how: &How, program: &Program, cells: &[Cell]) -> Result<()> {
    if !how.shell_on_failure {
        return Ok(());
    }
    let kept = cells.iter().filter_map(|cell| cell.machine.as_ref());
    for name in kept.flat_map(|names| names.split(' ')) {
        let mut shell = program.verb(&["shell", name]);
        shell.stdin(std::process::Stdio::inherit()).status().context("cannot open a shell")?;
        if !how.keep_on_failure {
            program.verb(&["rm", "-f", name]).stdout(std::process::Stdio::null()).status()?;
        }
    }
    Ok(())
}

/// Of runs whose evidence nobody asked for, only those stay that have some.
fn tidy(directory: &Path, cells: &[Cell]) {
    if cells.iter().all(|cell| cell.verdict == Verdict::Pass) {
        let _ = std::fs::remove_dir_all(directory);
    }
    let Some(parent) = directory.parent() else { return };
    let mut runs: Vec<PathBuf> = std::fs::read_dir(parent)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    runs.sort();
    for old in &runs[..runs.len().saturating_sub(KEPT_RUNS)] {
        let _ = std::fs::remove_dir_all(old);
    }
}

const KEPT_RUNS: usize = 20;

fn code(cells: &[Cell], allowed: &[String]) -> u8 {
    let counts = |verdict| {
        cells.iter().any(|cell| cell.verdict == verdict && !is_allowed(&cell.wish, allowed))
    };
    let skipped = cells.iter().all(|cell| cell.verdict == Verdict::Skipped);
    match (counts(Verdict::Fail), counts(Verdict::Error)) {
        (true, _) => FAILED,
        (false, true) => ERROR,
        (false, false) if skipped => SKIPPED,
        (false, false) => 0,
    }
}

pub(super) fn is_allowed(wish: &Wish, allowed: &[String]) -> bool {
    let by_itself = wish.test.as_ref().is_some_and(|test| test.may_fail.is_some());
    by_itself || allowed.iter().any(|text| wish.title().contains(text.as_str()))
}

/// Gives each a directory of its own for its evidence.
fn named(mut wishes: Vec<Wish>, directory: &Path) -> Vec<Wish> {
    let mut names = std::collections::HashSet::new();
    for wish in &mut wishes {
        let name = file_name(&wish.title());
        let mut own = name.clone();
        for number in 2.. {
            if names.insert(own.clone()) {
                break;
            }
            own = format!("{name}-{number}");
        }
        wish.evidence = directory.join(own);
    }
    wishes
}

fn part(wishes: Vec<Wish>, how: &How) -> Vec<Wish> {
    match how.shard {
        Some((number, count)) => matrix::shard(wishes, number, count),
        None => wishes,
    }
}

/// A name for a directory.
fn file_name(title: &str) -> String {
    let short = |word: &str| word.rsplit('/').next().unwrap_or(word).to_owned();
    let words: Vec<String> = title.split(' ').map(short).collect();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.+".contains(c) { c } else { '_' };
    words.join("_").chars().map(plain).take(100).collect()
}

fn shard(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once('/').and_then(|(number, count)| {
        Some((number.parse::<usize>().ok()?, count.parse::<usize>().ok()?))
    });
    match parts {
        Some((number, count)) if (1..=count).contains(&number) => Ok((number, count)),
        _ => Err("a shard is NUMBER/COUNT, such as 1/3".into()),
    }
}

fn wanted_report(text: &str) -> Result<(String, Option<PathBuf>), String> {
    let (format, file) = text.split_once('=').map_or((text, None), |(a, b)| (a, Some(b.into())));
    match report::find(format) {
        Some(_) => Ok((format.to_owned(), file)),
        None => {
            let known: Vec<&str> = report::REPORTS.iter().map(|report| report.name()).collect();
            Err(format!("there is no such report; there are {}", known.join(", ")))
        }
    }
}

/// One cell, in a process of its own; what it is comes on standard input.
pub(super) fn cell(here: &Here) -> Result<u8> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let wish: Wish = serde_json::from_str(&text).context("there is no cell to probe")?;
    let (store, run) = (here.store()?, here.run_directory()?);
    let place = Place { program: program(here), store: &store, run: &run };
    let mut output = std::io::stdout();
    let mut tell = |news| {
        // Who listened is gone, perhaps; then this process is about to be killed.
        if let Ok(line) = serde_json::to_string(&news) {
            let _ = output.write_all((line + "\n").as_bytes()).and_then(|()| output.flush());
        }
    };
    let cell = cells::run(&wish, &place, &mut tell);
    Ok(u8::from(!cell.verdict.is_good()))
}

/// Looks at a machine from inside.
pub(super) fn inside(args: &Inside, here: &Here) -> Result<u8> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let record = here.run_directory()?.find(&args.machine)?;
    sys::exe::protect(|owner| {
        record.plan.as_ref().is_some_and(|plan| harness::host::within_reach(&plan.ids, owner))
    })
    .context("cannot keep postroj's own file out of the machine's reach")?;
    eyes::serve(&record)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_directories_are_plain() {
        assert_eq!(file_name("debian-12 /home/me/x_1.0.deb"), "debian-12_x_1.0.deb");
        assert_eq!(file_name("quay.io/a/b:1 nginx"), "b_1_nginx");
    }

    #[test]
    fn a_shard_is_a_part() {
        assert_eq!(shard("2/3"), Ok((2, 3)));
        for bad in ["0/3", "4/3", "x", "1/0", "1"] {
            assert!(shard(bad).is_err(), "{bad}");
        }
    }
}
