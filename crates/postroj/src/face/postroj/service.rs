//! `service`: the services of a booted system, whatever its init.

use std::fs::File;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use clap::ValueEnum;
use distro::init::{self, Action, Init};
use engine::Streams;
use engine::record::Record;
use plan::ExecRequest;

use super::{Here, exec};

/// Ask after a service of a booted system, or start and stop it
///
/// The same words whatever the init: systemd, sysvinit, OpenRC, runit, s6, busybox, finit. The exit
/// status is that of an init script: of `status`, 0 it runs, 3 it does not, 4 it is not known;
/// of the others, 0 done, 5 it is not known, else it failed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name or id
    machine: String,
    /// Name of the service
    name: String,
    /// What to do
    #[arg(value_enum, default_value = "status")]
    action: Word,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Word {
    Status,
    Start,
    Stop,
    Restart,
}

impl From<Word> for Action {
    fn from(word: Word) -> Self {
        match word {
            Word::Status => Self::Status,
            Word::Start => Self::Start,
            Word::Stop => Self::Stop,
            Word::Restart => Self::Restart,
        }
    }
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let record = here.run_directory()?.find(&args.machine)?;
    let init = init_of(&record)?;
    let action = args.action.into();
    let code = control(&record, init, &args.name, action)?;
    let word = match (action, code) {
        (Action::Status, 0) => "running",
        (Action::Status, 1 | 2) => "dead",
        (Action::Status, 3) => "stopped",
        (Action::Status, _) => "unknown",
        _ => return Ok(code),
    };
    println!("{word}");
    Ok(code)
}

/// The init that a machine was booted with.
pub(super) fn init_of(record: &Record) -> Result<&'static dyn Init> {
    let boot = record.plan.as_ref().and_then(|plan| plan.boot.as_ref());
    let boot = boot.with_context(|| {
        format!("the machine {} runs a command only: nothing in it manages services", record.name)
    })?;
    init::by_name(&boot.init).with_context(|| {
        format!("nothing is known of the init of {}: use `postroj exec`", record.name)
    })
}

/// What it says goes to standard error; of `status` the code says it all.
pub(super) fn control(record: &Record, init: &dyn Init, name: &str, action: Action) -> Result<u8> {
    let command = init.service(name, action);
    let request = ExecRequest {
        command,
        user: Some("0:0".into()),
        workdir: Some("/".into()),
        ..ExecRequest::default()
    };
    let streams = match action {
        Action::Status => {
            let null = File::options().write(true).open("/dev/null")?;
            let other = null.try_clone()?;
            Streams { output: Some(null.into()), error: Some(other.into()), ..Streams::default() }
        }
        _ => {
            let error = rustix::stdio::stderr();
            Streams { output: Some(error.as_fd().try_clone_to_owned()?), ..Streams::default() }
        }
    };
    exec::enter_with(record, &request, streams)
}
