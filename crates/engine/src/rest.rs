//! A monitor that waits for long holds no more memory than it must.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, Timespec};

/// How long nothing must happen first: a short machine pays nothing for this.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// poll(2). The first time that nothing happens for a while, the code of all that was done
/// so far is given back.
///
/// # Errors
/// The system call's.
pub fn poll(polled: &mut [PollFd<'_>], timeout: Option<&Timespec>) -> rustix::io::Result<usize> {
    static RESTED: AtomicBool = AtomicBool::new(false);
    let short =
        timeout.is_some_and(|t| (t.tv_sec, t.tv_nsec) <= (PATIENCE.tv_sec, PATIENCE.tv_nsec));
    if !short && !RESTED.load(Ordering::Relaxed) {
        let ready = rustix::event::poll(polled, Some(&PATIENCE))?;
        if ready > 0 {
            return Ok(ready);
        }
        RESTED.store(true, Ordering::Relaxed);
        // Where it cannot be, the memory stays in use: that is all.
        let _ = sys::process::release_code();
        if timeout.is_some() {
            // The caller counts the time that is left.
            return Ok(0);
        }
    }
    rustix::event::poll(polled, timeout)
}
