//! A unit is active.

use anyhow::{Result, bail};

use super::super::Phase;
use super::super::inside::{Ask, Waited};
use super::{Finding, Probe, Scene};

struct Unit {
    name: String,
}

pub(super) fn parse(text: &str) -> Result<Box<dyn Probe>> {
    if text.is_empty() || text.contains('/') {
        bail!("{text:?} is no name of a unit");
    }
    let name = if text.contains('.') { text.to_owned() } else { format!("{text}.service") };
    Ok(Box::new(Unit { name }))
}

impl Probe for Unit {
    fn title(&self) -> String {
        format!("unit {}", self.name)
    }

    fn is_due(&self, after: Phase) -> bool {
        after.installs()
    }

    fn check(&self, scene: &mut Scene<'_>) -> Result<Finding> {
        let (timeout, quiet) = (scene.timeout(), scene.quiet());
        let ask = Ask::Unit { name: self.name.clone(), timeout, quiet };
        let waited: Waited = scene.machine.ask(&ask)?;
        if waited.good {
            return Ok(Finding::pass(waited.seen));
        }
        let seen = match waited.late {
            true => format!("{} after {} s", waited.seen, scene.wish.timeout),
            false => waited.seen,
        };
        let cause = scene.journal_of(&self.name);
        Ok(Finding::fail("active", seen, cause))
    }
}
