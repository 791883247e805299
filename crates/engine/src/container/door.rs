//! The way into a machine that runs: its namespaces.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags};
use sys::process::Namespaces;

/// A machine's process 1, held so that its id cannot come to mean another.
pub(super) struct Door {
    pidfd: OwnedFd,
    pid: Pid,
}

/// As in `/proc/PID/ns` (namespaces(7)).
const KINDS: [(&str, Namespaces); 7] = [
    ("user", Namespaces::USER),
    ("mnt", Namespaces::MOUNT),
    ("pid", Namespaces::PID),
    ("uts", Namespaces::UTS),
    ("ipc", Namespaces::IPC),
    ("net", Namespaces::NET),
    ("cgroup", Namespaces::CGROUP),
];

impl Door {
    pub(super) fn open(pid: Pid) -> io::Result<Self> {
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self { pidfd, pid })
    }

    /// Moves this process into those of the machine's namespaces that are not its own; into that of
    /// process ids, only the children that it makes from now on. In the machine's user
    /// namespace it has every capability, and no id yet.
    pub(super) fn enter(&self) -> io::Result<()> {
        let mut wanted = Namespaces::NONE;
        for (name, kind) in KINDS {
            let own = rustix::fs::stat(format!("/proc/self/ns/{name}"))?;
            let theirs =
                rustix::fs::stat(format!("/proc/{}/ns/{name}", self.pid.as_raw_nonzero()))?;
            if (own.st_dev, own.st_ino) != (theirs.st_dev, theirs.st_ino) {
                wanted |= kind;
            }
        }
        sys::process::enter(self.pidfd.as_fd(), wanted)
    }
}
