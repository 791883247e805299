//! No unit has failed, and none is still activating, that did not before.

use anyhow::Result;

use super::super::Phase;
use super::super::inside::{Ask, Settled, Unit};
use super::{Finding, Probe, Scene};

pub(super) struct Failed;

impl Probe for Failed {
    fn title(&self) -> String {
        "units".into()
    }

    fn is_due(&self, _: Phase) -> bool {
        true
    }

    fn check(&self, scene: &mut Scene<'_>) -> Result<Finding> {
        if !scene.has_systemd()? {
            return Ok(Finding::pass("there is no systemd"));
        }
        let ask = Ask::Settle { timeout: scene.timeout(), quiet: scene.quiet() };
        let Settled { good, units } = scene.machine.ask(&ask)?;
        let before = |unit: &Unit, state: &str| {
            scene.before.units.iter().any(|b| b.name == unit.name && b.active == state)
        };
        let all = |state: &str| -> Vec<&Unit> {
            units.iter().filter(|u| u.active == state && !before(u, state)).collect()
        };
        let (failed, activating) = (all("failed"), all("activating"));
        let names = |units: &[&Unit]| {
            units.iter().map(|unit| unit.name.as_str()).collect::<Vec<_>>().join(", ")
        };
        if let Some(unit) = failed.first() {
            let cause = scene.journal_of(&unit.name);
            return Ok(Finding::fail("none failed", format!("failed: {}", names(&failed)), cause));
        }
        if let (false, Some(unit)) = (good, activating.first()) {
            let seen =
                format!("still activating after {} s: {}", scene.wish.timeout, names(&activating));
            let cause = scene.journal_of(&unit.name);
            return Ok(Finding::fail("all are started", seen, cause));
        }
        Ok(Finding::pass("none failed"))
    }
}
