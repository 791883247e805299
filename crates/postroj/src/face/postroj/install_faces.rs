//! `install-faces`: links by whose names this program is another one.

use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Put links to this program where others of its faces are called by their names
///
/// Called by such a name, postroj is a drop-in for the program that has it. What is there already
/// and is no such link is left alone.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Replace what is there
    #[arg(short, long)]
    force: bool,
    /// Where the links go, such as ~/.local/bin
    directory: PathBuf,
    /// Only these [default: all]
    #[arg(value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(super::super::names()))]
    names: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let directory = &args.directory;
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let wanted = |name: &&str| args.names.is_empty() || args.names.iter().any(|n| n == name);
    let names: Vec<&str> = super::super::names().filter(wanted).collect();
    let taken: Vec<&&str> = names
        .iter()
        .filter(|name| !args.force && is_taken(&directory.join(name), &program))
        .collect();
    if let Some(first) = taken.first() {
        let path = directory.join(first);
        bail!("{} is there already; --force replaces it, and nothing was done", path.display());
    }
    for name in names {
        let path = directory.join(name);
        link(&program, &path).with_context(|| format!("cannot link {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(0)
}

/// By something else than a link to this program.
fn is_taken(path: &Path, program: &Path) -> bool {
    match std::fs::read_link(path) {
        Ok(to) => to != program,
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

/// Under another name first, so that there is one at any moment.
fn link(program: &Path, path: &Path) -> std::io::Result<()> {
    let new = path.with_extension(format!("new-{}", std::process::id()));
    symlink(program, &new)?;
    std::fs::rename(&new, path).inspect_err(|_| drop(std::fs::remove_file(&new)))
}
