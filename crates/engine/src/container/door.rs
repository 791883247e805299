//! The way into a machine that runs: its namespaces.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::process::{Pid, PidfdFlags};
use sys::process::Namespaces;
use sys::rooted::Root;

/// A machine's process 1, held so that its id cannot come to mean another.
pub(super) struct Door {
    pidfd: OwnedFd,
    pid: Pid,
}

/// As in `/proc/PID/ns` (namespaces(7)).
const KINDS: [(&str, Namespaces); 8] = [
    ("user", Namespaces::USER),
    ("mnt", Namespaces::MOUNT),
    ("pid", Namespaces::PID),
    ("uts", Namespaces::UTS),
    ("ipc", Namespaces::IPC),
    ("net", Namespaces::NET),
    ("cgroup", Namespaces::CGROUP),
    ("time", Namespaces::TIME),
];

impl Door {
    /// A machine's door by its first process. Where that is our init, it is the first of its
    /// children, which is the command: an init of ours lets nobody look at it (see `init.rs`).
    ///
    /// # Errors
    /// `ESRCH` where the machine has ended.
    pub(super) fn of(pid: Pid, start: u64, has_init: bool) -> io::Result<Self> {
        let door = Self::open(pid)?;
        let same = || match sys::process::start_time(pid) {
            Ok(now) if now == start => Ok(()),
            _ => Err(io::Error::from(rustix::io::Errno::SRCH)),
        };
        // Checked after the pidfd was opened, so both mean the same process.
        same()?;
        if !has_init {
            return Ok(door);
        }
        let id = pid.as_raw_nonzero();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        let first = children.split_ascii_whitespace().next().and_then(|id| id.parse().ok());
        let command = first.and_then(Pid::from_raw).ok_or(rustix::io::Errno::SRCH)?;
        let door = Self::open(command)?;
        same()?;
        Ok(door)
    }

    pub(super) fn open(pid: Pid) -> io::Result<Self> {
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self { pidfd, pid })
    }

    pub(super) fn into_process(self) -> (i32, OwnedFd) {
        (self.pid.as_raw_nonzero().get(), self.pidfd)
    }

    /// What that process has as its root directory.
    pub(super) fn root(&self) -> io::Result<Root> {
        Root::open(Path::new(&format!("/proc/{}/root", self.pid.as_raw_nonzero())))
    }

    /// Moves this process into those of the machine's namespaces that are not its own; into that of
    /// process ids, only the children that it makes from now on. In the machine's user
    /// namespace it has every capability, and no id yet.
    pub(super) fn enter(&self) -> io::Result<()> {
        sys::process::enter(self.pidfd.as_fd(), differing(self.pid)?)
    }

    /// As [`Door::enter`], into those of these kinds only.
    pub(super) fn enter_only(&self, kinds: Namespaces) -> io::Result<()> {
        sys::process::enter(self.pidfd.as_fd(), differing_of(self.pid, kinds)?)
    }
}

/// Those of a process's namespaces that are not this one's.
///
/// # Errors
/// Where they cannot be looked at: the process has ended, or may not be seen.
pub(super) fn differing(pid: Pid) -> io::Result<Namespaces> {
    let all = KINDS.into_iter().fold(Namespaces::NONE, |all, (_, kind)| all | kind);
    differing_of(pid, all)
}

fn differing_of(pid: Pid, kinds: Namespaces) -> io::Result<Namespaces> {
    let mut wanted = Namespaces::NONE;
    for (name, kind) in KINDS.into_iter().filter(|(_, kind)| kinds.contains(*kind)) {
        // Where this kernel has none of a kind, there is none to enter.
        let Ok(own) = rustix::fs::stat(format!("/proc/self/ns/{name}")) else { continue };
        let theirs = rustix::fs::stat(format!("/proc/{}/ns/{name}", pid.as_raw_nonzero()))?;
        if (own.st_dev, own.st_ino) != (theirs.st_dev, theirs.st_ino) {
            wanted |= kind;
        }
    }
    Ok(wanted)
}
