//! What systemd tells of its units, on its private socket: see [`engine::bus`].

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use engine::bus::{Bus, Unit};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::Waited;

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

pub(super) fn all() -> Result<Vec<Unit>> {
    Ok(connect()?.units()?)
}

/// Waits for a signal until then; tells whether one came.
fn hear(bus: &mut Bus<UnixStream>, until: Instant) -> Result<bool> {
    let left = until.saturating_duration_since(Instant::now());
    let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    let fd = bus.stream().as_fd();
    if rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left))? == 0 {
        return Ok(false);
    }
    bus.hear().context("the machine's systemd hung up")?;
    Ok(true)
}

/// Waits until no unit has a job, and nothing has changed for a moment.
pub(super) fn settle(deadline: Instant, quiet: Duration) -> Result<Waited> {
    let mut bus = connect()?;
    bus.subscribe()?;
    loop {
        let units = bus.units()?;
        let busy: Vec<String> = units
            .iter()
            .filter(|unit| !unit.job.is_empty() || unit.active == "activating")
            .map(|unit| format!("{} ({})", unit.name, unit.sub))
            .collect();
        if busy.is_empty() {
            let quiet = Instant::now() + quiet;
            if quiet >= deadline || !hear(&mut bus, quiet)? {
                return Ok(Waited { good: true, seen: "nothing is under way".into(), late: false });
            }
        } else if !hear(&mut bus, deadline)? {
            return Ok(Waited { good: false, seen: busy.join(", "), late: true });
        }
        if Instant::now() >= deadline {
            return Ok(Waited { good: busy.is_empty(), seen: busy.join(", "), late: true });
        }
    }
}

/// Waits until a unit is active and stays so for a moment.
pub(super) fn wait(name: &str, deadline: Instant, quiet: Duration) -> Result<Waited> {
    let mut bus = connect()?;
    bus.subscribe()?;
    loop {
        let unit = bus.unit(name)?;
        let seen = told(&unit);
        let is_over = unit.job.is_empty();
        match &unit.active[..] {
            "active" | "reloading" if is_over => {
                // What it said of itself may be the launch of a process that ends at once.
                let quiet = Instant::now() + quiet;
                while Instant::now() < quiet && bus.unit(name)?.active == unit.active {
                    hear(&mut bus, quiet)?;
                }
                if bus.unit(name)?.active == unit.active {
                    return Ok(Waited { good: true, seen, late: false });
                }
                continue;
            }
            "failed" if is_over => return Ok(Waited { good: false, seen, late: false }),
            "inactive" if is_over && bus.units()?.iter().all(|other| other.job.is_empty()) => {
                return Ok(Waited { good: false, seen, late: false });
            }
            _ => {}
        }
        if Instant::now() >= deadline || !hear(&mut bus, deadline)? {
            return Ok(Waited { good: false, seen: told(&bus.unit(name)?), late: true });
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
