//! A stand-in for the v2 control group hierarchy, where none is delegated to this user.
//!
//! An init that manages control groups makes directories below `/sys/fs/cgroup`, which the
//! kernel fills with files, and looks at the type of the file system. Here a file system in
//! memory is there instead, and the few system calls that tell the difference are answered by
//! the machine's monitor: statfs(2) of it, mkdir(2) and rmdir(2) in it, and opening lists of
//! processes to write to them.
//!
//! Which processes are in a group is told in [`members`]. What it cannot do: limit and account anything,
//! and freeze. Whoever makes such calls is the machine's own root, who may write there
//! anyway: a wrong answer could fool nobody but itself.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use sys::notify::{Call, Listener, Verdict};
use sys::rooted::Root;
use sys::seccomp::{Action, Condition, Relation};

use super::supervisor::OwnRule;

mod members;

use members::{Members, PROCESSES};

/// Where it is mounted inside.
pub(super) const MOUNT: &str = "/sys/fs/cgroup";

/// The files of a group, and what is in them; those without a content take everything that is
/// written and give nothing back (cgroups(7), "Cgroups v2").
const FILES: [(&str, Option<&str>); 7] = [
    ("cgroup.controllers", Some("")),
    ("cgroup.events", Some("populated 0\nfrozen 0\n")),
    // crun asks it whether a container is paused; that cannot be.
    ("cgroup.freeze", Some("0\n")),
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
        (&["open"], Action::Notify, vec![writes_only(1)]),
        (&["openat"], Action::Notify, vec![writes_only(2)]),
        (&["open"], Action::Notify, vec![reads(1)]),
        (&["openat"], Action::Notify, vec![reads(2)]),
        // Its flags are behind a pointer; callers fall back to openat(2) here too.
        (&["openat2"], enosys, vec![]),
    ]
}

/// Opened for writing alone, as control groups' files are: the flags are this argument.
fn writes_only(argument: u8) -> Condition {
    let (mask, value) = (OFlags::ACCMODE.bits().into(), OFlags::WRONLY.bits().into());
    Condition { argument, mask, value, relation: Relation::Equal }
}

/// Opened as fopen(3) does with `re`, by which libraries and systemd read `/proc`.
fn reads(argument: u8) -> Condition {
    let value = (OFlags::RDONLY | OFlags::CLOEXEC).bits().into();
    Condition { argument, mask: u64::from(u32::MAX), value, relation: Relation::Equal }
}

/// The monitor's part.
pub(super) struct Emulation {
    root: Root,
    /// The machine's root, as the monitor sees it.
    owner: (u32, u32),
    /// Who is in which group; none where that cannot be told.
    members: Option<Members>,
}

impl Emulation {
    /// Fills the mounted file system, whose root directory `root` is, of the machine whose first
    /// process has this id here.
    pub(super) fn new(root: OwnedFd, owner: (u32, u32), pid: i32) -> io::Result<Self> {
        // Fails where this user has used up its instances (inotify(7), `max_user_instances`).
        let members = Members::new(pid).ok();
        let mut emulation = Self { root: Root::from_fd(root), owner, members };
        emulation.fill(OsStr::new(""), emulation.root.as_fd().try_clone_to_owned()?)?;
        Ok(emulation)
    }

    /// Answers for processes that have come in later, beside the one that filled it.
    pub(super) fn further(root: OwnedFd, owner: (u32, u32)) -> Self {
        Self { root: Root::from_fd(root), owner, members: None }
    }

    /// Readable when [`Emulation::turn`] has something to do.
    pub(super) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.members.as_ref().map(Members::as_fd)
    }

    /// Does what is to be done beside calls.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        self.members.as_mut().map_or(Ok(()), Members::turn)
    }

    /// Answers a call; `None` where it is none of ours.
    pub(super) fn serve(&mut self, listener: &Listener, call: &Call) -> Option<Verdict> {
        if matches!(call.name(), "open" | "openat") {
            return Some(self.open(listener, call));
        }
        let ours = ["statfs", "fstatfs", "mkdir", "mkdirat", "rmdir", "unlinkat"];
        if !ours.contains(&call.name()) {
            return None;
        }
        let path = path_of(call).filter(|_| !call.foreign);
        // runc makes sure that it writes to a control group.
        let is_list = |path: &Vec<u8>| self.members.as_ref().is_some_and(|m| m.is_writer(path));
        if path.as_ref().is_some_and(is_list) && listener.is_waiting(call) {
            return Some(self.decide(call, b""));
        }
        // What was read was the caller's only if it still waits now.
        Some(match path.as_deref().and_then(below) {
            Some(path) if listener.is_waiting(call) => self.decide(call, path),
            _ => Verdict::Continue,
        })
    }

    /// Most calls are of other files, and a look at their names is enough.
    fn open(&mut self, listener: &Listener, call: &Call) -> Verdict {
        let Some(members) = self.members.as_mut().filter(|_| !call.foreign) else {
            return Verdict::Continue;
        };
        let (address, flags) = match call.name() {
            "open" => (call.args[0], call.args[1]),
            _ => (call.args[1], call.args[2]),
        };
        let Ok(text) = call.text(address) else { return Verdict::Continue };
        let writes = flags & u64::from(OFlags::ACCMODE.bits()) == u64::from(OFlags::WRONLY.bits());
        let opened = match process_of(&text) {
            Some(process) if !writes => Opened::Group(process),
            None if writes && text.ends_with(PROCESSES.as_bytes()) => Opened::List,
            _ => return Verdict::Continue,
        };
        // Others call processes by other numbers.
        if !members.is_of_machine(call.pid) {
            return Verdict::Continue;
        }
        let given = match opened {
            Opened::Group(process) => told(members, call, process),
            Opened::List => writer(members, call),
        };
        let close_on_exec = flags & u64::from(OFlags::CLOEXEC.bits()) != 0;
        match given {
            Ok(Some(fd)) if listener.is_waiting(call) => listener
                .give(call, fd.as_fd(), close_on_exec)
                .map_or(Verdict::Fail(Errno::IO), Verdict::Done),
            Ok(_) => Verdict::Continue,
            Err(error) => Verdict::Fail(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }

    fn decide(&mut self, call: &Call, path: &[u8]) -> Verdict {
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

    fn make(&mut self, path: &OsStr) -> io::Result<()> {
        if path.is_empty() {
            return Err(Errno::EXIST.into());
        }
        let (parent, name) = self.root.parent_of(path)?;
        rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755))?;
        self.own(parent.as_fd(), &name)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&parent, &name, flags, Mode::empty())?;
        self.fill(&normal(path.as_bytes()), made)
    }

    fn fill(&mut self, path: &OsStr, group: OwnedFd) -> io::Result<()> {
        let tells = self.members.is_some();
        for (name, content) in FILES.into_iter().filter(|(name, _)| !tells || *name != PROCESSES) {
            match content {
                None => rustix::fs::symlinkat(c"/dev/null", &group, name)?,
                Some(content) => {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                    let mode = Mode::from_raw_mode(0o644);
                    let file = rustix::fs::openat(&group, name, flags, mode)?;
                    rustix::io::write(&file, content.as_bytes())?;
                }
            }
            self.own(group.as_fd(), OsStr::new(name))?;
        }
        let Some(members) = &mut self.members else { return Ok(()) };
        members.add(path, group.try_clone()?)?;
        self.own(group.as_fd(), OsStr::new(PROCESSES))
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
    fn remove(&mut self, path: &OsStr) -> io::Result<()> {
        if path.is_empty() {
            return Err(Errno::BUSY.into());
        }
        let known = normal(path.as_bytes());
        if self.members.as_mut().is_some_and(|members| members.is_populated(&known)) {
            return Err(Errno::BUSY.into());
        }
        let (parent, name) = self.root.parent_of(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let group = rustix::fs::openat(&parent, &name, flags, Mode::empty())?;
        let entries = rustix::fs::Dir::read_from(&group)?;
        for entry in entries {
            let entry = entry?;
            let ours =
                FILES.iter().any(|(name, _)| entry.file_name().to_bytes() == name.as_bytes());
            if !ours && !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Err(Errno::BUSY.into());
            }
        }
        for (name, _) in FILES {
            match rustix::fs::unlinkat(&group, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR)?;
        if let Some(members) = &mut self.members {
            members.forget(&known);
        }
        Ok(())
    }
}

/// What a process opens that is not as the kernel would have it.
enum Opened<'a> {
    /// The group of this process.
    Group(&'a [u8]),
    /// A list of processes, to write to it.
    List,
}

/// A file that tells in which group a process is.
fn told(members: &mut Members, call: &Call, process: &[u8]) -> io::Result<Option<OwnedFd>> {
    let group = match process {
        b"self" | b"thread-self" => members.group_outside(call.process()? as i32),
        id => {
            let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
            id.and_then(|id| members.group_of(id))
        }
    };
    group.map(|group| tell(&group)).transpose()
}

/// A pipe for who would write to a list of processes.
fn writer(members: &mut Members, call: &Call) -> io::Result<Option<OwnedFd>> {
    let path = path_of(call);
    let group = path.as_deref().and_then(below).and_then(|path| {
        let group = path.strip_suffix(PROCESSES.as_bytes())?;
        if group.is_empty() { Some(group) } else { group.strip_suffix(b"/") }
    });
    let Some(group) = group else { return Ok(None) };
    members.writer(&normal(group), call.process()? as i32)
}

/// Of `/proc/PROCESS/cgroup`: what of the path is the process.
fn process_of(path: &[u8]) -> Option<&[u8]> {
    let process = path.strip_prefix(b"/proc/")?.strip_suffix(b"/cgroup")?;
    (!process.contains(&b'/')).then_some(process)
}

/// A file as `/proc/PID/cgroup` is where only v2 is there (cgroups(7)).
fn tell(group: &OsStr) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(c"cgroup", rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::io::pwrite(&fd, &[b"0::/", group.as_bytes(), b"\n"].concat(), 0)?;
    Ok(fd)
}

/// Without repeated slashes and dots, so that each group has one name.
fn normal(path: &[u8]) -> OsString {
    let parts = path.split(|&byte| byte == b'/');
    let parts: Vec<&[u8]> = parts.filter(|part| !part.is_empty() && *part != b".").collect();
    OsString::from_vec(parts.join(&b'/'))
}

/// The caller's working directory, in the place of a descriptor (linux/fcntl.h).
const AT_FDCWD: i32 = -100;

/// The path that a call is about, absolute in the caller's root as far as can be told.
fn path_of(call: &Call) -> Option<Vec<u8>> {
    let [first, second, ..] = call.args;
    let (directory, address) = match call.name() {
        "fstatfs" => return link(&format!("/proc/{}/fd/{}", call.pid, first as i32)),
        "mkdirat" | "unlinkat" | "openat" => (first as i32, second),
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
        let root = Root::from_fd(open(temp.path()));
        let mut emulation = Emulation { root, owner, members: None };
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
