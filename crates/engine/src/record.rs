//! What is written down of a machine: lines of a key and a value, each added by one write,
//! so that a reader never sees half of one. Later lines of a key replace earlier ones.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use spec::boot::Condition;
use spec::plan::Plan;

/// A machine, as far as its record tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Its name, which is that of the file.
    pub name: String,
    /// The run directory that it is recorded in, where it was read from one.
    pub run: Option<PathBuf>,
    /// Id of its first process, and that process's start time (clock ticks since boot).
    pub pid: Option<(i32, u64)>,
    /// Id of its monitor, and that process's start time.
    pub monitor: Option<(i32, u64)>,
    /// Processes beside it, such as those that carry its network, to be ended with it.
    pub helpers: Vec<(i32, u64)>,
    /// Control groups, to be removed with it.
    pub cgroups: Vec<PathBuf>,
    /// What it was made of.
    pub about: Option<About>,
    /// What it runs.
    pub plan: Option<Plan>,
    /// How the system in it is.
    pub condition: Option<Condition>,
    /// Its processes are stopped.
    pub paused: bool,
    /// Its systemd was told to spare services that report late, since they are stopped.
    pub spares: bool,
    /// Descriptor of its monitor's on the directory that holds what is written in it.
    pub scratch: Option<i32>,
    /// Descriptor of its monitor's that input to the machine is written to.
    pub input: Option<i32>,
    /// It is to run again when it ends.
    pub again: bool,
    /// It is to run again with what a snapshot has of it.
    pub restores: bool,
    /// What was kept of its files, the oldest first.
    pub snapshots: Vec<Snapshot>,
    /// How it ended, where that is kept.
    pub exited: Option<Exited>,
    /// Whether its monitor is alive.
    pub monitored: bool,
    /// The pool that it waits in, until somebody takes it.
    pub member: Option<Member>,
    /// A process that it must not outlive: its id and start time.
    pub tether: Option<(i32, u64)>,
    /// Of a pool, not a machine: how it is.
    pub pool: Option<Pool>,
}

/// What was written in a machine at some time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name, unique in its machine.
    pub name: String,
    /// Seconds since the epoch.
    pub created: u64,
    /// Bytes of its files.
    pub size: u64,
}

/// A machine that waits in a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The pool's name.
    pub pool: String,
    /// The process that holds the pool, and its start time: the machine must not outlive it.
    pub holder: (i32, u64),
    /// It is up and stopped, and may be taken.
    pub ready: bool,
}

/// How a pool is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// How many machines it is to have.
    pub size: usize,
    /// Why the last one did not get up.
    pub trouble: Option<String>,
}

/// What a user may want to know of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The image, as the user spelled it.
    pub image: String,
    /// Seconds since the epoch.
    pub created: u64,
    /// Its monitor runs in the background.
    pub detached: bool,
    /// It was booted for a pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<Member>,
}

/// How a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// As a shell would tell it.
    pub code: u8,
    /// Seconds since the epoch.
    pub at: u64,
}

/// A line that is added to a record.
#[derive(Debug)]
pub enum Note<'a> {
    /// See [`Record::about`].
    About(&'a About),
    /// See [`Record::helpers`]: its id.
    Helper(i32),
    /// See [`Record::condition`].
    Condition(&'a Condition),
    /// See [`Record::paused`].
    Paused(bool),
    /// See [`Record::spares`].
    Spares(bool),
    /// See [`Record::scratch`].
    Scratch(i32),
    /// See [`Record::input`].
    Input(i32),
    /// See [`Record::again`].
    Again(bool),
    /// See [`Record::restores`]: it is to run again, too.
    Restores,
    /// See [`Record::snapshots`].
    Snapshot(&'a Snapshot),
    /// The name of one that is no more.
    Forgotten(&'a str),
    /// See [`Record::exited`].
    Exited(Exited),
    /// See [`Record::member`].
    Member(&'a Member),
    /// See [`Record::pool`].
    Pool(&'a Pool),
    /// It is in no pool any more, and is this machine now; with what it must not outlive.
    Taken(&'a Plan, Option<(i32, u64)>),
}

impl Note<'_> {
    /// With its line end.
    pub(crate) fn line(&self) -> serde_json::Result<String> {
        let (key, value) = match self {
            Self::Helper(pid) => {
                let start = rustix::process::Pid::from_raw(*pid).map(sys::process::start_time);
                // One that has ended already is none to be ended.
                let line =
                    start.and_then(Result::ok).map(|start| format!("helper {pid} {start}\n"));
                return Ok(line.unwrap_or_default());
            }
            // Written at once, so that nobody sees half of it.
            Self::Taken(plan, tether) => {
                let tether = tether.map(|(pid, start)| format!("tether {pid} {start}\n"));
                let plan = serde_json::to_string(plan)?;
                return Ok(format!("{}member null\nplan {plan}\n", tether.unwrap_or_default()));
            }
            Self::Restores => return Ok("again restore\n".to_owned()),
            Self::Snapshot(snapshot) => ("snapshot", serde_json::to_string(snapshot)),
            Self::Forgotten(name) => ("forgotten", serde_json::to_string(name)),
            Self::Member(member) => ("member", serde_json::to_string(member)),
            Self::Pool(pool) => ("pool", serde_json::to_string(pool)),
            Self::About(about) => ("about", serde_json::to_string(about)),
            Self::Condition(condition) => ("condition", serde_json::to_string(condition)),
            Self::Spares(spares) => ("spares", serde_json::to_string(spares)),
            Self::Scratch(fd) => ("scratch", serde_json::to_string(fd)),
            Self::Input(fd) => ("input", serde_json::to_string(fd)),
            Self::Again(again) => ("again", serde_json::to_string(again)),
            Self::Paused(paused) => ("paused", serde_json::to_string(paused)),
            Self::Exited(exited) => ("exited", serde_json::to_string(exited)),
        };
        Ok(format!("{key} {}\n", value?))
    }
}

impl Record {
    /// Reads a record; what makes no sense is passed over, and a line without its end.
    pub(crate) fn parse(name: &str, text: &str) -> Self {
        let mut record = Self { name: name.to_owned(), ..Self::default() };
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let Some((key, value)) = line.split_once(' ') else { continue };
            match key {
                "pid" => record.pid = process(value),
                "monitor" => record.monitor = process(value),
                "helper" => record.helpers.extend(process(value)),
                "cgroup" => record.cgroups.push(value.into()),
                "about" => {
                    record.about = serde_json::from_str(value).ok();
                    record.member = record.about.as_ref().and_then(|about| about.member.clone());
                }
                "member" => record.member = serde_json::from_str(value).ok(),
                "tether" => record.tether = process(value),
                "pool" => record.pool = serde_json::from_str(value).ok(),
                "plan" => record.plan = serde_json::from_str(value).ok(),
                "condition" => record.condition = serde_json::from_str(value).ok(),
                "scratch" => record.scratch = value.parse().ok(),
                "input" => record.input = value.parse().ok(),
                "again" => {
                    record.restores = value == "restore";
                    record.again = record.restores || value == "true";
                }
                "snapshot" => record.snapshots.extend(serde_json::from_str::<Snapshot>(value)),
                "forgotten" => {
                    let name: String = serde_json::from_str(value).unwrap_or_default();
                    record.snapshots.retain(|snapshot| snapshot.name != name);
                }
                "spares" => record.spares = value == "true",
                "paused" => record.paused = value == "true",
                "exited" => record.exited = serde_json::from_str(value).ok(),
                _ => {}
            }
        }
        // Whoever takes a machine out of a pool renames it first: that only one can.
        if record.plan.as_ref().is_some_and(|plan| plan.name != name) {
            record.member = None;
        }
        record
    }

    /// Whether it runs again, as it was asked to when its record was `before`.
    #[must_use]
    pub fn runs_anew(&self, before: &Self) -> bool {
        // A kernel of its own stays, and what stands for it here.
        !self.again && (self.pid != before.pid || crate::of(before).has_own_kernel())
    }

    /// 64 hex digits; empty where the machine was not made to its end.
    pub fn id(&self) -> &str {
        self.plan.as_ref().map_or("", |plan| &plan.id)
    }
}

/// Whether a record asks to run again, and for a snapshot to be restored then: see [`Record::again`]
/// and [`Record::restores`]. The rest is not read.
pub(crate) fn again(text: &[u8]) -> (bool, bool) {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let last = lines.rev().find_map(|line| line.strip_prefix(b"again "));
    let restores = last == Some(b"restore\n");
    (restores || last == Some(b"true\n"), restores)
}

/// `ID START`.
fn process(text: &str) -> Option<(i32, u64)> {
    let (pid, start) = text.split_once(' ')?;
    Some((pid.parse().ok()?, start.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_lines_win_and_half_a_line_is_none() {
        let running = Note::Condition(&Condition::Running).line().unwrap();
        let starting = Note::Condition(&Condition::Starting).line().unwrap();
        let text = format!("pid 7 99\ncgroup /x\n{starting}{running}nonsense\nexited {{\"code\":1");
        let record = Record::parse("a", &text);
        assert_eq!(record.pid, Some((7, 99)));
        assert_eq!(record.cgroups, [PathBuf::from("/x")]);
        assert_eq!(record.condition, Some(Condition::Running));
        assert_eq!(record.exited, None);
    }

    #[test]
    fn again_is_what_the_last_line_of_it_says() {
        let again = |notes: &[bool]| {
            let lines = notes.iter().map(|again| Note::Again(*again).line().unwrap());
            let text = lines.collect::<String>() + "paused true\n";
            let (again, record) = (again(text.as_bytes()), Record::parse("a", &text));
            assert_eq!(again, (record.again, record.restores));
            again.0
        };
        assert!(!again(&[]) && again(&[true]) && !again(&[true, false]) && again(&[false, true]));
    }
}
