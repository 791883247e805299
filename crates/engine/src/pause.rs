//! Stopping all of a machine's processes, and letting them go on.
//!
//! Where the machine has a group of the v2 hierarchy, the kernel freezes that (cgroups(7),
//! `cgroup.freeze`, Linux 5.2). Elsewhere each process is sent SIGSTOP, from which nothing hides:
//! its parent may hear of that, and a job that was stopped before goes on with the others.
//!
//! The clock goes on meanwhile. systemd would kill every service whose watchdog was due before it
//! could report (journald and logind after three minutes), so it is told to spare them until it
//! has seen that.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use spec::boot::{Condition, Ready};
use sys::signals;

use crate::record::{Note, Record};
use crate::state::RunDirectory;

/// How long processes may take to stop: they do so when they leave the kernel.
const PATIENCE: Duration = Duration::from_secs(10);

/// Stops a machine's processes, all of them.
///
/// # Errors
/// Where it does not run, is paused already, or cannot be stopped.
pub fn pause(run: &RunDirectory, record: &Record) -> Result<()> {
    check(record)?;
    if record.paused {
        bail!("the machine {} is paused already", record.name);
    }
    // Told first: whoever finds it half stopped can let it go on.
    run.note(&record.name, &Note::Paused(true))?;
    let what = || format!("cannot pause the machine {}", record.name);
    // With a kernel its clock stands still, so that nothing is late.
    if crate::of(record).hold(record, true).with_context(what)? {
        return Ok(());
    }
    if heeds_watchdogs(record, false) {
        run.note(&record.name, &Note::Spares(true))?;
    }
    let stopped = match frozen(record) {
        Some(group) => freeze(&group, true),
        // Process 1 first, so that it makes no new ones. It is spared by what is sent from inside.
        None => {
            run.signal(record, signals::SIGSTOP).and_then(|()| signal_all(record, signals::SIGSTOP))
        }
    };
    stopped.with_context(what)
}

/// Lets them go on.
///
/// # Errors
/// Where it is not paused.
pub fn unpause(run: &RunDirectory, record: &Record) -> Result<()> {
    check(record)?;
    if !record.paused {
        bail!("the machine {} is not paused", record.name);
    }
    let what = || format!("cannot unpause the machine {}", record.name);
    if crate::of(record).hold(record, false).with_context(what)? {
        return run.note(&record.name, &Note::Paused(false));
    }
    let resumed = match frozen(record) {
        Some(group) => freeze(&group, false),
        None => {
            signal_all(record, signals::SIGCONT).and_then(|()| run.signal(record, signals::SIGCONT))
        }
    };
    resumed.with_context(what)?;
    run.note(&record.name, &Note::Paused(false))?;
    if record.spares {
        heeds_watchdogs(record, true);
        run.note(&record.name, &Note::Spares(false))?;
    }
    Ok(())
}

/// Has a system that is up heed its services' watchdogs, or not; tells whether that is a change. One
/// that cannot be asked is left as it is.
fn heeds_watchdogs(record: &Record, heeds: bool) -> bool {
    let boot = record.plan.as_ref().and_then(|plan| plan.boot.as_ref());
    let (Some(Ready::Notify { bus, .. }), Some(Condition::Running | Condition::Degraded(_))) =
        (boot.map(|boot| &boot.ready), &record.condition)
    else {
        return false;
    };
    let talked = crate::of(record).talk(record, bus, &mut |bus| {
        bus.stream().set_read_timeout(Some(HURRY))?;
        // What was due while all stood still has been seen before this is answered: it was
        // pending before the question (sd_event_source_set_priority(3)).
        let was = bus.watchdogs()?;
        if was != heeds {
            bus.set_watchdogs(heeds)?;
        }
        Ok(if was == heeds { "" } else { "changed" }.to_owned())
    });
    talked.and_then(crate::Visit::join).is_ok_and(|said| said == "changed")
}

/// How long a busy system may take to answer.
const HURRY: Duration = Duration::from_secs(5);

fn check(record: &Record) -> Result<()> {
    if record.exited.is_some() {
        bail!("the machine {} has ended", record.name);
    }
    Ok(())
}

/// The machine's group that can be frozen, where all of its processes are in it.
fn frozen(record: &Record) -> Option<PathBuf> {
    record.cgroups.iter().find(|group| group.join("cgroup.freeze").exists()).cloned()
}

fn freeze(group: &Path, frozen: bool) -> Result<()> {
    let what = || format!("cannot freeze the control group {}", group.display());
    std::fs::write(group.join("cgroup.freeze"), if frozen { "1" } else { "0" })
        .with_context(what)?;
    // The kernel tells of a change by POLLPRI (cgroups(7), `cgroup.events`).
    let wanted = format!("frozen {}", u8::from(frozen));
    let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    loop {
        let mut events = File::open(group.join("cgroup.events")).with_context(what)?;
        let mut text = String::new();
        events.read_to_string(&mut text).with_context(what)?;
        if text.lines().any(|line| line == wanted) {
            return Ok(());
        }
        let mut polled = [PollFd::new(&events, PollFlags::PRI)];
        if rustix::event::poll(&mut polled, Some(&limit)).with_context(what)? == 0 {
            bail!("{}: its processes take too long", what());
        }
    }
}

/// All but process 1 and the sender (kill(2)): at once, so that none escapes by forking.
fn signal_all(record: &Record, signal: i32) -> Result<()> {
    let visit = crate::of(record).inside(record, &mut || {
        match signals::send(-1, signal) {
            // Nobody but process 1 is there.
            Err(error) if error.raw_os_error() == Some(3) => {}
            other => other.context("cannot send a signal to the machine's processes")?,
        }
        // Each stops when it leaves the kernel, a moment later.
        let until = Instant::now() + PATIENCE;
        while signal == signals::SIGSTOP && !all_stopped() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(String::new())
    })?;
    visit.join().map(drop)
}

/// Of the process that asks, inside, all others (proc_pid_stat(5), the third field). What is
/// in the middle of a disk's work counts as well: it goes on only to stop.
fn all_stopped() -> bool {
    let own = std::process::id();
    let ids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| *id != own).all(|id| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        !matches!(state, Some('R' | 'S'))
    })
}
