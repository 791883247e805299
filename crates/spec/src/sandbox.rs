//! A command in a root that is put together piece by piece from the launcher's files: what
//! bubblewrap runs. Pure data; descriptors are numbers of the launcher's that it inherited.

use std::ffi::OsString;
use std::path::PathBuf;

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// New namespaces.
    pub namespaces: Namespaces,
    /// A user namespace to enter first.
    pub userns: Option<i32>,
    /// A user namespace to enter once all is set up.
    pub second_userns: Option<i32>,
    /// A namespace of process ids to enter.
    pub pidns: Option<i32>,
    /// Nothing in it may make a user namespace; enforced.
    pub disable_userns: bool,
    /// Fail where it could make one.
    pub assert_userns_disabled: bool,
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// In this order.
    pub operations: Vec<Operation>,
    /// Changes of the environment, in this order.
    pub environment: Vec<Variable>,
    /// Where the command starts; else where the launcher is, or the home.
    pub directory: Option<PathBuf>,
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// What the command is told as its name.
    pub name: Option<OsString>,
    /// The command is process 1 itself.
    pub as_pid_1: bool,
    /// A session of its own.
    pub new_session: bool,
    /// It is killed when its launcher's parent, or the launcher, dies.
    pub die_with_parent: bool,
    /// Capabilities, as a mask; `None` leaves those there are.
    pub capabilities: Option<u64>,
    /// Files that are locked for reading as long as something runs.
    pub locks: Vec<PathBuf>,
    /// Kept open as long as something runs.
    pub sync: Option<i32>,
    /// Setting up waits here before the command is executed.
    pub block: Option<i32>,
    /// Id maps are written by another; who says here when they are.
    pub userns_block: Option<i32>,
    /// Where facts are written once it exists.
    pub info: Option<i32>,
    /// Where facts are written, and at its end the exit code.
    pub status: Option<i32>,
    /// Which system calls may be made.
    pub seccomp: Option<crate::plan::Seccomp>,
    /// Filters, in the order in which they are installed; after that.
    pub filters: Vec<Vec<u8>>,
    /// A filter that is read late.
    pub late_filter: Option<i32>,
    /// The launcher's terminal, to be the console in a new `/dev`.
    pub console: Option<PathBuf>,
}

/// Which namespaces are new. That of mounts always is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// User and group ids.
    pub user: bool,
    /// Process ids.
    pub pid: bool,
    /// Network, with a loopback device that is up.
    pub net: bool,
    /// System V and POSIX message queues.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
    /// Root of the control group view.
    pub cgroup: bool,
}

/// One change of the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variable {
    /// All are removed.
    Clear,
    /// One is set.
    Set(OsString, OsString),
    /// One is removed.
    Unset(OsString),
}

/// How a path of the launcher is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Without devices.
    Plain,
    /// Without devices, and read-only.
    ReadOnly,
    /// With devices.
    Devices,
}

/// Where writes to an overlay go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upper {
    /// Nowhere: it is read-only.
    None,
    /// To memory.
    Memory,
    /// To a directory; the second one is for the kernel's work.
    Directories(PathBuf, PathBuf),
}

/// One step in putting the root together. What is missing on the way to a destination is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// A path of the launcher, with what is mounted below it.
    Bind {
        /// Relative to the launcher's directory.
        source: PathBuf,
        /// Where.
        target: PathBuf,
        /// How.
        access: Access,
        /// It may be missing.
        optional: bool,
        /// The source is this descriptor; it must still be that after mounting.
        descriptor: Option<i32>,
    },
    /// An overlay.
    Overlay {
        /// Paths of the launcher, highest first.
        lower: Vec<PathBuf>,
        /// Where writes go.
        upper: Upper,
        /// Where.
        target: PathBuf,
    },
    /// The processes; what in it could change the host is read-only.
    Proc(PathBuf),
    /// A small `/dev`.
    Dev(PathBuf),
    /// A file system in memory.
    Tmpfs {
        /// Where.
        target: PathBuf,
        /// Permission bits.
        mode: u32,
        /// Bytes.
        size: Option<u64>,
    },
    /// Message queues.
    Mqueue(PathBuf),
    /// A directory, unless it is there.
    Directory(PathBuf, u32),
    /// A file with what is read from a descriptor.
    File {
        /// Where.
        target: PathBuf,
        /// Permission bits.
        mode: u32,
        /// The content.
        descriptor: i32,
        /// Mounted rather than written; read-only where that is set.
        mounted: Option<Access>,
    },
    /// A symbolic link: its text, and where it is.
    Symlink(OsString, PathBuf),
    /// What is mounted there becomes read-only, but nothing below it.
    RemountReadOnly(PathBuf),
    /// Permission bits of what is there.
    Chmod(PathBuf, u32),
    /// The host name.
    Hostname(OsString),
}

impl Operation {
    /// What it is about, inside.
    #[must_use]
    pub fn target(&self) -> Option<&PathBuf> {
        match self {
            Self::Bind { target, .. }
            | Self::Overlay { target, .. }
            | Self::Proc(target)
            | Self::Dev(target)
            | Self::Tmpfs { target, .. }
            | Self::Mqueue(target)
            | Self::Directory(target, _)
            | Self::File { target, .. }
            | Self::Symlink(_, target)
            | Self::RemountReadOnly(target)
            | Self::Chmod(target, _) => Some(target),
            Self::Hostname(_) => None,
        }
    }
}
