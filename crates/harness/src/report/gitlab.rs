//! GitLab's code quality report, which its merge requests show ("Code Quality report format").

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Report, Run, bad};

pub(super) struct Gitlab;

impl Report for Gitlab {
    fn name(&self) -> &'static str {
        "gitlab"
    }

    fn render(&self, run: &Run) -> String {
        let mut issues = Vec::new();
        for cell in &run.cells {
            for step in bad(cell) {
                let what = format!("{}: {}: {}", cell.wish.title(), step.phase, step.name);
                // The same failure of another run has the same one.
                let digest = Sha256::digest(&what);
                let fingerprint: String = digest.iter().map(|b| format!("{b:02x}")).collect();
                issues.push(json!({
                    "description": format!("{what}: {}", step.seen),
                    "check_name": "postroj",
                    "fingerprint": fingerprint,
                    "severity": "major",
                    "location": { "path": "postroj.toml", "lines": { "begin": 1 } },
                }));
            }
        }
        format!("{:#}\n", serde_json::Value::Array(issues))
    }
}
