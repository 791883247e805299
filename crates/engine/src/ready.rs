//! Whether a booted system is up: heard where it tells, looked for where it does not.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::fs::{Dir, Mode, OFlags};
use spec::boot::{Condition, Ready};
use sys::rooted::Root;

use crate::Machine;

/// Waits for a system to be up.
pub(crate) struct Watch {
    ready: Ready,
    stage: Stage,
}

enum Stage {
    /// Nothing was heard yet; when to look, where nothing can be heard.
    Waiting(Option<Instant>),
    /// It is up, and is being asked how.
    Asking(Question),
    /// It is not content yet, and is asked again then.
    Pausing(Instant),
    Known,
}

/// An answer on its way: a helper process inside writes it to a pipe.
pub struct Question {
    /// Its end is the answer's end.
    pub answer: File,
    /// Who writes it.
    pub helper: Helper,
}

/// Who writes an answer.
pub enum Helper {
    /// A process of this host's, to be reaped.
    Process(sys::process::Child),
    /// One under another kernel, which ends with this.
    Session(Box<dyn Machine>),
}

/// How often is looked for what cannot be heard.
const PAUSE: Duration = Duration::from_millis(10);

impl Watch {
    pub(crate) fn new(ready: &Ready) -> Self {
        let looks = matches!(ready, Ready::Path(_) | Ready::Process(_) | Ready::Started);
        Self { ready: ready.clone(), stage: Stage::Waiting(looks.then(Instant::now)) }
    }

    /// Where an answer will come from.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.stage {
            Stage::Asking(question) => Some(question.answer.as_fd()),
            _ => None,
        }
    }

    /// When to look, where nothing can be heard.
    pub(crate) fn look_at(&self) -> Option<Instant> {
        match self.stage {
            Stage::Waiting(at) => at,
            Stage::Pausing(at) => Some(at),
            _ => None,
        }
    }

    /// Hears or looks; tells how the system is once it is up. `told` says that it said so
    /// itself, `answered` that [`Watch::descriptor`] is readable.
    ///
    /// # Errors
    /// Where the machine cannot be asked.
    pub(crate) fn turn(
        &mut self,
        machine: &dyn Machine,
        told: bool,
        answered: bool,
    ) -> Result<Option<Condition>> {
        let due = self.look_at().is_some_and(|at| at <= Instant::now());
        let (stage, condition) = match std::mem::replace(&mut self.stage, Stage::Known) {
            Stage::Waiting(None) if told => (self.ask(machine)?, None),
            Stage::Waiting(Some(_)) if due && self.is_there(machine)? => {
                (Stage::Known, Some(Condition::Running))
            }
            Stage::Waiting(Some(_)) if due => (Stage::Waiting(Some(Instant::now() + PAUSE)), None),
            Stage::Asking(question) if answered => match answer(question) {
                Some(condition) => (Stage::Known, Some(condition)),
                None => (Stage::Pausing(Instant::now() + PAUSE), None),
            },
            Stage::Pausing(_) if due => (self.ask(machine)?, None),
            other => (other, None),
        };
        self.stage = stage;
        Ok(condition)
    }

    fn ask(&self, machine: &dyn Machine) -> Result<Stage> {
        match &self.ready {
            Ready::Notify { bus, .. } => Ok(Stage::Asking(machine.ask(bus)?)),
            _ => Ok(Stage::Known),
        }
    }

    fn is_there(&self, machine: &dyn Machine) -> Result<bool> {
        let path = format!("/proc/{}/root", machine.process_id());
        // It ends at this very moment, perhaps; that is seen elsewhere.
        let Ok(root) = Root::open(Path::new(&path)) else { return Ok(false) };
        Ok(match &self.ready {
            Ready::Path(paths) => paths.iter().any(|path| root.exists(path).unwrap_or(false)),
            Ready::Process(names) => runs(&root, names),
            Ready::Started | Ready::Notify { .. } => true,
        })
    }
}

/// `None` where it is not content yet.
fn answer(mut question: Question) -> Option<Condition> {
    let mut text = String::new();
    let read = (&mut question.answer).take(1 << 20).read_to_string(&mut text);
    // Reaped in any case; its answer is what counts.
    if let Helper::Process(helper) = &question.helper {
        let _ = helper.wait();
    }
    if read.is_err() {
        return None;
    }
    let mut lines = text.lines();
    match lines.next() {
        Some("running") => Some(Condition::Running),
        Some("degraded") => Some(Condition::Degraded(lines.map(str::to_owned).collect())),
        Some(other @ ("maintenance" | "stopping" | "offline")) => {
            Some(Condition::Degraded(vec![format!("the system is in the state {other}")]))
        }
        _ => None,
    }
}

/// By the machine's own `/proc`, where only its processes are, and which is not to be trusted.
fn runs(root: &Root, names: &[String]) -> bool {
    let Ok(proc) = root.open_in("/proc", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) else {
        return false;
    };
    let Ok(entries) = Dir::new(proc) else { return false };
    entries.flatten().any(|entry| {
        let Some(id) = entry.file_name().to_str().ok().and_then(|n| n.parse::<u32>().ok()) else {
            return false;
        };
        // Longer than any `comm` (proc(5)): 16 bytes.
        root.read(format!("/proc/{id}/comm"), 64)
            .is_ok_and(|comm| names.iter().any(|name| comm.trim_ascii_end() == name.as_bytes()))
    })
}
