//! Many cells: as many at once as there is room for, each in a process of its own, which takes its
//! machine along when it is killed.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use engine::state::RunDirectory;
use rustix::event::{PollFd, PollFlags, Timespec};
use sys::signals::{self, Signals};

use crate::probe::{Cell, News, Verdict, Wish};

/// How cells are gone through.
#[derive(Debug, Clone)]
pub struct Settings {
    /// At once.
    pub jobs: usize,
    /// What has not begun when one fails is skipped.
    pub fail_fast: bool,
    /// How often a cell that is not well is tried again.
    pub retries: u32,
}

/// What happens; cells are known by their position.
#[derive(Debug)]
pub enum Happening {
    /// A cell's machine is being made.
    Began(usize),
    /// What a cell tells.
    News(usize, News),
    /// A cell is done, or was passed over.
    Done(usize, Box<Cell>),
    /// Some time has passed.
    Tick,
}

/// A probe's machine: what it takes besides the processes that are tested. Measured for a Debian with
/// a small service, with its files in memory.
const MEMORY: u64 = 192 << 20;

/// As many cells at once as there are processors, and as there is memory for.
#[must_use]
pub fn room() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text.lines().find_map(|line| {
        let kib = line.strip_prefix("MemAvailable:")?.trim().trim_end_matches(" kB");
        kib.parse::<u64>().ok()
    });
    let fit = available.map_or(cpus, |kib| (kib * 1024 / MEMORY) as usize);
    cpus.min(fit).max(1)
}

/// The part `number` of `count`, from 1 on: every so many-th, so that each has some of every image.
pub fn shard(wishes: Vec<Wish>, number: usize, count: usize) -> Vec<Wish> {
    let of = |(at, wish)| (at % count == number - 1).then_some(wish);
    wishes.into_iter().enumerate().filter_map(of).collect()
}

/// Results as they came, a line of JSON each, for whoever goes on after an interruption.
pub struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Opens the journal of a directory, and gives what is in it.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn open(directory: &Path, resume: bool) -> Result<(Self, Vec<Cell>)> {
        let path = directory.join("results.jsonl");
        let what = || format!("cannot write {}", path.display());
        std::fs::create_dir_all(directory).with_context(what)?;
        let text =
            if resume { std::fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        // Half a line is of one that was killed while it wrote.
        let cells = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let mut options = File::options();
        let mut file = options.create(true).append(true).open(&path).with_context(what)?;
        if !resume {
            file.set_len(0).with_context(what)?;
        }
        if resume && !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n").with_context(what)?;
        }
        Ok((Self { file, path }, cells))
    }

    /// All of it, or nothing: half a line would spoil the next one.
    fn add(&mut self, cell: &Cell) -> Result<()> {
        let line = serde_json::to_string(cell)? + "\n";
        let before = self.file.metadata().map(|about| about.len());
        self.file.write_all(line.as_bytes()).map_err(|error| {
            let _ = before.and_then(|length| self.file.set_len(length));
            anyhow::Error::new(error).context(format!("cannot write {}", self.path.display()))
        })
    }
}

/// Goes through cells, those aside that `known` has already. Gives their results in order, and whether
/// it was interrupted by a signal, and by which.
///
/// # Errors
/// Where it cannot go on at all.
pub fn run(
    wishes: &[Wish],
    known: &[Cell],
    settings: &Settings,
    journal: &mut Journal,
    run: &RunDirectory,
    command: &dyn Fn(&Wish) -> Command,
    tell: &mut dyn FnMut(Happening),
) -> Result<(Vec<Cell>, Option<i32>)> {
    let signals = Signals::block(&[signals::SIGINT, signals::SIGTERM, signals::SIGHUP])
        .context("cannot receive signals")?;
    let mut results: Vec<Option<Cell>> = wishes
        .iter()
        .map(|wish| known.iter().rev().find(|cell| is_same(&cell.wish, wish)))
        // What could not be tested then may be tested now.
        .map(|cell| cell.filter(|cell| cell.verdict != Verdict::Error).cloned())
        .collect();
    for (at, cell) in results.iter().enumerate() {
        if let Some(cell) = cell {
            tell(Happening::Done(at, Box::new(cell.clone())));
        }
    }
    let waiting = (0..wishes.len()).filter(|at| results[*at].is_none()).map(|at| (at, 1));
    let mut waiting: VecDeque<(usize, u32)> = waiting.collect();
    let mut working: Vec<Working> = Vec::new();
    let mut interrupted = None;
    let mut failed = false;
    while !waiting.is_empty() || !working.is_empty() {
        // While a machine ends, which is mostly waiting for the kernel, the next one can start.
        let busy = |working: &[Working]| working.iter().filter(|one| one.done.is_none()).count();
        while interrupted.is_none() && busy(&working) < settings.jobs {
            let Some((at, attempt)) = waiting.pop_front() else { break };
            let fails = |one: &Working| {
                let is_bad = one.done.as_ref().is_some_and(|cell| !cell.verdict.is_good());
                is_bad && one.attempt > settings.retries
            };
            if settings.fail_fast && (failed || working.iter().any(fails)) {
                let reason = "another cell failed before it began";
                let cell = Cell::without_result(&wishes[at], Verdict::Skipped, reason);
                tell(Happening::Done(at, Box::new(cell.clone())));
                results[at] = Some(cell);
                continue;
            }
            tell(Happening::Began(at));
            working.push(Working::start(at, attempt, &wishes[at], command(&wishes[at]))?);
        }
        wait(&working, &signals)?;
        while let Some(signal) = signals.next()? {
            interrupted = interrupted.or(Some(signal));
        }
        if interrupted.is_some() {
            for working in &mut working {
                let _ = working.child.kill();
            }
            waiting.clear();
        }
        let mut still = Vec::new();
        for mut one in working {
            let at = one.at;
            let over = one.hear(&mut |news| tell(Happening::News(at, news)))?;
            if !over {
                still.push(one);
                continue;
            }
            let (at, attempt) = (one.at, one.attempt);
            let mut cell = one.end(&wishes[at], interrupted)?;
            if !cell.verdict.is_good() && attempt <= settings.retries && interrupted.is_none() {
                waiting.push_front((at, attempt + 1));
                continue;
            }
            cell.attempts = attempt;
            if cell.verdict == Verdict::Pass && attempt > 1 {
                cell.verdict = Verdict::Flaky;
                cell.reason = format!("it passed in attempt {attempt}");
            }
            // Who goes on later shall try it again.
            if interrupted.is_none()
                && let Err(error) = journal.add(&cell)
            {
                // One that has an error already says why, and is tried again anyway.
                cell = if cell.verdict == Verdict::Error { cell } else { cell.unkept(&error) };
            }
            failed |= !cell.verdict.is_good();
            tell(Happening::Done(at, Box::new(cell.clone())));
            results[at] = Some(cell);
        }
        working = still;
        tell(Happening::Tick);
    }
    // What was killed could not write down its end itself.
    run.reap();
    let results = results.into_iter().zip(wishes).map(|(cell, wish)| {
        cell.unwrap_or_else(|| Cell::without_result(wish, Verdict::Error, "interrupted"))
    });
    Ok((results.collect(), interrupted))
}

/// But for where evidence goes.
fn is_same(one: &Wish, other: &Wish) -> bool {
    Wish { evidence: other.evidence.clone(), ..one.clone() } == *other
}

/// A cell under way.
struct Working {
    at: usize,
    attempt: u32,
    child: Child,
    output: ChildStdout,
    /// What came of a line that is not whole yet.
    partial: Vec<u8>,
    done: Option<Cell>,
}

impl Working {
    fn start(at: usize, attempt: u32, wish: &Wish, mut command: Command) -> Result<Self> {
        // Signals of the terminal are for this process alone, which ends the others.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start a cell's process")?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a cell's process has no pipes");
        };
        // One that ended at once is seen as such when its output is read.
        let _ = input.write_all(serde_json::to_string(wish)?.as_bytes());
        Ok(Self { at, attempt, child, output, partial: Vec::new(), done: None })
    }

    /// Reads what is there; tells whether that was all.
    fn hear(&mut self, tell: &mut dyn FnMut(News)) -> Result<bool> {
        let mut poll = [PollFd::new(&self.output, PollFlags::IN)];
        if rustix::event::poll(&mut poll, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? == 0 {
            return Ok(false);
        }
        let mut chunk = [0; 64 << 10];
        let count = self.output.read(&mut chunk).context("cannot hear from a cell")?;
        self.partial.extend_from_slice(&chunk[..count]);
        while let Some(end) = self.partial.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(News::Done(cell)) => self.done = Some(*cell),
                Ok(news) => tell(news),
                Err(_) => {}
            }
        }
        Ok(count == 0)
    }

    fn end(mut self, wish: &Wish, interrupted: Option<i32>) -> Result<Cell> {
        let status = self.child.wait().context("cannot wait for a cell")?;
        Ok(match (self.done, interrupted, status.signal()) {
            (Some(cell), ..) => cell,
            (None, Some(_), _) => Cell::without_result(wish, Verdict::Error, "interrupted"),
            (None, None, Some(signal)) => {
                let reason = format!("its process was ended by signal {signal}");
                Cell::without_result(wish, Verdict::Error, &reason)
            }
            (None, None, None) => {
                let reason =
                    format!("its process ended with {}", status.code().unwrap_or_default());
                Cell::without_result(wish, Verdict::Error, &reason)
            }
        })
    }
}

/// Between two [`Happening::Tick`]s where nothing else happens: for clocks on a screen.
const TICK: Duration = Duration::from_millis(100);

fn wait(working: &[Working], signals: &Signals) -> Result<()> {
    let deadline = Instant::now() + TICK;
    let fds: Vec<_> = working.iter().map(|one| one.output.as_fd()).collect();
    let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    polled.push(PollFd::new(signals, PollFlags::IN));
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
    match rustix::event::poll(&mut polled, Some(&left)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(image: &str) -> Wish {
        Wish { evidence: "/nowhere".into(), ..Wish::new(image) }
    }

    /// A process that says what a cell would.
    fn says(verdict: Verdict) -> impl Fn(&Wish) -> Command {
        move |wish| {
            let cell = Cell::without_result(wish, verdict, "because");
            let line = serde_json::to_string(&News::Done(Box::new(cell))).unwrap();
            let mut command = Command::new("printf");
            command.arg("%s\n").arg(line);
            command
        }
    }

    fn go(
        wishes: &[Wish],
        known: &[Cell],
        settings: &Settings,
        command: &dyn Fn(&Wish) -> Command,
    ) -> (Vec<Verdict>, Vec<Cell>) {
        let temp = tempfile::tempdir().unwrap();
        let run_directory = RunDirectory::open(temp.path()).unwrap();
        let (mut journal, _) = Journal::open(temp.path(), false).unwrap();
        let mut quiet = |_| {};
        let (cells, _) =
            run(wishes, known, settings, &mut journal, &run_directory, command, &mut quiet)
                .unwrap();
        let (_, written) = Journal::open(temp.path(), true).unwrap();
        (cells.iter().map(|cell| cell.verdict).collect(), written)
    }

    const ONE: Settings = Settings { jobs: 1, fail_fast: false, retries: 0 };

    #[test]
    fn every_cell_has_a_result() {
        let wishes = [wish("a"), wish("b")];
        let (verdicts, written) = go(&wishes, &[], &ONE, &says(Verdict::Pass));
        assert_eq!(verdicts, [Verdict::Pass; 2]);
        assert_eq!(written.len(), 2);
        let dies = |_: &Wish| {
            let mut command = Command::new("sh");
            command.args(["-c", "kill -9 $$"]);
            command
        };
        let (verdicts, written) = go(&wishes[..1], &[], &ONE, &dies);
        assert_eq!(verdicts, [Verdict::Error]);
        assert!(written[0].reason.contains("signal 9"), "{}", written[0].reason);
    }

    #[test]
    fn what_is_known_is_not_done_again_and_what_follows_a_failure_is_skipped() {
        let wishes = [wish("a"), wish("b"), wish("c")];
        let known = [Cell::without_result(&wishes[0], Verdict::Pass, "")];
        let settings = Settings { fail_fast: true, ..ONE };
        let (verdicts, written) = go(&wishes, &known, &settings, &says(Verdict::Fail));
        assert_eq!(verdicts, [Verdict::Pass, Verdict::Fail, Verdict::Skipped]);
        assert_eq!(written.len(), 1);
    }

    #[test]
    fn what_passes_at_last_is_flaky() {
        let temp = tempfile::tempdir().unwrap();
        let mark = temp.path().join("mark");
        let second = |wish: &Wish| {
            let good = mark.exists();
            std::fs::write(&mark, "").unwrap();
            says(if good { Verdict::Pass } else { Verdict::Fail })(wish)
        };
        let settings = Settings { retries: 1, ..ONE };
        let (verdicts, written) = go(&[wish("a")], &[], &settings, &second);
        assert_eq!((&verdicts[..], written[0].attempts), (&[Verdict::Flaky][..], 2));
    }

    #[test]
    fn shards_are_disjoint_and_complete() {
        let all: Vec<Wish> = ["a", "b", "c", "d", "e"].map(wish).into();
        let mut found: Vec<String> = (1..=3)
            .flat_map(|number| shard(all.clone(), number, 3))
            .map(|wish| wish.image)
            .collect();
        found.sort();
        assert_eq!(found, ["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn half_a_result_is_none() {
        let temp = tempfile::tempdir().unwrap();
        let whole =
            serde_json::to_string(&Cell::without_result(&wish("a"), Verdict::Pass, "")).unwrap();
        std::fs::write(temp.path().join("results.jsonl"), format!("{whole}\n{}", &whole[..40]))
            .unwrap();
        let (mut journal, cells) = Journal::open(temp.path(), true).unwrap();
        assert_eq!(cells.len(), 1);
        journal.add(&cells[0]).unwrap();
        assert_eq!(Journal::open(temp.path(), true).unwrap().1.len(), 2);
    }
}
