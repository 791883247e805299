//! `stop`, `kill` and `rm`: the end of machines.

use std::time::Duration;

use anyhow::{Result, bail};
use engine::record::{Note, Record};
use engine::state::RunDirectory;
use engine::{Waited, pause};

use super::Here;
use super::wait::is_ready;

/// Stop machines: a booted system powers off, a command is sent SIGTERM
#[derive(Debug, clap::Args)]
pub(super) struct Stop {
    /// Seconds until it is killed [default: 90 for a booted system, else 10]
    #[arg(short, long, value_name = "SECONDS")]
    time: Option<u64>,
    /// Names or ids
    #[arg(required = true)]
    machines: Vec<String>,
}

pub(super) fn stop(args: &Stop, here: &Here) -> Result<u8> {
    let run = here.run_directory()?;
    each(&args.machines, |name| {
        let record = run.find(name)?;
        let boots = record.plan.as_ref().is_some_and(|plan| plan.boot.is_some());
        let patience = Duration::from_secs(args.time.unwrap_or(if boots { 90 } else { 10 }));
        if record.exited.is_none() {
            if record.paused {
                pause::unpause(&run, &record)?;
            }
            forget_restart(&run, &record);
            run.signal_monitor(&record, sys::signals::SIGTERM)?;
            if run.wait(&record.name, Some(patience), has_ended)? == Waited::Late {
                kill_and_wait(&run, &record)?;
            }
            run.wait_for_monitor(&record, CLEANUP);
        }
        println!("{name}");
        Ok(())
    })
}

/// Stop machines and start them again, with all that was written in them
#[derive(Debug, clap::Args)]
pub(super) struct Restart {
    /// Seconds until it is killed [default: 90 for a booted system, else 10]
    #[arg(short, long, value_name = "SECONDS")]
    time: Option<u64>,
    /// Names or ids
    #[arg(required = true)]
    machines: Vec<String>,
}

pub(super) fn restart(args: &Restart, here: &Here) -> Result<u8> {
    let run = here.run_directory()?;
    each(&args.machines, |name| {
        let record = run.find(name)?;
        if record.exited.is_some() {
            bail!(
                "the machine {name} has ended, and what was written in it with it: start another"
            );
        }
        let boots = record.plan.as_ref().is_some_and(|plan| plan.boot.is_some());
        let patience = Duration::from_secs(args.time.unwrap_or(if boots { 90 } else { 10 }));
        if record.paused {
            pause::unpause(&run, &record)?;
        }
        run.note(&record.name, &Note::Again(true))?;
        run.signal_monitor(&record, sys::signals::SIGTERM)?;
        let anew = |now: &Record| now.runs_anew(&record);
        let mut waited = run.wait(&record.name, Some(patience), anew)?;
        if waited == Waited::Late {
            // It may have ended at this moment.
            let _ = engine::of(&record).end_command(&run, &record);
            waited = run.wait(&record.name, Some(CLEANUP), anew)?;
        }
        if boots && matches!(waited, Waited::Holds(_)) {
            waited = run.wait(&record.name, None, |now| anew(now) && is_ready(now))?;
        }
        match waited {
            Waited::Holds(_) => println!("{name}"),
            Waited::Ended(_) => bail!("the machine {name} ended instead of starting again"),
            Waited::Late => bail!("the machine {name} does not start again"),
        }
        Ok(())
    })
}

/// Send machines a signal
#[derive(Debug, clap::Args)]
pub(super) struct Kill {
    /// Name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = signal)]
    signal: i32,
    /// Names or ids
    #[arg(required = true)]
    machines: Vec<String>,
}

pub(super) fn kill(args: &Kill, here: &Here) -> Result<u8> {
    let run = here.run_directory()?;
    each(&args.machines, |name| {
        run.signal(&run.find(name)?, args.signal)?;
        println!("{name}");
        Ok(())
    })
}

/// Remove machines that have ended, with their output
#[derive(Debug, clap::Args)]
pub(super) struct Rm {
    /// Kill those that run
    #[arg(short, long)]
    force: bool,
    /// Names or ids
    #[arg(required = true)]
    machines: Vec<String>,
}

pub(super) fn rm(args: &Rm, here: &Here) -> Result<u8> {
    let run = here.run_directory()?;
    each(&args.machines, |name| {
        let record = match run.find(name) {
            Ok(record) => record,
            Err(_) if args.force => return Ok(()),
            Err(error) => return Err(error),
        };
        if args.force && record.exited.is_none() {
            kill_and_wait(&run, &record)?;
        }
        // It may have been of the kind that removes itself, or is about to.
        run.reap();
        net::reap(run.path());
        if let Ok(record) = run.find(record.id()) {
            run.remove(&record)?;
        }
        println!("{name}");
        Ok(())
    })
}

fn has_ended(record: &Record) -> bool {
    record.exited.is_some()
}

/// Of a `restart` that was killed before it could ask for it.
fn forget_restart(run: &RunDirectory, record: &Record) {
    if record.again {
        // It ends by itself at this moment, perhaps.
        let _ = run.note(&record.name, &Note::Again(false));
    }
}

fn kill_and_wait(run: &RunDirectory, record: &Record) -> Result<()> {
    forget_restart(run, record);
    // It may end by itself at this moment.
    let _ = run.signal(record, sys::signals::SIGKILL);
    run.wait(&record.name, Some(CLEANUP), has_ended)?;
    run.wait_for_monitor(record, CLEANUP);
    Ok(())
}

/// How long a monitor may take after its machine's end.
const CLEANUP: Duration = Duration::from_secs(10);

/// Goes on with the others where one fails, and fails in the end.
pub(super) fn each(names: &[String], mut act: impl FnMut(&str) -> Result<()>) -> Result<u8> {
    let mut failed = None;
    for name in names {
        if let Err(error) = act(name)
            && let Some(earlier) = failed.replace(error)
        {
            eprintln!("postroj: {earlier:#}");
        }
    }
    failed.map_or(Ok(0), Err)
}

/// `TERM`, `SIGTERM` or `15` (signal(7)).
fn signal(text: &str) -> Result<i32, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    sys::signals::by_name(name)
        .or_else(|| name.parse().ok().filter(|number| (1..=64).contains(number)))
        .ok_or_else(|| format!("{text:?} is no signal, such as TERM or 15"))
}
