//! Standing in front of a machine in the background: its output, its input, and its end.
//!
//! What it prints is in its log, which any number of people can read at once. What is typed goes
//! the other way by a copy of its monitor's end of the terminal, or of the pipe that is its input
//! (pidfd_getfd(2)); the monitor itself has no part in it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, bail};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;
use sys::pty::{self, Raw};
use sys::signals::{self, Signals};

use crate::record::{Exited, Record};
use crate::state::{self, RunDirectory};
use crate::wait::{Sources, Waited};

/// How to attach.
#[derive(Debug, Clone)]
pub struct Attach {
    /// Pass standard input on.
    pub input: bool,
    /// Pass signals on, where the machine has no terminal.
    pub proxy: bool,
    /// What detaches when it is typed; nothing does where it is empty.
    pub keys: Vec<u8>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// The machine goes on.
    Detached,
    /// The machine has ended, with this exit code.
    Ended(u8),
}

/// As much as a pseudo-terminal holds (`N_TTY_BUF_SIZE`).
const CHUNK: usize = 4096;

/// Of a machine that was killed with its monitor.
const KILLED: u8 = 137;

const INPUT: u64 = 0;
const SIGNALS: u64 = 1;
const INTO: u64 = 2;

/// Attaches to a machine that runs in the background, until its end or until it is detached from.
///
/// # Errors
/// Where the machine does not run, is paused, or not in the background.
pub fn attach(run: &RunDirectory, record: &Record, how: &Attach) -> Result<Attached> {
    check(record)?;
    let plan = record.plan.as_ref().context("the machine is only about to start")?;
    let into = into(record)?;
    // That of a machine with a kernel of its own is there, and what leads to it here is none.
    let terminal =
        into.is_some() && plan.process.terminal || into.as_ref().is_some_and(pty::is_terminal);
    let typed = how.input && (plan.process.stdin || plan.boot.is_some());
    let mut wanted = vec![signals::SIGWINCH];
    if how.proxy && !terminal {
        wanted.extend([signals::SIGHUP, signals::SIGINT, signals::SIGQUIT, signals::SIGTERM]);
        wanted.extend([signals::SIGUSR1, signals::SIGUSR2]);
    }
    let path = run.log_path(record.id());
    let mut log =
        File::open(&path).with_context(|| format!("cannot open the log {}", path.display()))?;
    log.seek(SeekFrom::End(0)).context("cannot read the log")?;
    let stdin = rustix::stdio::stdin();
    let raw = typed && terminal && pty::is_terminal(stdin);
    let mut session = Session {
        run,
        log,
        signals: Signals::block(&wanted).context("cannot receive signals")?,
        ready: epoll::create(CreateFlags::CLOEXEC)?,
        reads: false,
        into,
        terminal,
        pending: Vec::new(),
        keys: Keys { keys: how.keys.clone(), seen: 0 },
        detached: false,
        _raw: raw
            .then(|| Raw::new(stdin).context("cannot set the terminal to raw mode"))
            .transpose()?,
    };
    session.resize(record);
    session.listen(typed)?;
    session.attend(record, &path)
}

fn check(record: &Record) -> Result<()> {
    if record.exited.is_some() {
        bail!("the machine {} has ended: `postroj logs` tells what it printed", record.name);
    }
    if record.paused {
        bail!("the machine {} is paused: `postroj unpause` it first", record.name);
    }
    if record.about.as_ref().is_some_and(|about| !about.detached) {
        bail!("the machine {} is attached to where it was started", record.name);
    }
    Ok(())
}

/// A copy of the monitor's end of the machine's terminal, or of its input.
fn into(record: &Record) -> Result<Option<OwnedFd>> {
    let Some(number) = record.input else { return Ok(None) };
    let what = || format!("cannot reach the input of the machine {}", record.name);
    let monitor = state::monitor(record).with_context(what)?;
    let into = sys::process::descriptor(monitor.as_fd(), number).with_context(what)?;
    // The monitor writes to it as well; each waits by poll(2).
    let flags = rustix::fs::fcntl_getfl(&into)? | OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(&into, flags)?;
    Ok(Some(into))
}

struct Session<'a> {
    run: &'a RunDirectory,
    log: File,
    signals: Signals,
    /// Readable when one of these is: input, signals, the machine's end of the input.
    ready: OwnedFd,
    /// Standard input is waited for.
    reads: bool,
    into: Option<OwnedFd>,
    terminal: bool,
    /// Typed, and not taken yet.
    pending: Vec<u8>,
    keys: Keys,
    detached: bool,
    _raw: Option<Raw<'static>>,
}

impl Session<'_> {
    fn listen(&mut self, typed: bool) -> Result<()> {
        epoll::add(&self.ready, &self.signals, EventData::new_u64(SIGNALS), EventFlags::IN)?;
        if let Some(into) = &self.into {
            // Nothing but its hang-up, until there is something to write.
            epoll::add(&self.ready, into, EventData::new_u64(INTO), EventFlags::ONESHOT)?;
            self.reads = typed;
        }
        if !self.reads {
            return Ok(());
        }
        let stdin = rustix::stdio::stdin();
        match epoll::add(&self.ready, stdin, EventData::new_u64(INPUT), EventFlags::IN) {
            // A file is always ready, so it is read at once (epoll_ctl(2), EPERM).
            Err(Errno::PERM) => {
                io::stdin().read_to_end(&mut self.pending).context("cannot read the input")?;
                self.reads = false;
                self.pass_on()
            }
            other => Ok(other?),
        }
    }

    fn attend(&mut self, record: &Record, path: &std::path::Path) -> Result<Attached> {
        let ready = self.ready.try_clone()?;
        let sources = Sources { file: Some(path), descriptor: Some(ready.as_fd()) };
        let mut failed = Ok(());
        let name = &record.name;
        let waited = self.run.wait_and_hear(name, None, &sources, |record| {
            failed = self.turn(record);
            failed.is_err() || self.detached || record.exited.is_some()
        });
        failed?;
        let exited = |record: &Record| record.exited.map(|Exited { code, .. }| code);
        match waited? {
            Waited::Holds(_) if self.detached => Ok(Attached::Detached),
            Waited::Holds(record) | Waited::Ended(record) => {
                self.print()?;
                Ok(Attached::Ended(exited(&record).unwrap_or(KILLED)))
            }
            Waited::Late => bail!("the machine {name} cannot be waited for"),
        }
    }

    fn turn(&mut self, record: &Record) -> Result<()> {
        while let Some(signal) = self.signals.next()? {
            self.hear(record, signal);
        }
        if self.reads && is_readable(rustix::stdio::stdin()) {
            self.read()?;
        }
        self.pass_on()?;
        self.print()
    }

    fn print(&mut self) -> Result<()> {
        let mut out = io::stdout().lock();
        io::copy(&mut self.log, &mut out).and_then(|_| out.flush()).context("cannot print the log")
    }

    fn hear(&self, record: &Record, signal: i32) {
        if signal == signals::SIGWINCH {
            return self.resize(record);
        }
        // A system is asked to power off, as where it is in the foreground. It may have ended at this
        // very moment; then its end is seen next.
        let boots = record.plan.as_ref().is_some_and(|plan| plan.boot.is_some());
        let _ = if boots {
            self.run.signal_monitor(record, signal)
        } else {
            self.run.signal(record, signal)
        };
    }

    fn resize(&self, record: &Record) {
        let stdin = rustix::stdio::stdin();
        if let Some(into) = self.into.as_ref().filter(|_| self.terminal && pty::is_terminal(stdin))
        {
            // The terminal may be gone; then the machine's end is seen next.
            let _ = match pty::is_terminal(into) {
                true => pty::copy_size(stdin, into.as_fd()).map_err(Into::into),
                false => crate::of(record).resize(record),
            };
        }
    }

    fn read(&mut self) -> Result<()> {
        // What was typed before is not taken yet.
        if self.pending.len() >= CHUNK {
            return Ok(());
        }
        let mut chunk = [0; CHUNK];
        match rustix::io::read(rustix::stdio::stdin(), &mut chunk) {
            Ok(length) if length > 0 => {
                self.detached |= self.keys.look(&chunk[..length], &mut self.pending);
                if self.pending.len() >= CHUNK {
                    self.watch_input(EventFlags::empty())?;
                }
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            // Its end is not the machine's: others may be attached, or come.
            _ => {
                self.reads = false;
                Ok(epoll::delete(&self.ready, rustix::stdio::stdin())?)
            }
        }
    }

    fn watch_input(&self, flags: EventFlags) -> Result<()> {
        let stdin = rustix::stdio::stdin();
        Ok(epoll::modify(&self.ready, stdin, EventData::new_u64(INPUT), flags)?)
    }

    fn pass_on(&mut self) -> Result<()> {
        let Some(into) = &self.into else { return Ok(()) };
        let was_full = self.pending.len() >= CHUNK;
        while !self.pending.is_empty() {
            match rustix::io::write(into, &self.pending) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let flags = EventFlags::OUT | EventFlags::ONESHOT;
                    epoll::modify(&self.ready, into, EventData::new_u64(INTO), flags)?;
                    break;
                }
                // Nobody reads it any more.
                Err(_) => self.pending.clear(),
            }
        }
        if was_full && self.reads && self.pending.len() < CHUNK {
            self.watch_input(EventFlags::IN)?;
        }
        Ok(())
    }
}

fn is_readable(fd: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let mut polled = [PollFd::new(&fd, PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Looks for the keys that detach. What begins like them is held back until it is clear.
struct Keys {
    keys: Vec<u8>,
    seen: usize,
}

impl Keys {
    /// Adds what the machine shall have to `out`; tells whether to detach.
    fn look(&mut self, typed: &[u8], out: &mut Vec<u8>) -> bool {
        if self.keys.is_empty() {
            out.extend_from_slice(typed);
            return false;
        }
        for &byte in typed {
            if byte != self.keys[self.seen] {
                out.extend_from_slice(&self.keys[..self.seen]);
                self.seen = 0;
            }
            if byte != self.keys[self.seen] {
                out.push(byte);
                continue;
            }
            self.seen += 1;
            if self.seen == self.keys.len() {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_detach_and_all_else_is_passed_on() {
        let look = |pieces: &[&[u8]]| {
            let mut keys = Keys { keys: vec![0x10, 0x11], seen: 0 };
            let mut out = Vec::new();
            let detached = pieces.iter().any(|piece| keys.look(piece, &mut out));
            (detached, out)
        };
        assert_eq!(look(&[b"ab\x10", b"\x11c"]), (true, b"ab".to_vec()));
        assert_eq!(look(&[b"\x10x\x11"]), (false, b"\x10x\x11".to_vec()));
        assert_eq!(look(&[b"\x10\x10\x11"]), (true, b"\x10".to_vec()));
        assert_eq!(look(&[b"\x10"]), (false, Vec::new()));
    }
}
