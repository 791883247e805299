//! The options that every machine has, whether it runs a command or boots.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use harness::network::Default;
use spec::platform::Platform;
use spec::request::{MountRequest, Request, SeccompRequest, Ulimit, UsernsRequest};

use super::network::NetworkOptions;
use super::pull::PullPolicy;
use super::{mounts, quantity};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Run in the background, and print the machine's id
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Forget a machine in the background, and its output, when it ends
    #[arg(long)]
    pub(super) rm: bool,
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
    /// Host name inside
    #[arg(short = 'h', long, value_name = "NAME")]
    pub(super) hostname: Option<String>,
    /// Name of the machine
    #[arg(long)]
    pub(super) name: Option<String>,
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
    /// Prepare what podman, dockerd or postroj need inside to make containers of their own
    #[arg(long)]
    nested: bool,
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
    pub(super) cidfile: Option<PathBuf>,
    /// Kill the machine after so many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Processor that the image is for, such as linux/arm64: another than the host's is emulated
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    pub(super) platform: Option<Platform>,
    /// What keeps the machine apart: container, or vm, which is one with a kernel of its own
    #[arg(long, value_name = "ENGINE", value_parser = isolation, default_value = "container")]
    pub(super) isolation: String,
    /// Packages that the image's own package manager adds; made once for each image, and kept
    #[arg(long, value_name = "PACKAGE", value_delimiter = ',')]
    pub(super) install: Vec<String>,
    /// The image whose package manager adds them, where the image has none [default: the catalog's of its kind]
    #[arg(long, value_name = "IMAGE")]
    pub(super) install_with: Option<String>,
    /// When to pull the image
    #[arg(long, value_enum, default_value = "missing")]
    pub(super) pull: PullPolicy,
    #[command(flatten)]
    pub(super) network: NetworkOptions,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
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

impl Options {
    /// An option that no two machines may share, as far as one is given.
    pub(super) fn unique(&self) -> Option<&'static str> {
        let given = [
            ("--hostname", self.hostname.is_some()),
            ("--cidfile", self.cidfile.is_some()),
            ("--timeout", self.timeout.is_some()),
        ];
        let given = given.into_iter().find_map(|(name, is_given)| is_given.then_some(name));
        given.or_else(|| self.network.unique())
    }

    /// The engine that was chosen.
    pub(super) fn engine(&self) -> &'static dyn engine::Engine {
        // The parser lets no other name through.
        engine::by_name(&self.isolation).unwrap_or(engine::ENGINES[0])
    }

    /// What network the machine has where none is asked for.
    pub(super) fn default_network(&self, default: Default) -> Default {
        if self.engine().has_own_kernel() { Default::OwnKernel } else { default }
    }

    /// Bytes of memory at most.
    pub(super) fn memory(&self) -> Option<u64> {
        self.memory
    }

    /// Processors at most, as a whole number.
    pub(super) fn whole_cpus(&self) -> Option<u32> {
        self.cpus.and_then(|milli| u32::try_from(milli.div_ceil(1000)).ok())
    }

    /// Seconds until the machine is killed.
    pub(super) fn timeout(&self) -> Option<u64> {
        self.timeout
    }

    /// A request with all that these options say.
    pub(super) fn request(&self) -> Result<Request> {
        let security = |option| self.security_opt.contains(&option);
        Ok(Request {
            isolation: self.isolation.clone(),
            env: environment(&self.env_file, &self.env)?,
            hostname: self.hostname.clone(),
            name: self.name.clone(),
            mounts: [&self.volume[..], &self.mount, &self.tmpfs].concat(),
            read_only: self.read_only,
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            privileged: self.privileged,
            nested: self.nested.then(harness::nested),
            no_new_privileges: security(SecurityOption::NoNewPrivileges),
            seccomp: if security(SecurityOption::SeccompUnconfined) {
                SeccompRequest::Unconfined
            } else {
                SeccompRequest::Default
            },
            unmask: security(SecurityOption::SystemPathsUnconfined),
            userns: match self.userns {
                Userns::Auto => UsernsRequest::Auto,
                Userns::Host => UsernsRequest::Host,
                Userns::Single => UsernsRequest::Single,
                Userns::KeepId => UsernsRequest::KeepId,
            },
            memory: self.memory,
            milli_cpus: self.cpus,
            pids: self.pids_limit,
            ulimits: self.ulimit.clone(),
            keep: self.detach && !self.rm,
            timeout: self.timeout,
            ..std::default::Default::default()
        })
    }
}

/// Files first, so that `-e` wins; a name alone takes the launcher's value, if it has one.
pub(super) fn environment(files: &[PathBuf], options: &[String]) -> Result<Vec<(String, String)>> {
    let mut lines = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the environment file {}", path.display()))?;
        let meant = |line: &&str| !line.is_empty() && !line.starts_with('#');
        lines.extend(text.lines().map(str::trim_start).filter(meant).map(str::to_owned));
    }
    lines.extend(options.iter().cloned());
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

pub(super) fn isolation(text: &str) -> Result<String, String> {
    let known: Vec<&str> = engine::ENGINES.iter().map(|engine| engine.name()).collect();
    match known.contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(format!("known are {}", known.join(" and "))),
    }
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
