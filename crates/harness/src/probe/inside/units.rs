//! What systemd tells of its units, on its private socket: see [`engine::bus`].

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use engine::bus::{Bus, Unit};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::{Settled, Waited};

const SOCKET: &str = "/run/systemd/private";

/// A manager that is busy answers late; one that hangs never does.
const PATIENCE: Duration = Duration::from_secs(20);

fn connect() -> Result<Bus<UnixStream>> {
    let what = "cannot speak to the machine's systemd";
    let stream = UnixStream::connect(SOCKET).context(what)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Bus::connect(stream).context(what)
}

/// Hears of every change from its first question on, so that no time of quiet is waited for twice.
#[derive(Default)]
pub(super) struct Watch(Option<Ear>);

impl Watch {
    /// Listens until there is something to read from `input`, so that it is known when something changed last,
    /// and that the machine's systemd need not keep what it has to say.
    pub(super) fn listen(&mut self, input: BorrowedFd<'_>) -> Result<()> {
        loop {
            let mut polled = vec![PollFd::from_borrowed_fd(input, PollFlags::IN)];
            let own = self.0.as_ref().map(|ear| ear.bus.stream().as_fd());
            polled.extend(own.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            match rustix::event::poll(&mut polled, None) {
                Err(rustix::io::Errno::INTR) => continue,
                polled => polled?,
            };
            if !polled[0].revents().is_empty() {
                return Ok(());
            }
            if self.0.as_mut().is_some_and(|ear| ear.hear(Instant::now()).is_err()) {
                self.0 = None;
            }
        }
    }

    /// All units that are loaded.
    pub(super) fn all(&mut self) -> Result<Vec<Unit>> {
        self.with(Ear::units)
    }

    /// Does something by the connection; anew by another one where the manager has hung up since, as it does
    /// when it executes itself anew.
    fn with<T>(&mut self, work: impl Fn(&mut Ear) -> Result<T>) -> Result<T> {
        if let Some(ear) = &mut self.0
            && let Ok(done) = ear.drain().and_then(|()| work(ear))
        {
            return Ok(done);
        }
        work(self.0.insert(Ear::open()?))
    }

    /// Waits until no unit has a job, and nothing has changed for a moment.
    pub(super) fn settle(&mut self, deadline: Instant, quiet: Duration) -> Result<Settled> {
        self.with(|ear| settle(ear, deadline, quiet))
    }

    /// Waits until a unit is active and stays so for a moment.
    pub(super) fn wait(
        &mut self,
        name: &str,
        deadline: Instant,
        quiet: Duration,
    ) -> Result<Waited> {
        self.with(|ear| wait(ear, name, deadline, quiet))
    }
}

/// A connection that gets signals.
struct Ear {
    bus: Bus<UnixStream>,
    heard: u64,
    /// Nothing has changed since then, as far as was read.
    changed: Instant,
}

impl Ear {
    fn open() -> Result<Self> {
        let mut bus = connect()?;
        bus.subscribe()?;
        Ok(Self { heard: bus.heard(), bus, changed: Instant::now() })
    }

    /// Reads what has come.
    fn drain(&mut self) -> Result<()> {
        while self.hear(Instant::now())? {}
        Ok(())
    }

    /// Waits for a signal until then; tells whether one came.
    fn hear(&mut self, until: Instant) -> Result<bool> {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let fd = self.bus.stream().as_fd();
        if rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left))? == 0 {
            return Ok(false);
        }
        self.bus.hear().context("the machine's systemd hung up")?;
        self.note();
        Ok(true)
    }

    fn units(&mut self) -> Result<Vec<Unit>> {
        let units = self.bus.units()?;
        self.note();
        Ok(units)
    }

    fn unit(&mut self, name: &str) -> Result<Unit> {
        let unit = self.bus.unit(name)?;
        self.note();
        Ok(unit)
    }

    fn note(&mut self) {
        if self.bus.heard() != self.heard {
            (self.heard, self.changed) = (self.bus.heard(), Instant::now());
        }
    }
}

fn settle(ear: &mut Ear, deadline: Instant, quiet: Duration) -> Result<Settled> {
    loop {
        let units = ear.units()?;
        let busy: Vec<String> = units
            .iter()
            .filter(|unit| !unit.job.is_empty() || unit.active == "activating")
            .map(|unit| format!("{} ({})", unit.name, unit.sub))
            .collect();
        let now = Instant::now();
        let until = match busy.is_empty() {
            true if now >= ear.changed + quiet => return Ok(Settled { good: true, units }),
            true => deadline.min(ear.changed + quiet),
            false => deadline,
        };
        if now >= deadline {
            return Ok(Settled { good: busy.is_empty(), units });
        }
        ear.hear(until)?;
    }
}

fn wait(ear: &mut Ear, name: &str, deadline: Instant, quiet: Duration) -> Result<Waited> {
    let mut since = None;
    loop {
        let unit = ear.unit(name)?;
        let seen = told(&unit);
        let is_over = unit.job.is_empty();
        match &unit.active[..] {
            "active" | "reloading" if is_over => {
                // What it said of itself may be the launch of a process that ends at once. It has been so at
                // least since something was last heard.
                let calm = *since.get_or_insert(ear.changed) + quiet;
                if Instant::now() >= calm {
                    return Ok(Waited { good: true, seen, late: false });
                }
                ear.hear(calm)?;
                continue;
            }
            "failed" if is_over => return Ok(Waited { good: false, seen, late: false }),
            "inactive" if is_over && ear.units()?.iter().all(|other| other.job.is_empty()) => {
                return Ok(Waited { good: false, seen, late: false });
            }
            _ => since = None,
        }
        if Instant::now() >= deadline || !ear.hear(deadline)? {
            return Ok(Waited { good: false, seen: told(&ear.unit(name)?), late: true });
        }
    }
}

fn told(unit: &Unit) -> String {
    let load = match &unit.load[..] {
        "loaded" => String::new(),
        "not-found" => return "there is no such unit".into(),
        other => format!("{other}, "),
    };
    let job = if unit.job.is_empty() { String::new() } else { format!(", job {}", unit.job) };
    format!("{load}{} ({}){job}", unit.active, unit.sub)
}
