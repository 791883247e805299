//! `logs`: what a machine has printed.

use std::fs::File;
use std::io::{Read, Write};

use anyhow::{Context, Result, bail};
use engine::state::RunDirectory;
use engine::{Sources, record::Record};
use plan::ExecRequest;

use super::{Here, exec};

/// Print what a machine in the background has printed, or its journal
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Go on printing until the machine ends
    #[arg(short, long)]
    follow: bool,
    /// The journal of the systemd inside, instead of the console
    #[arg(long)]
    journal: bool,
    /// Only this unit's; implies --journal
    #[arg(short, long, value_name = "UNIT")]
    unit: Option<String>,
    /// Only what is newer, as journalctl takes it; implies --journal
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Name or id
    machine: String,
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    if args.journal || args.unit.is_some() || args.since.is_some() {
        return journal(args, here);
    }
    let run = here.run_directory()?;
    let record = run.find(&args.machine)?;
    let path = run.log_path(record.id());
    if record.about.as_ref().is_some_and(|about| !about.detached) {
        bail!("the output of {} goes where it was started, and is not kept", record.name);
    }
    let mut log =
        File::open(&path).with_context(|| format!("cannot open the log {}", path.display()))?;
    copy(&mut log)?;
    if args.follow {
        follow(&run, &record, &mut log)?;
    }
    Ok(0)
}

fn copy(log: &mut File) -> Result<()> {
    let mut chunk = [0; 64 << 10];
    let mut out = std::io::stdout().lock();
    loop {
        match log.read(&mut chunk).context("cannot read the log")? {
            0 => return Ok(out.flush()?),
            count => out.write_all(&chunk[..count])?,
        }
    }
}

fn follow(run: &RunDirectory, record: &Record, log: &mut File) -> Result<()> {
    let path = run.log_path(record.id());
    let sources = Sources { file: Some(&path), ..Sources::default() };
    let mut copied = Ok(());
    // Removed meanwhile, or ended: that was all.
    let _ = run.wait_and_hear(&record.name, None, &sources, |record| {
        let ended = record.exited.is_some();
        copied = copy(log);
        ended || copied.is_err()
    });
    copied.and_then(|()| copy(log))
}

fn journal(args: &Args, here: &Here) -> Result<u8> {
    let mut command = vec!["journalctl".to_owned(), "--no-pager".into()];
    if args.follow {
        command.push("--follow".into());
    }
    if let Some(since) = &args.since {
        command.extend(["--since".to_owned(), since.clone()]);
    }
    if let Some(unit) = &args.unit {
        command.extend(about(unit));
    }
    exec::enter(here, &args.machine, &ExecRequest { command, ..ExecRequest::default() })
}

/// Matches for what a unit says and what is said of it (systemd.journal-fields(7)). Newer
/// systemd's own `--unit` asks for process 1's control group too, which an emulated one is not.
fn about(unit: &str) -> Vec<String> {
    let unit = if unit.contains('.') { unit.to_owned() } else { format!("{unit}.service") };
    [format!("_SYSTEMD_UNIT={unit}"), "+".into(), format!("UNIT={unit}")].into()
}
