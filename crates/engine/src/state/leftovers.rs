//! What is left of a machine whose monitor was killed.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags, RenameFlags};

use super::process::{end, is_gone, send};
use super::{SOCKETS, file_append, now};
use crate::record::{Exited, Note, Record};

/// Ends what a file stands for where its monitor is dead; tells whether it was.
pub(super) fn reap_file(path: &Path) -> bool {
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
pub(super) fn discard(path: &Path, record: &Record) -> bool {
    // From here on nobody else has it: it can be taken, or discarded, by one only.
    let hidden = path.with_file_name(format!(".{}", record.id()));
    let (cwd, flags) = (rustix::fs::CWD, RenameFlags::NOREPLACE);
    if record.id().is_empty() || rustix::fs::renameat_with(cwd, path, cwd, &hidden, flags).is_err()
    {
        return false;
    }
    record.pid.is_some_and(|(pid, start)| send(pid, start, sys::signals::SIGKILL).is_ok())
}

/// A machine whose monitor was killed was killed with it.
const KILLED: u8 = 137;

#[cfg(test)]
mod tests {
    use rustix::process::Pid;

    use super::super::tests::directory;

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
        let _claim = run.claim("a", "1", false).unwrap();
        assert_eq!(run.reap(), 0);
        assert!(run.path().join("machines/a").exists());
    }
}
