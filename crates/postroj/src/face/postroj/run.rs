//! `run`: a command in an image.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use engine::state::RunDirectory;
use harness::host::Host;
use harness::{Launch, launch};
use plan::RootSource;
use spec::image::{Config, Facts};
use spec::plan::Plan;
use spec::reference::Reference;
use spec::request::{MountRequest, NetworkRequest, Request, SeccompRequest, Ulimit, UsernsRequest};
use store::{Lease, Store};
use sys::rooted::Root;

use super::pull::PullPolicy;
use super::{Here, mounts, quantity, reference};

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
    /// Accepted for docker's sake: nothing of a machine remains in any case
    #[arg(long)]
    rm: bool,
    /// Set a variable; a name alone takes the value from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Set variables from the lines of a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Make a path of the host visible inside
    #[arg(short = 'v', long, value_name = "SOURCE:TARGET[:ro]", value_parser = mounts::volume)]
    volume: Vec<MountRequest>,
    /// The same with names: type=bind|tmpfs,source=…,target=…[,readonly]
    #[arg(long, value_name = "KEY=VALUE,…", value_parser = mounts::mount)]
    mount: Vec<MountRequest>,
    /// Mount an empty file system in memory
    #[arg(long, value_name = "TARGET[:OPTIONS]", value_parser = mounts::tmpfs)]
    tmpfs: Vec<MountRequest>,
    /// Working directory inside
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User inside, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Host name inside
    #[arg(short = 'h', long, value_name = "NAME")]
    hostname: Option<String>,
    /// Name of the machine
    #[arg(long)]
    name: Option<String>,
    /// Replace the image's entrypoint; "" removes it
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// Nothing but /run, /tmp, /var/tmp and mounts can be written
    #[arg(long)]
    read_only: bool,
    /// Add a capability, or ALL
    #[arg(long, value_name = "CAP", value_delimiter = ',', value_parser = capability)]
    cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long, value_name = "CAP", value_delimiter = ',', value_parser = capability)]
    cap_drop: Vec<String>,
    /// no-new-privileges, seccomp=unconfined, systempaths=unconfined
    #[arg(long, value_name = "OPTION", value_parser = security_option)]
    security_opt: Vec<SecurityOption>,
    /// Every right that you have yourself; as root without a user namespace
    #[arg(long)]
    privileged: bool,
    /// Accepted for docker's sake: process 1 is a small init in any case
    #[arg(long)]
    init: bool,
    /// Make the command process 1 itself, without a small init above it
    #[arg(long, conflicts_with = "init")]
    as_pid_1: bool,
    /// Network: the host's, or none but a loopback device
    #[arg(long, value_enum, default_value = "host")]
    network: Network,
    /// Memory limit, such as 512m
    #[arg(short, long, value_name = "BYTES", value_parser = quantity::memory)]
    memory: Option<u64>,
    /// Processor limit, such as 1.5
    #[arg(long, value_name = "NUMBER", value_parser = quantity::milli_cpus)]
    cpus: Option<u64>,
    /// Limit of processes and threads
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pids_limit: Option<u64>,
    /// Resource limit
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = quantity::ulimit)]
    ulimit: Vec<Ulimit>,
    /// User namespace: your ids as a private range, none, your id alone, or your id kept
    #[arg(long, value_enum, default_value = "auto")]
    userns: Userns,
    /// Write the machine's id to a new file
    #[arg(long, value_name = "FILE")]
    cidfile: Option<PathBuf>,
    /// Kill the machine after so many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// When to pull the image
    #[arg(long, value_enum, default_value = "missing")]
    pull: PullPolicy,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    #[command(subcommand)]
    rest: Rest,
}

/// What follows the options: parsing stops there.
#[derive(Debug, clap::Subcommand)]
enum Rest {
    #[command(external_subcommand)]
    ImageAndCommand(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Network {
    Host,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Userns {
    Auto,
    Host,
    Single,
    KeepId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SecurityOption {
    NoNewPrivileges,
    SeccompUnconfined,
    SeccompDefault,
    SystemPathsUnconfined,
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let Rest::ImageAndCommand(words) = &args.rest;
    let (image, command) = words.split_first().context("no image is given")?;
    let command = command.strip_prefix(&["--".to_owned()]).unwrap_or(command);
    let request = request(args, command)?;
    check_terminal(&request)?;
    let places = here.places()?;
    let run = RunDirectory::open(&places.run)?;
    let image = open_image(image, args.pull, here)?;
    let host = Host::new(run.path())?;
    let plan = plan::plan(&request, &image.config, &image.facts, &image.root, &host.launcher)?;
    sys::exe::protect(|owner| harness::host::within_reach(&plan, owner))
        .context("cannot keep postroj's own file out of the machine's reach")?;
    let mut created = |plan: &Plan| match &args.cidfile {
        Some(path) => write_cidfile(path, &plan.id),
        None => Ok(()),
    };
    let ended = launch(Launch { plan: &plan, run: &run, created: &mut created })?;
    Ok(ended.code())
}

fn request(args: &Args, command: &[String]) -> Result<Request> {
    let security = |option| args.security_opt.contains(&option);
    Ok(Request {
        command: command.to_vec(),
        entrypoint: args.entrypoint.clone(),
        env: environment(args)?,
        user: args.user.clone(),
        workdir: args.workdir.clone(),
        hostname: args.hostname.clone(),
        name: args.name.clone(),
        mounts: [&args.volume[..], &args.mount, &args.tmpfs].concat(),
        read_only: args.read_only,
        cap_add: args.cap_add.clone(),
        cap_drop: args.cap_drop.clone(),
        privileged: args.privileged,
        no_new_privileges: security(SecurityOption::NoNewPrivileges),
        seccomp: if security(SecurityOption::SeccompUnconfined) {
            SeccompRequest::Unconfined
        } else {
            SeccompRequest::Default
        },
        suppress_sync: false,
        unmask: security(SecurityOption::SystemPathsUnconfined),
        as_pid_1: args.as_pid_1,
        interactive: args.interactive,
        terminal: args.tty,
        network: match args.network {
            Network::Host => NetworkRequest::Host,
            Network::None => NetworkRequest::None,
        },
        userns: match args.userns {
            Userns::Auto => UsernsRequest::Auto,
            Userns::Host => UsernsRequest::Host,
            Userns::Single => UsernsRequest::Single,
            Userns::KeepId => UsernsRequest::KeepId,
        },
        memory: args.memory,
        milli_cpus: args.cpus,
        pids: args.pids_limit,
        ulimits: args.ulimit.clone(),
        timeout: args.timeout,
    })
}

/// Files first, so that `-e` wins; a name alone takes the launcher's value, if it has one.
fn environment(args: &Args) -> Result<Vec<(String, String)>> {
    let mut lines = Vec::new();
    for path in &args.env_file {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the environment file {}", path.display()))?;
        let meant = |line: &&str| !line.is_empty() && !line.starts_with('#');
        lines.extend(text.lines().map(str::trim_start).filter(meant).map(str::to_owned));
    }
    lines.extend(args.env.iter().cloned());
    let mut env = Vec::new();
    for line in lines {
        match line.split_once('=') {
            Some(("", _)) => bail!("the variable in {line:?} has no name"),
            Some((name, value)) => env.push((name.to_owned(), value.to_owned())),
            None => {
                if let Ok(value) = std::env::var(&line) {
                    env.push((line, value));
                }
            }
        }
    }
    Ok(env)
}

fn check_terminal(request: &Request) -> Result<()> {
    if request.terminal && request.interactive && !sys::pty::is_terminal(rustix::stdio::stdin()) {
        bail!("standard input is no terminal: leave -t out");
    }
    Ok(())
}

/// An image that is ready to run, and stays so until this is dropped.
struct Ready {
    root: RootSource,
    config: Config,
    facts: Facts,
    _lease: Option<Lease>,
}

fn open_image(text: &str, policy: PullPolicy, here: &Here) -> Result<Ready> {
    let store = here.store()?;
    // A name as it was pulled needs no catalog and no grammar.
    let asks = matches!(policy, PullPolicy::Always | PullPolicy::Newer);
    if !asks
        && !text.contains('/')
        && let Some(ready) = from_store(&store, text)?
    {
        return Ok(ready);
    }
    let reference = reference::parse(text)?;
    match &reference {
        Reference::Host => return host(),
        Reference::Directory(path) => return directory(path),
        _ => {}
    }
    let name = reference.to_string();
    // Whether a file has changed is only told by reading it.
    let by_content = matches!(reference, Reference::Tar(_) | Reference::Layout(_));
    if policy == PullPolicy::Missing
        && !by_content
        && let Some(ready) = from_store(&store, &name)?
    {
        return Ok(ready);
    }
    if policy != PullPolicy::Never {
        // Of what is read from a file, only reading tells whether it is missing.
        let policy = if asks { policy } else { PullPolicy::Always };
        pull(&name, policy, here)?;
    }
    from_store(&store, &name)?.with_context(|| match policy {
        PullPolicy::Never => {
            format!("the image {name} is not here: pull it, or leave --pull=never out")
        }
        _ => format!("the image {name} was removed right after it was pulled"),
    })
}

fn from_store(store: &Store, name: &str) -> Result<Option<Ready>> {
    let Some(image) = store.find(name)? else { return Ok(None) };
    let lease = store.lease(&image)?;
    let layers = image.layers.iter().map(|id| path_text(&store.layer_path(id)));
    Ok(Some(Ready {
        root: RootSource::Layers(layers.collect::<Result<_>>()?),
        config: image.config,
        facts: image.facts,
        _lease: Some(lease),
    }))
}

fn directory(path: &std::path::Path) -> Result<Ready> {
    let root = Root::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let facts = distro::facts::read(&root)
        .with_context(|| format!("cannot read the facts of {}", path.display()))?;
    let config = Config { cmd: vec![distro::facts::shell(&root).to_owned()], ..Config::default() };
    Ok(Ready { root: RootSource::Layers(vec![path_text(path)?]), config, facts, _lease: None })
}

fn host() -> Result<Ready> {
    let ready = directory(std::path::Path::new("/"))?;
    let mounts = harness::host::disk_mounts()?;
    Ok(Ready { root: RootSource::Host { mounts }, ..ready })
}

fn path_text(path: &std::path::Path) -> Result<String> {
    path.to_str().map(str::to_owned).with_context(|| format!("{} is not UTF-8", path.display()))
}

/// In a process of its own: it needs another user namespace than the machine will.
fn pull(name: &str, policy: PullPolicy, here: &Here) -> Result<()> {
    let mut command = Command::new("/proc/self/exe");
    for (option, value) in [("--store", &here.store), ("--runroot", &here.runroot)] {
        if let Some(value) = value {
            command.arg(option).arg(value);
        }
    }
    // Standard output is the payload's: the puller's status goes where the progress goes.
    let policy = ["--policy", policy.word()];
    command
        .args(["pull", "--quiet"])
        .args(policy)
        .args(["--", name])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let status = command.status().context("cannot start the pull")?;
    match status.code() {
        Some(0) => Ok(()),
        // It has said why.
        Some(code) => std::process::exit(code),
        None => bail!("the pull was ended by a signal"),
    }
}

fn write_cidfile(path: &std::path::Path, id: &str) -> Result<()> {
    let mut file = std::fs::File::create_new(path)
        .with_context(|| format!("cannot make the id file {}", path.display()))?;
    Ok(file.write_all(id.as_bytes())?)
}

fn capability(text: &str) -> Result<String, String> {
    let upper = text.to_ascii_uppercase();
    Ok(upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned())
}

fn security_option(text: &str) -> Result<SecurityOption, String> {
    match text {
        "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true" => {
            Ok(SecurityOption::NoNewPrivileges)
        }
        "seccomp=unconfined" => Ok(SecurityOption::SeccompUnconfined),
        "seccomp=default" | "seccomp=builtin" => Ok(SecurityOption::SeccompDefault),
        "systempaths=unconfined" | "unmask=all" | "unmask=ALL" => {
            Ok(SecurityOption::SystemPathsUnconfined)
        }
        _ => {
            Err("known are no-new-privileges, seccomp=unconfined and systempaths=unconfined".into())
        }
    }
}
