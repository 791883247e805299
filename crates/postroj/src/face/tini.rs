//! tini 0.19 and what is called by its name in Docker; and `postroj init`, which has its options.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::ops::ControlFlow::{self, Break, Continue};

use engine::init::{self, Habits, OWN_FAULTS};
use rustix::process::{Pid, Signal, WaitStatus};
use sys::signals::{self, Disposition, Set};

use super::getopt::{Grammar, Options};
use super::{Face, LICENCE, reason};

/// The face.
pub(crate) struct Tini {
    names: &'static [&'static str],
    verbs: &'static [&'static str],
    /// How its messages name it.
    called: &'static str,
    grammar: Grammar,
}

const LETTERS: &str = "p:hvwgle:s";

impl Tini {
    /// By tini's own name. It takes options after the program as its own, if no `--` is before
    /// them, as does the original.
    pub(crate) const ORIGINAL: Self = Self {
        names: &["tini", "tini-static", "docker-init"],
        verbs: &[],
        called: "tini",
        grammar: Grammar { short: LETTERS, long: &[], permutes: true },
    };

    /// `postroj init`.
    pub(crate) const OWN: Self = Self {
        names: &["postroj-init"],
        verbs: &["init"],
        called: "init",
        grammar: Grammar { short: LETTERS, long: &[("help", false, 'h')], permutes: false },
    };
}

impl Face for Tini {
    fn names(&self) -> &'static [&'static str] {
        self.names
    }

    fn verbs(&self) -> &'static [&'static str] {
        self.verbs
    }

    fn run(&self, args: Vec<OsString>) -> u8 {
        let name = args.first().cloned().unwrap_or_default();
        if args.len() == 2 && args[1] == "--version" {
            say(&version());
            return 0;
        }
        match parse(self, args) {
            Ok((habits, command)) => supervise(habits, &command),
            Err(End::Told) => 0,
            Err(End::Help) => {
                say(&usage(&name, self));
                0
            }
            Err(End::Usage) => {
                eprint!("{}", usage(&name, self));
                1
            }
            Err(End::Wrong) => 1,
        }
    }
}

/// Why no command is run.
enum End {
    /// All was said that was asked for.
    Told,
    Help,
    Usage,
    Wrong,
}

/// How much is said, each with what is before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Fatal,
    Warning,
    Info,
    Debug,
    Trace,
}

struct Supervisor {
    called: &'static str,
    verbosity: u32,
    subreaper: bool,
    parent_death_signal: Option<i32>,
    group: bool,
    warn_on_reap: bool,
    /// Exit codes that count as success.
    expected: [bool; 256],
    command: Option<Pid>,
    code: Option<u8>,
}

fn parse(face: &Tini, args: Vec<OsString>) -> Result<(Supervisor, Vec<OsString>), End> {
    let mut it = Supervisor {
        called: face.called,
        verbosity: 1,
        subreaper: false,
        parent_death_signal: None,
        group: false,
        warn_on_reap: false,
        expected: [false; 256],
        command: None,
        code: None,
    };
    let mut options = Options::new(&face.grammar, args);
    while let Some(found) = options.next() {
        let (letter, value) = found.map_err(|error| {
            eprintln!("{error}");
            End::Usage
        })?;
        let value = value.unwrap_or_default();
        match letter {
            'h' => return Err(End::Help),
            'l' => {
                say(LICENCE);
                return Err(End::Told);
            }
            's' => it.subreaper = true,
            'v' => it.verbosity += 1,
            'w' => it.warn_on_reap = true,
            'g' => it.group = true,
            'p' => {
                let name = value.to_str().and_then(|v| v.strip_prefix("SIG"));
                let signal = name.filter(|n| !n.starts_with("RT")).and_then(signals::by_name);
                it.parent_death_signal = Some(signal.ok_or_else(|| it.wrong("-p", &value))?);
            }
            _ => {
                let code = value.to_str().and_then(|v| v.trim_start().parse::<u8>().ok());
                let code = code.ok_or_else(|| it.wrong("-e", &value))?;
                it.expected[usize::from(code)] = true;
            }
        }
    }
    it.subreaper |= std::env::var_os("TINI_SUBREAPER").is_some();
    it.group |= std::env::var_os("TINI_KILL_PROCESS_GROUP").is_some();
    if let Some(level) = std::env::var_os("TINI_VERBOSITY") {
        it.verbosity = number_before_text(&level.to_string_lossy()) as u32;
    }
    match options.operands() {
        none if none.is_empty() => Err(End::Usage),
        command => Ok((it, command)),
    }
}

/// As atoi(3) reads it.
fn number_before_text(text: &str) -> i64 {
    let text = text.trim_start();
    let sign = usize::from(text.starts_with(['-', '+']));
    let digits = text[sign..].bytes().take_while(u8::is_ascii_digit).count();
    text[..sign + digits].parse().unwrap_or(0)
}

fn supervise(mut it: Supervisor, command: &[OsString]) -> u8 {
    let own: Vec<i32> = [&OWN_FAULTS[..], &[signals::SIGTTIN, signals::SIGTTOU]].concat();
    let collected = Set::all_but(&own);
    let before = collected.block();
    // The command's group gets the terminal, and writing to that must not stop this one (TOSTOP).
    let ignored = [signals::SIGTTIN, signals::SIGTTOU].map(|s| Disposition::change(s, true));
    if let Err(error) = it.take_place() {
        it.tell(Level::Fatal, &error);
        return 1;
    }
    let prepare = || {
        isolate(&it)?;
        before.block();
        ignored.iter().flatten().for_each(Disposition::restore);
        Continue(())
    };
    let failed = |error: &io::Error| {
        it.tell(Level::Fatal, &format!("exec {} failed: {}", command[0].display(), reason(error)));
        match error.kind() {
            io::ErrorKind::NotFound => spec::exit::NOT_FOUND,
            io::ErrorKind::PermissionDenied => spec::exit::NOT_EXECUTABLE,
            _ => 1,
        }
    };
    match init::start(command, prepare, failed) {
        Ok(child) => {
            let text =
                format!("Spawned child process '{}' with pid '{child}'", command[0].display());
            it.tell(Level::Info, &text);
            it.command = Some(child);
            init::supervise(&collected, &mut it)
        }
        Err(error) => {
            it.tell(Level::Fatal, &format!("fork failed: {}", reason(&error)));
            1
        }
    }
}

/// A process group of the child's own, with the terminal if there is one. Done by the child: were it
/// the parent, an init that runs another would take the terminal from the inner one again.
fn isolate(it: &Supervisor) -> ControlFlow<u8> {
    use rustix::io::Errno;
    let wrong = |what: &str, error: Errno| {
        it.tell(Level::Fatal, &format!("{what} failed: {}", reason(&error.into())));
        Break(1)
    };
    if let Err(error) = rustix::process::setpgid(None, None) {
        return wrong("setpgid", error);
    }
    match rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpgrp()) {
        Ok(()) => Continue(()),
        Err(error @ (Errno::NOTTY | Errno::NXIO)) => {
            let text = format!("tcsetpgrp failed: {} (ok to proceed)", reason(&error.into()));
            it.tell(Level::Debug, &text);
            Continue(())
        }
        Err(error) => wrong("tcsetpgrp", error),
    }
}

impl Supervisor {
    /// Becomes what orphans are given to, as far as asked for.
    fn take_place(&self) -> Result<(), String> {
        if let Some(signal) = self.parent_death_signal {
            let signal = Signal::from_named_raw(signal);
            rustix::process::set_parent_process_death_signal(signal).map_err(|error| {
                format!("Failed to set up parent death signal: {}", reason(&error.into()))
            })?;
        }
        let me = rustix::process::getpid();
        if self.subreaper {
            rustix::process::set_child_subreaper(Some(me)).map_err(|error| {
                format!("Failed to register as child subreaper: {}", reason(&error.into()))
            })?;
            self.tell(Level::Trace, "Registered as child subreaper");
        } else if !me.is_init() && matches!(rustix::process::child_subreaper(), Ok(None)) {
            self.tell(Level::Warning, NO_ORPHANS);
        }
        Ok(())
    }

    fn wrong(&self, option: &str, value: &OsStr) -> End {
        self.tell(Level::Fatal, &format!("Not a valid option for {option}: {}", value.display()));
        End::Wrong
    }

    /// Information goes to standard output, as tini's does.
    fn tell(&self, level: Level, text: &str) {
        if level != Level::Fatal && self.verbosity < level as u32 {
            return;
        }
        let label = match level {
            Level::Fatal => "FATAL",
            Level::Warning => "WARN ",
            Level::Info => "INFO ",
            Level::Debug => "DEBUG",
            Level::Trace => "TRACE",
        };
        let line = format!("[{label} {} ({})] {text}\n", self.called, rustix::process::getpid());
        match level {
            Level::Fatal | Level::Warning => eprint!("{line}"),
            _ => say(&line),
        }
    }
}

const NO_ORPHANS: &str = "Tini is not running as PID 1 and isn't registered as a child subreaper.\n\
    Zombie processes will not be re-parented to Tini, so zombie reaping won't work.\n\
    To fix the problem, use the -s option or set the environment variable TINI_SUBREAPER to \
    register Tini as a child subreaper, or run Tini as PID 1.";

impl Habits for Supervisor {
    fn signal(&mut self, signal: i32) -> ControlFlow<u8> {
        self.tell(Level::Debug, &format!("Passing signal: '{}'", signals::describe(signal)));
        let Some(command) = self.command else { return Continue(()) };
        let pid = command.as_raw_nonzero().get();
        match signals::send(if self.group { -pid } else { pid }, signal) {
            Ok(()) => Continue(()),
            Err(error)
                if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::SRCH) =>
            {
                self.tell(Level::Warning, "Child was dead when forwarding signal");
                Continue(())
            }
            Err(error) => {
                let text = format!("Unexpected error when forwarding signal: '{}'", reason(&error));
                self.tell(Level::Fatal, &text);
                Break(1)
            }
        }
    }

    fn reaped(&mut self, pid: Pid, status: WaitStatus) -> ControlFlow<u8> {
        self.tell(Level::Debug, &format!("Reaped child with pid: '{pid}'"));
        if Some(pid) != self.command {
            if self.warn_on_reap {
                self.tell(Level::Warning, &format!("Reaped zombie process with pid={pid}"));
            }
            return Continue(());
        }
        let code = init::code(status);
        let how = match status.terminating_signal() {
            Some(signal) => format!("with signal (with signal '{}')", signals::describe(signal)),
            None => format!("normally (with status '{code}')"),
        };
        self.tell(Level::Info, &format!("Main child exited {how}"));
        self.code = Some(if self.expected[usize::from(code)] { 0 } else { code });
        Continue(())
    }

    fn rested(&mut self, alone: bool) -> ControlFlow<u8> {
        let text = if alone { "No child to wait" } else { "No child to reap" };
        self.tell(Level::Trace, text);
        match self.code {
            Some(code) => {
                self.tell(Level::Trace, "Exiting: child has exited");
                Break(code)
            }
            None => Continue(()),
        }
    }
}

fn say(text: &str) {
    // Whoever closed it does not want to hear.
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

/// Docker looks for the words before the dash (moby, daemon/info_unix.go, `parseInitVersion`).
fn version() -> String {
    format!("tini version 0.19.0 - postroj {}\n", env!("CARGO_PKG_VERSION"))
}

fn usage(name: &OsStr, face: &Tini) -> String {
    let name = match face.verbs {
        [verb] => format!("postroj {verb}"),
        _ => std::path::Path::new(name).file_name().unwrap_or(name).display().to_string(),
    };
    format!(
        "{name} ({})\n\
         Usage: {name} [OPTIONS] [--] PROGRAM [ARGS] | --version\n\n\
         Run a program under an init that reaps orphans and passes signals on\n\n\
         Command line options:\n\n  \
         --version: Show version and exit.\n  \
         -h: Show this help message and exit.\n  \
         -s: Register as a process subreaper.\n  \
         -p SIGNAL: Trigger SIGNAL when parent dies, e.g. \"-p SIGKILL\".\n  \
         -v: Generate more verbose output. Repeat up to 3 times.\n  \
         -w: Print a warning when processes are getting reaped.\n  \
         -g: Send signals to the child's process group.\n  \
         -e EXIT_CODE: Remap EXIT_CODE (from 0 to 255) to 0 (can be repeated).\n  \
         -l: Show license and exit.\n\n\
         Environment variables:\n\n  \
         TINI_SUBREAPER: Register as a process subreaper.\n  \
         TINI_VERBOSITY: Set the verbosity level (default: 1).\n  \
         TINI_KILL_PROCESS_GROUP: Send signals to the child's process group.\n\n",
        version().trim_end(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_up_to_what_is_none() {
        for (text, number) in [("2", 2), (" 3x", 3), ("-1", -1), ("x", 0), ("", 0), ("+4 5", 4)] {
            assert_eq!(number_before_text(text), number, "{text}");
        }
    }
}
