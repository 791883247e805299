//! Runs a plan on an engine.

use std::time::Duration;

use anyhow::Result;
use engine::record::{About, Exited, Note};
use engine::state::{self, RunDirectory};
use engine::{ENGINES, Streams, attend};
use spec::boot::Condition;
use spec::exit::Ended;
use spec::plan::{Network, Plan};

/// How a plan is to be run.
pub struct Launch<'a> {
    /// What to run.
    pub plan: &'a Plan,
    /// Where machines are recorded.
    pub run: &'a RunDirectory,
    /// For the record.
    pub about: &'a About,
    /// The machine's standard streams, where they are not the launcher's.
    pub streams: Streams,
    /// The launcher's standard input goes to the machine's terminal.
    pub interactive: bool,
    /// Hears what the user should know of how it is run.
    pub remark: &'a mut dyn FnMut(&str),
    /// Told once the machine exists, before its command starts.
    pub created: &'a mut dyn FnMut() -> Result<()>,
    /// Told once the command is executed; only for a machine in the background.
    pub started: &'a mut dyn FnMut() -> Result<()>,
    /// Told how a booted system is, once it is up.
    pub up: &'a mut dyn FnMut(&Condition) -> Result<()>,
}

/// Runs it until its end.
///
/// # Errors
/// [`engine::NotStarted`] where the command was never executed, else what postroj itself failed at.
pub fn launch(launch: Launch<'_>) -> Result<Ended> {
    let Launch { plan, run, about, streams, interactive, remark, created, started, up } = launch;
    let signals = attend::signals(plan.process.terminal)?;
    net::reap(run.path());
    let mut amended = None;
    let prepared = match &plan.network {
        Network::Attached(attachment) => {
            let plan = amended.insert(plan.clone());
            Some(net::prepare(attachment, plan, run.path())?)
        }
        _ => None,
    };
    let plan = amended.as_ref().unwrap_or(plan);
    let waiting = ENGINES[0].create(plan, run, streams)?;
    run.note(&plan.name, &Note::About(about))?;
    let target = net::Target { pid: waiting.process_id(), pidfd: waiting.process() };
    let attached = prepared.map(|prepared| prepared.attach(&target)).transpose()?;
    for pid in attached.iter().flat_map(|attached| attached.processes()) {
        run.note(&plan.name, &Note::Helper(pid))?;
    }
    if let Some(text) = waiting.remark() {
        remark(text);
    }
    created()?;
    let machine = waiting.start()?;
    if about.detached {
        machine.executed()?;
        started()?;
    }
    let attendance = attend::Attendance {
        signals: &signals,
        interactive,
        timeout: plan.timeout.map(Duration::from_secs),
        boot: plan.boot.as_ref(),
        up: &mut |condition| {
            run.note(&plan.name, &Note::Condition(&condition))?;
            up(&condition)
        },
        over: &mut |ended| {
            let exited = Exited { code: ended.code(), at: state::now() };
            // Whoever waits for it reads it there. Somebody may have removed it by force.
            let _ = run.note(&plan.name, &Note::Exited(exited));
        },
    };
    let ended = attend::attend(machine, attendance);
    // Its addresses and ports are free again.
    drop(attached);
    ended
}
