//! No file of the packages is left when they are purged.

use std::collections::HashSet;

use anyhow::Result;

use super::super::Phase;
use super::{Finding, Probe, Scene};

pub(super) struct Files;

/// Of a report.
const QUOTED: usize = 20;

impl Probe for Files {
    fn title(&self) -> String {
        "files".into()
    }

    fn is_due(&self, after: Phase) -> bool {
        after == Phase::Purge
    }

    fn check(&self, scene: &mut Scene<'_>) -> Result<Finding> {
        let records = scene.machine.manager.map_or(&[][..], |manager| manager.records());
        let is_record = |path: &str| records.iter().any(|record| path.starts_with(record));
        let before = scene.before;
        let before: HashSet<&String> = before.files.iter().collect();
        let now = scene.look()?;
        let left: Vec<&str> = now
            .files
            .iter()
            .filter(|path| !before.contains(path) && !is_of_logging(path) && !is_record(path))
            .map(String::as_str)
            .collect();
        if left.is_empty() {
            return Ok(Finding::pass("none is left"));
        }
        let seen = match left.len() {
            1 => left[0].to_owned(),
            count => format!("{count} files"),
        };
        let list = left[..left.len().min(QUOTED)].join("\n");
        Ok(Finding::fail("none is left", seen, Some(format!("left after the purge:\n{list}"))))
    }
}

/// What the system itself logs of what happens.
fn is_of_logging(path: &str) -> bool {
    [
        "/var/log/dpkg.log",
        "/var/log/alternatives.log",
        "/var/log/lastlog",
        "/var/log/wtmp",
        "/var/log/btmp",
    ]
    .contains(&path)
}
