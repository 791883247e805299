//! The one small init: it reaps orphans, passes signals on, and ends as its command ends. Process 1
//! of a machine is one, and so are the faces that stand in for other small inits; what they do
//! differently are their [`Habits`].

use std::ffi::OsString;
use std::io;
use std::ops::ControlFlow;

use rustix::process::{Pid, WaitOptions, WaitStatus};
use sys::process;
use sys::signals::{self, Disposition, Set};

/// Signals that the kernel sends to a process that did something wrong (signal(7), "core
/// dumps"). An init takes its own and passes none on.
pub const OWN_FAULTS: [i32; 7] = [
    signals::SIGFPE,
    signals::SIGILL,
    signals::SIGSEGV,
    signals::SIGBUS,
    signals::SIGABRT,
    signals::SIGTRAP,
    signals::SIGSYS,
];

/// What one init does. `Break` ends it with this exit code.
pub trait Habits {
    /// A signal came that is not SIGCHLD.
    fn signal(&mut self, signal: i32) -> ControlFlow<u8>;

    /// A child or an orphan ended, and was reaped.
    fn reaped(&mut self, pid: Pid, status: WaitStatus) -> ControlFlow<u8>;

    /// All that had ended are reaped; `alone` tells that there is no child any more.
    fn rested(&mut self, alone: bool) -> ControlFlow<u8> {
        let _ = alone;
        ControlFlow::Continue(())
    }
}

/// Does an init's work until its habits end it. The signals must be blocked already, so that none
/// is lost.
pub fn supervise(signals: &Set, habits: &mut dyn Habits) -> u8 {
    loop {
        let flow = match signals.wait() {
            Ok(signals::SIGCHLD) => reap(habits),
            Ok(signal) => habits.signal(signal),
            Err(_) => ControlFlow::Continue(()),
        };
        if let ControlFlow::Break(code) = flow {
            return code;
        }
    }
}

fn reap(habits: &mut dyn Habits) -> ControlFlow<u8> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => habits.reaped(pid, status)?,
            Ok(None) => return habits.rested(false),
            Err(_) => return habits.rested(true),
        }
    }
}

/// A process 1 that ends takes the rest with it, and can itself only exit, not be
/// ended by a signal: so a signal is told as a shell does.
#[must_use]
pub fn code(status: WaitStatus) -> u8 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128 + signal as u8,
        (None, None) => 1,
    }
}

/// Starts an init's command as a child: there `prepare` goes first, and `failed` says why it
/// cannot be executed and gives its exit code. The child inherits the dispositions of signals
/// that this program was started with, besides what the caller changed.
///
/// # Errors
/// fork(2)'s.
pub fn start(
    command: &[OsString],
    prepare: impl FnOnce() -> ControlFlow<u8>,
    failed: impl FnOnce(&io::Error) -> u8,
) -> io::Result<Pid> {
    // Where it is ignored, nobody is told of an end, and nothing is left to be reaped (wait(2)).
    let child_ends = Disposition::change(signals::SIGCHLD, false)?;
    if let Some(child) = process::fork()? {
        return Ok(child);
    }
    child_ends.restore();
    signals::inherit_pipe();
    if let ControlFlow::Break(code) = prepare() {
        process::exit_now(code);
    }
    process::exit_now(failed(&process::execvp(command)))
}
