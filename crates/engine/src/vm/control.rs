//! What is done to a virtual machine as a whole, from outside.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

use super::client::{self, Client, Wants};
use super::wire::{Request, Told};
use crate::record::Record;

/// Stops its kernel, or lets it go on: then it is told what time it is, since its clock stood still too.
pub(super) fn hold(record: &Record, still: bool) -> Result<()> {
    ask(record, Request::Hold(still))?;
    if !still {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        ask(record, Request::Clock(now.as_secs() as i64, now.subsec_nanos().into()))?;
    }
    Ok(())
}

/// Sends a virtual machine's command a signal.
///
/// # Errors
/// Where the machine has ended.
pub fn signal(record: &Record, signal: i32) -> Result<()> {
    ask(record, Request::Signal(signal))
}

/// Gives its command's terminal the size of this process's.
pub(super) fn resize(record: &Record) -> Result<()> {
    client::own_size().map_or(Ok(()), |size| ask(record, Request::Window(size)))
}

/// Asks for something that has no answer but that it is done.
fn ask(record: &Record, request: Request) -> Result<()> {
    match Client::open(super::reach(record)?, request, Wants::default())?.last()? {
        Some(Told::Ended(_)) => Ok(()),
        Some(Told::Failed(failure)) => Err(failure.into()),
        Some(_) => bail!("the virtual machine answers what makes no sense"),
        None => Err(client::killed()),
    }
}
