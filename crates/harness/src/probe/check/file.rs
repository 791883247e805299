//! A file is there, or is not.

use anyhow::{Result, bail};

use super::super::Phase;
use super::{Finding, Probe, Scene};

struct File {
    path: String,
    there: bool,
}

/// `/path`, or `!/path` for one that must not be there.
pub(super) fn parse(text: &str) -> Result<Box<dyn Probe>> {
    let path = text.strip_prefix('!').unwrap_or(text);
    if !path.starts_with('/') {
        bail!("{path:?} is not absolute");
    }
    Ok(Box::new(File { path: path.to_owned(), there: path == text }))
}

impl Probe for File {
    fn title(&self) -> String {
        format!("file {}{}", if self.there { "" } else { "!" }, self.path)
    }

    fn is_due(&self, after: Phase) -> bool {
        after.installs()
    }

    fn check(&self, scene: &mut Scene<'_>) -> Result<Finding> {
        let word = |there| if there { "it is there" } else { "it is not there" };
        let there = scene.exists(&self.path)?;
        if there == self.there {
            return Ok(Finding::pass(word(there)));
        }
        Ok(Finding::fail(word(self.there), word(there), None))
    }
}
