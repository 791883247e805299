//! postroj's own command line, in docker's and podman's words.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args as _, CommandFactory, FromArgMatches, Parser, Subcommand};
use engine::NotStarted;
use engine::state::RunDirectory;
use harness::places::Places;
use spec::exit;
use store::Store;

use super::Face;

mod attach;
mod boot;
mod catalog;
mod commit;
mod completion;
mod cp;
mod doctor;
mod exec;
mod history;
mod image;
mod images;
mod init;
mod inspect;
mod install_faces;
mod login;
mod logs;
mod man;
mod mounts;
mod network;
mod networks;
mod oci;
mod options;
mod own_kernel;
mod pause;
mod pool;
mod probe;
mod progress;
mod provision;
mod ps;
mod pull;
mod push;
mod quantity;
mod reference;
mod rmi;
mod run;
mod sandbox;
mod save;
mod service;
mod show;
mod snapshot;
mod start;
mod stats;
mod stop;
mod system;
mod table;
mod tag;
mod test;
mod top;
mod unshare;
mod version;
mod wait;
mod whole_disk;

/// The default face.
pub(crate) struct Postroj;

/// Run, boot and test any operating system image, without a daemon and without root
#[derive(Debug, Parser)]
#[command(name = "postroj", version, disable_help_subcommand = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

/// What is said before the verb.
#[derive(Debug, clap::Args)]
struct Common {
    /// Tell the whole chain of causes of an error
    #[arg(short, long)]
    verbose: bool,
    /// Where images are kept [default: /var/lib/postroj for root, else $XDG_DATA_HOME/postroj]
    #[arg(long, value_name = "DIR", env = "POSTROJ_STORE")]
    store: Option<PathBuf>,
    /// Where running machines are recorded [default: /run/postroj for root, else $XDG_RUNTIME_DIR/postroj]
    #[arg(long, value_name = "DIR", env = "POSTROJ_RUNROOT")]
    runroot: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(Box<run::Args>),
    Boot(Box<boot::Args>),
    Exec(exec::Args),
    Shell(exec::Shell),
    Attach(attach::Args),
    Cp(cp::Args),
    Diff(commit::Diff),
    Commit(commit::Commit),
    Export(commit::Export),
    #[command(subcommand)]
    Snapshot(snapshot::Verb),
    Restore(snapshot::Restore),
    Clone(snapshot::Clone),
    Service(service::Args),
    Probe(Box<probe::Args>),
    Test(Box<test::Args>),
    Matrix(Box<probe::MatrixArgs>),
    Ps(ps::Args),
    Logs(logs::Args),
    Stop(stop::Stop),
    Restart(stop::Restart),
    Kill(stop::Kill),
    Pause(pause::Pause),
    Unpause(pause::Unpause),
    Rename(pause::Rename),
    Top(top::Args),
    Stats(stats::Args),
    Wait(wait::Args),
    Rm(stop::Rm),
    #[command(subcommand)]
    Pool(pool::Verb),
    Port(networks::PortArgs),
    #[command(subcommand)]
    Network(networks::Verb),
    Pull(pull::Args),
    Images(images::Args),
    Rmi(rmi::Args),
    Tag(tag::Args),
    Inspect(inspect::Args),
    History(history::Args),
    Push(push::Args),
    Save(save::Args),
    Load(save::LoadArgs),
    Import(save::ImportArgs),
    Login(login::Args),
    Logout(login::LogoutArgs),
    #[command(subcommand)]
    Catalog(catalog::Verb),
    #[command(subcommand)]
    System(system::Verb),
    Doctor(doctor::Args),
    Completion(completion::Args),
    #[command(hide = true)]
    Man(man::Args),
    Sandbox(sandbox::Args),
    Unshare(unshare::Args),
    Init(init::Args),
    Oci(oci::Args),
    InstallFaces(install_faces::Args),
    /// Look at a machine from inside, for a probe
    #[command(hide = true)]
    Inside(probe::Inside),
    /// One cell of a probe
    #[command(hide = true)]
    ProbeCell,
    #[command(hide = true)]
    Provision(provision::Args),
    Version(version::Args),
}

impl Face for Postroj {
    fn names(&self) -> &'static [&'static str] {
        &["postroj"]
    }

    fn run(&self, args: Vec<OsString>) -> u8 {
        const RUNS: [&str; 6] = ["run", "boot", "exec", "attach", "sandbox", "unshare"];
        let runs = args.iter().any(|arg| RUNS.iter().any(|verb| arg == verb));
        let parse = |command: clap::Command| {
            command.try_get_matches_from(&args).and_then(|m| Cli::from_arg_matches(&m))
        };
        // What the short way cannot read is explained by the whole definition.
        let cli = match short_way(&args).and_then(|command| parse(command).ok()) {
            Some(cli) => Ok(cli),
            None => parse(command()),
        };
        let cli = match cli {
            Ok(cli) => cli,
            Err(error) => {
                // Help and version are no failures, and are all that is printed then.
                let _ = error.print();
                return match error.exit_code() {
                    0 => 0,
                    _ if runs => exit::FAILED,
                    code => code as u8,
                };
            }
        };
        match dispatch(&cli) {
            Ok(code) => code,
            Err(error) => fail(&error, cli.common.verbose),
        }
    }
}

/// The command line's definition, for completions and manual pages as well.
fn command() -> clap::Command {
    Cli::command()
}

/// Adds the definition of a verb's arguments.
type Augment = fn(clap::Command) -> clap::Command;

/// Verbs that are waited for, and what defines each.
const QUICK: [(&str, Augment); 10] = [
    ("run", run::Args::augment_args),
    ("boot", boot::Args::augment_args),
    ("exec", exec::Args::augment_args),
    ("probe", probe::Args::augment_args),
    ("ps", ps::Args::augment_args),
    ("wait", wait::Args::augment_args),
    ("stop", stop::Stop::augment_args),
    ("init", init::Args::augment_args),
    ("unshare", unshare::Args::augment_args),
    ("inside", probe::Inside::augment_args),
];

/// The definition with one verb only: to build that of all takes a tenth of the time of a `run`.
fn short_way(args: &[OsString]) -> Option<clap::Command> {
    let (name, augment) = QUICK.iter().find(|(name, _)| args.get(1).is_some_and(|a| a == name))?;
    let verb = augment(clap::Command::new(*name));
    Some(Common::augment_args(clap::Command::new("postroj")).subcommand(verb))
}

fn dispatch(cli: &Cli) -> Result<u8> {
    let here = Here { store: cli.common.store.clone(), runroot: cli.common.runroot.clone() };
    match &cli.verb {
        Verb::Run(args) => run::run(args, &here),
        Verb::Boot(args) => boot::run(args, &here),
        Verb::Exec(args) => exec::run(args, &here),
        Verb::Shell(args) => exec::shell(args, &here),
        Verb::Attach(args) => attach::run(args, &here),
        Verb::Cp(args) => cp::run(args, &here),
        Verb::Diff(args) => commit::diff(args, &here),
        Verb::Commit(args) => commit::commit(args, &here),
        Verb::Export(args) => commit::export(args, &here),
        Verb::Snapshot(verb) => snapshot::run(verb, &here),
        Verb::Restore(args) => snapshot::restore(args, &here),
        Verb::Clone(args) => snapshot::clone(args, &here),
        Verb::Service(args) => service::run(args, &here),
        Verb::Probe(args) => probe::run(args, &here),
        Verb::Test(args) => test::run(args, &here),
        Verb::Matrix(args) => probe::matrix(args, &here),
        Verb::Inside(args) => probe::inside(args, &here),
        Verb::Provision(args) => provision::run(args, &here),
        Verb::ProbeCell => probe::cell(&here),
        Verb::Ps(args) => ps::run(args, &here),
        Verb::Network(verb) => networks::run(verb, &here),
        Verb::Port(args) => networks::port(args, &here),
        Verb::Logs(args) => logs::run(args, &here),
        Verb::Stop(args) => stop::stop(args, &here),
        Verb::Restart(args) => stop::restart(args, &here),
        Verb::Kill(args) => stop::kill(args, &here),
        Verb::Pause(args) => pause::pause(args, &here),
        Verb::Unpause(args) => pause::unpause(args, &here),
        Verb::Rename(args) => pause::rename(args, &here),
        Verb::Top(args) => top::run(args, &here),
        Verb::Stats(args) => stats::run(args, &here),
        Verb::Wait(args) => wait::run(args, &here),
        Verb::Rm(args) => stop::rm(args, &here),
        Verb::Pool(verb) => pool::run(verb, &here),
        Verb::Pull(args) => pull::run(args, &here),
        Verb::Images(args) => images::run(args, &here),
        Verb::Rmi(args) => rmi::run(args, &here),
        Verb::Tag(args) => tag::run(args, &here),
        Verb::Inspect(args) => inspect::run(args, &here),
        Verb::History(args) => history::run(args, &here),
        Verb::Push(args) => push::run(args, &here),
        Verb::Save(args) => save::run(args, &here),
        Verb::Load(args) => save::load(args, &here),
        Verb::Import(args) => save::import(args, &here),
        Verb::Login(args) => login::run(args),
        Verb::Logout(args) => login::logout(args),
        Verb::Catalog(verb) => catalog::run(verb),
        Verb::System(verb) => system::run(verb, &here),
        Verb::Doctor(args) => doctor::run(args, &here),
        Verb::Completion(args) => completion::run(args),
        Verb::Man(args) => man::run(args),
        Verb::Sandbox(args) => sandbox::run(args),
        Verb::Unshare(args) => unshare::run(args, &here),
        Verb::Init(args) => Ok(init::run(args)),
        Verb::Oci(args) => Ok(oci::run(args)),
        Verb::InstallFaces(args) => install_faces::run(args),
        Verb::Version(args) => version::run(args),
    }
}

/// Says what failed on one line, and with `-v` why, cause by cause.
fn fail(error: &anyhow::Error, verbose: bool) -> u8 {
    let causes: Vec<String> = error.chain().map(|cause| plain(&cause.to_string())).collect();
    eprintln!("postroj: {}", causes.join(if verbose { "\n  because: " } else { ": " }));
    match error.downcast_ref::<NotStarted>().map(|n| n.kind) {
        Some(engine::NotStartedKind::NotFound) => exit::NOT_FOUND,
        Some(engine::NotStartedKind::NotExecutable) => exit::NOT_EXECUTABLE,
        _ => exit::FAILED,
    }
}

/// In the manner of our own texts: Rust writes "No such file or directory (os error 2)".
fn plain(text: &str) -> String {
    let Some((before, after)) = text.split_once(" (os error ") else { return text.to_owned() };
    let digits = after.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = digits.strip_prefix(')').unwrap_or(digits);
    let start = before.rfind(": ").map_or(0, |colon| colon + 2);
    let mut reason = before[start..].chars();
    let lower = reason.next().map(|c| c.to_lowercase().chain(reason).collect::<String>());
    format!("{}{}{}", &before[..start], lower.unwrap_or_default(), plain(rest))
}

/// Where this invocation keeps things.
struct Here {
    store: Option<PathBuf>,
    runroot: Option<PathBuf>,
}

impl Here {
    fn places(&self) -> Result<Places> {
        let defaults = || Places::of_user(|name| std::env::var(name).ok());
        let absolute = |path: &PathBuf| {
            std::path::absolute(path).with_context(|| format!("no path: {}", path.display()))
        };
        Ok(match (&self.store, &self.runroot) {
            (Some(store), Some(run)) => Places { store: absolute(store)?, run: absolute(run)? },
            (Some(store), None) => Places { store: absolute(store)?, ..defaults()? },
            (None, Some(run)) => Places { run: absolute(run)?, ..defaults()? },
            (None, None) => defaults()?,
        })
    }

    /// This program once more, for the same places.
    fn again(&self) -> std::process::Command {
        let mut command = std::process::Command::new("/proc/self/exe");
        // By the link's name it would be what its parent is called.
        command.arg0("postroj");
        command.args(self.options());
        command
    }

    /// The options that say where things are kept.
    fn options(&self) -> Vec<OsString> {
        let given = [("--store", &self.store), ("--runroot", &self.runroot)];
        let given = given.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        given.flat_map(|(name, value)| [name.into(), value.into()]).collect()
    }

    fn run_directory(&self) -> Result<RunDirectory> {
        RunDirectory::open(&self.places()?.run)
    }

    fn store(&self) -> Result<Store> {
        Store::open(&self.places()?.store)
    }

    /// The store, from within a namespace in which files of any owner can be made and removed.
    fn store_for_change(&self) -> Result<(Store, RunDirectory)> {
        let places = self.places()?;
        harness::host::enter_user_namespace()?;
        Ok((Store::open(&places.store)?, RunDirectory::open(&places.run)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_plain() {
        for (text, told) in [
            ("No such file or directory (os error 2)", "no such file or directory"),
            ("opening x: Is a directory (os error 21)", "opening x: is a directory"),
            ("a: B (os error 1); see `c`", "a: b; see `c`"),
            ("A name stays", "A name stays"),
        ] {
            assert_eq!(plain(text), told);
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }
}
