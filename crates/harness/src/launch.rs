//! Runs a plan on an engine.

use std::time::Duration;

use anyhow::Result;
use engine::state::RunDirectory;
use engine::{ENGINES, Streams, attend};
use spec::exit::Ended;
use spec::plan::Plan;

/// How a plan is to be run in the foreground.
pub struct Launch<'a> {
    /// What to run.
    pub plan: &'a Plan,
    /// Where machines are recorded.
    pub run: &'a RunDirectory,
    /// Told once the machine exists, before its command starts.
    pub created: &'a mut dyn FnMut(&Plan) -> Result<()>,
}

/// Runs it until its end.
///
/// # Errors
/// [`engine::NotStarted`] where the command was never executed, else what postroj itself failed at.
pub fn launch(launch: Launch<'_>) -> Result<Ended> {
    let Launch { plan, run, created } = launch;
    let signals = attend::signals(plan.process.terminal)?;
    let waiting = ENGINES[0].create(plan, run, Streams::default())?;
    created(plan)?;
    let machine = waiting.start()?;
    let timeout = plan.timeout.map(Duration::from_secs);
    attend::attend(machine, &signals, plan.process.stdin, timeout)
}
