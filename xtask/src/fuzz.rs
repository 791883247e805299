//! Fuzzing: every target of fuzz/ for some time, and a table of how that went.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::command::{cargo, output, run};
use crate::setup;

/// Seconds for each target where none are given.
const SECONDS: u64 = 60;

/// One input may take this long, in seconds, and this much memory, in MiB.
const LIMITS: [&str; 2] = ["-timeout=10", "-rss_limit_mb=2048"];

/// Builds the targets and runs them, as many at once as there are processors.
///
/// # Errors
/// Where cargo-fuzz cannot be installed, the targets cannot be built, or there is no such target.
pub(crate) fn all(args: &[&str]) -> Result<ExitCode> {
    let (seconds, wanted) = match args.split_first() {
        Some((first, rest)) if first.parse::<u64>().is_ok() => (first.parse()?, rest),
        _ => (SECONDS, args),
    };
    setup::fuzzing()?;
    let list = output(cargo_fuzz().arg("list"))?;
    let mut targets: Vec<&str> = list.lines().collect();
    if let Some(unknown) = wanted.iter().find(|target| !targets.contains(target)) {
        bail!("{unknown} is no fuzz target: {}", targets.join(", "));
    }
    targets.retain(|target| wanted.is_empty() || wanted.contains(target));
    run(cargo_fuzz().arg("build"))?;
    let outcomes = run_all(&targets, seconds);
    println!("\n{:<12} {:>12} {:>9} {:>8}  result", "target", "executions", "coverage", "seconds");
    let mut broken = false;
    for (target, outcome) in targets.iter().zip(outcomes) {
        let (numbers, result) = match outcome {
            Ok(outcome) => (outcome.numbers, outcome.failure),
            Err(error) => (Numbers::default(), Some(format!("{error:#}"))),
        };
        broken |= result.is_some();
        let result = result.unwrap_or_else(|| "ok".to_owned());
        let Numbers { executions, coverage, seconds } = numbers;
        println!("{target:<12} {executions:>12} {coverage:>9} {seconds:>8}  {result}");
    }
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// How one target went.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    numbers: Numbers,
    /// Why it stopped before its time, and where the input is that made it.
    failure: Option<String>,
}

/// What libFuzzer counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Numbers {
    executions: u64,
    /// Edges of the code that some input reached.
    coverage: u64,
    seconds: u64,
}

fn run_all(targets: &[&str], seconds: u64) -> Vec<Result<Outcome>> {
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
    let queue = Mutex::new(targets.iter().enumerate());
    let outcomes = Mutex::new(Vec::new());
    let next = || queue.lock().ok().and_then(|mut queue| queue.next());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((index, target)) = next() {
                    eprintln!("{target} …");
                    let outcome = run_one(target, seconds);
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes.push((index, outcome));
                    }
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_default();
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

fn run_one(target: &str, seconds: u64) -> Result<Outcome> {
    let [corpus, seeds, artifacts] =
        ["corpus", "seeds", "artifacts"].map(|kind| PathBuf::from(format!("fuzz/{kind}/{target}")));
    for dir in [&corpus, &artifacts] {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let log = artifacts.with_extension("log");
    let file = fs::File::create(&log).with_context(|| format!("making {}", log.display()))?;
    let start = Instant::now();
    let mut fuzz = cargo_fuzz();
    fuzz.args(["run", target]).args([&corpus, &seeds]);
    fuzz.args(["--", &format!("-max_total_time={seconds}"), "-print_final_stats=1"]).args(LIMITS);
    let status = fuzz
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("sharing the log")?)
        .stderr(file)
        .status()
        .context("starting cargo fuzz")?;
    let text = fs::read(&log).with_context(|| format!("reading {}", log.display()))?;
    let text = String::from_utf8_lossy(&text);
    let numbers = Numbers { seconds: start.elapsed().as_secs(), ..numbers(&text) };
    let failure =
        (!status.success()).then(|| format!("FAILED: {}", failure(&text, &log.display())));
    Ok(Outcome { numbers, failure })
}

/// Sanitizers and coverage are options that only a nightly compiler has, or one that is
/// told to be one. The flags of .cargo/config.toml do not count here, because cargo-fuzz
/// sets RUSTFLAGS: the address sanitizer needs a dynamic libc.
fn cargo_fuzz() -> Command {
    let mut command = cargo();
    command.arg("fuzz").env("RUSTC_BOOTSTRAP", "1");
    command
}

/// Reads the last counts of libFuzzer's log.
fn numbers(log: &str) -> Numbers {
    let after = |line: &str, word: &str| -> Option<u64> {
        line.split_once(word)?.1.split_whitespace().next()?.parse().ok()
    };
    let last = |word: &str| log.lines().rev().find_map(|line| after(line, word)).unwrap_or(0);
    Numbers {
        executions: last("stat::number_of_executed_units:"),
        coverage: last(" cov: "),
        seconds: 0,
    }
}

/// What libFuzzer or a panic said, and the input's file.
fn failure(log: &str, path: &dyn std::fmt::Display) -> String {
    let why = log
        .lines()
        .find(|line| line.contains("panicked at") || line.contains("ERROR: "))
        .unwrap_or("it ended before its time");
    let input = log.lines().find_map(|line| line.split_once("Test unit written to "));
    format!("{} ({})", why.trim(), input.map_or(path.to_string(), |(_, file)| file.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_counts_of_a_log() {
        let log = "#2\tINITED cov: 11 ft: 12 corp: 1/1b exec/s: 0 rss: 30Mb\n\
            #8192\tpulse  cov: 500 ft: 900 corp: 20/1b\n#9000\tDONE   cov: 512 ft: 901\n\
            Done 9000 runs in 11 second(s)\nstat::number_of_executed_units: 9000\n";
        assert_eq!(numbers(log), Numbers { executions: 9000, coverage: 512, seconds: 0 });
        assert_eq!(numbers("nonsense cov: x"), Numbers::default());
    }

    #[test]
    fn a_failure_names_the_cause_and_the_input() {
        let log = "thread '<unnamed>' panicked at src/x.rs:1:2:\nboom\n==1== ERROR: libFuzzer: \
            deadly signal\nartifact_prefix='a/'; Test unit written to a/crash-1\n";
        let text = failure(log, &"log");
        assert_eq!(text, "thread '<unnamed>' panicked at src/x.rs:1:2: (a/crash-1)");
        assert_eq!(failure("", &"the.log"), "it ended before its time (the.log)");
    }
}
