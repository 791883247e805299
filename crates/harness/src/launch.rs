//! Runs a plan on an engine.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use engine::attend::Over;
use engine::record::{About, Exited, Note};
use engine::state::{self, Own, RunDirectory};
use engine::{Card, Remains, Streams, attend};
use spec::boot::Condition;
use spec::exit::Ended;
use spec::plan::{Network, Plan};
use sys::signals::Signals;

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
    /// What is written to this is the machine's input, where it has no terminal.
    pub input: Option<OwnedFd>,
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
    let signals = attend::signals(launch.plan.process.terminal)?;
    let mut remains = None;
    let mut own = None;
    let mut connected = None;
    let mut launch = launch;
    let limit = launch.plan.timeout.map(Duration::from_secs);
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    loop {
        match once(&mut launch, &signals, deadline, &mut own, &mut connected, remains.take())? {
            Over::Ended(ended) => return Ok(ended),
            Over::Again(left) => remains = Some(left),
        }
    }
}

/// The network of a machine whose kernel goes on between two runs.
struct Connected {
    /// As it was amended for the network.
    plan: Plan,
    /// There as long as this is.
    _attached: Box<dyn net::Attached>,
}

/// One run of process 1: a machine that restarts has several, with one root.
fn once(
    launch: &mut Launch<'_>,
    signals: &Signals,
    deadline: Option<Instant>,
    own: &mut Option<Own>,
    connected: &mut Option<Connected>,
    mut remains: Option<Remains>,
) -> Result<Over> {
    let (plan, run, about) = (launch.plan, launch.run, launch.about);
    let is_first = remains.is_none();
    let engine = engine::by_name(&plan.isolation).context("the machine's engine is not known")?;
    net::reap(run.path());
    // Whoever took it out of a pool may have said otherwise since.
    let taken = (!is_first && about.member.is_some())
        .then(|| run.find(&plan.id).ok()?.plan)
        .flatten()
        .map(|now| {
            let mut plan = plan.clone();
            plan.set_hostname(&now.hostname);
            Plan { name: now.name, keep: now.keep, ..plan }
        });
    let plan = taken.as_ref().unwrap_or(plan);
    let kept = connected.take();
    let mut amended = None;
    let mut prepared = match &plan.network {
        Network::Attached(attachment) if kept.is_none() => {
            let plan = amended.insert(plan.clone());
            let prepared = net::prepare(attachment, plan, run.path())?;
            if !is_first {
                follow_name(plan, run)?;
            }
            Some(prepared)
        }
        _ => None,
    };
    let plan = kept.as_ref().map(|kept| &kept.plan).or(amended.as_ref()).unwrap_or(plan);
    if let Some(own) = own {
        own.note(&Note::Condition(&Condition::Starting))?;
        if let Some(remains) = remains.as_mut().filter(|_| own.restores()) {
            remains
                .exchange(crate::snapshot::PREPARED)
                .context("cannot restore what was written in the machine")?;
        }
    }
    let mut streams = copies(&launch.streams)?;
    if let Some(prepared) = prepared.as_mut().filter(|_| engine.has_own_kernel()) {
        let (end, interface) = prepared.card()?;
        streams.card = Some(Card { end, interface });
    }
    let waiting = engine.create(plan, run, streams, remains)?;
    let own = match own {
        Some(own) => own,
        None => own.insert(run.own(&plan.name)?),
    };
    if is_first {
        own.note(&Note::About(about))?;
    }
    let target = net::Target { pid: waiting.process_id(), pidfd: waiting.process() };
    let attached = prepared.map(|prepared| prepared.attach(&target)).transpose()?;
    for pid in attached.iter().flat_map(|attached| attached.processes()) {
        own.note(&Note::Helper(pid))?;
    }
    if let Some(text) = waiting.remark().filter(|_| is_first) {
        (launch.remark)(text);
    }
    if is_first {
        (launch.created)()?;
    }
    let machine = waiting.start()?;
    if let Some(scratch) = machine.scratch() {
        own.note(&Note::Scratch(scratch.as_raw_fd()))?;
    }
    let input = machine.terminal().or(launch.input.as_ref().map(AsFd::as_fd));
    if let Some(input) = input.filter(|_| about.detached) {
        own.note(&Note::Input(input.as_raw_fd()))?;
    }
    if about.detached {
        machine.executed()?;
    }
    match is_first {
        true if about.detached => (launch.started)()?,
        true => {}
        // Whoever waits for this may enter then, and finds the new scratch above it.
        false => own.note(&Note::Again(false))?,
    }
    let boots = plan.boot.is_some();
    let attendance = attend::Attendance {
        signals,
        interactive: launch.interactive,
        timeout: deadline.map(|at| at.saturating_duration_since(Instant::now())),
        boot: plan.boot.as_ref(),
        up: &mut |condition| {
            own.note(&Note::Condition(&condition))?;
            (launch.up)(&condition)
        },
        again: &mut |ended| {
            // reboot(2), "Behavior inside PID namespaces": a restart ends process 1 by SIGHUP.
            let restarts = boots && matches!(ended, Ended::Signalled(1));
            restarts || own.again()
        },
        over: &mut |ended| {
            let exited = Exited { code: ended.code(), at: state::now() };
            // Whoever waits for it reads it there. Somebody may have removed it by force.
            let _ = own.note(&Note::Exited(exited));
        },
    };
    let over = attend::attend(machine, attendance);
    if engine.has_own_kernel() && matches!(over, Ok(Over::Again(_))) {
        let first = attached.map(|attached| Connected { plan: plan.clone(), _attached: attached });
        *connected = first.or(kept);
    }
    // Else its addresses and ports are free again.
    over
}

/// A machine that runs again has its place on its network anew, by the name that it was made with: it
/// may have been renamed since. Whoever renames it from here on finds that place.
fn follow_name(plan: &Plan, run: &RunDirectory) -> Result<()> {
    let name = run.find(&plan.id)?.name;
    if name == plan.name {
        return Ok(());
    }
    net::networks::rename(run.path(), &plan.id, &name, None)
}

fn copies(streams: &Streams) -> Result<Streams> {
    let copy = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
    Ok(Streams {
        input: copy(&streams.input)?,
        output: copy(&streams.output)?,
        error: copy(&streams.error)?,
        // Each run has its own.
        card: None,
    })
}
