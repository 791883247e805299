//! The journal has a line that matches, or has none.

use anyhow::{Context, Result};
use regex_lite::Regex;

use super::super::Phase;
use super::{Finding, Probe, Scene};

struct Journal {
    pattern: Regex,
    wanted: bool,
}

/// A pattern, or `!` and one that must not match.
pub(super) fn parse(text: &str) -> Result<Box<dyn Probe>> {
    let pattern = text.strip_prefix('!').unwrap_or(text);
    let wanted = pattern == text;
    let pattern = Regex::new(pattern).with_context(|| format!("{pattern:?} is no pattern"))?;
    Ok(Box::new(Journal { pattern, wanted }))
}

impl Probe for Journal {
    fn title(&self) -> String {
        format!("journal {}{}", if self.wanted { "" } else { "!" }, self.pattern)
    }

    fn is_due(&self, after: Phase) -> bool {
        after.installs()
    }

    fn check(&self, scene: &mut Scene<'_>) -> Result<Finding> {
        let ran = scene.run(&["journalctl", "--no-pager", "-q", "-b"])?;
        let found = ran.output.lines().find(|line| self.pattern.is_match(line));
        Ok(match (found, self.wanted) {
            (Some(line), true) => Finding::pass(line),
            (None, false) => Finding::pass("no such line"),
            (Some(line), false) => Finding::fail("no such line", line, None),
            (None, true) => Finding::fail("a line that matches", "no such line", None),
        })
    }
}
