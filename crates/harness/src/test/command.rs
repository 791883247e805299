//! A command in an image, as `run` runs it: without booting anything.

use std::time::Duration;

use anyhow::{Context, Result};
use regex_lite::Regex;
use serde::{Deserialize, Serialize};

use super::bench::{Bench, seen, skipped, tail};
use super::{Kind, Test};
use crate::probe::check::Finding;
use crate::probe::machine::{Ran, finish};
use crate::probe::recorder::passed;

/// What is run, and what has to come of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The command and its arguments; the image's own where there is none.
    pub words: Vec<String>,
    /// What its output has to match.
    pub output: Option<String>,
}

/// "It cannot be done here."
const SKIPPED: i32 = 77;

impl Command {
    /// The test that it is.
    ///
    /// # Errors
    /// The pattern is none.
    pub fn test(self) -> Result<Test> {
        if let Some(pattern) = &self.output {
            Regex::new(pattern).with_context(|| format!("{pattern:?} is no pattern"))?;
        }
        let name = crate::probe::cell::quoted(&self.words);
        Ok(Test {
            name: if name.is_empty() { "run".into() } else { name },
            description: String::new(),
            tags: Vec::new(),
            source: std::path::PathBuf::new(),
            images: Vec::new(),
            timeout: 0,
            may_fail: None,
            skip: None,
            required_tag: None,
            kind: Kind::Command(self),
        })
    }
}

/// # Errors
/// Where it cannot be run.
pub(super) fn run(command: &Command, bench: &mut Bench<'_, '_>) -> Result<()> {
    let name = bench.test.name.clone();
    let began = bench.begin("run", &name);
    let limit = bench.limit();
    let ran = go(command, bench, limit)?;
    bench.recorder.write("output.txt", &ran.output);
    let finding = found(command, &ran, limit.as_secs())?;
    bench.end(began, finding);
    Ok(())
}

fn go(command: &Command, bench: &Bench<'_, '_>, limit: Duration) -> Result<Ran> {
    let wish = bench.wish();
    let mut run = bench.place.program.verb(&["run", "--rm", "--name"]);
    run.arg(format!("run-{}", std::process::id()));
    run.args(&wish.boot).arg(&wish.image).args(&command.words);
    // It ends with this process, whatever that ends by: see the face's `start`.
    run.env("POSTROJ_TETHER", "1").env("POSTROJ_MONITOR", std::process::id().to_string());
    let ran = finish(run, false, limit)?;
    bench.place.run.reap();
    Ok(ran)
}

fn found(command: &Command, ran: &Ran, limit: u64) -> Result<Finding> {
    let last = ran.output.trim_end().lines().last().unwrap_or_default();
    if ran.code == Some(SKIPPED) {
        return Ok(skipped(if last.is_empty() { "exit status 77" } else { last }));
    }
    // It was not run at all (`run`'s exit status).
    if ran.code == Some(125) {
        anyhow::bail!("{}", last.trim_start_matches("postroj: "));
    }
    if ran.code != Some(0) {
        return Ok(Finding::fail("exit status 0", seen(ran, limit), tail(&ran.output)));
    }
    let Some(pattern) = &command.output else { return Ok(passed("exit status 0")) };
    Ok(match Regex::new(pattern)?.find(&ran.output) {
        Some(found) => passed(found.as_str().trim()),
        None => {
            let expected = format!("output that matches {pattern}");
            Finding::fail(expected, "output that does not match", tail(&ran.output))
        }
    })
}
