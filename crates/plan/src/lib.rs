//! Request and facts to a Plan. Pure: no I/O at all, so that every decision about what
//! runs, and with which rights, is tested without running anything.

mod capabilities;
mod exec;
mod ids;
mod nested;
mod network;
mod process;
mod root;
mod user;

use std::fmt;

pub use exec::{ExecRequest, exec};
pub use ids::{map as id_mapping, subordinate_map};
pub use process::command;

use spec::ids::IdRange;
use spec::image::{Config, Facts};
use spec::network::Mode;
use spec::plan::{Limits, Plan};
use spec::request::{Request, UsernsRequest};

/// Where the root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootSource {
    /// Layers of an image: absolute paths, lowest first.
    Layers(Vec<String>),
    /// A directory to be changed in place.
    InPlace(String),
    /// The running host: its root, and its further file systems on disk.
    Host {
        /// What it consists of.
        mounts: HostTree,
    },
}

/// What the running host's tree is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostTree {
    /// The root directory as one, and file systems on disk below it.
    Whole {
        /// Mount points below `/`, parents first.
        below: Vec<String>,
    },
    /// Parts, each by itself: in a user namespace overlayfs takes no directory that something
    /// of the host's is mounted below (Linux, fs/namespace.c, `clone_private_mount`).
    Parts {
        /// Directories, parents first.
        directories: Vec<String>,
        /// Symbolic links in the root directory: names, and where they lead.
        links: Vec<(String, String)>,
    },
}

/// What is known of the launcher and its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launcher {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// In the initial user namespace, or another that maps everything.
    pub initial_userns: bool,
    /// Subordinate user ids as (first, count).
    pub subuids: Vec<(u32, u32)>,
    /// Subordinate group ids.
    pub subgids: Vec<(u32, u32)>,
    /// First id of a block of 65,536 that no other machine uses; for root.
    pub private_base: u32,
    /// Capabilities that it has.
    pub capabilities: Vec<String>,
    /// `/etc/resolv.conf` of the host.
    pub resolv_conf: String,
    /// The same without resolvers that only the host itself can reach.
    pub upstream_resolv_conf: String,
    /// `/etc/hosts` of the host, where the machine shares its network.
    pub hosts: String,
    /// 64 random lower-case hex digits.
    pub id: String,
    /// What `TERM` is, for a machine with a terminal.
    pub term: Option<String>,
}

/// Why there can be no plan: always something about the request that the user can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanError {
    what: String,
    hint: Option<String>,
}

impl PlanError {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for PlanError {}

/// Decides what exactly to run.
///
/// # Errors
/// Names the option or the image's setting that cannot be honoured.
pub fn plan(
    request: &Request,
    config: &Config,
    facts: &Facts,
    root: &RootSource,
    launcher: &Launcher,
) -> Result<Plan, PlanError> {
    let ids = ids::map(request, launcher)?;
    let hostname = match &request.hostname {
        Some(name) => checked_hostname(name)?,
        None if request.network.mode == Mode::Host && matches!(root, RootSource::Host { .. }) => {
            "host".into()
        }
        None => launcher.id[..12].to_owned(),
    };
    let process = process::process(request, config, facts, launcher, &hostname)?;
    Ok(Plan {
        id: launcher.id.clone(),
        name: request.name.clone().unwrap_or_else(|| launcher.id[..12].to_owned()),
        isolation: request.isolation.clone(),
        own_kernel: None,
        root: root::root(request, root),
        network: network::network(request, config)?,
        emulation: None,
        bypass: network::bypass(request, launcher),
        files: root::files(request, root, launcher, &hostname),
        mounts: root::mounts(request, root, launcher, &ids)?,
        devices: root::devices(request),
        masked_paths: root::masked(request),
        readonly_paths: root::readonly(request),
        runtime: {
            let startup = request.boot.iter().flat_map(|startup| startup.files.clone());
            startup.chain(nested::files(request, root, facts, &ids)).collect()
        },
        boot: request.boot.as_ref().map(|startup| startup.boot.clone()),
        hostname,
        ids,
        process,
        limits: Limits {
            memory: request.memory,
            milli_cpus: request.milli_cpus,
            pids: request.pids,
        },
        nested: request.nested.is_some(),
        keep: request.keep,
        timeout: request.timeout,
    })
}

/// A host name as sethostname(2) and RFC 1123 allow it.
///
/// # Errors
/// Where it is none.
pub fn checked_hostname(name: &str) -> Result<String, PlanError> {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() <= 64 && name.split('.').all(label) {
        return Ok(name.to_owned());
    }
    Err(PlanError::new(format!("invalid host name {name:?}"))
        .hint("labels of letters, digits and dashes, 64 bytes in all"))
}

/// One range that maps `count` ids.
fn range(inside: u32, outside: u32, count: u32) -> IdRange {
    IdRange { inside, outside, count }
}

/// Whether a request wants the launcher's own user namespace.
fn without_userns(request: &Request, launcher: &Launcher) -> bool {
    !launcher.initial_userns
        || request.userns == UsernsRequest::Host
        || (request.privileged && launcher.uid == 0 && request.userns == UsernsRequest::Auto)
}
