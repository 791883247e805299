//! A process that does something with a machine's files, and what it says of that.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use sys::process::{self, Child};
use sys::signals;

use crate::Machine;

/// A visitor on its way. It is killed when this is dropped. The fields are in the order of teardown:
/// see [`end_with_listener`].
pub struct Visit {
    answer: File,
    helper: Helper,
}

enum Helper {
    Process {
        process: Child,
        over: bool,
    },
    /// Under another kernel: it ends with this.
    Session(Option<Box<dyn Machine>>),
}

/// Longest answer: bytes. It fits in a pipe that nobody reads meanwhile (pipe(7), "Pipe capacity").
const LONGEST: usize = 32 << 10;

const DONE: u8 = b'+';
const FAILED: u8 = b'-';

impl Visit {
    pub(crate) fn new(process: Child, answer: OwnedFd) -> Self {
        Self { answer: answer.into(), helper: Helper::Process { process, over: false } }
    }

    /// A visitor that is a session of its machine's.
    pub(crate) fn of_session(answer: File, session: Box<dyn Machine>) -> Self {
        Self { answer, helper: Helper::Session(Some(session)) }
    }

    /// Waits for its end; gives its answer.
    ///
    /// # Errors
    /// The visitor's own, in its words.
    pub fn join(mut self) -> Result<String> {
        let mut said = Vec::new();
        let read = (&mut self.answer).take(LONGEST as u64 + 1).read_to_end(&mut said);
        read.context("cannot hear from inside of the machine")?;
        if let Helper::Process { process, over } = &mut self.helper {
            *over = true;
            process.wait().context("cannot wait for what works in the machine")?;
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match said.split_first() {
            Some((&DONE, answer)) => Ok(text(answer)),
            Some((&FAILED, error)) => bail!("{}", text(error)),
            _ => {
                if let Helper::Session(session) = &mut self.helper {
                    // It may have said why it could not even begin.
                    session.take().map(|session| session.wait(&mut |ended| ended)).transpose()?;
                }
                bail!("what works in the machine was killed")
            }
        }
    }
}

/// Readable when it has answered.
impl AsFd for Visit {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.answer.as_fd()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Self::Process { process, over: false } = self {
            let _ = process.signal(signals::SIGKILL);
            let _ = process.wait();
        }
    }
}

/// From now on the calling process ends with its parent. A parent that has died already sends no
/// signal (prctl(2), `PR_SET_PDEATHSIG`), and from within other process ids it cannot be asked for;
/// but then nobody reads the answer any more (poll(2), `POLLERR`).
///
/// # Errors
/// The system calls'.
pub(crate) fn end_with_listener(answer: BorrowedFd<'_>) -> std::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let mut polled = [PollFd::from_borrowed_fd(answer, PollFlags::empty())];
    rustix::event::poll(&mut polled, Some(&Timespec::default()))?;
    if polled[0].revents().contains(PollFlags::ERR) {
        process::exit_now(0);
    }
    Ok(())
}

/// The visitor's last words. Whoever should hear them may be gone.
pub(crate) fn tell(to: OwnedFd, said: Result<String>) {
    let (mark, text) = match said {
        Ok(text) => (DONE, text),
        Err(error) => (FAILED, format!("{error:#}")),
    };
    let mut bytes = vec![mark];
    bytes.extend(text.bytes().take(LONGEST));
    let _ = File::from(to).write_all(&bytes);
}
