//! What a face was asked to do, in docker's words, before anything is known of the image.

use crate::boot::Startup;
use crate::network::{Mode, User, Wishes};

/// One request to run a command in an image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// The engine, by its name; empty for the default one.
    pub isolation: String,
    /// Command and arguments; empty means the image's own.
    pub command: Vec<String>,
    /// Boots the image instead of running a command in it.
    pub boot: Option<Startup>,
    /// Replaces the image's entrypoint and clears its command; `Some("")` clears both.
    pub entrypoint: Option<String>,
    /// `NAME=value`; later ones win.
    pub env: Vec<(String, String)>,
    /// `user[:group]`, by name or number.
    pub user: Option<String>,
    /// Absolute path.
    pub workdir: Option<String>,
    /// Host name inside.
    pub hostname: Option<String>,
    /// The machine's name.
    pub name: Option<String>,
    /// Directories and files of the host.
    pub mounts: Vec<MountRequest>,
    /// The root file system cannot be written.
    pub read_only: bool,
    /// Names without `CAP_`, upper-case, or `ALL`.
    pub cap_add: Vec<String>,
    /// As `cap_add`; dropped before additions are made.
    pub cap_drop: Vec<String>,
    /// Everything the launcher itself may do, and the host's devices.
    pub privileged: bool,
    /// `no-new-privileges`.
    pub no_new_privileges: bool,
    /// System call filter.
    pub seccomp: SeccompRequest,
    /// Requests to wait for the disk succeed at once: for what is flushed as a whole later.
    pub suppress_sync: bool,
    /// `systempaths=unconfined`: nothing of /proc and /sys is masked.
    pub unmask: bool,
    /// Machines are made inside of it.
    pub nested: Option<Nested>,
    /// The command itself is process 1, which the kernel spares most signals
    /// (pid_namespaces(7)), and which must reap; else a small init is.
    pub as_pid_1: bool,
    /// Standard input is passed on.
    pub interactive: bool,
    /// A terminal of its own.
    pub terminal: bool,
    /// Network.
    pub network: NetworkRequest,
    /// User namespace.
    pub userns: UsernsRequest,
    /// Bytes.
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    pub milli_cpus: Option<u64>,
    /// Greatest number of processes and threads.
    pub pids: Option<u64>,
    /// Resource limits.
    pub ulimits: Vec<Ulimit>,
    /// Its record stays after its end.
    pub keep: bool,
    /// Seconds after which it is killed.
    pub timeout: Option<u64>,
}

/// `--nested`: what of the host serves those who make containers inside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Nested {
    /// Names in `/dev` that the machine can open.
    pub devices: Vec<String>,
}

/// `--network` and its kin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkRequest {
    /// Which.
    pub mode: Mode,
    /// How mode `user` is carried here.
    pub user: Option<User>,
    /// Where the mode is a namespace that is there: the path of its file.
    pub path: Option<String>,
    /// What else is said of it.
    pub wishes: Wishes,
}

impl NetworkRequest {
    /// Nothing but a mode.
    #[must_use]
    pub fn of(mode: Mode) -> Self {
        Self { mode, ..Self::default() }
    }

    /// Whether the machine shares a network that is there.
    #[must_use]
    pub fn shares(&self) -> bool {
        matches!(self.mode, Mode::Host | Mode::Container(_) | Mode::Namespace(_))
    }
}

/// `--userns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UsernsRequest {
    /// Root: a private range. An ordinary user: its own id as root, and its subordinate ranges.
    #[default]
    Auto,
    /// No user namespace (root only).
    Host,
    /// The launcher's own id and no other.
    Single,
    /// The launcher's id keeps its number inside, and is the default user.
    KeepId,
}

/// `--security-opt seccomp=…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SeccompRequest {
    /// The built-in profile.
    #[default]
    Default,
    /// No filter.
    Unconfined,
}

/// `-v`, `--mount` or `--tmpfs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountRequest {
    /// A path of the host, made visible inside.
    Bind {
        /// Absolute path on the host.
        source: String,
        /// Absolute path inside.
        target: String,
        /// Cannot be written.
        read_only: bool,
        /// With what is mounted below it.
        recursive: bool,
        /// Made as a directory where it is missing (`-v`'s habit; `--mount` refuses).
        create_source: bool,
    },
    /// The files of an image, under a layer that is thrown away with the machine.
    Image {
        /// As the user calls it.
        image: String,
        /// Absolute paths of its layers, lowest first; none before the image was looked up.
        layers: Vec<String>,
        /// Absolute path inside.
        target: String,
        /// Cannot be written.
        read_only: bool,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Absolute path inside.
        target: String,
        /// Bytes; the kernel's default (half of the memory) where not given.
        size: Option<u64>,
        /// Permission bits; 0o1777 where not given.
        mode: Option<u32>,
        /// Mount options beyond docker's `noexec,nosuid,nodev`, such as `exec`.
        options: Vec<String>,
    },
}

/// `--ulimit NAME=soft[:hard]`; `u64::MAX` is unlimited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// As in setrlimit(2), lower-case and without `RLIMIT_`, such as `nofile`.
    pub name: String,
    /// In the resource's own unit.
    pub soft: u64,
    /// In the resource's own unit.
    pub hard: u64,
}
