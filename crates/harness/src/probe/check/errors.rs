//! The journal has no errors that are new.

use anyhow::Result;
use serde_json::Value;

use super::super::Phase;
use super::{Finding, Probe, Scene};

pub(super) struct Errors;

/// Of a report.
const QUOTED: usize = 10;

impl Probe for Errors {
    fn title(&self) -> String {
        "journal errors".into()
    }

    fn is_due(&self, _: Phase) -> bool {
        true
    }

    fn check(&self, scene: &mut Scene<'_>) -> Result<Finding> {
        if !scene.has_systemd()? {
            return Ok(Finding::pass("there is no journal"));
        }
        let since = format!("--since=@{}", scene.since / 1_000_000);
        let ran =
            scene.run(&["journalctl", "--no-pager", "-q", "-p", "err", "-o", "json", &since])?;
        let lines: Vec<String> =
            ran.output.lines().filter_map(|line| told(line, scene.since)).collect();
        if lines.is_empty() {
            return Ok(Finding::pass("none"));
        }
        let seen = format!("{} of them", lines.len());
        Ok(Finding::fail("none", seen, Some(lines[..lines.len().min(QUOTED)].join("\n"))))
    }
}

/// `WHO: WHAT` of an entry that is new enough (systemd.journal-fields(7)).
fn told(line: &str, since: u64) -> Option<String> {
    let entry: Value = serde_json::from_str(line).ok()?;
    let text = |name: &str| match &entry[name] {
        Value::String(text) => Some(text.clone()),
        // What is no UTF-8 comes as numbers.
        Value::Array(bytes) => {
            let bytes: Vec<u8> = bytes.iter().filter_map(|b| Some(b.as_u64()? as u8)).collect();
            Some(String::from_utf8_lossy(&bytes).into_owned())
        }
        _ => None,
    };
    let time: u64 = text("__REALTIME_TIMESTAMP")?.parse().ok()?;
    let who = text("SYSLOG_IDENTIFIER").or_else(|| text("_COMM")).unwrap_or_default();
    (time >= since).then(|| format!("{who}: {}", text("MESSAGE").unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::told;

    #[test]
    fn entries_are_read() {
        let line = r#"{"__REALTIME_TIMESTAMP":"20","SYSLOG_IDENTIFIER":"web","MESSAGE":"no"}"#;
        assert_eq!(told(line, 20).as_deref(), Some("web: no"));
        assert_eq!(told(line, 21), None);
        let bytes = r#"{"__REALTIME_TIMESTAMP":"20","_COMM":"web","MESSAGE":[104,105]}"#;
        assert_eq!(told(bytes, 0).as_deref(), Some("web: hi"));
        assert_eq!(told("x", 0), None);
    }
}
