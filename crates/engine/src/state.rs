//! What runs now, as files: one per machine in the run directory, locked by its monitor.
//!
//! A file that nobody has locked belongs to a monitor that was killed. Whoever sees
//! one ends what is left of that machine: its process (known by id and start time,
//! so that a reused id is safe), its control groups, and the file.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, Mode, OFlags, RenameFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use spec::plan::Plan;
use sys::rooted::Root;

use crate::record::{Exited, Note, Record};

/// Where this user's machines are recorded; gone after a reboot.
#[derive(Debug, Clone)]
pub struct RunDirectory {
    path: PathBuf,
}

/// Below the run directory: where the machines are reached that are reached by sockets, by their ids.
pub(crate) const SOCKETS: &str = "sockets";

/// A name that is taken until this is dropped.
#[derive(Debug)]
pub struct Claim {
    file: File,
    path: PathBuf,
    /// The record stays after the machine's end, until somebody removes it.
    keep: bool,
    /// Its output, where that is written down.
    log: PathBuf,
}

impl RunDirectory {
    /// Opens it, and makes it where it is missing.
    ///
    /// # Errors
    /// Where it cannot be made, or belongs to somebody else.
    pub fn open(path: &Path) -> Result<Self> {
        let machines = path.join("machines");
        let found = match rustix::fs::stat(&machines) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => {
                std::fs::create_dir_all(&machines).with_context(|| {
                    format!("cannot make the run directory {}", machines.display())
                })?;
                rustix::fs::stat(&machines)?
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("cannot open the run directory {}", machines.display())
                });
            }
        };
        if found.st_uid != rustix::process::geteuid().as_raw() {
            bail!(
                "the run directory {} belongs to user {}, not to you: remove it, or set XDG_RUNTIME_DIR",
                path.display(),
                found.st_uid
            );
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Its path. It serves as a mount point in each machine's own mount namespace.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes a machine's name.
    ///
    /// # Errors
    /// Where a running machine has it.
    pub fn claim(&self, name: &str, id: &str, keep: bool) -> Result<Claim> {
        check_name(name)?;
        let machines = self.path.join("machines");
        let (unnamed, named) = (machines.join(format!(".{id}")), machines.join(name));
        for _ in 0..8 {
            // Whoever looks for killed monitors' files may take it for one before it is locked.
            let Some(file) = locked_file(&unnamed)
                .with_context(|| format!("cannot record the machine in {}", machines.display()))?
            else {
                continue;
            };
            let own = rustix::process::getpid();
            let start =
                sys::process::start_time(own).context("cannot read one's own start time")?;
            (&file)
                .write_all(format!("monitor {} {start}\n", own.as_raw_nonzero()).as_bytes())
                .context("cannot record the machine")?;
            let (cwd, flags) = (rustix::fs::CWD, RenameFlags::NOREPLACE);
            match rustix::fs::renameat_with(cwd, &unnamed, cwd, &named, flags) {
                Ok(()) => return Ok(Claim { file, path: named, keep, log: self.log_path(id) }),
                Err(rustix::io::Errno::NOENT) => {}
                Err(rustix::io::Errno::EXIST) => {
                    std::fs::remove_file(&unnamed).context("cannot record the machine")?;
                    if !reap_file(&named) {
                        if self.read(name).is_some_and(|record| record.exited.is_some()) {
                            bail!(
                                "the name {name:?} is in use by a machine that has ended: choose another, or `postroj rm {name}`"
                            );
                        }
                        bail!(
                            "the name {name:?} is in use by a running machine: choose another, or stop that one"
                        );
                    }
                }
                Err(error) => return Err(error).context("cannot record the machine"),
            }
        }
        bail!("the name {name:?} is contended: try again")
    }

    /// All machines that are recorded, by name.
    pub fn machines(&self) -> Vec<Record> {
        let entries = std::fs::read_dir(self.path.join("machines"));
        let mut records: Vec<Record> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| self.read(entry.file_name().to_str()?))
            .collect();
        records.sort_by(|a, b| a.name.cmp(&b.name));
        records
    }

    /// The machine of that name, or with an id that begins so.
    ///
    /// # Errors
    /// Where there is none, or ids of several begin so.
    pub fn find(&self, text: &str) -> Result<Record> {
        if check_name(text).is_ok()
            && let Some(record) = self.read(text)
        {
            return Ok(record);
        }
        let mut found: Vec<Record> = self.machines();
        found.retain(|record| !text.is_empty() && record.id().starts_with(text));
        match found.len() {
            0 => bail!("there is no machine {text:?} (`postroj ps -a` lists what is there)"),
            1 => Ok(found.remove(0)),
            _ => bail!("the ids of several machines begin with {text:?}: give more of it"),
        }
    }

    /// The record of a machine whose name is taken for good.
    fn read(&self, name: &str) -> Option<Record> {
        if name.starts_with('.') {
            return None;
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let path = self.path.join("machines").join(name);
        let mut file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        let mut record = Record { run: Some(self.path.clone()), ..Record::parse(name, &text) };
        // A shared lock would keep the monitor of a name that is just being claimed from its own.
        let is_gone = record.monitor.is_some_and(is_gone);
        record.monitored = record.exited.is_none() && !is_gone && is_locked(&file);
        Some(record)
    }

    /// Adds to a machine's record.
    ///
    /// # Errors
    /// Where there is no such record, or it cannot be written.
    pub fn note(&self, name: &str, note: &Note<'_>) -> Result<()> {
        let path = self.path.join("machines").join(name);
        let mut file = file_append(&path)
            .with_context(|| format!("cannot open the record {}", path.display()))?;
        file.write_all(note.line()?.as_bytes()).context("cannot write the machine's record")
    }

    /// The record of a machine that was just made, for who made it.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn own(&self, name: &str) -> Result<Own> {
        let path = self.path.join("machines").join(name);
        let file = File::options().read(true).append(true).open(&path);
        let what = || format!("cannot open the record {}", path.display());
        Ok(Own { file: file.with_context(what)? })
    }

    /// Removes the record and the log of a machine that has ended.
    ///
    /// # Errors
    /// Where they cannot be removed.
    pub fn remove(&self, record: &Record) -> Result<()> {
        if record.exited.is_none() && !reap_file(&self.path.join("machines").join(&record.name)) {
            bail!("the machine {} is running: stop it, or use --force", record.name);
        }
        let remove = |path: PathBuf| match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        };
        remove(self.log_path(record.id()))?;
        remove(self.path.join("machines").join(&record.name))
    }

    /// The upper layer of a running machine's root: what is written in it. It is not to be trusted.
    ///
    /// # Errors
    /// Where the machine has ended, or writes to somebody else's files.
    pub fn upper(&self, record: &Record, name: &str) -> Result<Root> {
        let what = || format!("cannot look at what is written in the machine {}", record.name);
        if record.exited.is_some() {
            bail!("the machine {} has ended, and what was written in it with it", record.name);
        }
        let (Some((pid, start)), Some(fd)) = (record.monitor, record.scratch) else {
            bail!("{}: it has no layer of its own", what());
        };
        let _held = open(pid, start).with_context(what)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // A descriptor of a process that is known to be ours, so that it leads where it leads.
        let scratch = rustix::fs::open(format!("/proc/{pid}/fd/{fd}"), flags, Mode::empty())
            .with_context(what)?;
        let flags = flags | OFlags::NOFOLLOW;
        let upper = rustix::fs::openat(scratch, name, flags, Mode::empty()).with_context(what)?;
        Ok(Root::from_fd(upper))
    }

    /// Gives a machine another name.
    ///
    /// # Errors
    /// Where another machine has it.
    pub fn rename(&self, record: &Record, name: &str) -> Result<()> {
        check_name(name)?;
        let machines = self.path.join("machines");
        let (cwd, flags) = (rustix::fs::CWD, RenameFlags::NOREPLACE);
        let (old, new) = (machines.join(&record.name), machines.join(name));
        reap_file(&new);
        match rustix::fs::renameat_with(cwd, &old, cwd, &new, flags) {
            Err(rustix::io::Errno::EXIST) => {
                bail!("the name {name:?} is in use: choose another, or remove that machine")
            }
            other => other.with_context(|| format!("cannot rename the machine {}", record.name)),
        }
    }

    /// Ends a machine that waits in a pool, unless somebody has just taken it.
    pub(crate) fn discard(&self, record: &Record) -> bool {
        discard(&self.path.join("machines").join(&record.name), record)
    }

    /// Sends a machine's first process a signal.
    ///
    /// # Errors
    /// Where it has ended, or this user may not.
    pub fn signal(&self, record: &Record, signal: i32) -> Result<()> {
        let what = || format!("cannot send a signal to the machine {}", record.name);
        let (pid, start) = record.pid.filter(|_| record.exited.is_none()).with_context(what)?;
        send(pid, start, signal).with_context(what)
    }

    /// Sends a machine's monitor a signal: SIGTERM makes it end its machine in good order.
    ///
    /// # Errors
    /// As [`RunDirectory::signal`].
    pub fn signal_monitor(&self, record: &Record, signal: i32) -> Result<()> {
        let what = || format!("cannot reach the monitor of the machine {}", record.name);
        let (pid, start) = record.monitor.filter(|_| record.monitored).with_context(what)?;
        send(pid, start, signal).with_context(what)
    }

    /// Where the output of a detached machine is kept.
    pub fn log_path(&self, id: &str) -> PathBuf {
        self.path.join("logs").join(id)
    }

    /// Ends what killed monitors left behind; gives how many machines that were.
    pub fn reap(&self) -> usize {
        let Ok(entries) = std::fs::read_dir(self.path.join("machines")) else { return 0 };
        entries.flatten().filter(|entry| reap_file(&entry.path())).count()
    }
}

/// A machine's record as its monitor has it: whatever the machine is called by now.
#[derive(Debug)]
pub struct Own {
    file: File,
}

impl Own {
    /// Adds to the record.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn note(&self, note: &Note<'_>) -> Result<()> {
        (&self.file).write_all(note.line()?.as_bytes()).context("cannot write the machine's record")
    }

    /// Whether somebody asked for the machine to run again: see [`Record::again`].
    pub fn again(&self) -> bool {
        self.asked().0
    }

    /// Whether a snapshot is to be restored then: see [`Record::restores`].
    pub fn restores(&self) -> bool {
        self.asked().1
    }

    fn asked(&self) -> (bool, bool) {
        let mut text = Vec::new();
        let mut file = &self.file;
        let read = file.rewind().and_then(|()| file.read_to_end(&mut text));
        if read.is_ok() { crate::record::again(&text) } else { (false, false) }
    }
}

impl Claim {
    /// Gives up a forked child's copy: the machine's record is its monitor's alone.
    pub(crate) fn close_copy(&self) {
        sys::process::close_copy(std::os::fd::AsFd::as_fd(&self.file));
    }

    /// Whoever took the machine out of a pool may have said otherwise since.
    fn keeps(&self) -> bool {
        let mut text = String::new();
        let read =
            io::Seek::rewind(&mut &self.file).and_then(|()| (&self.file).read_to_string(&mut text));
        let is_taken = read.is_ok() && text.contains("\nmember null\n");
        let plan = is_taken.then(|| Record::parse("", &text).plan).flatten();
        plan.map_or(self.keep, |plan| plan.keep)
    }

    /// Records groups that are about to be made, perhaps: see [`Claim::record`].
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn foresee(&self, cgroups: &[PathBuf]) -> Result<()> {
        let lines = cgroups.iter().map(|path| format!("cgroup {}\n", path.display()));
        let text: String = lines.collect();
        (&self.file).write_all(text.as_bytes()).context("cannot record the machine")
    }

    /// Records which machine it is going to be, before anything is made that goes by its id.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn foresee_machine(&self, plan: &Plan) -> Result<()> {
        let text = format!("plan {}\n", serde_json::to_string(plan)?);
        (&self.file).write_all(text.as_bytes()).context("cannot record the machine")
    }

    /// Records what must be ended with the machine, once that exists.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn record(&self, pid: Pid, cgroups: &[PathBuf], plan: &Plan) -> Result<()> {
        let start =
            sys::process::start_time(pid).context("cannot read the machine's start time")?;
        let mut text = format!("pid {} {start}\n", pid.as_raw_nonzero());
        for path in cgroups {
            text += &format!("cgroup {}\n", path.display());
        }
        text += &format!("plan {}\n", serde_json::to_string(plan)?);
        (&self.file).write_all(text.as_bytes()).context("cannot record the machine")
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.keeps() {
            return;
        }
        let _ = std::fs::remove_file(&self.log);
        // It may have another name by now. A file that stays is unlocked, and is taken for a
        // killed monitor's.
        let fd = std::os::fd::AsRawFd::as_raw_fd(&self.file);
        let path = std::fs::read_link(format!("/proc/self/fd/{fd}"));
        let path = path.unwrap_or_else(|_| self.path.clone());
        let _ = std::fs::remove_file(if path.exists() { &path } else { &self.path });
    }
}

/// A new file that is locked; nothing where somebody else was quicker to lock it.
fn locked_file(path: &Path) -> io::Result<Option<File>> {
    // Others add lines as well, by descriptors of their own.
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Some(file.into()),
        Err(_) => None,
    })
}

/// Whether a living monitor has this record: asked without taking the lock for longer than a moment.
fn is_locked(file: &File) -> bool {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            let _ = rustix::fs::flock(file, FlockOperation::Unlock);
            false
        }
        Err(_) => true,
    }
}

/// docker's rule: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
///
/// # Errors
/// Where it is no such name.
pub fn check_name(name: &str) -> Result<()> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let starts_well = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !starts_well || name.len() > 200 || !name.bytes().all(good) {
        bail!("invalid machine name {name:?}: letters, digits, and _ . - after the first");
    }
    Ok(())
}

/// Ends what a file stands for where its monitor is dead; tells whether it was.
fn reap_file(path: &Path) -> bool {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let Ok(fd) = rustix::fs::open(path, flags, Mode::empty()) else { return false };
    let file = File::from(fd);
    let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
    let mut text = String::new();
    let _ = (&file).read_to_string(&mut text);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let record = Record::parse(name, &text);
    // A child that was just forked has a copy of its dead monitor's lock until it runs.
    if !locked && !record.monitor.is_some_and(is_gone) {
        if record.member.as_ref().is_some_and(|member| is_gone(member.holder))
            || record.tether.is_some_and(is_gone)
        {
            discard(path, &record);
        }
        return false;
    }
    // Its monitor may have ended in good order since, and the name be another's now.
    let same =
        |a: &rustix::fs::Stat, b: &rustix::fs::Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
    let still_there = match (rustix::fs::fstat(&file), rustix::fs::stat(path)) {
        (Ok(open), Ok(named)) => same(&open, &named),
        _ => false,
    };
    if !still_there {
        return false;
    }
    // Locked until `file` is dropped: what is left is ended by one process only.
    let keeps = record.plan.as_ref().is_some_and(|plan| plan.keep);
    if record.exited.is_some() && keeps {
        // It ended in good order; its monitor may have been killed right after it.
        record.cgroups.iter().filter(|p| p.exists()).for_each(|path| sys::cgroups::remove(path));
        return false;
    }
    for (pid, start) in record.pid.into_iter().chain(record.helpers.iter().copied()) {
        end(pid, start);
    }
    record.cgroups.iter().for_each(|path| sys::cgroups::remove(path));
    let run = path.parent().and_then(Path::parent).filter(|_| !record.id().is_empty());
    if let Some(run) = run {
        let _ = std::fs::remove_file(run.join(SOCKETS).join(record.id()));
    }
    if keeps {
        let exited = Note::Exited(Exited { code: KILLED, at: now() });
        let line = exited.line().unwrap_or_default();
        return file_append(path).and_then(|mut f| f.write_all(line.as_bytes())).is_ok();
    }
    if let Some(run) = run {
        let _ = std::fs::remove_file(run.join("logs").join(record.id()));
    }
    std::fs::remove_file(path).is_ok()
}

/// Ends a machine that nobody is to have, if it still has this name: its monitor cleans up.
fn discard(path: &Path, record: &Record) -> bool {
    // From here on nobody else has it: it can be taken, or discarded, by one only.
    let hidden = path.with_file_name(format!(".{}", record.id()));
    let (cwd, flags) = (rustix::fs::CWD, RenameFlags::NOREPLACE);
    if record.id().is_empty() || rustix::fs::renameat_with(cwd, path, cwd, &hidden, flags).is_err()
    {
        return false;
    }
    record.pid.is_some_and(|(pid, start)| send(pid, start, sys::signals::SIGKILL).is_ok())
}

/// Whether a process has ended: its id is free, or another's.
fn is_gone((pid, start): (i32, u64)) -> bool {
    let now = Pid::from_raw(pid).map(sys::process::start_time);
    match now {
        Some(Ok(now)) => now != start,
        // ENOENT and ESRCH: proc(5).
        Some(Err(error)) => matches!(
            rustix::io::Errno::from_io_error(&error),
            Some(rustix::io::Errno::NOENT | rustix::io::Errno::SRCH)
        ),
        None => false,
    }
}

/// A machine whose monitor was killed was killed with it.
const KILLED: u8 = 137;

fn file_append(path: &Path) -> io::Result<File> {
    File::options().append(true).open(path)
}

/// Seconds since the epoch.
pub fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

/// Sends a signal to a process that still has this start time.
fn send(pid: i32, start: u64, signal: i32) -> io::Result<()> {
    sys::process::signal(std::os::fd::AsFd::as_fd(&open(pid, start)?), signal)
}

/// A process that still has this start time.
fn open(pid: i32, start: u64) -> io::Result<OwnedFd> {
    let gone = || io::Error::from(rustix::io::Errno::SRCH);
    let pid = Pid::from_raw(pid).ok_or_else(gone)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    // Checked after the pidfd was opened, so both mean the same process.
    if sys::process::start_time(pid)? != start {
        return Err(gone());
    }
    Ok(pidfd)
}

/// A machine's monitor, readable once it has ended; `None` where it has.
pub(crate) fn monitor(record: &Record) -> Option<OwnedFd> {
    let (pid, start) = record.monitor?;
    open(pid, start).ok()
}

/// Kills a process that still has this start time, and waits for its end.
fn end(pid: i32, start: u64) {
    let Some(pid) = Pid::from_raw(pid) else { return };
    let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return };
    // Checked after the pidfd was opened, so both mean the same process.
    if sys::process::start_time(pid).ok() != Some(start) {
        return;
    }
    if rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).is_ok() {
        let mut poll = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        let _ = rustix::event::poll(&mut poll, Some(&limit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, RunDirectory) {
        let temp = tempfile::tempdir().unwrap();
        let run = RunDirectory::open(temp.path()).unwrap();
        (temp, run)
    }

    #[test]
    fn a_name_is_taken_once_and_free_again() {
        let (_temp, run) = directory();
        let first = run.claim("a", "1", false).unwrap();
        let error = run.claim("a", "2", false).unwrap_err().to_string();
        assert!(error.contains("in use by a running machine"), "{error}");
        drop(first);
        run.claim("a", "3", false).unwrap();
        assert_eq!(std::fs::read_dir(run.path().join("machines")).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_monitor_left_is_ended() {
        let (_temp, run) = directory();
        let mut left = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let start = sys::process::start_time(Pid::from_child(&left)).unwrap();
        let file = run.path().join("machines/x");
        std::fs::write(&file, format!("pid {} {start}\n", left.id())).unwrap();
        // A reused id is another process: it has another start time.
        let other = run.path().join("machines/y");
        std::fs::write(&other, format!("pid {} {}\n", std::process::id(), start + 1)).unwrap();
        assert_eq!(run.reap(), 2);
        assert!(!file.exists() && !other.exists());
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(left.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn a_living_monitors_machine_is_left_alone() {
        let (_temp, run) = directory();
        let claim = run.claim("a", "1", false).unwrap();
        assert_eq!(run.reap(), 0);
        assert!(claim.path.exists());
    }

    #[test]
    fn names_are_docker_s() {
        for bad in ["", ".", "..", "-a", "a/b", "a b", "ä"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        for good in ["a", "A-1_b.c"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
    }
}
