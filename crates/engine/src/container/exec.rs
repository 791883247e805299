//! A further process in a machine that runs.

use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::process::Pid;
use spec::plan::{Plan, Process};
use sys::cgroups::Groups;
use sys::process::{self, Namespaces};
use sys::rooted::Root;
use sys::socket;

use super::child::{self, Inherited};
use super::door::Door;
use super::{ContainerMachine, MainProcess, prepare};
use crate::record::Record;
use crate::{Machine, Streams};

/// The group below a managed one that takes what is run inside; groups with others below them
/// may hold no process themselves (cgroups(7), "no internal processes").
const GROUP: &str = "postroj.exec";

/// Moves this process into the machine, and starts `process` there as its child.
pub(super) fn exec(
    record: &Record,
    process: &Process,
    streams: Streams,
) -> Result<Box<dyn Machine>> {
    let (door, plan) = door(record)?;
    let steps = prepare::inside(plan, process)?;
    for group in &record.cgroups {
        join(group, plan);
    }
    let (ours, theirs) = socket::pair().context("cannot make a socket for the process")?;
    door.enter().context("cannot enter the machine's namespaces")?;
    let (steps_ref, ours_ref) = (&steps, &ours);
    let child = process::spawn(Namespaces::NONE, None, move || {
        ours_ref.close_copy();
        let inherited = Inherited { launcher: Some(theirs), streams, notify: None };
        child::run(steps_ref, inherited)
    })
    .context("cannot make a process in the machine")?;
    let mut machine = ContainerMachine {
        child: MainProcess::new(child),
        channel: ours,
        terminal: None,
        console: None,
        boots: false,
        plan: None,
        steps,
        plan_terminal: process.terminal,
        takes_signals: true,
        notify: None,
        emulates: false,
        hands_over: false,
        supervisor: None,
        groups: Groups::default(),
        claim: None,
    };
    if process.terminal {
        machine.receive_terminal()?;
    }
    Ok(Box::new(machine))
}

/// The root directory as the machine's own processes see it.
pub(super) fn root(record: &Record) -> Result<Root> {
    let what = || format!("cannot look into the machine {}", record.name);
    door(record)?.0.root().with_context(what)
}

fn door(record: &Record) -> Result<(Door, &Plan)> {
    let (Some((pid, start)), Some(plan)) = (record.pid, &record.plan) else {
        bail!("the machine {} is not up yet", record.name);
    };
    let gone = || format!("the machine {} has ended", record.name);
    let pid = Pid::from_raw(pid).with_context(gone)?;
    Ok((Door::of(pid, start, plan.process.init).with_context(gone)?, plan))
}

/// So that the machine's limits hold for it. Where this user may not, it runs beside them: then
/// nothing is limited either, since limits need the same right.
fn join(group: &Path, plan: &Plan) {
    // The record has also those that might have been made.
    if !group.exists() {
        return;
    }
    let managed = plan.boot.as_ref().is_some_and(|boot| boot.control_groups);
    let is_unified = group.join("cgroup.controllers").exists();
    let group = if managed && is_unified { group.join(GROUP) } else { group.to_owned() };
    if managed && is_unified {
        let _ = std::fs::create_dir(&group);
    }
    let _ = std::fs::write(group.join("cgroup.procs"), "0");
}

/// Starts a command as root with the machine's own rights, and does not wait for it.
pub(super) fn in_background(pid: Pid, plan: &Plan, command: &[String]) -> Result<()> {
    let process = Process {
        args: command.to_vec(),
        cwd: "/".into(),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        terminal: false,
        stdin: false,
        ..plan.process.clone()
    };
    let steps = prepare::inside(plan, &process)?;
    let door = Door::open(pid).context("cannot enter the machine")?;
    let null = std::fs::File::options().write(true).open("/dev/null")?;
    let output = || null.as_fd().try_clone_to_owned();
    let streams = Streams { input: None, output: Some(output()?), error: Some(output()?) };
    let helper = process::spawn(Namespaces::NONE, None, || {
        if door.enter().is_err() {
            return;
        }
        match process::fork() {
            Ok(None) => child::run(&steps, Inherited { launcher: None, streams, notify: None }),
            // Not to leave it to the host's process 1 while this one can wait.
            Ok(Some(child)) => {
                let none = rustix::process::WaitOptions::empty();
                let _ = rustix::process::waitpid(Some(child), none);
            }
            Err(_) => {}
        }
    });
    // It is this process's child, and goes with it.
    helper.map(drop).context("cannot run a command in the machine")
}
