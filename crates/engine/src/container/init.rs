//! A small init for machines whose command cannot be process 1: it reaps
//! orphans, passes signals on, and ends as the command ends.

use rustix::process::{Pid, WaitOptions, WaitStatus};
use sys::process::exit_now;
use sys::signals;

/// Never returns. Every signal must be blocked already, so that none is lost.
pub(super) fn run(command: Pid) -> ! {
    // What is left open here would keep a reader waiting after the command has closed it.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    loop {
        match signals::wait_for_any() {
            Ok(signals::SIGCHLD) => reap(command),
            Ok(signal) => {
                // It may have ended just now; SIGCHLD follows.
                let _ = signals::send(command.as_raw_nonzero().get(), signal);
            }
            Err(_) => {}
        }
    }
}

fn reap(command: Pid) {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == command {
            exit_now(code(status));
        }
    }
}

/// A process 1 that ends takes the rest with it, and can itself only exit, not be
/// ended by a signal: so a signal is told as a shell does.
fn code(status: WaitStatus) -> u8 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128 + signal as u8,
        (None, None) => 1,
    }
}
