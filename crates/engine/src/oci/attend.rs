//! Waiting for a process in the foreground: its terminal is this one's, and signals go to it.

use std::os::fd::AsFd;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use sys::process::Status;
use sys::signals::{self, Signals};

use super::Running;
use crate::session::Session;

/// Those that are passed on.
const PASSED: [i32; 8] = [
    signals::SIGHUP,
    signals::SIGINT,
    signals::SIGQUIT,
    signals::SIGTERM,
    signals::SIGUSR1,
    signals::SIGUSR2,
    signals::SIGWINCH,
    signals::SIGCONT,
];

/// Waits for its end; gives the exit code that a shell would.
///
/// # Errors
/// Those of the terminal, and of waiting.
pub fn attend(running: &mut Running) -> Result<u8> {
    let signals = Signals::block(&PASSED).context("cannot read signals")?;
    let pidfd = running.pidfd()?;
    let mut session =
        running.terminal.take().map(|master| Session::new(master, true, false)).transpose()?;
    if let Some(session) = &session {
        session.resize(None)?;
    }
    loop {
        let wants = session.as_ref().map(Session::wants);
        let mut polled =
            vec![PollFd::new(&pidfd, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        if let (Some(session), Some(wants)) = (&session, wants) {
            session.poll_for(wants, &mut polled);
        }
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait"),
        }
        let found: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        drop(polled);
        if let (Some(session), Some(wants)) = (&mut session, wants) {
            session.turn(wants, &found[2..]);
        }
        while let Some(signal) = signals.next()? {
            if let Some(session) = &session
                && session.handle(signal, None)?
            {
                continue;
            }
            // It may have ended just now.
            let _ = sys::process::signal(pidfd.as_fd(), signal);
        }
        if !found[0].is_empty() {
            break;
        }
    }
    if let Some(session) = &mut session {
        session.finish();
    }
    Ok(match running.wait()? {
        Status::Exited(code) => code,
        Status::Signalled(signal) => 128 + signal,
    })
}
