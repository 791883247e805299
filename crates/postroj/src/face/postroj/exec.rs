//! `exec` and `shell`: a further command in a machine that runs.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use engine::Streams;
use engine::record::Record;
use plan::ExecRequest;

use super::run::Rest;
use super::{Here, options};

/// Run a command in a machine that runs
///
/// With the machine's own rights, in all of its namespaces and its control group. Options end
/// at MACHINE. The exit status is as that of `run`.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    disable_help_subcommand = true,
    override_usage = "postroj exec [OPTIONS] MACHINE COMMAND [ARG]...",
    subcommand_value_name = "MACHINE",
    subcommand_help_heading = "Machine"
)]
pub(super) struct Args {
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal of its own
    #[arg(short, long)]
    tty: bool,
    /// Set a variable; a name alone takes the value from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Set variables from the lines of a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Working directory inside
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User inside, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    #[command(subcommand)]
    rest: Rest,
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let (name, command) = args.rest.split().context("no machine is given")?;
    let wants = args.tty && args.interactive;
    if wants && !sys::pty::is_terminal(rustix::stdio::stdin()) {
        bail!("standard input is no terminal: leave -t out");
    }
    let request = ExecRequest {
        command: command.to_vec(),
        env: options::environment(&args.env_file, &args.env)?,
        user: args.user.clone(),
        workdir: args.workdir.clone(),
        interactive: args.interactive,
        terminal: args.tty,
        term: std::env::var("TERM").ok(),
    };
    enter(here, name, &request)
}

/// Open a shell in a machine that runs
#[derive(Debug, clap::Args)]
pub(super) struct Shell {
    /// User inside, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Name or id
    machine: String,
}

/// bash where there is one; as the login shell that it is.
const SHELL: &str = "command -v bash >/dev/null && exec bash -l; exec sh -l";

pub(super) fn shell(args: &Shell, here: &Here) -> Result<u8> {
    let terminal = sys::pty::is_terminal(rustix::stdio::stdin());
    let request = ExecRequest {
        command: ["sh", "-c", SHELL].map(str::to_owned).to_vec(),
        user: args.user.clone(),
        interactive: true,
        terminal,
        term: std::env::var("TERM").ok(),
        ..ExecRequest::default()
    };
    enter(here, &args.machine, &request)
}

/// Runs a command in the machine of that name.
pub(super) fn enter(here: &Here, name: &str, request: &ExecRequest) -> Result<u8> {
    let record = here.run_directory()?.find(name)?;
    enter_with(&record, request, Streams::default())
}

/// As [`enter`], with other streams than one's own. This process is good for nothing afterwards.
pub(super) fn enter_with(record: &Record, request: &ExecRequest, streams: Streams) -> Result<u8> {
    protect(record)?;
    Ok(harness::exec_with(record, request, streams)?.code())
}

/// Before anything is done: inside, this program's file could be reached as /proc/PID/exe of the
/// process that is about to execute. This may start the program once more.
pub(super) fn protect(record: &Record) -> Result<()> {
    sys::exe::protect(|owner| {
        record.plan.as_ref().is_some_and(|plan| harness::host::within_reach(&plan.ids, owner))
    })
    .context("cannot keep postroj's own file out of the machine's reach")
}
