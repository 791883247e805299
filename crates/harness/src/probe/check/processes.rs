//! No process of the packages is left when they are gone.

use anyhow::Result;

use super::super::Phase;
use super::super::inside::Process;
use super::{Finding, Probe, Scene};

pub(super) struct Processes;

impl Probe for Processes {
    fn title(&self) -> String {
        "processes".into()
    }

    fn is_due(&self, after: Phase) -> bool {
        !after.installs()
    }

    fn check(&self, scene: &mut Scene<'_>) -> Result<Finding> {
        // What ran before may have been started anew, as a manager does it after a reload.
        let before = scene.before;
        let known = |process: &Process| {
            let name = process.program.trim_end_matches(" (deleted)");
            before.processes.iter().any(|before| {
                before.pid == process.pid && before.start == process.start
                    || before.program == name && before.command == process.command
            })
        };
        let is_system = |process: &Process| process.program.contains("/lib/systemd/");
        let left: Vec<String> = scene
            .look()?
            .processes
            .iter()
            .filter(|process| !known(process) && !is_system(process))
            .map(|process| format!("{} {} ({})", process.pid, process.name, process.command))
            .collect();
        if left.is_empty() {
            return Ok(Finding::pass("none is left"));
        }
        let cause = "started by the package and not stopped by its removal".to_owned();
        Ok(Finding::fail("none is left", left.join(", "), Some(cause)))
    }
}
