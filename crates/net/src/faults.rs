//! What does not pass between machines: those that are cut off from each other.

use anyhow::{Context, Result};

use crate::lease::Directory;
use crate::rules::{Hook, Part, Table};
use crate::site::Site;

/// Lets nothing pass between these machines, and all between others.
pub(crate) fn cut(directory: &Directory, cuts: &[(String, String)]) -> Result<()> {
    let up = directory.up().context("the network has no machines")?;
    directory.set_cuts(cuts)?;
    let what = "cannot write the network's rules";
    let site = Site::of(directory, &up).context("the network's holder has ended")?;
    let rules = site.rules().context(what)?;
    rules.remove_of_bridge(&up.table()).context(what)?;
    let members = directory.members();
    let device = |name: &str| members.iter().find(|m| m.machine == name).map(|m| m.device.as_str());
    let pairs: Vec<(&str, &str)> =
        cuts.iter().filter_map(|(a, b)| Some((device(a)?, device(b)?))).collect();
    if pairs.is_empty() {
        return Ok(());
    }
    let mut table = Table::of_bridge(&up.table());
    table.chain(Hook::Forward);
    for (a, b) in pairs {
        table.rule(Hook::Forward, &[Part::From(a), Part::To(b), Part::Drop]);
        table.rule(Hook::Forward, &[Part::From(b), Part::To(a), Part::Drop]);
    }
    table.send(&rules).context(what)
}
