//! `boot`: a whole operating system.

use anyhow::{Context, Result};
use distro::init::Wish;
use harness::network::Default;
use spec::request::Request;

use super::Here;
use super::options::Options;
use super::run::Rest;
use super::start::{self, Start};

/// Boot an image: its own init as process 1, with all that starts
///
/// Options end at IMAGE; everything after it is given to the init. In the foreground the
/// system's console is on the terminal, and `^]` three times within a second powers off, as do
/// SIGINT and SIGTERM; a second one kills. In the background (-d) the command returns when
/// the system is up.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    disable_help_subcommand = true,
    override_usage = "postroj boot [OPTIONS] IMAGE [ARG]...",
    subcommand_value_name = "IMAGE",
    subcommand_help_heading = "Image"
)]
pub(super) struct Args {
    /// Init: auto, systemd, openrc, sysvinit, runit, s6, busybox, finit, or a path in the image
    #[arg(long, value_name = "INIT", default_value = "auto")]
    init: String,
    /// Leave out what only people at a console and long-lived machines need
    #[arg(long)]
    fast: bool,
    /// A unit that shall not start
    #[arg(long, value_name = "UNIT")]
    mask: Vec<String>,
    /// Pass a credential on (systemd.exec(5), "Credentials")
    #[arg(long, value_name = "NAME=VALUE", value_parser = credential)]
    credential: Vec<(String, String)>,
    /// Do not wait until the system is up
    #[arg(long, requires = "detach")]
    no_wait: bool,
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    rest: Rest,
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let (name, init_args) = args.rest.split().context("no image is given")?;
    let wish =
        Wish { fast: args.fast, mask: args.mask.clone(), credentials: args.credential.clone() };
    let interactive = !args.options.detach && sys::pty::is_terminal(rustix::stdio::stdin());
    start::start(here, &args.options, name, args.init == "auto", |image, run| {
        let network = args.options.network.request(Default::System, run)?;
        let startup = harness::startup(&image.facts, &args.init, &wish)
            .with_context(|| format!("cannot boot {name}"))?;
        let request = Request {
            command: init_args.to_vec(),
            boot: Some(startup),
            network,
            ..args.options.request()?
        };
        Ok(Start { request, interactive, waits: !args.no_wait })
    })
}

/// A name that can be a file's (systemd, src/shared/creds-util.c, `credential_name_valid`).
fn credential(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value))
            if !name.is_empty() && !name.contains('/') && !name.starts_with('.') =>
        {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("a credential is NAME=VALUE, and its name that of a file".into()),
    }
}
