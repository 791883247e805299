//! `completion`: for a shell, from the same definitions as the command line.

use anyhow::Result;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    clap_complete::generate(args.shell, &mut super::command(), "postroj", &mut std::io::stdout());
    Ok(0)
}
