//! `cp`: files into machines and out of them.

use anyhow::{Result, bail};
use harness::{End, Manner, copy};

use super::Here;

/// Copy files between the host and a machine that runs, or between machines
///
/// One of the two is MACHINE:PATH; `-` is a tar archive on standard input or output. A directory
/// is copied with all that is in it: into TARGET where that is a directory, else as TARGET; of
/// SOURCE/. only what is in it. What comes out belongs to you, and what goes in to root.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Keep owners, and on the way out also set-user-id bits, file capabilities and devices
    #[arg(short, long)]
    archive: bool,
    /// Follow a symbolic link that SOURCE is
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Accepted for docker's sake: nothing is printed in any case
    #[arg(short, long)]
    quiet: bool,
    /// Path, MACHINE:PATH, or -
    source: String,
    /// Path, MACHINE:PATH, or -
    target: String,
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let (from, to) = (end(&args.source, here)?, end(&args.target, here)?);
    match (&from, &to) {
        (End::Machine(..), _) | (_, End::Machine(..)) => {}
        _ => bail!("one of the two must be in a machine: MACHINE:PATH"),
    }
    if matches!(to, End::Stream) && sys::pty::is_terminal(rustix::stdio::stdout()) {
        bail!("standard output is a terminal, and an archive is no text: redirect it");
    }
    if matches!(to, End::Host(_)) && args.archive && !rustix::process::geteuid().is_root() {
        bail!("only root can keep owners on the host: leave --archive out");
    }
    copy(&from, &to, Manner { archive: args.archive, follow: args.follow_link })?;
    Ok(0)
}

/// As docker reads it: what begins with a slash or a dot is a path of the host.
fn end(text: &str, here: &Here) -> Result<End> {
    match text.split_once(':') {
        _ if text == "-" => Ok(End::Stream),
        _ if text.is_empty() => bail!("an empty path names nothing"),
        Some((machine, path)) if !text.starts_with(['/', '.']) => {
            if path.is_empty() {
                bail!("there is no path after {machine}: give one, such as {machine}:/");
            }
            let record = here.run_directory()?.find(machine)?;
            Ok(End::Machine(Box::new(record), path.to_owned()))
        }
        _ => Ok(End::Host(text.to_owned())),
    }
}
