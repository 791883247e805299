//! The repository's own chores. `cargo xtask` lists them.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

mod account;
mod command;
mod fuzz;
mod junit;
mod licences;
mod lint;
mod order;
mod setup;
mod skips;
mod spdx;
mod stepped;
mod test;

const HELP: &str = "\
usage: cargo xtask CHORE

  test              install what the tests need, then everything that CI checks:
                    lint, licences, the tests; as root the tests run a second time
                    as the ordinary user postroj-test, which is made where missing
  lint              rustfmt and clippy, warnings denied
  licences          licences, sources and duplicates of all dependencies (deny.toml)
  setup [--peers]   only install what the tests need; with --peers also what
                    benches/ compares with
  fuzz [SECONDS] [TARGET…]
                    run every fuzz target, or these, for so long (default: 60)
  order             write anew in which order the linker places functions, so that
                    a launch touches few pages
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match chore(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn chore(args: &[String]) -> Result<ExitCode> {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in no workspace")?;
    std::env::set_current_dir(root).with_context(|| format!("entering {}", root.display()))?;
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["test"] => return test::all(),
        ["lint"] => lint::all()?,
        ["licences"] => licences::check()?,
        ["setup"] => setup::tests()?,
        ["setup", "--peers"] => {
            setup::tests()?;
            setup::peers()?;
        }
        ["fuzz", ref rest @ ..] => return fuzz::all(rest),
        ["order"] => order::write()?,
        // For the chore above: it changed the directory already.
        ["follow", seen, program, ref rest @ ..] => return stepped::tracer(seen, program, rest),
        [] | ["help" | "--help" | "-h"] => print!("{HELP}"),
        _ => bail!("{:?} is no chore; `cargo xtask` lists them", args.join(" ")),
    }
    Ok(ExitCode::SUCCESS)
}
