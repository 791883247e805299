//! The network that the machines of one test share.

use std::path::Path;

use anyhow::Result;
use engine::state::{RunDirectory, now};
use net::lease::Config;
use net::networks;

/// A network of the machines of one test alone; gone with it.
pub(super) struct Shared<'a> {
    run: &'a RunDirectory,
    name: String,
}

/// What all such networks' names begin with; then comes the process that is responsible.
const PREFIX: &str = "test-";

impl<'a> Shared<'a> {
    /// Makes it; its machines reach each other and nobody else.
    pub(super) fn new(run: &'a RunDirectory) -> Result<Self> {
        let name = format!("{PREFIX}{}", std::process::id());
        let config = Config { internal: true, subnet: None, created: now() };
        networks::create(run.path(), &name, &config)?;
        Ok(Self { run, name })
    }

    /// As `boot --network` takes it.
    pub(super) fn mode(&self) -> String {
        format!("bridge:{}", self.name)
    }

    /// Names of machines, without what begins them all, and their addresses: lines of a hosts(5).
    pub(super) fn hosts(&self) -> Result<String> {
        let shown = networks::inspect(self.run.path(), &self.name)?;
        let line = |member: &net::lease::Member| {
            let short = member.names.iter().rfind(|name| **name != member.machine);
            format!("{} {}\n", member.ip, short.unwrap_or(&member.machine))
        };
        Ok(shown.members.iter().map(line).collect())
    }
}

/// Removes the networks of tests that were killed.
pub fn tidy(run: &Path) {
    net::reap(run);
    for shown in networks::list(run).into_iter().filter(|shown| shown.members.is_empty()) {
        let process = shown.name.strip_prefix(PREFIX).and_then(|id| id.parse::<u32>().ok());
        if process.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()) {
            // Somebody else may have been quicker.
            let _ = networks::remove(run, &shown.name);
        }
    }
}
