//! Process 1 of a machine whose command cannot be process 1.

use std::ops::ControlFlow;

use rustix::process::{Pid, WaitStatus};
use sys::process::exit_now;
use sys::signals::{self, Set};

use crate::init::{self, Habits};

/// Never returns. Every signal must be blocked already, so that none is lost.
pub(super) fn run(command: Pid) -> ! {
    // What is left open here would keep a reader waiting after the command has closed it.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    exit_now(init::supervise(&Set::all_but(&[]), &mut Plain(command)))
}

/// Every signal goes to the command, and its end is the end.
struct Plain(Pid);

impl Habits for Plain {
    fn signal(&mut self, signal: i32) -> ControlFlow<u8> {
        // It may have ended just now; SIGCHLD follows.
        let _ = signals::send(self.0.as_raw_nonzero().get(), signal);
        ControlFlow::Continue(())
    }

    fn reaped(&mut self, pid: Pid, status: WaitStatus) -> ControlFlow<u8> {
        if pid == self.0 {
            ControlFlow::Break(init::code(status))
        } else {
            ControlFlow::Continue(())
        }
    }
}
