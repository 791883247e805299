//! Plan to Machine: the third waist of the design.
//!
//! An engine makes a machine in two steps, so that something can be attached to
//! its namespaces in between: [`Engine::create`] makes them, with a process that waits;
//! [`Created::start`] lets it go on. Who owns a [`Machine`] is its monitor: when it is
//! dropped, or its process dies, the machine is gone.

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};

use anyhow::Result;
use spec::exit::Ended;
use spec::plan::Plan;
use sys::rooted::Root;

pub mod attach;
pub mod attend;
pub mod bus;
mod container;
pub mod init;
pub mod oci;
pub mod pause;
pub mod pool;
mod ready;
pub mod record;
mod remains;
pub mod rest;
pub mod sandbox;
mod session;
pub mod state;
mod visit;
pub mod vm;
mod wait;

pub use ready::Question;
pub use visit::Visit;
pub use wait::{Sources, Waited};

/// A way to run plans.
pub trait Engine: Sync {
    /// Its name, as `--isolation` takes it.
    fn name(&self) -> &'static str;

    /// Whether its machines run under a kernel of their own, which a plan then names, with the image as
    /// one file system. They have no namespace that a network could be attached to: they are given a
    /// network card with their [`Streams`].
    fn has_own_kernel(&self) -> bool {
        false
    }

    /// Whether it can do what is asked for at all. Pure.
    ///
    /// # Errors
    /// Names what it cannot, and why.
    fn check(&self, request: &spec::request::Request) -> Result<()> {
        let _ = request;
        Ok(())
    }

    /// Makes everything that the plan asks for, up to the point where its process would start.
    ///
    /// With what `remains` of the machine's last run, that is what is written in it.
    ///
    /// # Errors
    /// Names the step that failed and its path. Nothing that was made remains.
    fn create(
        &self,
        plan: &Plan,
        run: &state::RunDirectory,
        streams: Streams,
        remains: Option<Remains>,
    ) -> Result<Box<dyn Created>>;

    /// Starts a further process in a machine that runs. This process itself may be moved
    /// into the machine for it, and be good for nothing else afterwards.
    ///
    /// # Errors
    /// [`NotStarted`] where the command cannot be executed; where the machine has ended.
    fn exec(
        &self,
        record: &record::Record,
        process: &spec::plan::Process,
        streams: Streams,
    ) -> Result<Box<dyn Machine>>;

    /// The root of a machine that runs, as it is now. It is not to be trusted.
    ///
    /// # Errors
    /// Where the machine has ended.
    fn root(&self, record: &record::Record) -> Result<Root>;

    /// One of the machine's processes by its id and pidfd, whose namespaces may be entered.
    ///
    /// # Errors
    /// Where the machine does not run.
    fn process(&self, record: &record::Record) -> Result<(i32, OwnedFd)>;

    /// Does something with a running machine's files as its root user, in a process of its own:
    /// none of the machine's can reach that, and it uses none of the machine's programs.
    ///
    /// # Errors
    /// Where the machine cannot be entered.
    fn visit(&self, record: &record::Record, visitor: &mut Visitor<'_>) -> Result<Visit>;

    /// Does something among a running machine's processes as its root user, as one of them.
    ///
    /// # Errors
    /// Where the machine cannot be entered.
    fn inside(&self, record: &record::Record, visitor: &mut Inside<'_>) -> Result<Visit>;

    /// Speaks with a running machine's systemd at this socket inside, in a process of its own.
    ///
    /// # Errors
    /// Where the machine cannot be entered.
    fn talk(&self, record: &record::Record, socket: &str, talk: &mut Talk<'_>) -> Result<Visit>;

    /// As [`Engine::visit`] or [`Engine::inside`], for what can be named: also where the machine is
    /// under another kernel, whose own copy of this program does it. Its standard input and output are
    /// those of `streams`, where given; of `unused` it keeps no copy.
    ///
    /// # Errors
    /// Where the machine cannot be entered.
    fn errand(
        &self,
        record: &record::Record,
        errand: &'static Errand,
        argument: &str,
        streams: Streams,
        unused: &[BorrowedFd<'_>],
    ) -> Result<Visit> {
        let take = |streams: &Streams| -> Result<()> {
            if let Some(input) = &streams.input {
                rustix::stdio::dup2_stdin(input)?;
            }
            if let Some(output) = &streams.output {
                rustix::stdio::dup2_stdout(output)?;
            }
            // What is open twice is never seen to end.
            unused.iter().for_each(|fd| sys::process::close_copy(*fd));
            streams.input.iter().chain(&streams.output).for_each(|fd| {
                sys::process::close_copy(std::os::fd::AsFd::as_fd(fd));
            });
            Ok(())
        };
        match errand.work {
            Work::Files(work) => self.visit(record, &mut |root| {
                take(&streams)?;
                work(argument, root)
            }),
            Work::Inside(work) => self.inside(record, &mut || {
                take(&streams)?;
                work(argument)
            }),
            // Who shares a kernel with the machine does it without a messenger.
            Work::Written(_) => anyhow::bail!("{} is not done by a messenger here", errand.name),
        }
    }

    /// Stops the machine's own kernel, or lets it go on; tells whether it has one. Nothing is done in such a
    /// machine while it stands.
    ///
    /// # Errors
    /// Where the machine has ended.
    fn hold(&self, record: &record::Record, still: bool) -> Result<bool> {
        let _ = (record, still);
        Ok(false)
    }

    /// Gives a machine's terminal the size of this process's, where it is under another kernel.
    ///
    /// # Errors
    /// Where the machine has ended.
    fn resize(&self, record: &record::Record) -> Result<()> {
        let _ = record;
        Ok(())
    }

    /// Processes of this host that run a machine's kernel, where it has one of its own, by their ids.
    fn carriers(&self, _record: &record::Record) -> Vec<i32> {
        Vec::new()
    }

    /// Kills what runs in a machine, so that it can run again with what was written in it.
    ///
    /// # Errors
    /// Where the machine has ended.
    fn end_command(&self, run: &state::RunDirectory, record: &record::Record) -> Result<()> {
        run.signal(record, sys::signals::SIGKILL)
    }

    /// Moves this process into a machine, as root with every right that there is inside: for
    /// looking at it with code of our own. Of its process ids only children made from now on
    /// are, and they are not confined: nothing of the image may be executed by them.
    ///
    /// # Errors
    /// Where the machine has ended.
    fn enter(&self, record: &record::Record) -> Result<()>;
}

/// Something that this program does in machines, by a name that it has in every copy of it.
pub struct Errand {
    /// Unique.
    pub name: &'static str,
    /// What it is.
    pub work: Work,
}

/// What an [`Errand`] does with its argument; the text is its answer.
pub enum Work {
    /// With the machine's files: see [`Engine::visit`].
    Files(fn(&str, &Root) -> Result<String>),
    /// Among its processes: see [`Engine::inside`].
    Inside(fn(&str) -> Result<String>),
    /// Beside it, with its record: what is written in it can be looked at from there. Only for machines
    /// with a kernel of their own, under that.
    Written(fn(&str, &state::RunDirectory, &record::Record) -> Result<String>),
}

/// What [`Engine::inside`] does; the text is its answer.
pub type Inside<'a> = dyn FnMut() -> Result<String> + 'a;

/// What [`Engine::talk`] says; the text is its answer.
pub type Talk<'a> = dyn FnMut(&mut bus::Bus<std::os::unix::net::UnixStream>) -> Result<String> + 'a;

/// What [`Engine::visit`] does with the machine's root; the text is its answer.
pub type Visitor<'a> = dyn FnMut(&Root) -> Result<String> + 'a;

/// What leads out of a machine. Its standard streams, where it has no terminal, are the launcher's own
/// unless something else is given. `Plan` says whether there is an input at all.
#[derive(Debug, Default)]
pub struct Streams {
    /// Standard input.
    pub input: Option<OwnedFd>,
    /// Standard output.
    pub output: Option<OwnedFd>,
    /// Standard error.
    pub error: Option<OwnedFd>,
    /// Of a machine that has a kernel of its own: its network card's.
    pub card: Option<Card>,
}

/// The outer end of a network card.
#[derive(Debug)]
pub struct Card {
    /// What [`Interface::end`](spec::network::Interface::end) says.
    pub end: OwnedFd,
    /// The card, as the guest sees it.
    pub interface: spec::network::Interface,
}

/// A machine whose process waits to be started.
pub trait Created {
    /// What the user should know of how the plan is carried out here, on one line.
    fn remark(&self) -> Option<&str>;

    /// Its first process, in the launcher's process ids: what waits, in the machine's namespaces.
    fn process_id(&self) -> i32;

    /// The same as a descriptor (pidfd_open(2)), with which its namespaces can be entered.
    fn process(&self) -> BorrowedFd<'_>;

    /// Lets the process start.
    ///
    /// # Errors
    /// As for [`Engine::create`].
    fn start(self: Box<Self>) -> Result<Box<dyn Machine>>;
}

/// A running machine.
pub trait Machine {
    /// Readable when the machine has ended.
    fn ended(&self) -> BorrowedFd<'_>;

    /// Waits until its command has been executed, or could not be.
    ///
    /// # Errors
    /// [`NotStarted`] where it could not be.
    fn executed(&self) -> Result<()>;

    /// The machine's end of its terminal, where the plan asked for one.
    fn terminal(&self) -> Option<BorrowedFd<'_>>;

    /// Gives its terminal the size of this one.
    ///
    /// # Errors
    /// Where one of them is hung up.
    fn resize(&self, like: BorrowedFd<'_>) -> Result<()> {
        self.terminal().map_or(Ok(()), |own| Ok(sys::pty::copy_size(like, own)?))
    }

    /// Its first process, in the launcher's process ids.
    fn process_id(&self) -> i32;

    /// The directory that holds what is written in it, where that is its own.
    fn scratch(&self) -> Option<BorrowedFd<'_>>;

    /// Readable when a booted system tells something of itself (sd_notify(3)).
    fn notifications(&self) -> Option<BorrowedFd<'_>>;

    /// Readable when system calls of the machine wait for [`Machine::answer`]; hung up when nobody is
    /// left who could make one. To be polled itself: who waits for it by epoll(7) is woken on another
    /// processor than the caller's, which costs several times the call.
    fn calls(&self) -> Option<BorrowedFd<'_>>;

    /// Answers what waits, or begins to.
    ///
    /// # Errors
    /// Where none can be answered any more.
    fn answer(&self) -> Result<()>;

    /// Readable when something is to be done for calls that are not answered yet.
    fn requests(&self) -> Option<BorrowedFd<'_>>;

    /// Does it.
    ///
    /// # Errors
    /// As [`Machine::answer`].
    fn serve(&self) -> Result<()>;

    /// Asks a booted system how it is, at this socket inside.
    ///
    /// # Errors
    /// Where the machine cannot be entered.
    fn ask(&self, socket: &str) -> Result<Question>;

    /// Starts a command as root inside, in the background, with the machine's own rights.
    ///
    /// # Errors
    /// Where the machine cannot be entered.
    fn run_inside(&self, command: &[String]) -> Result<()>;

    /// Sends its main process a signal that has its usual effect even though the kernel
    /// spares a process 1: one that would end it by default does.
    ///
    /// # Errors
    /// The system call's.
    fn signal(&self, signal: i32) -> Result<()>;

    /// As [`Machine::wait`], and leaves what was written, where it is the machine's own.
    ///
    /// # Errors
    /// As there.
    fn wait_and_keep(
        self: Box<Self>,
        over: &mut dyn FnMut(Ended) -> Ended,
    ) -> Result<(Ended, Option<Remains>)>;

    /// Waits for its end, of which `over` hears while the machine is still recorded, and
    /// which it may see otherwise.
    ///
    /// # Errors
    /// [`NotStarted`] where its command was never executed.
    fn wait(self: Box<Self>, over: &mut dyn FnMut(Ended) -> Ended) -> Result<Ended> {
        self.wait_and_keep(over).map(|(ended, _)| ended)
    }
}

pub use remains::Remains;

/// Why a machine's command was not executed.
#[derive(Debug)]
pub struct NotStarted {
    /// What this means for an exit code.
    pub kind: NotStartedKind,
    /// Operation, path and reason, on one line.
    pub text: String,
    /// What could be done about it.
    pub hint: Option<String>,
}

/// What a face must distinguish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotStartedKind {
    /// There is no such command in the image.
    NotFound,
    /// It is there but cannot be executed.
    NotExecutable,
    /// The machine could not be set up.
    Setup,
}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

impl std::error::Error for NotStarted {}

pub use container::explain_map;

/// Every engine there is; the first is the default.
pub const ENGINES: &[&dyn Engine] = &[&container::Container, &vm::Vm];

/// The engine of that name; the default where it is empty.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static dyn Engine> {
    let chosen = |engine: &&&dyn Engine| name.is_empty() || engine.name() == name;
    ENGINES.iter().find(chosen).copied()
}

/// The engine that a machine was made by.
#[must_use]
pub fn of(record: &record::Record) -> &'static dyn Engine {
    let name = record.plan.as_ref().map_or("", |plan| &plan.isolation);
    // A record of a later version, perhaps: then what is tried fails, and says why.
    by_name(name).unwrap_or(ENGINES[0])
}
