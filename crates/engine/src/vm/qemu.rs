//! QEMU as a process: found, started, spoken to, and what its end means.

use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use serde_json::Value;
use sys::process::{Child, Status};

use super::hardware::{Architecture, Hardware, Line};
use super::qmp::{Event, Monitor, Refused};

/// A QEMU that runs. Dropped, it is killed; it dies with the thread that started it, too.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    /// Its control socket.
    pub monitor: Monitor,
    /// What it says where something fails.
    said: OwnedFd,
    taken: bool,
}

/// What the end of a QEMU means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The guest switched itself off.
    PoweredOff,
    /// The guest restarted itself, or its kernel gave up with `panic=-1`; QEMU does not start it again.
    Reset,
    /// The guest's kernel told of its own panic (pvpanic).
    Panicked,
    /// QEMU was told to end: by its control socket, or by this signal that it takes for a wish.
    Told,
    /// QEMU was killed by this signal.
    Killed(u8),
    /// QEMU gave up; why, in its words.
    Failed(String),
}

/// How long QEMU may take from its start to its greeting. It has read no disk by then.
const GREETING: Duration = Duration::from_secs(60);

/// A connection for a machine's [`Line`]: one end to keep, and one for QEMU to inherit.
///
/// # Errors
/// socketpair(2)'s.
pub fn line() -> Result<(UnixStream, OwnedFd, Line)> {
    let (ours, theirs) = UnixStream::pair().context("cannot make a socket for QEMU")?;
    let theirs = OwnedFd::from(theirs);
    let line = Line::Descriptor(theirs.as_raw_fd());
    Ok((ours, theirs, line))
}

/// The program that emulates these machines.
///
/// # Errors
/// Where there is none; says which package has it.
pub fn find(architecture: Architecture) -> Result<PathBuf> {
    let name = architecture.program();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let native = Architecture::host() == Some(architecture);
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        // Where Red Hat's distributions have theirs, which is for the host's architecture.
        .chain(native.then(|| PathBuf::from("/usr/libexec/qemu-kvm")))
        .find(|program| rustix::fs::access(program, rustix::fs::Access::EXEC_OK).is_ok())
        .ok_or_else(|| missing(architecture))
}

fn missing(architecture: Architecture) -> anyhow::Error {
    let (debian, fedora) = match architecture {
        Architecture::X86_64 => ("qemu-system-x86", "qemu-system-x86-core"),
        Architecture::Aarch64 => ("qemu-system-arm", "qemu-system-aarch64-core"),
    };
    anyhow!(
        "there is no {}, which runs virtual machines: install the package {debian} (Debian, Ubuntu) or \
         {fedora} (Fedora)",
        architecture.program()
    )
}

impl Qemu {
    /// Starts a machine. `inherited` are the descriptors that its hardware names by number.
    ///
    /// # Errors
    /// Where there is no QEMU, or it does not take the hardware: in its own words.
    pub fn start(mut hardware: Hardware, inherited: Vec<OwnedFd>) -> Result<Self> {
        let program = find(hardware.architecture)?;
        let (ours, theirs, monitor) = line()?;
        hardware.monitor = monitor;
        let arguments = hardware.arguments()?;
        // It loses what it says rather than wait for a reader: a guest must not fill anybody's memory by
        // warnings that it causes.
        let (said, error) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .context("cannot make a pipe for QEMU's messages")?;
        let mut command = Command::new(&program);
        command.args(&arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::from(error));
        // A terminal's signals are the launcher's to pass on.
        command.process_group(0);
        sys::process::die_with_parent(&mut command);
        // The shim waits for signals on a descriptor; QEMU ends by them.
        sys::process::unblock(&mut command);
        let mut descriptors = inherited;
        descriptors.push(theirs);
        sys::process::hand_over(&mut command, descriptors);
        let started =
            command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let pid = i32::try_from(started.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("QEMU's process id is none")?;
        let child = Child::of(pid).context("cannot refer to QEMU's process")?;
        // With the descriptors that QEMU has now: else nobody sees the other end close.
        drop(command);
        let guard = Guard(Some(child));
        match Monitor::greet(ours, Instant::now() + GREETING) {
            Ok(monitor) => guard.keep(|child| Self { child, monitor, said, taken: false }),
            Err(error) => Err(guard.explain(error, &said)),
        }
    }

    /// Readable when it has ended.
    #[must_use]
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.child.pid()
    }

    /// Gives a command, as [`Monitor::execute`].
    ///
    /// # Errors
    /// As there; where QEMU has ended, in its words.
    pub fn tell(&mut self, command: &str, arguments: Value, until: Instant) -> Result<Value> {
        self.monitor.execute(command, arguments, until).map_err(|error| {
            let words = words(&self.said);
            match error.is::<Refused>() || words.is_empty() {
                true => error,
                false => error.context(words),
            }
        })
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// `ESRCH` when it has ended.
    pub fn signal(&self, signal: i32) -> std::io::Result<()> {
        self.child.signal(signal)
    }

    /// Waits for its end, and says what that means.
    ///
    /// # Errors
    /// Where it cannot be waited for.
    pub fn wait(mut self) -> Result<Ended> {
        let status = self.child.wait().context("cannot wait for QEMU")?;
        self.taken = true;
        let mut events = Vec::new();
        // What it said last is still there; that it has ended is no news.
        while let Ok(Some(event)) = self.monitor.poll_event() {
            events.push(event);
        }
        Ok(meaning(status, &events, &words(&self.said)))
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        if !self.taken {
            kill(&self.child);
        }
    }
}

/// A child that is killed unless it is kept.
struct Guard(Option<Child>);

impl Guard {
    fn keep<T>(mut self, make: impl FnOnce(Child) -> T) -> Result<T> {
        self.0.take().map(make).context("QEMU is gone")
    }

    /// Why there was no greeting: QEMU's own words where it has ended.
    fn explain(self, error: anyhow::Error, said: &OwnedFd) -> anyhow::Error {
        if let Some(child) = &self.0 {
            // It closes its socket a moment before it ends.
            let mut polled = [PollFd::from_borrowed_fd(child.as_fd(), PollFlags::IN)];
            let _ = poll(&mut polled, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
        }
        match words(said) {
            words if words.is_empty() => error.context("QEMU does not start"),
            words => anyhow!("QEMU does not start the machine: {words}"),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(child) = &self.0 {
            kill(child);
        }
    }
}

fn kill(child: &Child) {
    // It has ended already where this fails, and is taken all the same.
    let _ = child.signal(rustix::process::Signal::KILL.as_raw());
    let _ = child.wait();
}

fn meaning(status: Status, events: &[Event], words: &str) -> Ended {
    let reason = events
        .iter()
        .rev()
        .find(|event| event.name == "SHUTDOWN")
        .and_then(|event| event.data["reason"].as_str());
    match (status, reason) {
        (Status::Signalled(signal), _) => Ended::Killed(signal),
        (Status::Exited(0), Some("guest-shutdown")) => Ended::PoweredOff,
        (Status::Exited(0), Some("guest-reset" | "subsystem-reset")) => Ended::Reset,
        (Status::Exited(_), Some("guest-panic")) => Ended::Panicked,
        (Status::Exited(0), _) => Ended::Told,
        (Status::Exited(code), _) if words.is_empty() => {
            Ended::Failed(format!("QEMU ended with exit status {code}"))
        }
        (Status::Exited(_), _) => Ended::Failed(words.to_owned()),
    }
}

/// What was said, on one line, without the program's name.
fn words(said: &OwnedFd) -> String {
    let mut bytes = Vec::new();
    if let Ok(copy) = said.try_clone() {
        // Until nothing is there: it ends by EAGAIN where QEMU still runs.
        let _ = std::fs::File::from(copy).take(64 << 10).read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.trim().trim_start_matches("qemu-system-x86_64: "))
        .map(|line| {
            line.trim_start_matches("qemu-system-aarch64: ").trim_start_matches("qemu-kvm: ")
        })
        .filter(|line| !line.is_empty() && !line.contains("warning:"))
        .collect();
    // The last ones say it; no terminal is to be written to by a guest.
    let last = lines.len().saturating_sub(3);
    lines[last..].join("; ").chars().filter(|c| !c.is_control()).take(1000).collect()
}

/// Whether a file can be read by a QEMU of this user.
///
/// # Errors
/// Names it and the reason.
pub fn readable(file: &Path, what: &str) -> Result<()> {
    match rustix::fs::access(file, rustix::fs::Access::READ_OK) {
        Ok(()) => Ok(()),
        Err(error) => bail!("cannot read {what} {}: {error}", file.display()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_end_is_told_by_its_last_event() {
        let event = |reason: &str| Event {
            name: "SHUTDOWN".into(),
            data: json!({"guest": true, "reason": reason}),
        };
        let of = |code, reason: &str| meaning(Status::Exited(code), &[event(reason)], "");
        assert_eq!(of(0, "guest-shutdown"), Ended::PoweredOff);
        assert_eq!(of(0, "guest-reset"), Ended::Reset);
        assert_eq!(of(0, "guest-panic"), Ended::Panicked);
        assert_eq!(of(0, "host-qmp-quit"), Ended::Told);
        assert_eq!(meaning(Status::Exited(0), &[], ""), Ended::Told);
        assert_eq!(meaning(Status::Signalled(9), &[event("guest-reset")], ""), Ended::Killed(9));
        assert_eq!(meaning(Status::Exited(1), &[], "no disk"), Ended::Failed("no disk".into()));
    }

    #[test]
    fn a_package_is_named_where_there_is_no_qemu() {
        let text = missing(Architecture::Aarch64).to_string();
        assert!(
            text.contains("no qemu-system-aarch64") && text.contains("qemu-system-arm "),
            "{text}"
        );
    }

    #[test]
    fn words_are_on_one_line_and_plain() {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let text = b"qemu-system-x86_64: warning: old\nqemu-system-x86_64: -drive x: \x1b[1mno\n\nsuch file\n";
        rustix::io::write(&write, text).unwrap();
        assert_eq!(words(&read), "-drive x: [1mno; such file");
        assert_eq!(words(&read), "", "and does not wait for more");
    }
}
