//! What a container of the OCI runtime needs besides the steps of every machine.

use std::ffi::CString;

use rustix::fs::Mode;
use sys::caps::Sets;
use sys::mount::Change;
use sys::seccomp::{Filter, Flags};

use super::super::step::Tree;

/// One of them, executed by the same child.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Root of the user namespace, where that has one.
    BecomeRoot,
    /// New clocks, with what is written to `timens_offsets`.
    TimeNamespace(String),
    Domainname(String),
    /// A new session keyring (keyrings(7)).
    Keyring(CString),
    /// Flags of mount(2), for all mounts.
    Propagation(u64),
    /// Of the mount that the root lies on, so that the root can be entered.
    PrivateParent(CString),
    Root {
        tree: Tree,
        path: CString,
    },
    /// A directory that nothing is mounted on.
    PlainRoot(CString),
    Mount(Box<Mount>),
    Devices(Vec<Device>),
    DeviceLinks,
    ReadonlyLater(String, Change),
    Sysctl {
        path: String,
        value: String,
    },
    Readonly(Vec<String>),
    Masked(Vec<String>),
    /// The launcher does its part, and says when it is done.
    Sync,
    Hooks(Vec<spec::runtime::Hook>),
    MoveRoot,
    Chroot,
    RootPropagation(u64),
    /// Descriptors from 3 on that the command gets.
    CloseDescriptors(u32),
    Attribute {
        file: &'static str,
        value: String,
    },
    Scheduler(sys::sched::Scheduler),
    IoPriority(u16),
    Personality(u32),
    Bound(sys::caps::Set),
    User {
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
    },
    Capabilities(Sets),
    Umask(Mode),
    /// Whether there is such a program is said before it is to start.
    Find(Vec<CString>),
    /// All is ready; another process of ours says when.
    AwaitStart,
    /// There is nothing to execute.
    NoProcess,
    Seccomp {
        filter: Filter,
        flags: Flags,
    },
}

/// One mount.
#[derive(Debug)]
pub(crate) struct Mount {
    pub(crate) target: String,
    pub(crate) kind: Kind,
    /// Of this mount, then of all in it.
    pub(crate) changes: [Change; 2],
    /// Flags for the mount's propagation, each with whether it is for all mounts below.
    pub(crate) propagation: Vec<(u64, bool)>,
}

/// What is mounted.
#[derive(Debug)]
pub(crate) enum Kind {
    Bind {
        tree: Tree,
        recursive: bool,
    },
    Filesystem {
        fstype: CString,
        source: CString,
        flags: u64,
        data: CString,
        /// Bound instead where the kernel refuses a new one.
        fallback: Option<CString>,
        /// It starts with what is there.
        copy_up: bool,
    },
    /// Flags and options of what is mounted there already.
    Remount {
        flags: u64,
        data: CString,
    },
    Cgroups {
        hierarchies: Vec<Hierarchy>,
        /// A view of its own.
        namespace: bool,
        read_only: bool,
    },
}

/// A control group hierarchy as the container sees it.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    /// Of the directory; empty where there is only this one.
    pub(crate) name: String,
    /// Other names of it.
    pub(crate) links: Vec<String>,
    /// As mount(2) takes them; none for the second version.
    pub(crate) controllers: Option<CString>,
    /// Where the container's group is for the launcher.
    pub(crate) group: CString,
}

/// A device node.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) path: String,
    pub(crate) kind: rustix::fs::FileType,
    pub(crate) number: u64,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
}

impl Piece {
    /// Completes "cannot …".
    pub(crate) fn describe(&self) -> String {
        let text = |c: &CString| c.to_string_lossy().into_owned();
        match self {
            Self::BecomeRoot => "become root of the user namespace".into(),
            Self::TimeNamespace(_) => "make a time namespace".into(),
            Self::Keyring(_) => "make a session keyring".into(),
            Self::Domainname(name) => format!("set the domain name {name:?}"),
            Self::Propagation(_) | Self::RootPropagation(_) => "set the root's propagation".into(),
            Self::PrivateParent(path) => format!("make the mount above {} private", text(path)),
            Self::Root { path, .. } => format!("mount the root {}", text(path)),
            Self::PlainRoot(path) => format!("open the root {}", text(path)),
            Self::Mount(mount) => mount.describe(),
            Self::Devices(devices) => {
                let paths = devices.iter().map(|device| device.path.as_str());
                format!("make the devices {}", paths.collect::<Vec<_>>().join(", "))
            }
            Self::DeviceLinks => "fill /dev".into(),
            Self::ReadonlyLater(path, _) => format!("make {path} read-only"),
            Self::Sysctl { path, value } => format!("write {value:?} to /proc/sys/{path}"),
            Self::Readonly(_) => "make paths read-only".into(),
            Self::Masked(_) => "mask paths".into(),
            Self::Sync => "hear from the launcher".into(),
            Self::Hooks(_) => "run hooks".into(),
            Self::MoveRoot | Self::Chroot => "change into the root".into(),
            Self::CloseDescriptors(_) => "close inherited descriptors".into(),
            Self::Attribute { file, value } => format!("write {value:?} to /proc/self/{file}"),
            Self::Scheduler(_) => "set the scheduler".into(),
            Self::IoPriority(_) => "set the I/O priority".into(),
            Self::Personality(_) => "set the personality".into(),
            Self::Bound(_) | Self::Capabilities(_) => "set capabilities".into(),
            Self::User { uid, gid, .. } => format!("become user {uid}, group {gid}"),
            Self::Umask(_) => "set the file mode creation mask".into(),
            Self::Find(path) => {
                format!("execute {}", path.first().map(text).unwrap_or_default())
            }
            Self::AwaitStart => "wait for the start".into(),
            Self::NoProcess => "start a container whose config.json has no process".into(),
            Self::Seccomp { .. } => "install the system call filter".into(),
        }
    }
}

impl Mount {
    fn describe(&self) -> String {
        let target = &self.target;
        match &self.kind {
            Kind::Bind { tree: Tree::Path(path), .. } => {
                format!("mount {} on {target}", path.to_string_lossy())
            }
            Kind::Bind { .. } => format!("mount on {target}"),
            Kind::Filesystem { fstype, .. } => {
                format!("mount {} on {target}", fstype.to_string_lossy())
            }
            Kind::Remount { .. } => format!("remount {target}"),
            Kind::Cgroups { .. } => format!("mount the control groups on {target}"),
        }
    }
}
