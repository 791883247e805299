//! Runs a further command in a machine.

use anyhow::{Result, bail};
use engine::record::Record;
use engine::{ENGINES, Streams, attend};
use plan::ExecRequest;
use spec::exit::Ended;
use spec::image::Facts;

/// Runs it until its end.
///
/// # Errors
/// [`engine::NotStarted`] where the command was never executed; where the machine has ended.
pub fn exec(record: &Record, request: &ExecRequest) -> Result<Ended> {
    let Some(plan) = &record.plan else { bail!("the machine {} is not up yet", record.name) };
    if record.exited.is_some() {
        bail!("the machine {} has ended", record.name);
    }
    // Names of users are the machine's, as they are now.
    let facts = match &request.user {
        Some(_) => distro::facts::read(&ENGINES[0].root(record)?)?,
        None => Facts::default(),
    };
    let process = plan::exec(plan, &facts, request)?;
    let signals = attend::signals(process.terminal)?;
    let machine = ENGINES[0].exec(record, &process, Streams::default())?;
    let attendance = attend::Attendance {
        signals: &signals,
        interactive: request.interactive,
        timeout: None,
        boot: None,
        up: &mut |_| Ok(()),
        over: &mut |_| {},
    };
    attend::attend(machine, attendance)
}
