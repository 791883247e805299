//! The calls of a machine that wait for its monitor: one filter, one listener (a process can have
//! no second one; seccomp(2), `EBUSY`), and whoever is responsible for each call.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use sys::notify::{Call, Listener, Verdict};
use sys::seccomp::{Action, Condition, Filter, Rule};

use super::bypass::{Bypass, Outcome, Waiting};
use super::cgroupfs::Emulation;

/// A rule of a filter that is put together: names, action, conditions.
pub(super) type OwnRule = (&'static [&'static str], Action, Vec<Condition>);

/// The filter that hands these over, and lets everything else be.
pub(super) fn filter(rules: &[OwnRule]) -> Filter {
    let rule = |(names, action, conditions): &'_ OwnRule| (*names, *action, conditions.clone());
    let owned: Vec<_> = rules.iter().map(rule).collect();
    let rules: Vec<Rule<'_, &str>> = owned
        .iter()
        .map(|(names, action, conditions)| Rule { names, action: *action, conditions })
        .collect();
    sys::seccomp::compile(Action::Allow, &rules)
}

/// The monitor's part.
pub(super) struct Supervisor {
    listener: Listener,
    emulation: Option<Emulation>,
    bypass: Option<Bypass>,
    /// The timer, and the sockets of calls that are not answered yet.
    ready: OwnedFd,
    timer: OwnedFd,
    waiting: HashMap<u64, (Waiting, Option<Instant>)>,
    next: u64,
}

const TIMER: u64 = 0;
const EMULATION: u64 = 1;
const FIRST: u64 = 2;

/// How much is answered at a time: others wait for the monitor as well.
const AT_ONCE: usize = 64;

impl Supervisor {
    pub(super) fn new(
        listener: OwnedFd,
        emulation: Option<Emulation>,
        bypass: Option<Bypass>,
    ) -> io::Result<Self> {
        if bypass.is_some() || emulation.is_some() {
            allow_many_descriptors();
        }
        let listener = Listener::new(listener);
        let ready = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        epoll::add(&ready, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        if let Some(fd) = emulation.as_ref().and_then(Emulation::as_fd) {
            epoll::add(&ready, fd, EventData::new_u64(EMULATION), EventFlags::IN)?;
        }
        let waiting = HashMap::new();
        Ok(Self { listener, emulation, bypass, ready, timer, waiting, next: FIRST })
    }

    /// Readable when something is to be done for calls that are not answered yet.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }

    /// Readable when there are new ones; hung up when nobody is left who could make one.
    pub(super) fn calls(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Answers those, or begins to. To be called where there is one: else it waits.
    pub(super) fn answer(&mut self) -> io::Result<()> {
        for _ in 0..AT_ONCE {
            self.receive()?;
            let mut polled = [PollFd::new(&self.listener, PollFlags::IN)];
            match rustix::event::poll(&mut polled, Some(&Timespec::default())) {
                Ok(1) if polled[0].revents().contains(PollFlags::IN) => {}
                _ => break,
            }
        }
        Ok(())
    }

    /// Does what is to be done now.
    pub(super) fn serve(&mut self) -> io::Result<()> {
        for _ in 0..AT_ONCE {
            let mut events = Vec::with_capacity(AT_ONCE);
            let now = Timespec::default();
            let space = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.ready, space, Some(&now)) {
                Ok(0) => break,
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            for epoll::Event { data, .. } in events {
                match data.u64() {
                    TIMER => self.expire()?,
                    EMULATION => self.emulation.as_mut().map_or(Ok(()), Emulation::turn)?,
                    nth => self.go_on(nth, false)?,
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<()> {
        let Some(call) = self.listener.receive()? else { return Ok(()) };
        let emulated = self.emulation.as_mut().and_then(|e| e.serve(&self.listener, &call));
        if let Some(verdict) = emulated {
            return self.listener.answer(&call, verdict);
        }
        let outcome = self.bypass.as_mut().and_then(|b| b.serve(&self.listener, &call));
        self.settle(&call, outcome.unwrap_or(Outcome::Answered(Verdict::Continue)))
    }

    fn settle(&mut self, call: &Call, outcome: Outcome) -> io::Result<()> {
        let (waiting, until) = match outcome {
            Outcome::Answered(verdict) => return self.listener.answer(call, verdict),
            Outcome::Waits(waiting, until) => (waiting, until),
        };
        let nth = self.next;
        self.next += 1;
        let flags = EventFlags::OUT | EventFlags::ONESHOT;
        let added = epoll::add(&self.ready, &waiting.socket, EventData::new_u64(nth), flags);
        if let Err(error) = added {
            return self.listener.answer(call, Verdict::Fail(error));
        }
        self.waiting.insert(nth, (waiting, until));
        if until.is_some() { self.wind() } else { Ok(()) }
    }

    fn go_on(&mut self, nth: u64, late: bool) -> io::Result<()> {
        let Some((waiting, until)) = self.waiting.remove(&nth) else { return Ok(()) };
        // A copy of the socket may live on in the machine, and with it the registration.
        let _ = epoll::delete(&self.ready, &waiting.socket);
        let call = waiting.call;
        let Some(bypass) = &mut self.bypass else { return Ok(()) };
        match bypass.go_on(&self.listener, waiting, late) {
            Outcome::Waits(waiting, _) => self.settle(&call, Outcome::Waits(waiting, until)),
            outcome => self.settle(&call, outcome),
        }
    }

    /// Ends the calls whose time is over.
    fn expire(&mut self) -> io::Result<()> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.timer, &mut count);
        let now = Instant::now();
        let late = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        let over: Vec<u64> =
            self.waiting.iter().filter(|(_, (_, until))| late(*until)).map(|(n, _)| *n).collect();
        for nth in over {
            self.go_on(nth, true)?;
        }
        self.wind()
    }

    /// Sets the timer to the first moment at which a call's time is over.
    fn wind(&self) -> io::Result<()> {
        let first = self.waiting.values().filter_map(|(_, until)| *until).min();
        let left = first.map(|at| at.saturating_duration_since(Instant::now()));
        let it_value = left.map_or_else(Timespec::default, |left| Timespec {
            tv_sec: left.as_secs() as i64,
            // Zero would stop it.
            tv_nsec: i64::from(left.subsec_nanos()).max(1),
        });
        let spec = Itimerspec { it_interval: Timespec::default(), it_value };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)?;
        Ok(())
    }
}

/// Two for each connection that is waited for, and as many for each emulated group.
fn allow_many_descriptors() {
    let resource = rustix::process::Resource::Nofile;
    let limit = rustix::process::getrlimit(resource);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    // With fewer, fewer callers can wait at a time.
    let _ = rustix::process::setrlimit(resource, raised);
}
