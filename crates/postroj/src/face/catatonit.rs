//! catatonit 0.1.7, the init of podman and Kubernetes' pause process.

use std::ffi::OsString;
use std::io;
use std::ops::ControlFlow::{self, Break, Continue};

use engine::init::{self, Habits, OWN_FAULTS};
use rustix::process::{Pid, WaitStatus};
use sys::signals::{self, Set};

use super::getopt::{Grammar, Options};
use super::{Face, LICENCE, reason};

/// The face.
pub(crate) struct Catatonit;

const GRAMMAR: Grammar =
    Grammar { short: "ghLPV", long: &[("version", false, 'V')], permutes: true };

/// What is stopped by a terminal that this init has given away (tty_ioctl(4), TOSTOP). The command
/// has them blocked, as under the original.
const OF_A_TERMINAL: [i32; 3] = [signals::SIGTSTP, signals::SIGTTOU, signals::SIGTTIN];

impl Face for Catatonit {
    fn names(&self) -> &'static [&'static str] {
        &["catatonit"]
    }

    fn run(&self, args: Vec<OsString>) -> u8 {
        let mut it = Supervisor {
            debugs: std::env::var_os("CATATONIT_DEBUG").is_some(),
            group: false,
            command: None,
            code: None,
        };
        if std::env::var_os("CATATONIT_LOG").is_some() {
            return it.fail("CATATONIT_LOG is reserved for future use");
        }
        let mut pauses = false;
        let mut options = Options::new(&GRAMMAR, args);
        while let Some(found) = options.next() {
            match found {
                Ok(('g', _)) => it.group = true,
                Ok(('P', _)) => pauses = true,
                Ok(('h', _)) => {
                    eprintln!("{USAGE}\n{OPTIONS}");
                    return 0;
                }
                Ok(('L', _)) => {
                    print!("{LICENCE}");
                    return 0;
                }
                Ok(_) => {
                    // Docker knows an init by tini's name (moby, daemon/info_unix.go).
                    println!(
                        "tini version 0.1.7_catatonit - postroj {}",
                        env!("CARGO_PKG_VERSION")
                    );
                    return 0;
                }
                Err(error) => {
                    eprintln!("{error}\n{USAGE}");
                    return 1;
                }
            }
        }
        let command = options.operands();
        if command.is_empty() && !pauses {
            let code = it.fail("missing program name");
            eprintln!("{USAGE}");
            return code;
        }
        supervise(it, if pauses { None } else { Some(&command) })
    }
}

const USAGE: &str = "usage: catatonit [-ghLPV] [--] <progname> [<arguments>...]";

const OPTIONS: &str = "
options:
  -g              Forward signals to the process group of the program.
  -h              Print this help page.
  -L              Print license information.
  -P              Run in pause mode (no program is run, quit on SIGINT and SIGTERM).
  -V, --version   Print version information.";

struct Supervisor {
    debugs: bool,
    group: bool,
    /// None in pause mode.
    command: Option<Pid>,
    code: Option<u8>,
}

fn supervise(mut it: Supervisor, command: Option<&[OsString]>) -> u8 {
    let collected = Set::all_but(&OWN_FAULTS);
    let before = collected.block();
    let me = rustix::process::getpid();
    if !me.is_init()
        && let Err(error) = rustix::process::set_child_subreaper(Some(me))
    {
        let why = reason(&error.into());
        return it.fail(&format!("failed to set child-reaper as non-pid1: {why}"));
    }
    if let Some(command) = command {
        let prepare = || {
            activate(me);
            take_terminal(&it)?;
            before.and(&OF_A_TERMINAL).block();
            Continue(())
        };
        let failed =
            |error: &io::Error| it.fail(&format!("failed to exec pid1: {}", reason(error)));
        match init::start(command, prepare, failed) {
            Ok(child) => {
                it.debug(&format!("pid1 ({child}) spawned: {}", command[0].display()));
                it.command = Some(child);
            }
            Err(error) => return it.fail(&format!("failed to fork child: {}", reason(&error))),
        }
    }
    // A reader at the other end of one of the command's must not wait for this one.
    if let Err(error) = sys::process::close_from(3) {
        it.tell("WARN", &format!("failed to close some file descriptor: {}", reason(&error)));
    }
    init::supervise(&collected, &mut it)
}

/// Sockets that were meant for this process are the command's (sd_listen_fds(3)).
fn activate(parent: Pid) {
    let meant = std::env::var("LISTEN_PID").ok().and_then(|pid| pid.trim().parse::<i32>().ok());
    if meant == Some(parent.as_raw_nonzero().get()) {
        // It cannot fail: a child has no other thread.
        let _ = sys::process::set_environment("LISTEN_PID", &rustix::process::getpid().to_string());
    }
}

/// A process group of the child's own, which gets the terminal, whatever standard input is.
fn take_terminal(it: &Supervisor) -> ControlFlow<u8> {
    use rustix::fs::{Mode, OFlags};
    use rustix::io::Errno;
    if rustix::process::setpgid(None, None).is_err() {
        return Break(it.fail("failed to create process group"));
    }
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let terminal = rustix::fs::open("/dev/tty", flags, Mode::empty());
    // Every signal is still blocked here, so it is not stopped for not having it yet.
    let group = rustix::process::getpgrp();
    let handed_over = match &terminal {
        Ok(terminal) => rustix::termios::tcsetpgrp(terminal, group),
        Err(_) => rustix::termios::tcsetpgrp(rustix::stdio::stdin(), group),
    };
    match handed_over {
        Ok(()) => Continue(()),
        Err(Errno::NOTTY | Errno::BADF | Errno::NXIO) => {
            it.debug("setting foreground process failed: no tty present");
            Continue(())
        }
        Err(error) => {
            let why = reason(&error.into());
            Break(it.fail(&format!("setting foreground process failed: {why}")))
        }
    }
}

impl Supervisor {
    fn fail(&self, text: &str) -> u8 {
        self.tell("ERROR", text);
        1
    }

    fn debug(&self, text: &str) {
        if self.debugs {
            self.tell("DEBUG", text);
        }
    }

    fn tell(&self, level: &str, text: &str) {
        if self.debugs || level == "ERROR" {
            eprintln!("{level} (catatonit:{}): {text}", rustix::process::getpid());
        }
    }
}

impl Habits for Supervisor {
    fn signal(&mut self, signal: i32) -> ControlFlow<u8> {
        if OF_A_TERMINAL.contains(&signal) {
            self.debug("ignoring kernel attempting to stop us: tty has TOSTOP set");
            return Continue(());
        }
        let Some(command) = self.command else {
            let ends = matches!(signal, signals::SIGTERM | signals::SIGINT);
            return if ends { Break(0) } else { Continue(()) };
        };
        let pid = command.as_raw_nonzero().get();
        if let Err(error) = signals::send(if self.group { -pid } else { pid }, signal) {
            let why = reason(&error);
            self.tell(
                "WARN",
                &format!("forwarding of signal {signal} to pid1 ({pid}) failed: {why}"),
            );
        }
        Continue(())
    }

    fn reaped(&mut self, pid: Pid, status: WaitStatus) -> ControlFlow<u8> {
        let code = init::code(status);
        match status.terminating_signal() {
            _ if Some(pid) == self.command => self.code = Some(code),
            Some(signal) => {
                self.debug(&format!("child process {pid} exited due to signal {signal}"))
            }
            None => self.debug(&format!("child process {pid} exited with code {code}")),
        }
        Continue(())
    }

    fn rested(&mut self, alone: bool) -> ControlFlow<u8> {
        if alone {
            self.debug("got ECHILD: no children left to monitor");
        }
        self.code.map_or(Continue(()), Break)
    }
}
