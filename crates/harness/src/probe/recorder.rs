//! What a cell tells and writes down: its steps as they come, and in the end its verdict and evidence.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use super::cell::quoted;
use super::check::Finding;
use super::evidence;
use super::machine::Machine;
use super::{Cell, News, Step, Verdict, Wish};

/// Of one cell.
pub(crate) struct Recorder<'a> {
    pub(crate) wish: &'a Wish,
    tell: &'a mut dyn FnMut(News),
    begun: Instant,
    steps: Vec<Step>,
    started: u64,
    /// Why there is less evidence than there should be.
    lost: Option<anyhow::Error>,
}

/// A step that is under way.
pub(crate) struct Began {
    phase: String,
    name: String,
    at: Instant,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(wish: &'a Wish, tell: &'a mut dyn FnMut(News)) -> Self {
        let started = engine::state::now();
        Self { wish, tell, begun: Instant::now(), steps: Vec::new(), started, lost: None }
    }

    pub(crate) fn begin(&mut self, phase: &str, name: &str) -> Began {
        let doing = if phase == name { name.to_owned() } else { format!("{phase}: {name}") };
        (self.tell)(News::Doing(doing));
        Began { phase: phase.to_owned(), name: name.to_owned(), at: Instant::now() }
    }

    pub(crate) fn end(&mut self, began: Began, finding: Finding) {
        let Finding { verdict, expected, seen, cause } = finding;
        let step = Step {
            phase: began.phase,
            name: began.name,
            verdict,
            expected,
            seen,
            cause,
            start: (began.at - self.begun).as_secs_f64(),
            seconds: began.at.elapsed().as_secs_f64(),
        };
        self.steps.push(step.clone());
        (self.tell)(News::Step(step));
    }

    /// A file of evidence.
    pub(crate) fn write(&mut self, name: &str, text: &str) {
        self.note(evidence::write(&self.wish.evidence.join(name), text.as_bytes()));
    }

    /// Evidence that could not be kept: that matters in the end, where there is to be some.
    pub(crate) fn note(&mut self, kept: Result<()>) {
        if let Err(error) = kept {
            self.lost.get_or_insert(error);
        }
    }

    /// Sums up, takes evidence, tells it, and ends the machines.
    pub(crate) fn finish(mut self, error: Option<anyhow::Error>, machines: Vec<Machine>) -> Cell {
        let wish = self.wish;
        let (verdict, reason) = sum_up(&self.steps, error.as_ref());
        let keeps = wish.keep && !verdict.is_good();
        let mut machines = machines;
        if !verdict.is_good() || wish.always_evidence {
            let alone = machines.len() == 1;
            for machine in &mut machines {
                let directory = match alone {
                    true => wish.evidence.clone(),
                    false => wish.evidence.join(&machine.name),
                };
                self.note(machine.evidence(&directory));
            }
        }
        let names: Vec<&str> = machines.iter().map(|machine| machine.name.as_str()).collect();
        let mut cell = Cell {
            wish: wish.clone(),
            verdict,
            reason,
            steps: std::mem::take(&mut self.steps),
            started: self.started,
            seconds: self.begun.elapsed().as_secs_f64(),
            attempts: 1,
            machine: (keeps && !names.is_empty()).then(|| names.join(" ")),
        };
        if verdict.is_good() && !wish.always_evidence {
            let _ = std::fs::remove_dir_all(&wish.evidence);
        } else {
            self.write("command.txt", &(quoted(&wish.command()) + "\n"));
            cell = self.with_evidence(cell);
        }
        // Nobody has to wait for the machines' end to know this.
        (self.tell)(News::Done(Box::new(cell.clone())));
        for machine in machines {
            if keeps { machine.keep() } else { machine.end() }
        }
        cell
    }

    /// Writes down the result; without its evidence it is none.
    fn with_evidence(&mut self, cell: Cell) -> Cell {
        let json = |cell: &Cell| serde_json::to_string_pretty(cell).unwrap_or_default();
        if self.lost.is_none() {
            self.write("result.json", &json(&cell));
        }
        let Some(error) = self.lost.take() else { return cell };
        let cell = cell.unkept(&error);
        // There may be room for this at least.
        self.write("result.json", &json(&cell));
        cell
    }
}

/// The worst of the steps, and what it says.
fn sum_up(steps: &[Step], error: Option<&anyhow::Error>) -> (Verdict, String) {
    if let Some(error) = error {
        return (Verdict::Error, format!("{error:#}"));
    }
    let told = |step: &Step| match step.verdict {
        Verdict::Skipped | Verdict::Flaky => step.seen.clone(),
        _ => format!("{}: {}: {}", step.phase, step.name, step.seen),
    };
    [Verdict::Fail, Verdict::Error, Verdict::Skipped, Verdict::Flaky]
        .into_iter()
        .find_map(|verdict| {
            let step = steps.iter().find(|step| step.verdict == verdict)?;
            Some((verdict, told(step)))
        })
        .unwrap_or((Verdict::Pass, String::new()))
}

/// A finding that all is well.
pub(crate) fn passed(seen: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Pass, expected: String::new(), seen: seen.into(), cause: None }
}

/// Reads what a directory of evidence says of its cell.
#[must_use]
pub fn result(evidence: &Path) -> Option<Cell> {
    serde_json::from_slice(&std::fs::read(evidence.join("result.json")).ok()?).ok()
}
