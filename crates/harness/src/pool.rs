//! Who holds a pool: boots machines for it, stops them when they are up, and waits until
//! somebody takes one.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use engine::record::{About, Member, Note, Pool, Record};
use engine::state::{self, RunDirectory};
use engine::{pause, pool, rest};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};
use sys::signals::{self, Signals};

/// What a machine that is booted for a pool is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Membership {
    /// Its name until it is taken.
    pub name: String,
    /// For its record.
    pub member: Member,
}

/// A pool that is to be held.
pub struct Hold<'a> {
    /// Where machines are recorded.
    pub run: &'a RunDirectory,
    /// The pool's name.
    pub name: &'a str,
    /// The image, as the user spelled it.
    pub image: &'a str,
    /// How many machines it is to have.
    pub size: usize,
    /// This program, as the monitor of a machine of the pool; it reports on its standard output.
    pub boot: &'a dyn Fn(&Membership) -> Result<Command>,
    /// Told once it is full.
    pub filled: &'a mut dyn FnMut() -> Result<()>,
}

/// Holds a pool until this process is asked to end, by SIGTERM.
///
/// # Errors
/// Where the name is in use, or the pool cannot be filled a first time.
pub fn hold(hold: Hold<'_>) -> Result<()> {
    let signals = Signals::block(&[
        signals::SIGTERM,
        signals::SIGINT,
        signals::SIGHUP,
        pool::TAKEN,
        // A machine's end is seen by its descriptor.
    ])
    .context("cannot receive signals")?;
    let pools = pool::pools(hold.run)?;
    pools.reap();
    hold.run.reap();
    if pools.find(hold.name).is_ok_and(|there| there.name == hold.name) {
        bail!(
            "there is a pool {0} already: `postroj pool rm {0}`, or give another --name",
            hold.name
        );
    }
    let _claim = pools.claim(hold.name, &format!("pool-{}", std::process::id()), false)?;
    let about =
        About { image: hold.image.to_owned(), created: state::now(), detached: true, member: None };
    pools.note(hold.name, &Note::About(&about))?;
    pools.note(hold.name, &Note::Pool(&Pool { size: hold.size, trouble: None }))?;
    let record = pools.find(hold.name)?;
    let mut holder =
        Holder { hold, pools, record, booting: Vec::new(), up: Vec::new(), trouble: None };
    let ended = holder.run(&signals);
    holder.booting.iter_mut().for_each(|booting| drop(booting.child.kill()));
    pool::discard(holder.hold.run, &holder.record);
    holder.booting.iter_mut().for_each(|booting| drop(booting.child.wait()));
    ended
}

struct Holder<'a> {
    hold: Hold<'a>,
    pools: RunDirectory,
    record: Record,
    booting: Vec<Booting>,
    /// Monitors of machines that are up, whether they were taken or not.
    up: Vec<(Child, OwnedFd)>,
    trouble: Option<Trouble>,
}

struct Booting {
    child: Child,
    report: ChildStdout,
    said: File,
    membership: Membership,
}

/// The last machine did not get up.
struct Trouble {
    /// When to try again.
    again: Instant,
    /// How often it failed, one after the other.
    times: u32,
}

/// Between two tries; twice that after each.
const AGAIN: Duration = Duration::from_secs(1);

const SELDOM: Duration = Duration::from_secs(60);

impl Holder<'_> {
    fn run(&mut self, signals: &Signals) -> Result<()> {
        let mut is_full = false;
        loop {
            let there = pool::members(self.hold.run, &self.record);
            let ready = there.iter().filter(|m| m.member.as_ref().is_some_and(|m| m.ready)).count();
            if !is_full && ready >= self.hold.size {
                is_full = true;
                (self.hold.filled)()?;
            }
            self.fill(ready)?;
            self.wait(signals)?;
            while let Some(signal) = signals.next()? {
                if signal != pool::TAKEN {
                    return Ok(());
                }
            }
            self.attend(is_full)?;
        }
    }

    /// Boots what is missing, as many at once as there are processors.
    fn fill(&mut self, ready: usize) -> Result<()> {
        if self.trouble.as_ref().is_some_and(|trouble| Instant::now() < trouble.again) {
            return Ok(());
        }
        let most = if self.trouble.is_some() {
            1
        } else {
            std::thread::available_parallelism().map_or(1, usize::from)
        };
        while ready + self.booting.len() < self.hold.size && self.booting.len() < most {
            self.boot()?;
        }
        Ok(())
    }

    fn boot(&mut self) -> Result<()> {
        let holder = self.record.monitor.context("the pool's record tells no holder")?;
        let member = Member { pool: self.hold.name.to_owned(), holder, ready: false };
        let mut random = [0; 4];
        getrandom(&mut random)?;
        let name = format!("pool-{}-{:08x}", self.hold.name, u32::from_le_bytes(random));
        let membership = Membership { name, member };
        let said = rustix::fs::memfd_create("said", rustix::fs::MemfdFlags::CLOEXEC)
            .map(File::from)
            .context("cannot make a file in memory")?;
        let mut command = (self.hold.boot)(&membership)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said.try_clone()?);
        let mut child = command.spawn().context("cannot start a monitor")?;
        let report = child.stdout.take().context("the monitor has no output")?;
        self.booting.push(Booting { child, report, said, membership });
        Ok(())
    }

    /// Until something has happened.
    fn wait(&self, signals: &Signals) -> Result<()> {
        let mut polled = vec![PollFd::new(signals, PollFlags::IN)];
        polled.extend(self.booting.iter().map(|b| PollFd::new(&b.report, PollFlags::IN)));
        polled.extend(self.up.iter().map(|(_, pidfd)| PollFd::new(pidfd, PollFlags::IN)));
        let missing = self.trouble.as_ref().filter(|_| self.booting.is_empty());
        let left = missing.map(|trouble| {
            let left = trouble.again.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        match rest::poll(&mut polled, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error).context("cannot wait for the pool's machines"),
        }
    }

    /// Hears who is up, and who has ended.
    fn attend(&mut self, is_full: bool) -> Result<()> {
        self.up.retain_mut(|(child, _)| !matches!(child.try_wait(), Ok(Some(_))));
        for at in (0..self.booting.len()).rev() {
            if !is_readable(&self.booting[at].report)? {
                continue;
            }
            let booting = self.booting.remove(at);
            match self.settle(booting) {
                Ok(()) => self.tell(None)?,
                Err(error) if !is_full => return Err(error),
                Err(error) => self.tell(Some(format!("{error:#}")))?,
            }
        }
        Ok(())
    }

    /// It has reported, or ended.
    fn settle(&mut self, booting: Booting) -> Result<()> {
        let Booting { mut child, report, mut said, membership } = booting;
        let mut line = String::new();
        BufReader::new(report).read_line(&mut line).context("cannot hear from the monitor")?;
        if !line.ends_with('\n') {
            let _ = child.wait();
            let mut text = String::new();
            said.rewind()?;
            said.read_to_string(&mut text)?;
            let last = text.lines().rfind(|line| !line.contains(": note: ")).unwrap_or_default();
            match last.trim_start_matches("postroj: ") {
                "" => bail!("the machine ended before it was up"),
                last => bail!("{last}"),
            }
        }
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        self.up.push((child, pidfd));
        let run = self.hold.run;
        let machine = run.find(&membership.name)?;
        pause::pause(run, &machine)?;
        let ready = Member { ready: true, ..membership.member };
        run.note(&membership.name, &Note::Member(&ready))
    }

    /// Whoever waits for a machine of the pool is woken by this.
    fn tell(&mut self, trouble: Option<String>) -> Result<()> {
        self.trouble = trouble.as_ref().map(|_| {
            let times = self.trouble.as_ref().map_or(0, |trouble| trouble.times + 1);
            let pause = AGAIN.saturating_mul(1 << times.min(6)).min(SELDOM);
            Trouble { again: Instant::now() + pause, times }
        });
        let state = Pool { size: self.hold.size, trouble };
        self.pools.note(self.hold.name, &Note::Pool(&state))
    }
}

fn is_readable(fd: &impl AsFd) -> Result<bool> {
    let mut polled = [PollFd::new(fd, PollFlags::IN)];
    Ok(rustix::event::poll(&mut polled, Some(&Timespec::default()))? > 0)
}

fn getrandom(bytes: &mut [u8]) -> Result<()> {
    rustix::rand::getrandom(bytes, rustix::rand::GetRandomFlags::empty())
        .context("cannot get random numbers")?;
    Ok(())
}
