//! `wait`: until machines end, are up, or something in them is.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use distro::init::Action;
use engine::bus::UnitEnd;
use engine::record::Record;
use engine::state::RunDirectory;
use engine::{Sources, Waited};
use harness::Running;
use plan::ExecRequest;
use regex_lite::Regex;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use spec::boot::{Condition, Ready};

use super::stop::each;
use super::{Here, exec, service};

/// Wait until machines end, and print their exit codes; or until something holds of them
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to wait for: exit, ready, port:NUMBER[/udp], unit:NAME, or log:REGEX
    ///
    /// A port is waited for until somebody listens on it, a unit or service until it is active, and a
    /// regular expression until a line of the console or the journal matches it, be it an old one.
    #[arg(long = "for", value_name = "WHAT", default_value = "exit")]
    what: What,
    /// Seconds until it fails
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Names or ids
    #[arg(required = true)]
    machines: Vec<String>,
}

#[derive(Debug, Clone)]
enum What {
    Exit,
    Ready,
    Port { number: u16, udp: bool },
    Unit(String),
    Log(Regex),
}

impl FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            _ if text == "exit" => Ok(Self::Exit),
            _ if text == "ready" => Ok(Self::Ready),
            Some(("port", port)) => {
                let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
                match (number.parse(), protocol) {
                    (Ok(number), "tcp" | "udp") if number > 0 => {
                        Ok(Self::Port { number, udp: protocol == "udp" })
                    }
                    _ => Err(format!("{port:?} is no port, such as 80 or 53/udp")),
                }
            }
            Some(("unit", name)) if !name.is_empty() => Ok(Self::Unit(name.to_owned())),
            Some(("log", text)) => Regex::new(&format!("{BY_LINES}{text}"))
                .map(Self::Log)
                .map_err(|error| format!("{text:?} is no regular expression: {error}")),
            _ => Err("known are exit, ready, port:NUMBER, unit:NAME and log:REGEX".into()),
        }
    }
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let run = here.run_directory()?;
    let limit = args.timeout.map(Duration::from_secs);
    each(&args.machines, |name| {
        let record = run.find(name)?;
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let wait = Wait { run: &run, record: &record, deadline };
        if matches!(args.what, What::Unit(_) | What::Log(_)) {
            exec::protect(&record)?;
        }
        let (waited, missed) = match &args.what {
            What::Exit => return exit(&wait, args.timeout, name),
            What::Ready => (wait.until(is_ready)?, "it was up".into()),
            What::Port { number, udp } => {
                (wait.for_port(*number, *udp)?, format!("anything listened on port {number}"))
            }
            What::Unit(unit) => (wait.for_unit(unit)?, format!("{unit} was active")),
            What::Log(regex) => {
                (wait.for_log(regex)?, format!("{} was in its log", pattern(regex)))
            }
        };
        match waited {
            Waited::Late => bail!("{name} took longer than {} s", args.timeout.unwrap_or(0)),
            Waited::Ended(_) => bail!("{name} ended before {missed}"),
            Waited::Holds(Record { condition: Some(Condition::Degraded(failed)), .. })
                if matches!(args.what, What::Ready) =>
            {
                bail!("{name} is up, but degraded: {}", failed.join(", "))
            }
            Waited::Holds(_) => println!("{name}"),
        }
        Ok(())
    })
}

/// So that `^` and `$` are those of a line.
const BY_LINES: &str = "(?m)";

/// As it was given.
fn pattern(regex: &Regex) -> &str {
    regex.as_str().trim_start_matches(BY_LINES)
}

/// It may be degraded.
pub(super) fn is_ready(record: &Record) -> bool {
    matches!(record.condition, Some(Condition::Running | Condition::Degraded(_)))
}

fn exit(wait: &Wait<'_>, limit: Option<u64>, name: &str) -> Result<()> {
    match wait.until(|record| record.exited.is_some())? {
        Waited::Late => bail!("{name} took longer than {} s", limit.unwrap_or(0)),
        Waited::Holds(record) | Waited::Ended(record) => {
            println!("{}", record.exited.map_or(KILLED, |exited| exited.code));
            Ok(())
        }
    }
}

/// Of a machine that was killed with its monitor.
const KILLED: u8 = 137;

/// How long a monitor may take to write down that its machine has ended.
const MOMENT: Duration = Duration::from_secs(10);

struct Wait<'a> {
    run: &'a RunDirectory,
    record: &'a Record,
    deadline: Option<Instant>,
}

impl Wait<'_> {
    fn left(&self) -> Option<Duration> {
        self.deadline.map(|at| at.saturating_duration_since(Instant::now()))
    }

    fn until(&self, holds: impl FnMut(&Record) -> bool) -> Result<Waited> {
        self.run.wait(&self.record.name, self.left(), holds)
    }

    /// Looks again and again, ever more rarely, for what nobody tells.
    fn look(&self, mut holds: impl FnMut() -> Result<bool>) -> Result<Waited> {
        let mut pause = Duration::from_millis(5);
        loop {
            if holds()? {
                return Ok(Waited::Holds(self.record.clone()));
            }
            let left = self.left();
            if left == Some(Duration::ZERO) {
                return Ok(Waited::Late);
            }
            let patience = left.into_iter().chain([pause]).min();
            let ended = |record: &Record| record.exited.is_some();
            match self.run.wait(&self.record.name, patience, ended)? {
                Waited::Late => {}
                Waited::Holds(record) | Waited::Ended(record) => return Ok(Waited::Ended(record)),
            }
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// The kernel tells of sockets that are closed (sock_diag(7)), and not of new ones.
    fn for_port(&self, number: u16, udp: bool) -> Result<Waited> {
        // It may be about to start.
        let mut pid = self.record.pid;
        self.look(|| {
            pid = pid.or_else(|| self.run.find(&self.record.name).ok()?.pid);
            let Some((pid, _)) = pid else { return Ok(false) };
            Ok(["", "6"].iter().any(|family| {
                let protocol = if udp { "udp" } else { "tcp" };
                let path = format!("/proc/{pid}/net/{protocol}{family}");
                std::fs::read_to_string(path).is_ok_and(|table| listens(&table, number, udp))
            }))
        })
    }

    fn for_unit(&self, unit: &str) -> Result<Waited> {
        let init = service::init_of(self.record)?;
        let boot = self.record.plan.as_ref().and_then(|plan| plan.boot.as_ref());
        let Some(Ready::Notify { bus, .. }) = boot.map(|boot| &boot.ready) else {
            return self.look(|| self.is_active(init, unit)).or_else(|error| self.ended_or(error));
        };
        let whole = if unit.contains('.') { unit.to_owned() } else { format!("{unit}.service") };
        let talked = engine::of(self.record).talk(self.record, bus, &mut |bus| {
            let end = bus.wait_for_unit(&whole).context("cannot wait for the unit")?;
            Ok(if end == UnitEnd::Active { "active" } else { "failed" }.to_owned())
        });
        let visit = match talked {
            Ok(visit) => visit,
            Err(error) => return self.ended_or(error),
        };
        let sources = Sources { descriptor: Some(visit.as_fd()), ..Sources::default() };
        let answered = |_: &Record| is_readable(visit.as_fd());
        let waited = self.run.wait_and_hear(&self.record.name, self.left(), &sources, answered)?;
        if !matches!(waited, Waited::Holds(_)) {
            return Ok(waited);
        }
        match visit.join() {
            Ok(state) if state == "active" => Ok(waited),
            Ok(_) => bail!("{unit} has failed"),
            Err(error) => self.ended_or(error),
        }
    }

    /// A machine that ends takes whoever speaks with it along, and says so itself a moment later.
    fn ended_or(&self, error: anyhow::Error) -> Result<Waited> {
        let ended = |record: &Record| record.exited.is_some();
        match self.run.wait(&self.record.name, Some(MOMENT), ended)? {
            Waited::Late => Err(error),
            Waited::Holds(record) | Waited::Ended(record) => Ok(Waited::Ended(record)),
        }
    }

    fn is_active(&self, init: &dyn distro::init::Init, unit: &str) -> Result<bool> {
        let mut running = self.exec(init.service(unit, Action::Status))?;
        std::io::copy(&mut running.output, &mut std::io::sink())?;
        Ok(running.wait()? == 0)
    }

    fn exec(&self, command: Vec<String>) -> Result<Running> {
        let (user, workdir) = (Some("0:0".into()), Some("/".into()));
        let request = ExecRequest { command, user, workdir, ..ExecRequest::default() };
        harness::exec_beside(self.record, &request)
    }

    fn for_log(&self, regex: &Regex) -> Result<Waited> {
        let path = self.run.log_path(self.record.id());
        let mut console = File::open(&path).ok().map(|file| Lines::new(file, regex));
        let boot = self.record.plan.as_ref().and_then(|plan| plan.boot.as_ref());
        let journals = boot.is_some_and(|boot| matches!(boot.ready, Ready::Notify { .. }));
        let mut journal = match journals.then(|| Journal::follow(self, regex)).transpose() {
            Ok(journal) => journal,
            Err(error) => return self.ended_or(error),
        };
        if console.is_none() && journal.is_none() {
            bail!("the output of {} goes where it was started, and is not kept", self.record.name);
        }
        let file = console.as_ref().map(|_| &*path);
        // A copy, because what it reads is read meanwhile.
        let descriptor = journal.as_ref().map(|journal| journal.lines.from.try_clone());
        let descriptor = descriptor.transpose()?;
        let mut descriptor = descriptor.as_ref().map(AsFd::as_fd);
        loop {
            let sources = Sources { file, descriptor };
            let mut over = false;
            let waited =
                self.run.wait_and_hear(&self.record.name, self.left(), &sources, |_| {
                    let there = console.as_mut().is_some_and(Lines::turn);
                    let told = journal.as_mut().is_some_and(|journal| journal.lines.turn());
                    over = descriptor.is_some()
                        && journal.as_ref().is_none_or(|journal| journal.lines.over);
                    there || told || over
                })?;
            match waited {
                // The journal ends with its machine, or where there is none.
                Waited::Holds(record) if over => {
                    let matches =
                        |lines: &Option<Lines<'_, File>>| lines.as_ref().is_some_and(|l| l.matched);
                    if matches(&console) || journal.as_ref().is_some_and(|j| j.lines.matched) {
                        return Ok(Waited::Holds(record));
                    }
                    descriptor = None;
                }
                other => return Ok(other),
            }
        }
    }
}

/// A line of `/proc/net/tcp` or its like (proc_pid_net(5)): the local port in hex, and the state: 0A
/// is LISTEN, 07 that of an unconnected UDP socket (Linux, include/net/tcp_states.h).
fn listens(table: &str, number: u16, udp: bool) -> bool {
    let state = if udp { "07" } else { "0A" };
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let port = fields.next().and_then(|local| local.rsplit_once(':'));
        let port = port.and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        port == Some(number) && fields.nth(1) == Some(state)
    })
}

fn is_readable(fd: std::os::fd::BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(&fd, PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Looks for a match in lines as they come.
struct Lines<'a, R> {
    from: R,
    regex: &'a Regex,
    /// The last line, as far as it is there.
    rest: Vec<u8>,
    matched: bool,
    over: bool,
}

/// Of a line that does not end, as much is looked at: bytes.
const LONGEST: usize = 1 << 20;

impl<'a, R: Read> Lines<'a, R> {
    fn new(from: R, regex: &'a Regex) -> Self {
        Self { from, regex, rest: Vec::new(), matched: false, over: false }
    }

    /// Reads what is there.
    fn turn(&mut self) -> bool {
        let mut chunk = [0; 16 << 10];
        while !self.matched {
            match self.from.read(&mut chunk) {
                Ok(0) => {
                    self.over = true;
                    break;
                }
                Ok(count) => self.rest.extend_from_slice(&chunk[..count]),
                Err(_) => break,
            }
            // A line that is not whole may match too, as a prompt does.
            self.matched = self.regex.is_match(&String::from_utf8_lossy(&self.rest));
            let keep = self.rest.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
            let keep = keep.max(self.rest.len().saturating_sub(LONGEST));
            self.rest.drain(..keep);
        }
        self.matched
    }
}

/// journalctl(1) inside, ended with this.
struct Journal<'a> {
    lines: Lines<'a, File>,
    _running: Running,
}

impl<'a> Journal<'a> {
    fn follow(wait: &Wait<'_>, regex: &'a Regex) -> Result<Self> {
        let command = ["journalctl", "--no-pager", "-o", "cat", "-n", "all", "-f"];
        let running = wait.exec(command.map(str::to_owned).to_vec())?;
        let from = running.output.try_clone()?;
        let flags = rustix::fs::fcntl_getfl(&from)?;
        rustix::fs::fcntl_setfl(&from, flags | OFlags::NONBLOCK)?;
        Ok(Self { lines: Lines::new(from, regex), _running: running })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_listen() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
            \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n\
            \x20  1: 0100007F:C350 0100007F:1F90 01 00000000:00000000\n";
        assert!(listens(table, 8080, false));
        assert!(!listens(table, 50000, false) && !listens(table, 8080, true));
    }

    #[test]
    fn what_is_waited_for() {
        assert!(matches!("port:53/udp".parse(), Ok(What::Port { number: 53, udp: true })));
        assert!(matches!("log:a:b".parse(), Ok(What::Log(_))));
        for bad in ["port:0", "port:x", "port:1/sctp", "unit:", "log:(", "up", ""] {
            assert!(bad.parse::<What>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lines_match_across_pieces() {
        let regex = Regex::new("(?m)^ab$").unwrap();
        let mut lines = Lines::new(std::io::Cursor::new(b"xab\nab\nabx".to_vec()), &regex);
        assert!(lines.turn());
        let mut lines = Lines::new(std::io::Cursor::new(b"xab\nabx".to_vec()), &regex);
        assert!(!lines.turn() && lines.over);
        assert_eq!(lines.rest, b"abx");
    }
}
