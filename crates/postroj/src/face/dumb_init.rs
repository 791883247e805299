//! dumb-init 1.2.5: signals go to the command's whole session, and may be rewritten on their way.

use std::ffi::OsString;
use std::io;
use std::ops::ControlFlow::{self, Break, Continue};

use engine::init::{self, Habits};
use rustix::process::{Pid, WaitStatus};
use sys::signals::{self, Set};

use super::getopt::{Grammar, Options};
use super::{Face, reason};

/// The face.
pub(crate) struct DumbInit;

const GRAMMAR: Grammar = Grammar {
    short: "hvVcr:",
    long: &[
        ("help", false, 'h'),
        ("single-child", false, 'c'),
        ("rewrite", true, 'r'),
        ("verbose", false, 'v'),
        ("version", false, 'V'),
    ],
    permutes: false,
};

/// Signals that can be rewritten are 1 to 31.
const SIGNALS: usize = 32;

/// By these a terminal stops a process group. A group of its own session is an orphan, which they
/// cannot stop (setpgid(2)), so that SIGSTOP takes their place there.
const STOPS: [i32; 3] = [signals::SIGTSTP, signals::SIGTTOU, signals::SIGTTIN];

impl Face for DumbInit {
    fn names(&self) -> &'static [&'static str] {
        &["dumb-init"]
    }

    fn run(&self, args: Vec<OsString>) -> u8 {
        let name = args.first().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        match parse(&name, args) {
            Ok((it, command)) => supervise(it, &command),
            Err((code, text)) => {
                eprint!("{text}");
                code
            }
        }
    }
}

struct Supervisor {
    debugs: bool,
    session: bool,
    rewritten: [Option<i32>; SIGNALS],
    /// Signals of which the next one is not passed on.
    expected: Vec<i32>,
    command: Option<Pid>,
}

/// The command; or what is to be said instead, and the exit code.
fn parse(name: &str, args: Vec<OsString>) -> Result<(Supervisor, Vec<OsString>), (u8, String)> {
    let mut it = Supervisor {
        debugs: false,
        session: true,
        rewritten: [None; SIGNALS],
        expected: Vec::new(),
        command: None,
    };
    let mut options = Options::new(&GRAMMAR, args);
    while let Some(found) = options.next() {
        match found.map_err(|error| (1, format!("{error}\n")))? {
            ('h', _) => return Err((0, format!("{}Usage: {name} {HELP}", version()))),
            ('V', _) => return Err((0, version())),
            ('v', _) => it.debugs = true,
            ('c', _) => it.session = false,
            (_, value) => {
                let value = value.unwrap_or_default();
                let (from, to) = value.to_str().and_then(rewrite).ok_or((1, REWRITE.to_owned()))?;
                it.rewritten[from] = Some(to);
            }
        }
    }
    let command = options.operands();
    if command.is_empty() {
        let usage =
            format!("Usage: {name} [option] program [args]\nTry {name} --help for full usage.\n");
        return Err((1, usage));
    }
    if std::env::var_os("DUMB_INIT_DEBUG").is_some_and(|v| v == "1") {
        it.debugs = true;
        it.debug("Running in debug mode.");
    }
    if std::env::var_os("DUMB_INIT_SETSID").is_some_and(|v| v == "0") {
        it.session = false;
        it.debug("Not running in setsid mode.");
    }
    if it.session {
        for stop in STOPS {
            it.rewritten[stop as usize].get_or_insert(signals::SIGSTOP);
        }
    }
    Ok((it, command))
}

/// `FROM:TO`, as scanf(3)'s `%d:%d` reads it.
fn rewrite(text: &str) -> Option<(usize, i32)> {
    let (from, to) = text.split_once(':')?;
    let to = to.trim_start();
    let digits = to.bytes().take_while(u8::is_ascii_digit).count();
    let from: usize = from.trim_start().parse().ok()?;
    let to: i32 = to[..digits].parse().ok()?;
    ((1..SIGNALS).contains(&from) && to < SIGNALS as i32).then_some((from, to))
}

fn supervise(mut it: Supervisor, command: &[OsString]) -> u8 {
    let all = Set::all_but(&[]);
    all.block();
    if it.session {
        it.give_up_terminal();
    }
    let prepare = || {
        Set::none().block();
        signals::forget_dispositions();
        if it.session { it.new_session() } else { Continue(()) }
    };
    let failed = |error: &io::Error| {
        it.say(&format!("{}: {}", command[0].display(), reason(error)));
        2
    };
    match init::start(command, prepare, failed) {
        Ok(child) => it.command = Some(child),
        Err(_) => {
            it.say("Unable to fork. Exiting.");
            return 1;
        }
    }
    if let Some(child) = it.command {
        it.debug(&format!("Child spawned with PID {child}."));
    }
    // It must not keep a file system busy that the command wants to unmount.
    if let Err(error) = rustix::process::chdir("/") {
        it.debug(&format!("Unable to chdir(\"/\"): {}", reason(&error.into())));
    }
    init::supervise(&all, &mut it)
}

impl Supervisor {
    /// So that the command's session can have it, and with it job control.
    fn give_up_terminal(&mut self) {
        if let Err(error) = sys::pty::give_up(rustix::stdio::stdin()) {
            let why = reason(&error);
            self.debug(&format!("Unable to detach from controlling tty ({why})."));
        } else if rustix::process::getsid(None) == Ok(rustix::process::getpid()) {
            // The kernel tells a session whose leader gives its terminal up (tty_ioctl(4), TIOCNOTTY).
            self.debug(
                "Detached from controlling tty, ignoring the first SIGHUP and SIGCONT we receive.",
            );
            self.expected.extend([signals::SIGHUP, signals::SIGCONT]);
        } else {
            self.debug("Detached from controlling tty, but was not session leader.");
        }
    }

    fn new_session(&self) -> ControlFlow<u8> {
        if let Err(error) = rustix::process::setsid() {
            self.say(&format!("Unable to setsid ({}). Exiting.", reason(&error.into())));
            return Break(1);
        }
        if let Err(error) = sys::pty::control(rustix::stdio::stdin()) {
            self.debug(&format!("Unable to attach to controlling tty ({}).", reason(&error)));
        }
        self.debug("setsid complete.");
        Continue(())
    }

    fn pass_on(&self, signal: i32) {
        let rewritten = self.rewritten.get(signal as usize).copied().flatten();
        if let Some(to) = rewritten {
            self.debug(&format!("Translating signal {signal} to {to}."));
        }
        let (signal, Some(command)) = (rewritten.unwrap_or(signal), self.command) else { return };
        if signal == 0 {
            self.debug("Not forwarding signal 0 to children (ignored).");
            return;
        }
        let pid = command.as_raw_nonzero().get();
        // They may have ended just now; SIGCHLD follows.
        let _ = signals::send(if self.session { -pid } else { pid }, signal);
        self.debug(&format!("Forwarded signal {signal} to children."));
    }

    fn say(&self, text: &str) {
        eprintln!("[dumb-init] {text}");
    }

    fn debug(&self, text: &str) {
        if self.debugs {
            self.say(text);
        }
    }
}

impl Habits for Supervisor {
    fn signal(&mut self, signal: i32) -> ControlFlow<u8> {
        self.debug(&format!("Received signal {signal}."));
        if let Some(at) = self.expected.iter().position(|s| *s == signal) {
            self.debug(&format!("Ignoring tty hand-off signal {signal}."));
            self.expected.remove(at);
            return Continue(());
        }
        self.pass_on(signal);
        if STOPS.contains(&signal) {
            self.debug("Suspending self due to TTY signal.");
            // It cannot fail.
            let _ = signals::stop_self();
        }
        Continue(())
    }

    fn reaped(&mut self, pid: Pid, status: WaitStatus) -> ControlFlow<u8> {
        let code = init::code(status);
        self.debug(&match status.terminating_signal() {
            Some(signal) => format!("A child with PID {pid} was terminated by signal {signal}."),
            None => format!("A child with PID {pid} exited with exit status {code}."),
        });
        if Some(pid) != self.command {
            return Continue(());
        }
        self.pass_on(signals::SIGTERM);
        self.debug(&format!("Child exited with status {code}. Goodbye."));
        Break(code)
    }
}

fn version() -> String {
    format!("dumb-init v1.2.5 (postroj {})\n", env!("CARGO_PKG_VERSION"))
}

const REWRITE: &str = "Usage: -r option takes <signum>:<signum>, where <signum> is between 1 and 31.\n\
    This option can be specified multiple times.\nUse --help for full usage.\n";

const HELP: &str = "[option] command [[arg] ...]

A process supervisor that forwards signals to children, to be process 1 of a container.

Optional arguments:
   -c, --single-child   Run in single-child mode.
                        In this mode, signals are only proxied to the
                        direct child and not any of its descendants.
   -r, --rewrite s:r    Rewrite received signal s to new signal r before proxying.
                        To ignore (not proxy) a signal, rewrite it to 0.
                        This option can be specified multiple times.
   -v, --verbose        Print debugging information to stderr.
   -h, --help           Print this help message and exit.
   -V, --version        Print the current version and exit.

DUMB_INIT_DEBUG=1 is --verbose, DUMB_INIT_SETSID=0 is --single-child.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewrites_are_pairs_of_signals() {
        for (text, read) in [
            ("15:3", Some((15, 3))),
            ("15:0", Some((15, 0))),
            (" 1: 31x", Some((1, 31))),
            ("0:1", None),
            ("1:32", None),
            ("32:1", None),
            ("1", None),
            ("1:", None),
            ("x:1", None),
        ] {
            assert_eq!(rewrite(text), read, "{text}");
        }
    }
}
