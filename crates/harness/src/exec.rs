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
    exec_with(record, request, Streams::default())
}

/// As [`exec`], with other streams than one's own.
///
/// # Errors
/// As [`exec`].
pub fn exec_with(record: &Record, request: &ExecRequest, streams: Streams) -> Result<Ended> {
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
    let machine = ENGINES[0].exec(record, &process, streams)?;
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
