//! `man`: manual pages, from the same definitions as the command line. For packagers.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// Write the manual pages to a directory
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where they go, one for each verb
    directory: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let directory = &args.directory;
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(super::command(), directory))
        .with_context(|| format!("cannot write manual pages to {}", directory.display()))?;
    Ok(0)
}
