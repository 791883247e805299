//! What does not pass between machines, or passes badly: those that are cut off from each other, and
//! those whose packets are lost, late or slow.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::lease::{Directory, Member};
use crate::network::Target;
use crate::network::bridge::links_of;
use crate::queue::Queue;
use crate::rules::{Hook, Part, Table};
use crate::site::Site;

/// How a machine's packets fare, to it and from it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Degraded {
    /// How many of a million are lost.
    pub loss: u32,
    /// How late they come, in microseconds.
    pub delay: u64,
    /// How many bytes pass in a second; 0: all.
    pub rate: u32,
}

/// Lets nothing pass between these machines, and all between others.
pub(crate) fn cut(directory: &Directory, cuts: &[(String, String)]) -> Result<()> {
    directory.set_cuts(cuts)?;
    write(directory)
}

/// Treats a machine's packets so from here on; to be called with the lock held.
pub(crate) fn degrade(
    directory: &Directory,
    member: &Member,
    degraded: Degraded,
    target: &Target<'_>,
) -> Result<()> {
    let site = directory.up().and_then(|up| Site::of(directory, &up));
    let site = site.context("the network's holder has ended")?;
    let (outside, inside) = (site.links()?, links_of(target.pidfd, &site)?);
    let index = inside.with_address(member.mac).context("the machine has lost its device")?;
    let ends = [(&outside, outside.index(&member.device)?), (&inside, index)];
    let undo = || ends.iter().try_for_each(|(links, index)| links.unqueue(*index));
    if degraded.rate == 0 && degraded.delay == 0 {
        undo().context("cannot remove the queues of the machine's devices")?;
    } else {
        let queue = Queue { rate: degraded.rate, delay: degraded.delay };
        if let Err(error) = ends.iter().try_for_each(|(links, index)| links.queue(*index, queue)) {
            let _ = undo();
            return explain(&error, degraded);
        }
    }
    let mut all = directory.degraded();
    all.retain(|(machine, _)| *machine != member.machine);
    if degraded.loss > 0 || degraded.delay > 0 || degraded.rate > 0 {
        all.push((member.machine.clone(), degraded));
    }
    directory.set_degraded(&all)?;
    write(directory)
}

fn explain(error: &std::io::Error, degraded: Degraded) -> Result<()> {
    let (kind, option, config) = match degraded.delay {
        0 => ("tbf", "--rate", "CONFIG_NET_SCH_TBF"),
        _ => ("netem", "--delay", "CONFIG_NET_SCH_NETEM"),
    };
    if error.kind() == std::io::ErrorKind::NotFound {
        bail!("this kernel has no queue of the kind {kind} ({config}): leave {option} out");
    }
    bail!("cannot give the machine's device a queue of the kind {kind}: {error}")
}

/// Writes a bridge's rules anew, by what is written down of it.
fn write(directory: &Directory) -> Result<()> {
    let up = directory.up().context("the network has no machines")?;
    let what = "cannot write the network's rules";
    let site = Site::of(directory, &up).context("the network's holder has ended")?;
    let rules = site.rules().context(what)?;
    rules.remove_of_bridge(&up.table()).context(what)?;
    let members = directory.living();
    let device = |name: &str| members.iter().find(|m| m.machine == name).map(|m| m.device.as_str());
    let (cuts, degraded) = (directory.cuts(), directory.degraded());
    let pairs: Vec<(&str, &str)> =
        cuts.iter().filter_map(|(a, b)| Some((device(a)?, device(b)?))).collect();
    let lossy: Vec<(&str, u32)> = degraded
        .iter()
        .filter(|(_, degraded)| degraded.loss > 0)
        .filter_map(|(name, degraded)| Some((device(name)?, degraded.loss)))
        .collect();
    if pairs.is_empty() && lossy.is_empty() {
        return Ok(());
    }
    let mut table = Table::of_bridge(&up.table());
    for hook in [Hook::Forward, Hook::Arrival, Hook::Departure] {
        table.chain(hook);
    }
    for (a, b) in pairs {
        table.rule(Hook::Forward, &[Part::From(a), Part::To(b), Part::Drop]);
        table.rule(Hook::Forward, &[Part::From(b), Part::To(a), Part::Drop]);
    }
    for (device, loss) in lossy {
        let by_chance = Part::Sometimes(loss);
        table.rule(Hook::Arrival, &[Part::From(device), by_chance, Part::Drop]);
        table.rule(Hook::Departure, &[Part::To(device), by_chance, Part::Drop]);
    }
    table.send(&rules).context(what)
}
