//! A machine's terminal joined to the launcher's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use sys::pty::{self, Raw};
use sys::signals;

use crate::Machine;

/// A machine's terminal joined to the launcher's.
pub(crate) struct Session {
    master: OwnedFd,
    /// The launcher's terminal in raw mode, where its input is one and is passed on.
    raw: Option<Raw<'static>>,
    input: Option<Buffer>,
    output: Buffer,
    escape: Escape,
    /// A system closes its console and opens it again; when to look whether it has.
    console: bool,
    hung_until: Option<Instant>,
}

/// How long a console that nobody has open is left alone.
const HANGUP: Duration = Duration::from_millis(20);

/// What is waited for.
#[derive(Clone, Copy)]
pub(crate) struct Wants {
    stdin: bool,
    stdout: bool,
    master: PollFlags,
}

const STDIN: BorrowedFd<'static> = rustix::stdio::stdin();
const STDOUT: BorrowedFd<'static> = rustix::stdio::stdout();

/// Data on its way from one descriptor to another.
#[derive(Default)]
struct Buffer {
    data: Vec<u8>,
    ended: bool,
}

/// As much as a pseudo-terminal holds (`N_TTY_BUF_SIZE`).
const CHUNK: usize = 4096;

impl Buffer {
    fn wants_more(&self) -> bool {
        !self.ended && self.data.len() < CHUNK
    }

    /// An end of file, and the EIO of a terminal without users, end it; returns `false` for those.
    fn fill(&mut self, from: BorrowedFd<'_>) -> bool {
        let mut chunk = [0; CHUNK];
        match rustix::io::read(from, &mut chunk) {
            Ok(length) if length > 0 => self.data.extend_from_slice(&chunk[..length]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            _ => self.ended = true,
        }
        !self.ended
    }

    fn drain(&mut self, to: BorrowedFd<'_>) {
        match rustix::io::write(to, &self.data) {
            Ok(length) => drop(self.data.drain(..length)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            // Nobody reads any more: what comes is thrown away, as a hung-up terminal does.
            Err(_) => self.data.clear(),
        }
    }
}

impl Session {
    /// For a command's terminal, or a system's `console`, which outlives its users.
    ///
    /// # Errors
    /// Where the launcher's terminal cannot be made raw.
    pub(crate) fn new(master: OwnedFd, interactive: bool, console: bool) -> Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&master)? | OFlags::NONBLOCK;
        rustix::fs::fcntl_setfl(&master, flags)?;
        let stdin = rustix::stdio::stdin();
        let raw = (interactive && pty::is_terminal(stdin))
            .then(|| Raw::new(stdin).context("cannot set the terminal to raw mode"))
            .transpose()?;
        Ok(Self {
            master,
            raw,
            input: interactive.then(Buffer::default),
            output: Buffer::default(),
            escape: Escape::default(),
            console,
            hung_until: None,
        })
    }

    /// What there is to wait for now.
    pub(crate) fn wants(&self) -> Wants {
        let has = |wanted: bool, flag: PollFlags| if wanted { flag } else { PollFlags::empty() };
        let writes = self.input.as_ref().is_some_and(|b| !b.data.is_empty());
        let mut master = has(writes, PollFlags::OUT);
        master |= has(self.output.wants_more(), PollFlags::IN);
        if self.hung_until.is_some_and(|at| at > Instant::now()) {
            master = PollFlags::empty();
        }
        Wants {
            stdin: self.input.as_ref().is_some_and(Buffer::wants_more),
            stdout: !self.output.data.is_empty(),
            master,
        }
    }

    /// Adds to what is polled. A descriptor that is polled for nothing still wakes by its
    /// hang-up, for ever; so those are left out.
    pub(crate) fn poll_for<'b>(&'b self, wants: Wants, polled: &mut Vec<PollFd<'b>>) {
        if wants.stdin {
            polled.push(PollFd::new(&STDIN, PollFlags::IN));
        }
        if wants.stdout {
            polled.push(PollFd::new(&STDOUT, PollFlags::OUT));
        }
        if !wants.master.is_empty() {
            polled.push(PollFd::new(&self.master, wants.master));
        }
    }

    /// Moves what can be moved; `found` are the events of what [`Session::poll_for`] added.
    pub(crate) fn turn(&mut self, wants: Wants, found: &[PollFlags]) {
        let mut found = found.iter().copied();
        let mut next = |wanted: bool| {
            let events = if wanted { found.next() } else { None };
            events.unwrap_or(PollFlags::empty())
        };
        let (stdin, stdout) = (next(wants.stdin), next(wants.stdout));
        let master = next(!wants.master.is_empty());
        let ours = self.master.as_fd();
        if let Some(input) = &mut self.input {
            if !stdin.is_empty() {
                let before = input.data.len();
                input.fill(STDIN);
                if self.raw.is_some() {
                    self.escape.look(&input.data[before..]);
                }
            }
            if master.contains(PollFlags::OUT) {
                input.drain(ours);
            }
        }
        if master.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.hung_until = None;
            if !self.output.fill(ours) && self.console {
                self.output.ended = false;
                self.hung_until = Some(Instant::now() + HANGUP);
            }
        }
        if !stdout.is_empty() {
            self.output.drain(STDOUT);
        }
    }

    /// When to look again, where nothing will tell.
    pub(crate) fn look_at(&self) -> Option<Instant> {
        self.hung_until
    }

    /// Whether the user typed `^]` three times within a second, as systemd-nspawn(1) has it.
    pub(crate) fn escaped(&mut self) -> bool {
        std::mem::take(&mut self.escape.done)
    }

    /// What the machine wrote last is still in its terminal.
    pub(crate) fn finish(&mut self) {
        while !self.output.ended {
            let before = self.output.data.len();
            self.output.fill(self.master.as_fd());
            if self.output.data.len() == before {
                break;
            }
        }
        while !self.output.data.is_empty() {
            self.output.drain(STDOUT);
        }
    }

    /// Acts upon a signal of the launcher's terminal; `false` for any other.
    ///
    /// # Errors
    /// The terminal's.
    pub(crate) fn handle(&self, signal: i32, machine: Option<&dyn Machine>) -> Result<bool> {
        match signal {
            signals::SIGWINCH => self.resize(machine)?,
            signals::SIGTSTP => {
                if let Some(raw) = &self.raw {
                    raw.pause()?;
                }
                signals::stop_self()?;
                self.resume(machine)?;
            }
            signals::SIGCONT => self.resume(machine)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The shell may have changed the terminal while this process was stopped.
    fn resume(&self, machine: Option<&dyn Machine>) -> Result<()> {
        if let Some(raw) = &self.raw {
            raw.again()?;
        }
        self.resize(machine)
    }

    /// Gives the terminal the size of the launcher's, where that has one: through its machine, where
    /// that has the terminal itself.
    ///
    /// # Errors
    /// Where one of them is hung up.
    pub(crate) fn resize(&self, machine: Option<&dyn Machine>) -> Result<()> {
        let own = [STDIN, STDOUT, rustix::stdio::stderr()];
        let Some(own) = own.into_iter().find(|fd| pty::is_terminal(fd)) else { return Ok(()) };
        let resized = match machine {
            Some(machine) => machine.resize(own),
            None => pty::copy_size(own, self.master.as_fd()).map_err(Into::into),
        };
        resized.context("cannot set the window size")
    }
}

/// Counts `^]`.
#[derive(Default)]
struct Escape {
    seen: u32,
    since: Option<Instant>,
    done: bool,
}

impl Escape {
    fn look(&mut self, typed: &[u8]) {
        for &byte in typed {
            let late = self.since.is_none_or(|since| since.elapsed() > Duration::from_secs(1));
            match byte {
                0x1d if late => (self.seen, self.since) = (1, Some(Instant::now())),
                0x1d => self.seen += 1,
                _ => self.since = None,
            }
            self.done |= self.since.is_some() && self.seen >= 3;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_in_a_row_escape() {
        for (typed, escapes) in
            [(&b"\x1d\x1d\x1d"[..], true), (b"\x1d\x1dx\x1d", false), (b"a\x1d\x1d\x1db", true)]
        {
            let mut escape = Escape::default();
            escape.look(typed);
            assert_eq!(escape.done, escapes, "{typed:?}");
        }
    }
}
