//! A process that does something with a machine's files, and what it says of that.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use sys::process::Child;
use sys::signals;

/// A visitor on its way. It is killed when this is dropped.
pub struct Visit {
    helper: Child,
    answer: File,
    over: bool,
}

/// Longest answer: bytes. It fits in a pipe that nobody reads meanwhile (pipe(7), "Pipe capacity").
const LONGEST: usize = 32 << 10;

const DONE: u8 = b'+';
const FAILED: u8 = b'-';

impl Visit {
    pub(crate) fn new(helper: Child, answer: OwnedFd) -> Self {
        Self { helper, answer: answer.into(), over: false }
    }

    /// Waits for its end; gives its answer.
    ///
    /// # Errors
    /// The visitor's own, in its words.
    pub fn join(mut self) -> Result<String> {
        let mut said = Vec::new();
        let read = (&mut self.answer).take(LONGEST as u64 + 1).read_to_end(&mut said);
        read.context("cannot hear from inside of the machine")?;
        self.over = true;
        self.helper.wait().context("cannot wait for what works in the machine")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match said.split_first() {
            Some((&DONE, answer)) => Ok(text(answer)),
            Some((&FAILED, error)) => bail!("{}", text(error)),
            _ => bail!("what works in the machine was killed"),
        }
    }
}

/// Readable when it has answered.
impl AsFd for Visit {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.answer.as_fd()
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if !self.over {
            let _ = self.helper.signal(signals::SIGKILL);
            let _ = self.helper.wait();
        }
    }
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
