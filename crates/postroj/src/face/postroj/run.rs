//! `run`: a command in an image.

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use harness::network::Default;
use spec::request::Request;

use engine::state::RunDirectory;

use super::Here;
use super::image;
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
    /// Boot it where the command is an init such as /sbin/init (auto), in any case, or never; true is auto
    #[arg(long, value_enum, default_value = "auto", value_name = "WHEN")]
    systemd: Systemd,
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    rest: Rest,
}

/// Whether the command is a system's init.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Systemd {
    #[value(alias = "true")]
    Auto,
    Always,
    False,
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
    start::start(here, &args.options, name, false, |image, run| {
        let network =
            args.options.network.request(args.options.default_network(Default::Command), run)?;
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
        let request = as_system(args, image, run, request)?;
        Ok(Start { request, interactive: args.interactive, waits: false })
    })
}

/// The same as a system that boots, where its command is one's init.
fn as_system(
    args: &Args,
    image: &image::Ready,
    run: &RunDirectory,
    request: Request,
) -> Result<Request> {
    // Whoever says that something else is process 1, or no root, means no system.
    let other = args.init || args.user.as_ref().is_some_and(|user| user != "root" && user != "0");
    if args.systemd == Systemd::False || other && args.systemd == Systemd::Auto {
        return Ok(request);
    }
    let command = match plan::command(&request, &image.config) {
        Ok(command) => command,
        // It is told where the plan is made.
        Err(_) => return Ok(request),
    };
    let (program, rest) = command.split_first().context("there is no command")?;
    if args.systemd == Systemd::Auto && !harness::is_init(&image.facts, program) {
        return Ok(request);
    }
    let network =
        args.options.network.request(args.options.default_network(Default::System), run)?;
    Ok(Request {
        boot: Some(harness::startup_of(&image.facts, program)?),
        command: rest.to_vec(),
        network,
        ..request
    })
}

fn check_terminal(args: &Args) -> Result<()> {
    let wants = args.tty && args.interactive && !args.options.detach;
    if wants && !sys::pty::is_terminal(rustix::stdio::stdin()) {
        bail!("standard input is no terminal: leave -t out");
    }
    Ok(())
}
