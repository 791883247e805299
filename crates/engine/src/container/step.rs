//! One step of what a machine's first process does before it becomes the command.
//!
//! Steps are made beforehand by the launcher, and say of themselves what they do, so
//! that a failure names the step and its path.

use std::ffi::{CStr, CString};

use sys::caps;
use sys::mount::Attributes;
use sys::process::Strings;
use sys::rlimits::Resource;
use sys::seccomp::Filter;

use super::bundle::piece::Piece;

/// Where a step finds a file tree.
#[derive(Debug)]
pub(crate) enum Tree {
    /// Sent by the launcher: the nth one.
    Received(usize),
    /// Opened by the step itself.
    Path(CString),
}

/// A file of `/etc` that the launcher supplies.
#[derive(Debug)]
pub(crate) struct EtcFile {
    pub(crate) name: CString,
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
}

/// Paths relative to one of the kernel's own trees.
#[derive(Debug, Default)]
pub(crate) struct Protected {
    pub(crate) readonly: Vec<CString>,
    pub(crate) hidden_files: Vec<CString>,
    pub(crate) hidden_directories: Vec<CString>,
}

impl Protected {
    pub(crate) fn is_empty(&self) -> bool {
        [&self.readonly, &self.hidden_files, &self.hidden_directories].iter().all(|l| l.is_empty())
    }
}

/// Something in `/run` that the launcher supplies.
#[derive(Debug)]
pub(crate) enum Runtime {
    Directory(u32),
    Text(Vec<u8>, u32),
    Link(CString),
}

#[derive(Debug)]
pub(crate) enum Step {
    /// Be killed when the launcher dies.
    DieWithLauncher,
    /// Lead a session: no terminal of the launcher's is within reach (CVE-2017-5226).
    Session,
    /// Keep mounts from here on to this namespace.
    PrivateMounts,
    NetworkNamespace,
    Loopback,
    Hostname(String),
    /// Wait until the ids are mapped, and take the trees that the launcher opened.
    AwaitLauncher,
    BecomeRoot,
    /// After having been moved: a namespace's root is where its maker is at that moment.
    CgroupNamespace,
    /// A file system in memory that holds everything that is thrown away.
    Scratch {
        /// The one of the machine's last run was sent as the last tree.
        kept: bool,
        directory: CString,
    },
    /// Leave the scratch to the launcher, for what comes after the machine.
    KeepScratch,
    /// The lower layers as `l0`, `l1`, … (highest first) in the scratch.
    Layers(Vec<Tree>),
    EtcFiles(Vec<EtcFile>),
    /// Names in the root, and where they lead.
    Links(Vec<(CString, CString)>),
    /// The root at `r` in the scratch.
    OverlayRoot {
        options: CString,
    },
    DirectoryRoot(Tree),
    Filesystem {
        target: String,
        fstype: CString,
        data: CString,
        attributes: Attributes,
    },
    Bind {
        target: String,
        tree: Tree,
        recursive: bool,
        attributes: Attributes,
    },
    /// A throw-away layer over trees, the highest first, in the `index`th directories of the scratch.
    OverlayMount {
        target: String,
        trees: Vec<Tree>,
        index: usize,
        options: CString,
        read_only: bool,
        /// For `/etc`, as above.
        files: Vec<EtcFile>,
    },
    /// The machine's own view of its control groups.
    Cgroups {
        legacy: Vec<CString>,
        unified: bool,
    },
    /// Into a group below the machine's: one with others below it may hold no process itself (cgroups(7),
    /// "no internal processes").
    OwnGroup,
    /// Device nodes, by bind mounts from the launcher's `/dev`.
    Devices(Vec<CString>),
    DeviceLinks,
    Terminal {
        /// It is `/dev/console` too.
        console: bool,
    },
    /// Below one of `/proc` and `/sys`.
    Protect {
        root: &'static str,
        paths: Protected,
        empty: CString,
    },
    /// An entry of the machine's own binfmt_misc.
    Emulation {
        architecture: String,
        registration: Vec<u8>,
    },
    ReadonlyRoot,
    Runtime {
        path: String,
        kind: Runtime,
    },
    /// Some system calls wait for the launcher from now on.
    HandOver {
        filter: Filter,
        /// It answers for a stand-in of the control groups.
        cgroups: bool,
        /// It makes all connections.
        connects: bool,
    },
    /// The launcher's socket that hears when the system is up.
    NotifySocket(String),
    Pivot,
    /// What is mounted later is seen by namespaces that are made below, as on a host.
    SharedMounts,
    /// Lets all of the machine's groups up to this one open sockets for ICMP's echo (icmp(7), `ping_group_range`).
    Pings {
        last: u32,
    },
    Rlimit {
        name: String,
        resource: Resource,
        soft: u64,
        hard: u64,
    },
    Streams {
        stdin: bool,
        /// The terminal becomes the session's.
        control: bool,
    },
    CloseDescriptors,
    WorkingDirectory(CString),
    BoundCapabilities(caps::Set),
    Seccomp(Filter),
    User {
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
    },
    Capabilities(caps::Set),
    NoNewPrivileges,
    Init,
    Execute {
        args: Strings,
        env: Strings,
        path: Vec<CString>,
    },
    /// What only a container of the OCI runtime needs.
    Bundle(Piece),
}

/// Where the scratch has a layer of the `index`th mount; number 0 is the highest.
pub(super) fn lower_name(index: usize, number: usize) -> String {
    format!("h{index}-{number}")
}

impl Step {
    /// Completes "cannot …".
    pub(crate) fn describe(&self) -> String {
        let text = |c: &CStr| c.to_string_lossy().into_owned();
        match self {
            Self::DieWithLauncher => "tie the machine to its launcher".into(),
            Self::Session => "start a session".into(),
            Self::PrivateMounts => "make mounts private".into(),
            Self::NetworkNamespace => "make a network namespace".into(),
            Self::Loopback => "bring up the loopback device".into(),
            Self::Hostname(name) => format!("set the host name {name:?}"),
            Self::AwaitLauncher => "hear from the launcher".into(),
            Self::BecomeRoot => "become root of the user namespace".into(),
            Self::CgroupNamespace => "make a control group namespace".into(),
            Self::Scratch { directory, .. } => format!("mount a tmpfs on {}", text(directory)),
            Self::KeepScratch => "keep what is written".into(),
            Self::Layers(_) => "place the image's layers".into(),
            Self::EtcFiles(_) => "write hosts, hostname, resolv.conf and machine-id".into(),
            Self::Links(_) => "make links in the root".into(),
            Self::OverlayRoot { .. } => "mount the root overlay".into(),
            Self::DirectoryRoot(_) => "mount the root directory".into(),
            Self::Filesystem { target, fstype, .. } => {
                format!("mount {} on {target}", text(fstype))
            }
            Self::Bind { target, tree: Tree::Path(source), .. } => {
                format!("mount {} on {target}", text(source))
            }
            Self::Bind { target, .. } => format!("mount on {target}"),
            Self::OverlayMount { target, .. } => format!("mount an overlay on {target}"),
            Self::Cgroups { .. } => "mount the control groups".into(),
            Self::OwnGroup => "move into a control group".into(),
            Self::Devices(_) | Self::DeviceLinks => "fill /dev".into(),
            Self::Terminal { .. } => "make a terminal".into(),
            Self::Protect { root, .. } => format!("protect {root}"),
            Self::Emulation { architecture, .. } => {
                format!("register an emulator of {architecture} for the machine")
            }
            Self::ReadonlyRoot => "make the root read-only".into(),
            Self::HandOver { .. } => "hand system calls over to the launcher".into(),
            Self::Runtime { path, .. } => format!("make {path}"),
            Self::NotifySocket(path) => format!("listen on {path}"),
            Self::Pings { .. } => "let everybody ping".into(),
            Self::SharedMounts => "share mounts with namespaces below".into(),
            Self::Pivot => "change into the root".into(),
            Self::Rlimit { name, soft, hard, .. } => {
                format!("set the limit {name} to {soft}:{hard}")
            }
            Self::Streams { .. } => "set up the standard streams".into(),
            Self::CloseDescriptors => "close inherited descriptors".into(),
            Self::WorkingDirectory(path) => {
                format!("change to the working directory {}", text(path))
            }
            Self::BoundCapabilities(_) | Self::Capabilities(_) => "set capabilities".into(),
            Self::Seccomp(_) => "install the system call filter".into(),
            Self::User { uid, gid, .. } => format!("become user {uid}, group {gid}"),
            Self::NoNewPrivileges => "set no_new_privs".into(),
            Self::Init => "start the init process".into(),
            Self::Execute { args, .. } => {
                format!("execute {:?}", args.first().map(text).unwrap_or_default())
            }
            Self::Bundle(piece) => piece.describe(),
        }
    }
}
