//! A service runs, whatever the init.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use distro::init::{self, Action};

use super::super::Phase;
use super::super::inside::Ask;
use super::{Finding, Probe, Scene};

struct Service {
    name: String,
}

/// A name as `postroj service` takes it.
pub(super) fn parse(text: &str) -> Result<Box<dyn Probe>> {
    if text.is_empty() || text.contains('/') {
        bail!("{text:?} is no name of a service");
    }
    Ok(Box::new(Service { name: text.to_owned() }))
}

/// Between two questions where no file changes: what a service does need not be seen in one.
const PAUSE: Duration = Duration::from_millis(500);

impl Probe for Service {
    fn title(&self) -> String {
        format!("service {}", self.name)
    }

    fn is_due(&self, after: Phase) -> bool {
        after.installs()
    }

    fn check(&self, scene: &mut Scene<'_>) -> Result<Finding> {
        let init = init::by_name(scene.machine.init()?)
            .with_context(|| format!("nothing is known of services of {}", scene.wish.image))?;
        if init.name() == "systemd" {
            return super::unit::parse(&self.name)?.check(scene);
        }
        let command = init.service(&self.name, Action::Status);
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let deadline = Instant::now() + Duration::from_secs(scene.wish.timeout);
        loop {
            let paths = init.signs(&self.name);
            scene.machine.ask::<()>(&Ask::Watch { paths })?;
            let ran = scene.run(&words)?;
            // As an init script's (LSB, "Init Script Actions").
            let seen = match ran.code {
                Some(0) => return Ok(Finding::pass("running")),
                Some(1 | 2) => "dead",
                Some(3) => "stopped",
                Some(_) => "unknown",
                None => "no answer",
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seen = format!("{seen} after {} s", scene.wish.timeout);
                let told = ran.output.trim();
                let cause = (!told.is_empty()).then(|| format!("its init says:\n{told}"));
                return Ok(Finding::fail("running", seen, cause));
            }
            let timeout = left.min(PAUSE).as_millis() as u64;
            scene.machine.ask::<()>(&Ask::Change { timeout })?;
        }
    }
}
