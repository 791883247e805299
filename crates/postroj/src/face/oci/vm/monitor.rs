//! The processes that a caller of the runtime knows: of a machine, and of what is executed in it.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use engine::record::{About, Record};
use engine::state::RunDirectory;
use engine::{NotStarted, NotStartedKind, Streams, attend};
use harness::Launch;
use rustix::process::Pid;
use spec::exit;
use sys::process::{self, Namespaces};

use super::configuration::Prepared;
use super::place::{Listener, Starter};

/// A machine that is to be.
pub(super) struct Monitored<'a> {
    pub(super) prepared: &'a Prepared,
    pub(super) run: &'a RunDirectory,
    /// The socket that gets its terminal's other end.
    pub(super) console: Option<&'a Path>,
    pub(super) warn: &'a dyn Fn(&str),
}

impl Monitored<'_> {
    /// Makes the machine, whose process then waits for its start.
    ///
    /// # Errors
    /// Where it could not be made: then nothing remains of it.
    pub(super) fn start(&self, listener: Listener) -> Result<Pid> {
        in_background(|report| self.carry_out(&listener, report))
    }

    fn carry_out(&self, listener: &Listener, report: Report) -> Result<u8> {
        let mut plan = self.prepared.plan.clone();
        if let Some(parts) = &mut plan.own_kernel {
            // Who made the plan ends before QEMU has read it.
            parts.initramfs = self.prepared.held.initramfs();
        }
        let plan = &plan;
        if plan.process.terminal {
            console(self.console)?;
        }
        let (report, starter) = (RefCell::new(report), RefCell::new(None::<Starter>));
        let ended = harness::launch(Launch {
            plan,
            run: self.run,
            about: &About {
                image: String::new(),
                created: engine::state::now(),
                detached: true,
                member: None,
            },
            streams: Streams::default(),
            input: None,
            interactive: plan.process.terminal,
            remark: &mut |text| (self.warn)(text),
            created: &mut || {
                report.borrow_mut().tell(Ok(()));
                *starter.borrow_mut() = Some(listener.accept()?);
                Ok(())
            },
            started: &mut || {
                drop(starter.borrow_mut().take());
                Ok(())
            },
            up: &mut |_| Ok(()),
        });
        match ended {
            Ok(ended) => Ok(ended.code()),
            Err(error) => {
                if let Some(starter) = starter.borrow_mut().take() {
                    starter.fail(&error);
                }
                report.borrow_mut().tell(Err(&error));
                Ok(code_of(&error))
            }
        }
    }
}

/// A further process in a machine.
pub(super) struct Execution<'a> {
    pub(super) record: &'a Record,
    pub(super) process: spec::plan::Process,
    /// The socket that gets its terminal's other end.
    pub(super) console: Option<&'a Path>,
    pub(super) warn: &'a dyn Fn(&str),
}

impl Execution<'_> {
    /// Runs it in the background, once it is executed.
    ///
    /// # Errors
    /// Where it could not be.
    pub(super) fn start(&self) -> Result<Pid> {
        in_background(|mut report| {
            if self.process.terminal {
                console(self.console)?;
            }
            self.attend(&mut || report.tell(Ok(())))
        })
    }

    /// Runs it until its end; gives its code.
    ///
    /// # Errors
    /// Where it could not be executed.
    pub(super) fn run(&self) -> Result<u8> {
        if self.process.terminal && self.console.is_some() {
            (self.warn)("the console socket is passed over: the process stays in front");
        }
        self.attend(&mut || {})
    }

    fn attend(&self, executed: &mut dyn FnMut()) -> Result<u8> {
        let signals = attend::signals(self.process.terminal)?;
        let machine =
            engine::of(self.record).exec(self.record, &self.process, Streams::default())?;
        machine.executed()?;
        executed();
        let attendance = attend::Attendance {
            signals: &signals,
            interactive: self.process.terminal,
            timeout: None,
            boot: None,
            up: &mut |_| Ok(()),
            again: &mut |_| false,
            over: &mut |_| {},
        };
        match attend::attend(machine, attendance)? {
            attend::Over::Ended(ended) => Ok(ended.code()),
            attend::Over::Again(_) => bail!("a command does not run again"),
        }
    }
}

/// A process in the background tells by this whether it got as far as it should, once.
struct Report(Option<File>);

impl Report {
    fn tell(&mut self, how: Result<(), &anyhow::Error>) {
        let Some(mut file) = self.0.take() else { return };
        let text = how.err().map_or_else(|| "+".to_owned(), |error| format!("-{error:#}"));
        // Whoever started it may be gone.
        let _ = file.write_all(&text.as_bytes()[..text.len().min(LONGEST)]);
    }
}

/// Makes a process that leaves this one's session, and outlives it; waits until it has reported.
fn in_background(work: impl FnOnce(Report) -> Result<u8>) -> Result<Pid> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let last = writer.try_clone()?;
    let child = process::spawn(Namespaces::NONE, None, || {
        process::close_copy(reader.as_fd());
        let _ = rustix::process::setsid();
        let done = work(Report(Some(writer.into())));
        let code = done.unwrap_or_else(|error| {
            Report(Some(last.into())).tell(Err(&error));
            code_of(&error)
        });
        process::exit_now(code);
    })
    .context("cannot make a process for the virtual machine")?;
    // Written at once (pipe(7), `PIPE_BUF`); it is not closed before the machine's end.
    let mut said = [0; LONGEST];
    let length = File::from(reader).read(&mut said).context("cannot hear from the machine")?;
    match said[..length].split_first() {
        Some((b'+', _)) => Ok(child.pid()),
        Some((_, error)) => {
            let _ = child.wait();
            bail!("{}", String::from_utf8_lossy(error))
        }
        None => bail!("the process that was to make the virtual machine was killed"),
    }
}

/// Longest report: bytes.
const LONGEST: usize = 4096;

fn code_of(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<NotStarted>().map(|why| why.kind) {
        Some(NotStartedKind::NotFound) => exit::NOT_FOUND,
        Some(NotStartedKind::NotExecutable) => exit::NOT_EXECUTABLE,
        _ => exit::FAILED,
    }
}

/// A terminal of this process's own, whose other end goes to a socket; from there it is also given its size.
fn console(socket: Option<&Path>) -> Result<()> {
    let socket = socket
        .context("process.terminal is set, but there is no --console-socket to send it to")?;
    let flags = rustix::pty::OpenptFlags::RDWR
        | rustix::pty::OpenptFlags::NOCTTY
        | rustix::pty::OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags).context("cannot make a terminal")?;
    let (master, slave): (OwnedFd, OwnedFd) =
        sys::pty::open(master).context("cannot make a terminal")?;
    sys::pty::control(slave.as_fd()).context("cannot have the terminal")?;
    engine::oci::send_terminal(socket, master.as_fd())?;
    rustix::stdio::dup2_stdin(&slave)?;
    rustix::stdio::dup2_stdout(&slave)?;
    rustix::stdio::dup2_stderr(&slave)?;
    Ok(())
}
