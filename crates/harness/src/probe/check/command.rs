//! A command succeeds.

use anyhow::{Result, bail};

use super::super::Phase;
use super::{Finding, Probe, Scene};

struct Command {
    script: String,
}

/// For the shell of the image.
pub(super) fn parse(text: &str) -> Result<Box<dyn Probe>> {
    if text.trim().is_empty() {
        bail!("the command is empty");
    }
    Ok(Box::new(Command { script: text.to_owned() }))
}

/// Of its output in a report.
const QUOTED_LINES: usize = 20;

impl Probe for Command {
    fn title(&self) -> String {
        format!("cmd {}", self.script)
    }

    fn is_due(&self, after: Phase) -> bool {
        after.installs()
    }

    fn check(&self, scene: &mut Scene<'_>) -> Result<Finding> {
        let ran = scene.run(&["sh", "-c", &self.script])?;
        let lines: Vec<&str> = ran.output.lines().collect();
        let last = lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n");
        let cause = (!last.is_empty()).then(|| format!("its output ends:\n{last}"));
        Ok(match ran.code {
            Some(0) => Finding::pass("exit status 0"),
            Some(code) => Finding::fail("exit status 0", format!("exit status {code}"), cause),
            None => {
                let seen = format!("it was not done after {} s", scene.wish.timeout);
                Finding::fail("exit status 0", seen, cause)
            }
        })
    }
}
