//! A stand-in for the v2 control group hierarchy, where none is delegated to this user.
//!
//! An init that manages control groups makes directories below `/sys/fs/cgroup`, which the
//! kernel fills with files, and looks at the type of the file system. Here a file system in
//! memory is there instead, and the few system calls that tell the difference are answered by
//! the machine's monitor: statfs(2) of it, and mkdir(2) and rmdir(2) in it.
//!
//! What it cannot do: limit and account anything, freeze, and tell which processes are in a
//! group. Whoever makes such calls is the machine's own root, who may write there
//! anyway: a wrong answer could fool nobody but itself.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use sys::notify::{Call, Listener, Verdict};
use sys::rooted::Root;
use sys::seccomp::{Action, Condition, Relation};

use super::supervisor::OwnRule;

/// Where it is mounted inside.
pub(super) const MOUNT: &str = "/sys/fs/cgroup";

/// The files of a group, and what is in them; those without a content take everything that is
/// written and give nothing back (cgroups(7), "Cgroups v2").
const FILES: [(&str, Option<&str>); 8] = [
    ("cgroup.controllers", Some("")),
    ("cgroup.events", Some("populated 0\nfrozen 0\n")),
    ("cgroup.freeze", Some("0\n")),
    ("cgroup.kill", None),
    ("cgroup.procs", None),
    ("cgroup.subtree_control", None),
    ("cgroup.threads", None),
    ("cgroup.type", Some("domain\n")),
];

/// Hands the telling calls over. clone3(2) could put a process into a group that is none, and
/// callers fall back to clone(2) where the kernel does not know it.
pub(super) fn rules() -> Vec<OwnRule> {
    let removes_directory = Condition {
        argument: 2,
        mask: AtFlags::REMOVEDIR.bits().into(),
        value: AtFlags::REMOVEDIR.bits().into(),
        relation: Relation::Equal,
    };
    let enosys = Action::Errno(Errno::NOSYS.raw_os_error() as u16);
    vec![
        (&["clone3"], enosys, vec![]),
        (&["statfs", "fstatfs", "mkdir", "mkdirat", "rmdir"], Action::Notify, vec![]),
        (&["unlinkat"], Action::Notify, vec![removes_directory]),
    ]
}

/// The monitor's part.
pub(super) struct Emulation {
    root: Root,
    /// The machine's root, as the monitor sees it.
    owner: (u32, u32),
}

impl Emulation {
    /// Fills the mounted file system, whose root directory `root` is.
    pub(super) fn new(root: OwnedFd, owner: (u32, u32)) -> io::Result<Self> {
        let emulation = Self { root: Root::from_fd(root), owner };
        emulation.fill(emulation.root.as_fd())?;
        Ok(emulation)
    }

    /// Answers for processes that have come in later, beside the one that filled it.
    pub(super) fn further(root: OwnedFd, owner: (u32, u32)) -> Self {
        Self { root: Root::from_fd(root), owner }
    }

    /// Answers a call; `None` where it is none of ours.
    pub(super) fn serve(&self, listener: &Listener, call: &Call) -> Option<Verdict> {
        let ours = ["statfs", "fstatfs", "mkdir", "mkdirat", "rmdir", "unlinkat"];
        if !ours.contains(&call.name()) {
            return None;
        }
        let path = path_of(call).filter(|_| !call.foreign);
        // What was read was the caller's only if it still waits now.
        Some(match path.as_deref().and_then(below) {
            Some(path) if listener.is_waiting(call) => self.decide(call, path),
            _ => Verdict::Continue,
        })
    }

    fn decide(&self, call: &Call, path: &[u8]) -> Verdict {
        let path = OsStr::from_bytes(path);
        let done = match call.name() {
            "statfs" | "fstatfs" => call.write(call.args[1], &sys::notify::statfs_of_cgroup2()),
            "mkdir" | "mkdirat" => self.make(path),
            _ => self.remove(path),
        };
        match done {
            Ok(()) => Verdict::Done(0),
            Err(error) => Verdict::Fail(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }

    fn make(&self, path: &OsStr) -> io::Result<()> {
        if path.is_empty() {
            return Err(Errno::EXIST.into());
        }
        let (parent, name) = self.root.parent_of(path)?;
        rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755))?;
        self.own(parent.as_fd(), &name)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&parent, &name, flags, Mode::empty())?;
        self.fill(made.as_fd())
    }

    fn fill(&self, group: BorrowedFd<'_>) -> io::Result<()> {
        for (name, content) in FILES {
            match content {
                None => rustix::fs::symlinkat(c"/dev/null", group, name)?,
                Some(content) => {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                    let mode = Mode::from_raw_mode(0o644);
                    let file = rustix::fs::openat(group, name, flags, mode)?;
                    rustix::io::write(&file, content.as_bytes())?;
                }
            }
            self.own(group, OsStr::new(name))?;
        }
        Ok(())
    }

    fn own(&self, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.owner.0), Gid::from_raw(self.owner.1));
        if (rustix::process::geteuid(), rustix::process::getegid()) == (uid, gid) {
            return Ok(());
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::chownat(parent, name, Some(uid), Some(gid), flags)?)
    }

    /// As the kernel: only a group without groups in it goes, and its files with it.
    fn remove(&self, path: &OsStr) -> io::Result<()> {
        if path.is_empty() {
            return Err(Errno::BUSY.into());
        }
        let (parent, name) = self.root.parent_of(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let group = rustix::fs::openat(&parent, &name, flags, Mode::empty())?;
        let entries = rustix::fs::Dir::read_from(&group)?;
        for entry in entries {
            let entry = entry?;
            let known =
                FILES.iter().any(|(name, _)| entry.file_name().to_bytes() == name.as_bytes());
            if !known && !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Err(Errno::BUSY.into());
            }
        }
        for (name, _) in FILES {
            match rustix::fs::unlinkat(&group, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR)?)
    }
}

/// The caller's working directory, in the place of a descriptor (linux/fcntl.h).
const AT_FDCWD: i32 = -100;

/// The path that a call is about, absolute in the caller's root as far as can be told.
fn path_of(call: &Call) -> Option<Vec<u8>> {
    let [first, second, ..] = call.args;
    let (directory, address) = match call.name() {
        "fstatfs" => return link(&format!("/proc/{}/fd/{}", call.pid, first as i32)),
        "mkdirat" | "unlinkat" => (first as i32, second),
        _ => (AT_FDCWD, first),
    };
    let path = call.text(address).ok()?;
    if path.starts_with(b"/") {
        return Some(path);
    }
    let base = match directory {
        AT_FDCWD => link(&format!("/proc/{}/cwd", call.pid))?,
        directory => link(&format!("/proc/{}/fd/{directory}", call.pid))?,
    };
    Some([&base[..], b"/", &path].concat())
}

fn link(path: &str) -> Option<Vec<u8>> {
    rustix::fs::readlink(path, Vec::new()).ok().map(std::ffi::CString::into_bytes)
}

/// What of a path is below the mount; empty for the mount itself.
fn below(path: &[u8]) -> Option<&[u8]> {
    let rest = path.strip_prefix(MOUNT.as_bytes())?;
    if !rest.is_empty() && !rest.starts_with(b"/") {
        return None;
    }
    let leads_up = rest.split(|&b| b == b'/').any(|component| component == b"..");
    let start = rest.iter().position(|&b| b != b'/').unwrap_or(rest.len());
    (!leads_up).then_some(&rest[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_the_mount() {
        for (path, found) in [
            ("/sys/fs/cgroup", Some("")),
            ("/sys/fs/cgroup/", Some("")),
            ("/sys/fs/cgroup//a/b", Some("a/b")),
            ("/sys/fs/cgroups", None),
            ("/sys/fs/cgroup/../x", None),
            ("/sys/fs", None),
        ] {
            assert_eq!(below(path.as_bytes()), found.map(str::as_bytes), "{path}");
        }
    }

    #[test]
    fn groups_are_made_and_removed_as_the_kernel_does() {
        let temp = tempfile::tempdir().unwrap();
        let open = |path: &std::path::Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).unwrap()
        };
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let emulation = Emulation { root: Root::from_fd(open(temp.path())), owner };
        emulation.make(OsStr::new("a")).unwrap();
        emulation.make(OsStr::new("a/b")).unwrap();
        let events = std::fs::read_to_string(temp.path().join("a/b/cgroup.events")).unwrap();
        assert!(events.starts_with("populated 0\n"));
        let errno = |error: io::Error| Errno::from_io_error(&error).unwrap();
        assert_eq!(errno(emulation.make(OsStr::new("a")).unwrap_err()), Errno::EXIST);
        assert_eq!(errno(emulation.remove(OsStr::new("a")).unwrap_err()), Errno::BUSY);
        assert_eq!(errno(emulation.remove(OsStr::new("")).unwrap_err()), Errno::BUSY);
        emulation.remove(OsStr::new("a/b")).unwrap();
        emulation.remove(OsStr::new("a")).unwrap();
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }
}
