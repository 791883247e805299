//! Processes that are known by their id and their start time, so that a reused id is safe.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, Signal};

use crate::record::Record;

/// Whether a process has ended: its id is free, or another's.
pub(super) fn is_gone((pid, start): (i32, u64)) -> bool {
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

/// Sends a signal to a process that still has this start time.
pub(super) fn send(pid: i32, start: u64, signal: i32) -> io::Result<()> {
    sys::process::signal(open(pid, start)?.as_fd(), signal)
}

/// A process that still has this start time.
pub(super) fn open(pid: i32, start: u64) -> io::Result<OwnedFd> {
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
pub(super) fn end(pid: i32, start: u64) {
    let Ok(pidfd) = open(pid, start) else { return };
    if rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).is_ok() {
        let mut poll = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        let _ = rustix::event::poll(&mut poll, Some(&limit));
    }
}
