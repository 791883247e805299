//! The foreground monitor: passes signals and terminal data between the launcher and a
//! machine, hears when a booted system is up, powers it off when asked to, until its end.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::RecvFlags;
use spec::boot::{Boot, Condition};
use spec::exit::Ended;
use sys::signals::{self, Signals};

use crate::Machine;
use crate::ready::Watch;
use crate::session::{Session, Wants};

/// Signals that a foreground monitor passes on or acts upon, and so does whoever stands in its place.
pub const PASSED: [i32; 6] = [
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

/// How a machine is to be attended to.
pub struct Attendance<'a> {
    /// From [`signals`].
    pub signals: &'a Signals,
    /// The launcher's standard input is passed to the machine's terminal.
    pub interactive: bool,
    /// When it is killed.
    pub timeout: Option<Duration>,
    /// How the system in it is spoken to, where one is booted.
    pub boot: Option<&'a Boot>,
    /// Hears how the system is, once it is up.
    pub up: &'a mut dyn FnMut(Condition) -> Result<()>,
    /// Asked whether a machine that ended so is to run again; then `over` does not hear of it.
    pub again: &'a mut dyn FnMut(Ended) -> bool,
    /// Hears how the machine ended, while it is still recorded.
    pub over: &'a mut dyn FnMut(Ended),
}

/// How attending ended.
pub enum Over {
    /// The machine has ended.
    Ended(Ended),
    /// It is to run again, with this.
    Again(crate::Remains),
}

/// Attends to a machine until its end.
///
/// # Errors
/// As [`Machine::wait`].
pub fn attend(machine: Box<dyn Machine>, attendance: Attendance<'_>) -> Result<Over> {
    let session = match machine.terminal() {
        Some(terminal) => {
            let terminal = rustix::io::fcntl_dupfd_cloexec(terminal, 3)?;
            let boots = attendance.boot.is_some();
            let session = Session::new(terminal, attendance.interactive, boots)?;
            session.resize(Some(machine.as_ref()))?;
            Some(session)
        }
        None => None,
    };
    let boot = attendance.boot;
    let mut attendant = Attendant {
        machine: machine.as_ref(),
        session,
        watch: boot.map(|boot| Watch::new(&boot.ready)),
        deadline: attendance.timeout.and_then(|t| Instant::now().checked_add(t)),
        stopping: None,
        uncalled: false,
        attendance,
    };
    while !attendant.turn()? {}
    if let Some(mut session) = attendant.session.take() {
        session.finish();
    }
    let Attendance { over, again, .. } = attendant.attendance;
    let mut anew = false;
    let (ended, remains) = machine.wait_and_keep(&mut |ended| {
        anew = again(ended);
        if anew {
            return ended;
        }
        let ended = match (boot, ended) {
            // reboot(2), "Behavior inside PID namespaces": power-off and halt end process 1 by SIGINT.
            (Some(_), Ended::Signalled(signal)) if i32::from(signal) == signals::SIGINT => {
                Ended::Exited(0)
            }
            _ => ended,
        };
        over(ended);
        ended
    })?;
    Ok(match remains {
        Some(remains) if anew => Over::Again(remains),
        _ => Over::Ended(ended),
    })
}

struct Attendant<'m, 'a> {
    machine: &'m dyn Machine,
    session: Option<Session>,
    /// Until the system is up.
    watch: Option<Watch>,
    deadline: Option<Instant>,
    stopping: Option<Stopping>,
    /// Nobody is left who could call for anything.
    uncalled: bool,
    attendance: Attendance<'a>,
}

/// A system is asked to power off.
struct Stopping {
    /// When to ask again: a signal that comes too early in a boot is lost.
    again: Option<Instant>,
    /// When it is killed.
    until: Instant,
}

/// Between two requests to power off.
const AGAIN: Duration = Duration::from_millis(250);

const SLOWLY: Duration = Duration::from_secs(2);

/// As systemd gives its units (systemd-system.conf(5), `DefaultTimeoutStopSec`).
const PATIENCE: Duration = Duration::from_secs(90);

/// What a machine said on its notification socket.
#[derive(Default)]
struct Heard {
    ready: bool,
    stopping: bool,
}

impl Attendant<'_, '_> {
    /// Waits for something to do and does it; tells whether the machine has ended.
    fn turn(&mut self) -> Result<bool> {
        let wants = self.session.as_ref().map(Session::wants);
        let found = self.poll(wants)?;
        if found.called.contains(PollFlags::IN) {
            self.machine.answer()?;
        }
        self.uncalled |= found.called.intersects(PollFlags::HUP | PollFlags::ERR);
        if found.asked {
            self.machine.serve()?;
        }
        if let (Some(session), Some(wants)) = (&mut self.session, wants) {
            session.turn(wants, &found.session);
            if session.escaped() && self.attendance.boot.is_some() {
                self.stop();
            }
        }
        let heard = self.hear();
        self.look(&heard, found.answered)?;
        while let Some(signal) = self.attendance.signals.next()? {
            self.handle(signal)?;
        }
        self.keep_time(&heard);
        Ok(found.ended)
    }

    fn poll(&self, wants: Option<Wants>) -> Result<Found> {
        let ended = self.machine.ended();
        let notifications = self.machine.notifications();
        let question = self.watch.as_ref().and_then(Watch::descriptor);
        let requests = self.machine.requests();
        let calls = self.machine.calls().filter(|_| !self.uncalled);
        let mut polled = vec![
            PollFd::new(&ended, PollFlags::IN),
            PollFd::new(self.attendance.signals, PollFlags::IN),
        ];
        // Each is there or not, so they are looked at below from the last one on.
        for fd in [&notifications, &question, &requests, &calls].into_iter().flatten() {
            polled.push(PollFd::new(fd, PollFlags::IN));
        }
        let mut at = polled.len();
        if let (Some(session), Some(wants)) = (&self.session, wants) {
            session.poll_for(wants, &mut polled);
        }
        poll(&mut polled, self.wake())?;
        let events: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        let session = events[at..].to_vec();
        let mut before = |is_there: bool| {
            at -= usize::from(is_there);
            if is_there { events[at] } else { PollFlags::empty() }
        };
        let called = before(calls.is_some());
        let asked = !before(requests.is_some()).is_empty();
        let answered = !before(question.is_some()).is_empty();
        Ok(Found { ended: !events[0].is_empty(), called, asked, answered, session })
    }

    /// The next moment at which something is due by itself.
    fn wake(&self) -> Option<Instant> {
        let stopping = self.stopping.as_ref();
        let times = [
            self.deadline,
            self.watch.as_ref().and_then(Watch::look_at),
            self.session.as_ref().and_then(Session::look_at),
            stopping.and_then(|stopping| stopping.again),
            stopping.map(|stopping| stopping.until),
        ];
        times.into_iter().flatten().min()
    }

    /// Reads what was said (sd_notify(3)). Whoever may write to the socket can say anything; it only
    /// makes us ask.
    fn hear(&self) -> Heard {
        let mut heard = Heard::default();
        let Some(socket) = self.machine.notifications() else { return heard };
        let mut buffer = [0; 4096];
        while let Ok((length, _)) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::DONTWAIT)
        {
            for line in buffer[..length].split(|&b| b == b'\n') {
                heard.ready |= line == b"READY=1";
                heard.stopping |= line == b"STOPPING=1";
            }
        }
        heard
    }

    fn look(&mut self, heard: &Heard, answered: bool) -> Result<()> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        if let Some(condition) = watch.turn(self.machine, heard.ready, answered)? {
            self.watch = None;
            (self.attendance.up)(condition)?;
        }
        Ok(())
    }

    fn handle(&mut self, signal: i32) -> Result<()> {
        if let Some(session) = &self.session
            && session.handle(signal, Some(self.machine))?
        {
            return Ok(());
        }
        match (self.attendance.boot, signal) {
            (Some(_), signals::SIGTERM | signals::SIGINT | signals::SIGHUP) => self.stop(),
            (Some(_), signals::SIGQUIT) => self.pass_on(signals::SIGKILL),
            _ => self.pass_on(signal),
        }
        Ok(())
    }

    /// Asks a system to power off; asked a second time, kills it.
    fn stop(&mut self) {
        if self.stopping.is_some() {
            return self.pass_on(signals::SIGKILL);
        }
        let now = Instant::now();
        self.stopping = Some(Stopping { again: Some(now), until: now + PATIENCE });
    }

    fn keep_time(&mut self, heard: &Heard) {
        let now = Instant::now();
        if self.deadline.is_some_and(|at| at <= now) {
            self.pass_on(signals::SIGKILL);
        }
        let (Some(stopping), Some(boot)) = (&mut self.stopping, self.attendance.boot) else {
            return;
        };
        if heard.stopping {
            stopping.again = None;
        }
        let late = stopping.until <= now;
        if stopping.again.is_some_and(|at| at <= now) {
            // Only systemd says that it heard; others are asked more slowly, and a command once.
            let hears = self.machine.notifications().is_some();
            stopping.again = match &boot.power_off_command {
                Some(_) => None,
                None => Some(now + if hears { AGAIN } else { SLOWLY }),
            };
            match &boot.power_off_command {
                // Where it cannot be started, the time limit ends the machine.
                Some(command) => drop(self.machine.run_inside(command)),
                None => self.pass_on(boot.power_off),
            }
        }
        if late {
            self.pass_on(signals::SIGKILL);
        }
    }

    /// It may have ended at this very moment; then its end is seen next.
    fn pass_on(&self, signal: i32) {
        let _ = self.machine.signal(signal);
    }
}

/// What a poll found.
struct Found {
    ended: bool,
    /// The machine asks its monitor for something.
    called: PollFlags,
    /// Something it asked for can be gone on with.
    asked: bool,
    /// A question's answer can be read.
    answered: bool,
    /// Of what the session wanted.
    session: Vec<PollFlags>,
}

fn poll(polled: &mut [PollFd<'_>], wake: Option<Instant>) -> io::Result<()> {
    let left = wake.map(|at| {
        let left = at.saturating_duration_since(Instant::now());
        // After a deadline the end is near, but nothing says when: look again soon.
        let left = left.max(Duration::from_millis(5));
        Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
    });
    match crate::rest::poll(polled, left.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
