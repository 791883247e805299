//! Pools of booted machines that wait, stopped, until somebody takes one.
//!
//! A pool is a file as a machine's is, in a run directory below the one of machines, locked by the
//! process that holds the pool. Its machines are recorded where all are, under names of the pool's. To
//! take one is to rename it, which only one can; who finds one whose holder has died ends it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use spec::plan::HOSTNAME_FILES;
use sys::signals;

use crate::pause;
use crate::record::{Note, Record};
use crate::state::RunDirectory;
use crate::wait::Waited;

/// Tells a pool's holder that a machine was taken.
pub const TAKEN: i32 = signals::SIGUSR1;

/// What a machine is to be that is taken out of a pool.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Its name; the beginning of its id where none is given.
    pub name: Option<String>,
    /// Its host name; what it was booted with, which is its own, where none is given.
    pub hostname: Option<String>,
    /// Its record stays after its end.
    pub keep: bool,
    /// A process that it must not outlive: its id and start time.
    pub tether: Option<(i32, u64)>,
}

/// Where this user's pools are recorded.
///
/// # Errors
/// As [`RunDirectory::open`].
pub fn pools(run: &RunDirectory) -> Result<RunDirectory> {
    RunDirectory::open(&run.path().join("pools"))
}

/// The pool of that name, else the one of this image.
///
/// # Errors
/// Where there is none, or several have this image.
pub fn find(run: &RunDirectory, text: &str) -> Result<Record> {
    let mut all = pools(run)?.machines();
    all.retain(|pool| pool.pool.is_some() && pool.monitored);
    if let Some(pool) = all.iter().find(|pool| pool.name == text) {
        return Ok(pool.clone());
    }
    all.retain(|pool| pool.about.as_ref().is_some_and(|about| about.image == text));
    match &all[..] {
        [pool] => Ok(pool.clone()),
        [] => bail!("there is no pool of {text} (`postroj pool create {text}` makes one)"),
        several => {
            let names: Vec<&str> = several.iter().map(|pool| &*pool.name).collect();
            bail!("there are several pools of {text}: give a name ({})", names.join(", "))
        }
    }
}

/// The machines that wait in a pool or get up for it, the oldest first.
pub fn members(run: &RunDirectory, pool: &Record) -> Vec<Record> {
    let mut machines = run.machines();
    machines.retain(|machine| {
        machine.monitored
            && machine
                .member
                .as_ref()
                .is_some_and(|m| m.pool == pool.name && Some(m.holder) == pool.monitor)
    });
    let created = |machine: &Record| machine.about.as_ref().map_or(0, |about| about.created);
    machines.sort_by_key(created);
    machines
}

/// Takes a machine out of a pool, and lets it go on. Where none is ready, waits for the next one,
/// of which `waits` hears first.
///
/// # Errors
/// Where the name is in use, the pool cannot boot its image, or goes meanwhile.
pub fn take(
    run: &RunDirectory,
    pool: &Record,
    wanted: &Wanted,
    waits: impl FnOnce(),
) -> Result<Record> {
    if let Some(machine) = take_ready(run, pool, wanted)? {
        return Ok(machine);
    }
    waits();
    let trouble = |pool: &Record| pool.pool.as_ref().and_then(|state| state.trouble.clone());
    let mut taken = None;
    let waited = pools(run)?.wait(&pool.name, Some(PATIENCE), |now| {
        taken = take_ready(run, pool, wanted).transpose();
        taken.is_some() || trouble(now).is_some()
    })?;
    match (taken, waited) {
        (Some(machine), _) => machine,
        (None, Waited::Holds(now)) => bail!(
            "the pool {} is empty, and cannot boot {}: {}",
            pool.name,
            pool.about.as_ref().map_or("its image", |about| &about.image),
            trouble(&now).unwrap_or_default()
        ),
        (None, Waited::Ended(_)) => bail!("the pool {} was removed meanwhile", pool.name),
        (None, Waited::Late) => bail!("the pool {} is empty for too long", pool.name),
    }
}

/// As long as a boot may take.
const PATIENCE: Duration = Duration::from_secs(300);

fn take_ready(run: &RunDirectory, pool: &Record, wanted: &Wanted) -> Result<Option<Record>> {
    for machine in members(run, pool) {
        if !machine.member.as_ref().is_some_and(|member| member.ready) {
            continue;
        }
        let name = wanted.name.clone().unwrap_or_else(|| machine.id()[..12].to_owned());
        match run.rename(&machine, &name) {
            Ok(()) => {}
            // Somebody was quicker.
            Err(error) if error.downcast_ref::<Errno>() == Some(&Errno::NOENT) => continue,
            Err(error) => return Err(error),
        }
        let handed = hand_out(run, &machine, &name, wanted);
        // It fills up, whatever became of this one.
        let _ = pools(run)?.signal_monitor(pool, TAKEN);
        return match handed {
            Ok(machine) => Ok(Some(machine)),
            // Ended at this moment, perhaps: there may be others.
            Err(_) if run.find(&name).is_ok_and(|now| !now.monitored) => {
                run.reap();
                continue;
            }
            Err(error) => {
                let _ = run.signal(&machine, signals::SIGKILL);
                Err(error)
            }
        };
    }
    Ok(None)
}

fn hand_out(run: &RunDirectory, member: &Record, name: &str, wanted: &Wanted) -> Result<Record> {
    let what = || format!("cannot take the machine {} out of its pool", member.name);
    let mut plan = member.plan.clone().with_context(what)?;
    plan.name = name.to_owned();
    plan.keep = wanted.keep;
    if let Some(hostname) = &wanted.hostname {
        set_hostname(member, &plan.hostname, hostname).with_context(what)?;
        plan.set_hostname(hostname);
    }
    run.note(name, &Note::Taken(&plan, wanted.tether)).with_context(what)?;
    let mut machine = run.find(name).with_context(what)?;
    if machine.paused {
        pause::unpause(run, &machine).with_context(what)?;
        machine.paused = false;
    }
    Ok(machine)
}

/// While all stand still: sethostname(2), and the files that tell it.
fn set_hostname(member: &Record, old: &str, new: &str) -> Result<()> {
    let visit = crate::of(member).inside(member, &mut || {
        rustix::system::sethostname(new.as_bytes()).context("cannot set the host name")?;
        for name in HOSTNAME_FILES {
            let path = format!("/etc/{name}");
            // It may have been removed, or be something else.
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            std::fs::write(&path, text.replace(old, new))
                .with_context(|| format!("cannot write {path} in the machine"))?;
        }
        Ok(String::new())
    })?;
    visit.join().map(drop)
}

/// Ends all machines that wait in a pool; who was taken stays.
pub fn discard(run: &RunDirectory, pool: &Record) {
    let mut members = members(run, pool);
    members.retain(|machine| run.discard(machine));
    members.iter().for_each(|machine| run.wait_for_monitor(machine, CLEANUP));
}

/// How long a monitor may take after its machine's end.
const CLEANUP: Duration = Duration::from_secs(10);
