//! Which processes are in which group of the stand-in, and when a group is empty.
//!
//! The kernel keeps the account: a process's group is written into its limit of file locks, which
//! means nothing since Linux 2.4.25 (getrlimit(2), `RLIMIT_LOCKS`), and which children and executed
//! programs inherit. Whoever writes to a group's `cgroup.procs` writes to a pipe of ours; whoever
//! reads it opens a FIFO, of which inotify(7) tells, and that is filled then. One process of
//! each group is watched by its pidfd: when that ends, another is looked for, and where there
//! is none, the group is empty, of which `cgroup.events` tells (cgroups(7)).

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::inotify::{self, WatchFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit};

/// The file that lists a group's processes.
pub(super) const PROCESSES: &str = "cgroup.procs";
/// The one that tells whether there are any.
const EVENTS: &str = "cgroup.events";

/// The account of one machine.
pub(super) struct Members {
    /// Readable when something happened.
    ready: OwnedFd,
    /// Tells of FIFOs that are opened.
    opened: OwnedFd,
    /// The machine's `/proc`.
    processes: OwnedFd,
    namespace: OwnedFd,
    groups: HashMap<OsString, Group>,
    events: HashMap<u64, Event>,
    next: u64,
}

/// A group, by its path below the mount.
struct Group {
    /// What its processes have as their limit; none for the root.
    mark: Option<u64>,
    directory: OwnedFd,
    /// The FIFO, open for both, so that who writes to it is never refused.
    fifo: OwnedFd,
    watch: i32,
    /// A process in it, and its event.
    witness: Option<(i32, u64)>,
    populated: bool,
}

enum Event {
    /// Process ids are written to a group, by this process.
    Written { group: OsString, pipe: OwnedFd, by: i32 },
    /// A process of a group ends.
    Ends { group: OsString, process: OwnedFd },
}

/// The event of [`Members::opened`].
const OPENED: u64 = 0;

impl Members {
    /// For the machine whose first process has this id here.
    pub(super) fn new(pid: i32) -> io::Result<Self> {
        let ready = epoll::create(CreateFlags::CLOEXEC)?;
        let opened = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        epoll::add(&ready, &opened, EventData::new_u64(OPENED), EventFlags::IN)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let open = |path: String, flags| rustix::fs::open(path, flags, Mode::empty());
        Ok(Self {
            ready,
            opened,
            processes: open(format!("/proc/{pid}/root/proc"), flags | OFlags::DIRECTORY)?,
            namespace: open(format!("/proc/{pid}/ns/pid"), flags)?,
            groups: HashMap::new(),
            events: HashMap::new(),
            next: OPENED + 1,
        })
    }

    /// Readable when [`Members::turn`] has something to do.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }

    /// Takes a group into account whose directory is there, and makes its list.
    pub(super) fn add(&mut self, path: &OsStr, directory: OwnedFd) -> io::Result<()> {
        let mark = rustix::fs::fstat(&directory)?.st_ino;
        let (fifo, watch) = self.fifo(directory.as_fd(), OsStr::new(PROCESSES))?;
        let mark = (!path.is_empty()).then_some(mark);
        let group = Group { mark, directory, fifo, watch, witness: None, populated: false };
        self.groups.insert(path.to_owned(), group);
        Ok(())
    }

    /// Forgets a group. The caller has seen that it is empty.
    pub(super) fn forget(&mut self, path: &OsStr) {
        let Some(group) = self.groups.remove(path) else { return };
        let _ = inotify::remove_watch(&self.opened, group.watch);
        if let Some((_, event)) = group.witness {
            self.events.remove(&event);
        }
    }

    /// Whether a process is in this group, as of now.
    pub(super) fn is_populated(&mut self, path: &OsStr) -> bool {
        let _ = self.turn();
        self.groups.get(path).is_some_and(|group| group.witness.is_some())
    }

    /// A pipe for process ids that are to be moved into a group; `None` where there is no such group.
    pub(super) fn writer(&mut self, path: &OsStr, by: i32) -> io::Result<Option<OwnedFd>> {
        if !self.groups.contains_key(path) {
            return Ok(None);
        }
        let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let (pipe, theirs) = rustix::pipe::pipe_with(flags)?;
        // Theirs waits, as a file does.
        rustix::fs::fcntl_setfl(&theirs, OFlags::empty())?;
        self.expect(Event::Written { group: path.to_owned(), pipe, by })?;
        Ok(Some(theirs))
    }

    /// Whether this is what `/proc/PID/fd` calls a pipe for process ids.
    pub(super) fn is_writer(&self, link: &[u8]) -> bool {
        let Some(inode) = link.strip_prefix(b"pipe:[").and_then(|rest| rest.strip_suffix(b"]"))
        else {
            return false;
        };
        self.events.values().any(|event| match event {
            Event::Written { pipe, .. } => rustix::fs::fstat(pipe)
                .is_ok_and(|stat| stat.st_ino.to_string().as_bytes() == inode),
            Event::Ends { .. } => false,
        })
    }

    /// A new list in the place of the last one.
    fn fifo(&self, directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<(OwnedFd, i32)> {
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(directory, name, fifo, Mode::from_raw_mode(0o644), 0)?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fifo = rustix::fs::openat(directory, name, flags, Mode::empty())?;
        let path = format!("/proc/self/fd/{}", fifo.as_raw_fd());
        let watch = inotify::add_watch(&self.opened, path, WatchFlags::OPEN)?;
        Ok((fifo, watch))
    }

    fn expect(&mut self, event: Event) -> io::Result<u64> {
        let token = self.next;
        self.next += 1;
        let fd = match &event {
            Event::Written { pipe: fd, .. } | Event::Ends { process: fd, .. } => fd,
        };
        epoll::add(&self.ready, fd, EventData::new_u64(token), EventFlags::IN)?;
        self.events.insert(token, event);
        Ok(token)
    }

    /// Does what is to be done now: moves first, so that a list that is asked for has them.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        loop {
            let mut found = Vec::with_capacity(64);
            let now = rustix::time::Timespec::default();
            let space = rustix::buffer::spare_capacity(&mut found);
            match epoll::wait(&self.ready, space, Some(&now)) {
                Ok(0) => return Ok(()),
                Err(Errno::INTR) => continue,
                other => other?,
            };
            let mut tokens: Vec<u64> = found.iter().map(|event| event.data.u64()).collect();
            // A witness may be one that is about to be moved.
            let is_end = |token: &u64| matches!(self.events.get(token), Some(Event::Ends { .. }));
            tokens.sort_by_key(|token| (*token == OPENED, is_end(token)));
            for token in tokens {
                if token == OPENED {
                    self.list()?;
                    continue;
                }
                match self.events.get(&token) {
                    Some(Event::Written { .. }) => self.written(token)?,
                    Some(Event::Ends { group, .. }) => {
                        let group = group.clone();
                        self.look(&group)?;
                    }
                    None => {}
                }
            }
        }
    }

    fn written(&mut self, token: u64) -> io::Result<()> {
        let Some(Event::Written { group, pipe, by }) = self.events.get(&token) else {
            return Ok(());
        };
        let mut chunk = [0; 4096];
        let (text, over) = match rustix::io::read(pipe, &mut chunk) {
            Ok(0) => (&[][..], true),
            Ok(length) => (&chunk[..length], false),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(_) => (&[][..], true),
        };
        let (group, by) = (group.clone(), *by);
        if over {
            self.events.remove(&token);
        }
        for id in String::from_utf8_lossy(text).split_ascii_whitespace() {
            let Ok(id) = id.parse::<i32>() else { continue };
            let process = if id == 0 { Ok(by) } else { self.outside(id) };
            // It may have ended.
            if let Ok(process) = process {
                self.enter(&group, process)?;
            }
        }
        Ok(())
    }

    fn outside(&self, pid: i32) -> io::Result<i32> {
        sys::process::translate(self.namespace.as_fd(), pid)
    }

    fn enter(&mut self, path: &OsStr, process: i32) -> io::Result<()> {
        let Some(group) = self.groups.get(path) else { return Ok(()) };
        let Some(pid) = Pid::from_raw(process) else { return Ok(()) };
        let limit = Rlimit { current: group.mark, maximum: None };
        if rustix::process::prlimit(Some(pid), Resource::Locks, limit).is_err() {
            return Ok(());
        }
        let left = |(other, group): (&OsString, &Group)| {
            let witness = group.witness.is_some_and(|(witness, _)| witness == process);
            (witness && other != path).then(|| other.clone())
        };
        let left: Vec<OsString> = self.groups.iter().filter_map(left).collect();
        if self.groups.get(path).is_some_and(|group| group.witness.is_none()) {
            self.watch(path, process)?;
        }
        for other in left {
            self.look(&other)?;
        }
        self.tell(path)
    }

    /// Waits for the end of a process in a group; tells whether it is still there.
    fn watch(&mut self, path: &OsStr, process: i32) -> io::Result<bool> {
        let Some(pid) = Pid::from_raw(process) else { return Ok(false) };
        let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
            return Ok(false);
        };
        let event = self.expect(Event::Ends { group: path.to_owned(), process: pidfd })?;
        if let Some(group) = self.groups.get_mut(path) {
            group.witness = Some((process, event));
        }
        Ok(true)
    }

    /// Looks for a process in a group whose witness ended or left.
    fn look(&mut self, path: &OsStr) -> io::Result<()> {
        let Some(group) = self.groups.get_mut(path) else { return Ok(()) };
        if let Some((_, event)) = group.witness.take() {
            self.events.remove(&event);
        }
        // Twice: one may have forked and ended while the list was read.
        for _ in 0..2 {
            for id in self.members(path)? {
                let Ok(process) = self.outside(id) else { continue };
                if !has_ended(process) && self.watch(path, process)? {
                    return self.tell(path);
                }
            }
        }
        self.tell(path)
    }

    /// The ids of a group's processes, as the machine calls them.
    fn members(&self, path: &OsStr) -> io::Result<Vec<i32>> {
        let Some(group) = self.groups.get(path) else { return Ok(Vec::new()) };
        let marks: Vec<u64> = self.groups.values().filter_map(|group| group.mark).collect();
        let mut members = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.processes)? {
            let entry = entry?;
            let Some(id) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let Some(mark) = self.mark(id) else { continue };
            // What has no group that is known is where all begin.
            if mark.filter(|mark| marks.contains(mark)) == group.mark {
                members.push(id);
            }
        }
        Ok(members)
    }

    /// Whether a thread calls processes by the machine's own numbers.
    pub(super) fn is_of_machine(&self, id: u32) -> bool {
        let theirs = rustix::fs::stat(format!("/proc/{id}/ns/pid"));
        let own = rustix::fs::fstat(&self.namespace);
        matches!((theirs, own), (Ok(theirs), Ok(own)) if theirs.st_ino == own.st_ino)
    }

    /// The group of a process, by what the machine calls it.
    pub(super) fn group_of(&mut self, id: i32) -> Option<OsString> {
        // One that has just been moved is where it was moved to.
        let _ = self.turn();
        self.mark(id).map(|mark| self.marked(mark))
    }

    /// The group of a process, by its id here.
    pub(super) fn group_outside(&mut self, id: i32) -> Option<OsString> {
        let _ = self.turn();
        let text = std::fs::read_to_string(format!("/proc/{id}/limits")).ok()?;
        limit_of_locks(&text).map(|mark| self.marked(mark))
    }

    fn marked(&self, mark: Option<u64>) -> OsString {
        let has = |group: &Group| mark.is_some() && group.mark == mark;
        let found = self.groups.iter().find(|(_, group)| has(group));
        found.map(|(path, _)| path.clone()).unwrap_or_default()
    }

    /// What a process has as its limit; `None` where there is no such process.
    fn mark(&self, id: i32) -> Option<Option<u64>> {
        let (flags, mode) = (OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let file = rustix::fs::openat(&self.processes, format!("{id}/limits"), flags, mode).ok()?;
        let mut text = [0; 2048];
        let length = rustix::io::read(file, &mut text).ok()?;
        let text = std::str::from_utf8(&text[..length]).ok()?;
        limit_of_locks(text)
    }

    /// Fills the lists that are being read.
    fn list(&mut self) -> io::Result<()> {
        let mut opened = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.opened, &mut buffer);
        while let Ok(event) = reader.next() {
            opened.push(event.wd());
        }
        let is_opened = |group: &Group| opened.contains(&group.watch);
        let paths = self.groups.iter().filter(|(_, group)| is_opened(group));
        let paths: Vec<OsString> = paths.map(|(path, _)| path.clone()).collect();
        for path in paths {
            let text: String = self.members(&path)?.iter().map(|id| format!("{id}\n")).collect();
            self.fill(&path, text.as_bytes())?;
        }
        Ok(())
    }

    /// Whoever opens it from now on gets another; who has it open reads this and then its end.
    fn fill(&mut self, path: &OsStr, text: &[u8]) -> io::Result<()> {
        let Some(group) = self.groups.get(path) else { return Ok(()) };
        let directory = group.directory.as_fd();
        let name = OsStr::new(".cgroup.procs");
        let _ = rustix::fs::unlinkat(directory, name, rustix::fs::AtFlags::empty());
        let (fifo, watch) = self.fifo(directory, name)?;
        let owner = rustix::fs::fstat(directory)?;
        let (uid, gid) =
            (rustix::fs::Uid::from_raw(owner.st_uid), rustix::fs::Gid::from_raw(owner.st_gid));
        rustix::fs::fchown(&fifo, Some(uid), Some(gid))?;
        rustix::fs::renameat(directory, name, directory, PROCESSES)?;
        // As much as a pipe takes at once, which is some ten thousand processes.
        let _ = rustix::io::write(&group.fifo, text);
        let old = group.watch;
        if let Some(group) = self.groups.get_mut(path) {
            (group.fifo, group.watch) = (fifo, watch);
        }
        let _ = inotify::remove_watch(&self.opened, old);
        Ok(())
    }

    /// Writes down where it has changed whether a group, and those above it, hold processes.
    fn tell(&mut self, path: &OsStr) -> io::Result<()> {
        let mut path = path.as_bytes();
        loop {
            let below = |other: &OsStr| {
                let other = other.as_bytes();
                path.is_empty()
                    || other == path
                    || other.strip_prefix(path).is_some_and(|r| r[0] == b'/')
            };
            let populated =
                self.groups.iter().any(|(other, group)| below(other) && group.witness.is_some());
            if let Some(group) = self.groups.get_mut(OsStr::from_bytes(path))
                && group.populated != populated
            {
                group.populated = populated;
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let text = format!("populated {}\nfrozen 0\n", u8::from(populated));
                // The machine's root may have removed it.
                if let Ok(file) = rustix::fs::openat(&group.directory, EVENTS, flags, Mode::empty())
                {
                    rustix::io::write(file, text.as_bytes())?;
                }
            }
            match path.iter().rposition(|&byte| byte == b'/') {
                Some(at) => path = &path[..at],
                None if path.is_empty() => return Ok(()),
                None => path = &[],
            }
        }
    }
}

/// A process that has ended stays in the list until its parent has asked for its status.
fn has_ended(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    matches!(state, None | Some('Z' | 'X'))
}

/// From `/proc/PID/limits`: the soft one, none where it is unlimited.
fn limit_of_locks(text: &str) -> Option<Option<u64>> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max file locks"))?;
    let soft = line.split_ascii_whitespace().next()?;
    if soft == "unlimited" { Some(None) } else { soft.parse().ok().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_locks() {
        let text = |soft: &str| {
            format!("Max address space  1  2  bytes\nMax file locks   {soft}   unlimited   locks\n")
        };
        assert_eq!(limit_of_locks(&text("unlimited")), Some(None));
        assert_eq!(limit_of_locks(&text("42")), Some(Some(42)));
        assert_eq!(limit_of_locks("Max cpu time 1 2 s\n"), None);
    }
}
