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

pub mod attend;
mod container;
mod rest;
pub mod state;

/// A way to run plans.
pub trait Engine: Sync {
    /// Its name, as `--isolation` takes it.
    fn name(&self) -> &'static str;

    /// Makes everything that the plan asks for, up to the point where its process would start.
    ///
    /// # Errors
    /// Names the step that failed and its path. Nothing that was made remains.
    fn create(
        &self,
        plan: &Plan,
        run: &state::RunDirectory,
        streams: Streams,
    ) -> Result<Box<dyn Created>>;
}

/// Where a machine's standard streams lead, where it has no terminal: the launcher's own
/// streams unless something else is given. `Plan` says whether there is an input at all.
#[derive(Debug, Default)]
pub struct Streams {
    /// Standard input.
    pub input: Option<OwnedFd>,
    /// Standard output.
    pub output: Option<OwnedFd>,
    /// Standard error.
    pub error: Option<OwnedFd>,
}

/// A machine whose process waits to be started.
pub trait Created {
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

    /// The machine's end of its terminal, where the plan asked for one.
    fn terminal(&self) -> Option<BorrowedFd<'_>>;

    /// Sends its main process a signal that has its usual effect even though the kernel
    /// spares a process 1: one that would end it by default does.
    ///
    /// # Errors
    /// The system call's.
    fn signal(&self, signal: i32) -> Result<()>;

    /// Waits for its end.
    ///
    /// # Errors
    /// [`NotStarted`] where its command was never executed.
    fn wait(self: Box<Self>) -> Result<Ended>;
}

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
pub const ENGINES: &[&dyn Engine] = &[&container::Container];
