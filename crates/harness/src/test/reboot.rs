//! Tests that restart their machine: by autopkgtest's interface (its `README.package-tests.rst`,
//! "Reboot during a test"), which kola has too.
//!
//! `/tmp/autopkgtest-reboot MARK` leaves the mark and kills the test; then the machine is restarted, and
//! the test begins anew with `AUTOPKGTEST_REBOOT_MARK`. `autopkgtest-reboot-prepare MARK` leaves it, and the
//! test restarts the machine itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::bench::Bench;
use crate::probe::inside::Ask;
use crate::probe::machine::Ran;
use crate::probe::recorder::passed;

/// Where the first process of a test writes its id: whom to kill.
pub(super) const PID: &str = "/run/postroj-test-pid";

/// In memory: gone after a restart.
const MARK: &str = "/run/autopkgtest-reboot-mark";

/// On disk: it is there after a restart that the test makes itself.
const PREPARED: &str = "/var/lib/postroj-reboot-mark";

/// For a system that goes down and comes up again.
const PATIENCE: Duration = Duration::from_secs(180);

/// Most restarts of one test: one that only ever restarts would not end.
const MOST: usize = 100;

/// Puts the interface into a machine. `/tmp` may be in memory, so that is done after each restart.
pub(super) fn put(bench: &mut Bench<'_, '_>, name: &str) -> Result<()> {
    let script = format!(
        "set -e\n\
         cat >/tmp/autopkgtest-reboot <<'END'\n#!/bin/sh\nset -e\n\
         [ -n \"$1\" ] || {{ echo \"usage: $0 MARK\" >&2; exit 1; }}\n\
         printf '%s' \"$1\" >{MARK}.new; mv {MARK}.new {MARK}\n\
         kill -KILL \"$(cat {PID})\"\nsleep 3600\nEND\n\
         cat >/tmp/autopkgtest-reboot-prepare <<'END'\n#!/bin/sh\nset -e\n\
         [ -n \"$1\" ] || {{ echo \"usage: $0 MARK\" >&2; exit 1; }}\n\
         printf '%s' \"$1\" >{PREPARED}\nEND\n\
         chmod 755 /tmp/autopkgtest-reboot /tmp/autopkgtest-reboot-prepare\n\
         if [ -d /usr/local/bin ]; then cp /tmp/autopkgtest-reboot /tmp/autopkgtest-reboot-prepare /usr/local/bin; fi\n\
         rm -f {MARK} {PREPARED}; : >{PREPARED}; chmod 666 {PREPARED}; : >{PID}; chmod 666 {PID}\n"
    );
    let ran = bench.machine(name)?.run(&["sh", "-c", &script], Duration::from_secs(60))?;
    if ran.code != Some(0) {
        bail!("cannot put autopkgtest-reboot into the machine: {}", ran.output.trim());
    }
    Ok(())
}

/// Runs a test until it ends without having asked for a restart. `once` runs it with a mark and the time
/// that is left; `again` is what has to be done after each restart.
pub(super) fn run_through<'a, 'b>(
    bench: &mut Bench<'a, 'b>,
    name: &str,
    once: &mut dyn FnMut(&mut Bench<'a, 'b>, &str, Duration) -> Result<Ran>,
    again: &mut dyn FnMut(&mut Bench<'a, 'b>) -> Result<()>,
) -> Result<Ran> {
    let deadline = Instant::now() + bench.limit();
    let mut mark = String::new();
    for _ in 0..MOST {
        put(bench, name)?;
        let left = deadline.saturating_duration_since(Instant::now());
        let ran = once(bench, &mark, left)?;
        if ran.code.is_none() || ran.code == Some(0) {
            return Ok(ran);
        }
        let began = Instant::now();
        let (next, prepared) = match marks(bench, name) {
            Some(marks) => marks,
            // It is restarting already: only a mark on disk can tell what for.
            None => (String::new(), "?".into()),
        };
        if next.is_empty() && prepared.is_empty() {
            return Ok(ran);
        }
        let step = bench.begin("test", "restart");
        if next.is_empty() {
            let left = deadline.saturating_duration_since(began).min(PATIENCE);
            if !bench.machine(name)?.restarted(left)? {
                bail!("the test prepared for a restart, and did not restart");
            }
            mark = marks(bench, name).map(|(_, prepared)| prepared).unwrap_or_default();
            if mark.is_empty() {
                bail!("the machine was restarted by a test that had not prepared for that");
            }
        } else {
            bench.machine(name)?.restart().context("cannot restart the machine")?;
            mark = next;
        }
        bench.end(step, passed(format!("with the mark {mark}")));
        again(bench)?;
    }
    bail!("the test restarted its machine {MOST} times")
}

/// The mark of who wants a restart, and that of who makes one; `None` where nothing can be read.
fn marks(bench: &mut Bench<'_, '_>, name: &str) -> Option<(String, String)> {
    let machine = bench.machine(name).ok()?;
    let exists: bool = machine.ask(&Ask::Exists { path: MARK.into() }).ok()?;
    let next =
        if exists { machine.ask(&Ask::Read { path: MARK.into() }).ok()? } else { String::new() };
    let prepared: String = machine.ask(&Ask::Read { path: PREPARED.into() }).ok()?;
    Some((next, prepared))
}
