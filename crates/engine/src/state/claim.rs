//! A machine's name, taken until the machine's end, and the record that whoever made the machine writes.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, Mode, OFlags, RenameFlags};
use rustix::process::Pid;
use spec::plan::Plan;

use super::leftovers::reap_file;
use super::{RunDirectory, check_name};
use crate::record::{Note, Record};

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
    /// Takes a machine's name.
    ///
    /// # Errors
    /// Where a running machine has it.
    pub fn claim(&self, name: &str, id: &str, keep: bool) -> Result<Claim> {
        check_name(name)?;
        let machines = self.path.join("machines");
        let (unnamed, named) = (machines.join(format!(".{id}")), machines.join(name));
        for _ in 0..8 {
            let file = match locked_file(&unnamed) {
                Ok(Some(file)) => file,
                // Whoever looks for killed monitors' files took it for one before it was locked, and may be
                // about to remove it.
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    let what = format!("cannot record the machine in {}", machines.display());
                    return Err(error).context(what);
                }
                _ => {
                    let _ = std::fs::remove_file(&unnamed);
                    continue;
                }
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
        sys::process::close_copy(self.file.as_fd());
    }

    /// Whoever took the machine out of a pool may have said otherwise since.
    fn keeps(&self) -> bool {
        let mut text = String::new();
        let mut file = &self.file;
        let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
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
        let fd = self.file.as_raw_fd();
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

#[cfg(test)]
mod tests {
    use super::super::tests::directory;

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
}
