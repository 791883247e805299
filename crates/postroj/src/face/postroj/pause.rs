//! `pause`, `unpause` and `rename`.

use anyhow::{Context, Result};
use engine::pause;

use super::Here;
use super::stop::each;

/// Stop all processes of machines, and keep them in memory
#[derive(Debug, clap::Args)]
pub(super) struct Pause {
    /// Names or ids
    #[arg(required = true)]
    machines: Vec<String>,
}

pub(super) fn pause(args: &Pause, here: &Here) -> Result<u8> {
    let run = here.run_directory()?;
    each(&args.machines, |name| {
        pause::pause(&run, &run.find(name)?)?;
        println!("{name}");
        Ok(())
    })
}

/// Let the processes of paused machines go on
#[derive(Debug, clap::Args)]
pub(super) struct Unpause {
    /// Names or ids
    #[arg(required = true)]
    machines: Vec<String>,
}

pub(super) fn unpause(args: &Unpause, here: &Here) -> Result<u8> {
    let run = here.run_directory()?;
    each(&args.machines, |name| {
        pause::unpause(&run, &run.find(name)?)?;
        println!("{name}");
        Ok(())
    })
}

/// Give a machine another name; its host name stays
#[derive(Debug, clap::Args)]
pub(super) struct Rename {
    /// Name or id
    machine: String,
    /// The new name
    name: String,
}

pub(super) fn rename(args: &Rename, here: &Here) -> Result<u8> {
    let run = here.run_directory()?;
    let machine = run.find(&args.machine)?;
    run.rename(&machine, &args.name)?;
    let peers = net::networks::rename(run.path(), machine.id(), &args.name, None);
    peers.with_context(|| format!("its peers still know the machine as {}", machine.name))?;
    Ok(0)
}
