//! The foreground monitor: passes signals and terminal data between the launcher and a machine, until it ends.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use spec::exit::Ended;
use sys::pty::{self, Raw};
use sys::signals::{self, Signals};

use crate::Machine;

/// Signals that a foreground monitor passes on or acts upon.
const PASSED: [i32; 6] = [
    signals::SIGHUP,
    signals::SIGINT,
    signals::SIGQUIT,
    signals::SIGTERM,
    signals::SIGUSR1,
    signals::SIGUSR2,
];
const OF_A_TERMINAL: [i32; 3] = [signals::SIGWINCH, signals::SIGTSTP, signals::SIGCONT];

/// Blocks the signals that [`attend`] handles. To be called before the machine is made,
/// so that none is lost in between.
///
/// # Errors
/// signalfd(2)'s.
pub fn signals(terminal: bool) -> Result<Signals> {
    let list: Vec<i32> =
        PASSED.into_iter().chain(OF_A_TERMINAL.into_iter().filter(|_| terminal)).collect();
    Signals::block(&list).context("cannot receive signals")
}

/// Attends to a machine until its end.
///
/// # Errors
/// As [`Machine::wait`].
pub fn attend(
    machine: Box<dyn Machine>,
    signals: &Signals,
    interactive: bool,
    timeout: Option<Duration>,
) -> Result<Ended> {
    let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
    match machine.terminal() {
        Some(terminal) => {
            let terminal = rustix::io::fcntl_dupfd_cloexec(terminal, 3)?;
            let mut session = Session::new(terminal.as_fd(), interactive)?;
            session.run(machine.as_ref(), signals, deadline)?;
        }
        None => without_terminal(machine.as_ref(), signals, deadline)?,
    }
    machine.wait()
}

fn without_terminal(
    machine: &dyn Machine,
    signals: &Signals,
    deadline: Option<Instant>,
) -> Result<()> {
    loop {
        let ended = machine.ended();
        let mut polled = [PollFd::new(&ended, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        poll(&mut polled, deadline)?;
        if !polled[0].revents().is_empty() {
            return Ok(());
        }
        while let Some(signal) = signals.next()? {
            pass_on(machine, signal);
        }
        kill_when_late(machine, deadline);
    }
}

/// It may have ended at this very moment; then its end is seen next.
fn pass_on(machine: &dyn Machine, signal: i32) {
    let _ = machine.signal(signal);
}

fn kill_when_late(machine: &dyn Machine, deadline: Option<Instant>) {
    if deadline.is_some_and(|d| d <= Instant::now()) {
        pass_on(machine, signals::SIGKILL);
    }
}

fn poll(polled: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    let left = deadline.map(|d| {
        let left = d.saturating_duration_since(Instant::now());
        // After the deadline the end is near, but nothing says when: look again soon.
        let left = left.max(Duration::from_millis(10));
        Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
    });
    match crate::rest::poll(polled, left.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A machine's terminal joined to the launcher's.
struct Session<'a> {
    master: BorrowedFd<'a>,
    /// The launcher's terminal in raw mode, where its input is one and is passed on.
    raw: Option<Raw<'static>>,
    input: Option<Buffer>,
    output: Buffer,
}

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

    /// An end of file, and the EIO of a terminal without users, end it.
    fn fill(&mut self, from: BorrowedFd<'_>) {
        let mut chunk = [0; CHUNK];
        match rustix::io::read(from, &mut chunk) {
            Ok(0) => self.ended = true,
            Ok(length) => self.data.extend_from_slice(&chunk[..length]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => self.ended = true,
        }
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

impl<'a> Session<'a> {
    fn new(master: BorrowedFd<'a>, interactive: bool) -> Result<Self> {
        let flags = rustix::fs::fcntl_getfl(master)? | OFlags::NONBLOCK;
        rustix::fs::fcntl_setfl(master, flags)?;
        let stdin = rustix::stdio::stdin();
        let own = [stdin, rustix::stdio::stdout(), rustix::stdio::stderr()];
        if let Some(terminal) = own.into_iter().find(|fd| pty::is_terminal(fd)) {
            pty::copy_size(terminal, master).context("cannot set the window size")?;
        }
        let raw = (interactive && pty::is_terminal(stdin))
            .then(|| Raw::new(stdin).context("cannot set the terminal to raw mode"))
            .transpose()?;
        Ok(Self {
            master,
            raw,
            input: interactive.then(Buffer::default),
            output: Buffer::default(),
        })
    }

    fn run(
        &mut self,
        machine: &dyn Machine,
        signals: &Signals,
        deadline: Option<Instant>,
    ) -> Result<()> {
        while !self.turn(machine, signals, deadline)? {}
        // What the machine wrote last is still in its terminal.
        while !self.output.ended {
            let before = self.output.data.len();
            self.output.fill(self.master);
            if self.output.data.len() == before {
                break;
            }
        }
        while !self.output.data.is_empty() {
            self.output.drain(rustix::stdio::stdout());
        }
        Ok(())
    }

    /// Waits for something to do and does it; tells whether the machine has ended.
    fn turn(
        &mut self,
        machine: &dyn Machine,
        signals: &Signals,
        deadline: Option<Instant>,
    ) -> Result<bool> {
        let (stdin, stdout) = (rustix::stdio::stdin(), rustix::stdio::stdout());
        let (ended, master) = (machine.ended(), self.master);
        let has = |wanted: bool, flag: PollFlags| if wanted { flag } else { PollFlags::empty() };
        let reads = self.input.as_ref().is_some_and(Buffer::wants_more);
        let writes = self.input.as_ref().is_some_and(|b| !b.data.is_empty());
        let mut master_wants = has(writes, PollFlags::OUT);
        master_wants |= has(self.output.wants_more(), PollFlags::IN);
        let mut polled =
            vec![PollFd::new(&ended, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        // A descriptor that is polled for nothing still wakes by its hang-up, for ever.
        let stdout_at = (!self.output.data.is_empty()).then(|| {
            polled.push(PollFd::new(&stdout, PollFlags::OUT));
            polled.len() - 1
        });
        let stdin_at = reads.then(|| {
            polled.push(PollFd::new(&stdin, PollFlags::IN));
            polled.len() - 1
        });
        let master_at = (!master_wants.is_empty() && !self.output.ended).then(|| {
            polled.push(PollFd::new(&master, master_wants));
            polled.len() - 1
        });
        poll(&mut polled, deadline)?;
        let ready = |at: Option<usize>| at.map_or(PollFlags::empty(), |at| polled[at].revents());
        if let Some(input) = &mut self.input {
            if !ready(stdin_at).is_empty() {
                input.fill(stdin);
            }
            if ready(master_at).contains(PollFlags::OUT) {
                input.drain(master);
            }
        }
        if ready(master_at).intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.output.fill(master);
        }
        if !ready(stdout_at).is_empty() {
            self.output.drain(stdout);
        }
        let over = !polled[0].revents().is_empty();
        while let Some(signal) = signals.next()? {
            self.handle(machine, signal)?;
        }
        kill_when_late(machine, deadline);
        Ok(over)
    }

    fn handle(&self, machine: &dyn Machine, signal: i32) -> Result<()> {
        match signal {
            signals::SIGWINCH => self.resize(),
            signals::SIGTSTP => {
                if let Some(raw) = &self.raw {
                    raw.pause()?;
                }
                signals::stop_self()?;
                self.resume()
            }
            signals::SIGCONT => self.resume(),
            other => {
                pass_on(machine, other);
                Ok(())
            }
        }
    }

    /// The shell may have changed the terminal while this process was stopped.
    fn resume(&self) -> Result<()> {
        if let Some(raw) = &self.raw {
            raw.again()?;
        }
        self.resize()
    }

    fn resize(&self) -> Result<()> {
        let stdin = rustix::stdio::stdin();
        if pty::is_terminal(stdin) {
            pty::copy_size(stdin, self.master).context("cannot set the window size")?;
        }
        Ok(())
    }
}
