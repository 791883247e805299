//! `unshare`: as root of one's own ids, in podman's words.

use std::ffi::OsString;

use anyhow::{Context, Result, bail};
use engine::{NotStarted, NotStartedKind};
use rustix::thread::UnshareFlags;

use super::Here;

/// Run a command in a user namespace with all of your ids, as its root
///
/// Files in it that belong to subordinate ids, as those of images do, can be looked at and
/// removed there. The command may mount file systems. postroj, run in it, finds your own store.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(super) struct Args {
    /// Join the network of rootless containers: there is none that they share
    #[arg(long, hide = true)]
    rootless_netns: bool,
    /// Print help
    #[arg(short, long, action = clap::ArgAction::HelpLong)]
    help: (),
    /// The command, else $SHELL
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    if args.rootless_netns {
        bail!("--rootless-netns cannot be given: machines of postroj share no network namespace");
    }
    if rustix::process::geteuid().is_root() {
        bail!("please use unshare with rootless: root has all ids already");
    }
    let shell = || std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
    let command = match args.command.is_empty() {
        true => vec![shell().context("no command given, and SHELL is not set")?],
        false => args.command.clone(),
    };
    let places = here.places()?;
    harness::host::unshare(UnshareFlags::NEWNS)?;
    for (name, place) in [("POSTROJ_STORE", places.store), ("POSTROJ_RUNROOT", places.run)] {
        let place = place.to_str().with_context(|| format!("no text: {}", place.display()))?;
        sys::process::set_environment(name, place)?;
    }
    sys::signals::inherit_pipe();
    let error = sys::process::execvp(&command);
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => NotStartedKind::NotFound,
        _ => NotStartedKind::NotExecutable,
    };
    let text = format!("cannot execute {}: {error}", command[0].display());
    Err(NotStarted { kind, text, hint: None }.into())
}
