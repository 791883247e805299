//! Nobody listens where nobody was said to listen.

use anyhow::Result;

use super::super::Phase;
use super::{Finding, Probe, Scene, network};

pub(super) struct Ports;

impl Probe for Ports {
    fn title(&self) -> String {
        "ports".into()
    }

    fn is_due(&self, after: Phase) -> bool {
        after.installs()
    }

    fn check(&self, scene: &mut Scene<'_>) -> Result<Finding> {
        let named: Vec<u16> = scene
            .wish
            .checks
            .iter()
            .filter(|(kind, _)| kind == "network")
            .filter_map(|(_, text)| network::port(text))
            .chain(scene.wish.allowed_ports.iter().copied())
            .collect();
        let before = scene.before;
        let was = |port, protocol: &str| {
            before.listeners.iter().any(|l| l.port == port && l.protocol == protocol)
        };
        let now = scene.look()?;
        let new = || now.listeners.iter().filter(|l| !was(l.port, &l.protocol));
        let list = |unexpected: bool| {
            let shown = new().filter(|l| unexpected != named.contains(&l.port) || !unexpected);
            shown.map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        // Who names no port at all has said nothing of them.
        let unexpected = list(true);
        if named.is_empty() || unexpected.is_empty() {
            let all = list(false);
            return Ok(Finding::pass(if all.is_empty() { "no new ones".into() } else { all }));
        }
        Ok(Finding::fail("only ports that are named", unexpected, None))
    }
}
