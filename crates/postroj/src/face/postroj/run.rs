//! `run`: a command in an image.

use anyhow::{Context, Result, bail};
use harness::network::Default;
use spec::request::Request;

use super::Here;
use super::options::Options;
use super::start::{self, Start};

/// Run a command in an image
///
/// Options end at IMAGE; everything after it is the command's. The exit status is the
/// command's, 128+N when signal N ended it, 125 when postroj failed, 126 when the command cannot
/// be executed and 127 when it is not in the image.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    disable_help_subcommand = true,
    override_usage = "postroj run [OPTIONS] IMAGE [COMMAND [ARG]...]",
    subcommand_value_name = "IMAGE",
    subcommand_help_heading = "Image"
)]
pub(super) struct Args {
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal of its own
    #[arg(short, long)]
    tty: bool,
    /// Working directory inside
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User inside, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Replace the image's entrypoint; "" removes it
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// Accepted for docker's sake: process 1 is a small init in any case
    #[arg(long)]
    init: bool,
    /// Make the command process 1 itself, without a small init above it
    #[arg(long, conflicts_with = "init")]
    as_pid_1: bool,
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    rest: Rest,
}

/// What follows the options: parsing stops there.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Rest {
    #[command(external_subcommand)]
    Words(Vec<String>),
}

impl Rest {
    /// The first word, and what follows it, without the `--` that may stand between them.
    pub(super) fn split(&self) -> Option<(&str, &[String])> {
        let Self::Words(words) = self;
        let (first, rest) = words.split_first()?;
        Some((first, rest.strip_prefix(&["--".to_owned()]).unwrap_or(rest)))
    }
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let (name, command) = args.rest.split().context("no image is given")?;
    check_terminal(args)?;
    start::start(here, &args.options, name, false, |_, run| {
        let network = args.options.network.request(Default::Command, run)?;
        let request = Request {
            command: command.to_vec(),
            entrypoint: args.entrypoint.clone(),
            user: args.user.clone(),
            workdir: args.workdir.clone(),
            as_pid_1: args.as_pid_1,
            interactive: args.interactive,
            terminal: args.tty,
            network,
            ..args.options.request()?
        };
        Ok(Start { request, interactive: args.interactive, waits: false })
    })
}

fn check_terminal(args: &Args) -> Result<()> {
    let wants = args.tty && args.interactive && !args.options.detach;
    if wants && !sys::pty::is_terminal(rustix::stdio::stdin()) {
        bail!("standard input is no terminal: leave -t out");
    }
    Ok(())
}
