//! What runs now, as files: one per machine in the run directory, locked by its monitor.
//!
//! A file that nobody has locked belongs to a monitor that was killed. Whoever sees
//! one ends what is left of that machine: its process (known by id and start time,
//! so that a reused id is safe), its control groups, and the file.

mod claim;
mod leftovers;
mod process;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, Mode, OFlags, RenameFlags};
use sys::rooted::Root;

use crate::record::{Note, Record};
pub use claim::{Claim, Own};
use leftovers::{discard, reap_file};
pub(crate) use process::monitor;
use process::{is_gone, open, send};

/// Where this user's machines are recorded; gone after a reboot.
#[derive(Debug, Clone)]
pub struct RunDirectory {
    path: PathBuf,
}

/// Below the run directory: where the machines are reached that are reached by sockets, by their ids.
pub(crate) const SOCKETS: &str = "sockets";

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

fn file_append(path: &Path) -> io::Result<File> {
    File::options().append(true).open(path)
}

/// Seconds since the epoch.
pub fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run directory of one test.
    pub(super) fn directory() -> (tempfile::TempDir, RunDirectory) {
        let temp = tempfile::tempdir().unwrap();
        let run = RunDirectory::open(temp.path()).unwrap();
        (temp, run)
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
