//! Runs a test of a source package.

use std::time::Duration;

use anyhow::{Result, bail};

use super::{Package, Program, depends, satisfy};
use crate::probe::Verdict;
use crate::probe::check::Finding;
use crate::probe::machine::Ran;
use crate::probe::recorder::passed;
use crate::test::bench::{Bench, Installed, seen, skipped, tail};
use crate::test::reboot;

/// The machine's name within its test.
const ONLY: &str = "";
/// On disk, so that it is there after a restart.
const TREE: &str = "/var/lib/autopkgtest/tree";
const ARTIFACTS: &str = "/var/lib/autopkgtest/artifacts";
const TEMPORARY: &str = "/var/lib/autopkgtest/tmp";
/// For what is done around the test.
const QUICK: Duration = Duration::from_secs(120);
/// "the test should be skipped", of one with the restriction `skippable`.
const SKIPPED: i32 = 77;

/// # Errors
/// Where it cannot be run.
pub(in crate::test) fn run(package: &Package, bench: &mut Bench<'_, '_>) -> Result<()> {
    let wish = bench.wish();
    if package.has("needs-internet") && !bench.leads_outside() {
        bench.skip("it needs the internet, and the machine has no network that leads there");
        return Ok(());
    }
    bench.boot(ONLY, &wish.image, &[], true)?;
    let ran = bench.machine(ONLY)?.run(&["dpkg", "--print-architecture"], QUICK)?;
    let architecture = ran.output.trim().to_owned();
    if ran.code != Some(0) {
        bail!("{} is no Debian: there is no dpkg", wish.image);
    }
    let own = package.architectures.join(" ");
    if !own.is_empty() && !depends::is_for(&own, &architecture) {
        bench.skip(&format!("it is for the architectures {own}"));
        return Ok(());
    }
    if !install(package, &architecture, bench)? || !put(package, bench)? {
        return Ok(());
    }
    let name = bench.test.name.clone();
    let began = bench.begin("test", &name);
    let errors = wish.evidence.join("stderr.txt");
    let mut all = String::new();
    let mut any_errors = false;
    let ran = reboot::run_through(
        bench,
        ONLY,
        &mut |bench, mark, left| {
            let script = script(package, mark);
            let machine = bench.machine(ONLY)?;
            let command = ["bash", "-c", &script];
            let ran = machine.run_with(&[], &command, Some(&errors), left)?;
            all += &ran.output;
            any_errors |= errors.metadata().is_ok_and(|about| about.len() > 0);
            Ok(ran)
        },
        &mut |_| Ok(()),
    )?;
    bench.recorder.write("stdout.txt", &all);
    fetch_artifacts(bench);
    let finding = found(package, &ran, any_errors, &errors, bench.limit().as_secs());
    bench.end(began, finding);
    Ok(())
}

/// Installs what it needs; tells whether it can go on.
fn install(package: &Package, architecture: &str, bench: &mut Bench<'_, '_>) -> Result<bool> {
    let mut wanted = package.depends.clone();
    for (restriction, more) in [
        ("needs-recommends", "@recommends@"),
        ("needs-sudo", "sudo"),
        ("build-needed", "@builddeps@"),
    ] {
        if package.has(restriction) {
            wanted += &format!(", {more}");
        }
    }
    let wanted = depends::concrete(&wanted, &bench.test.source, architecture)?;
    let mut packages = bench.wish().packages.clone();
    if !wanted.is_empty() {
        let path = bench.wish().evidence.join(format!("{}.deb", satisfy::NAME));
        satisfy::write(&path, &wanted)?;
        packages.push(path.to_string_lossy().into_owned());
    }
    if packages.is_empty() {
        return Ok(true);
    }
    let image = bench.wish().image.clone();
    match bench.install(ONLY, &image, &packages)? {
        Installed::Well => Ok(true),
        Installed::Badly => Ok(false),
        Installed::Unsatisfiable(why) if package.has("skip-not-installable") => {
            bench.skip(&format!("what it needs cannot be installed: {why}"));
            Ok(false)
        }
        Installed::Unsatisfiable(why) => {
            let began = bench.begin("install", "dependencies");
            let finding =
                Finding::fail("what it needs can be had", "dependency missing", Some(why));
            Ok(bench.end(began, finding))
        }
    }
}

/// Puts the tree into the machine, and builds it where that is needed.
fn put(package: &Package, bench: &mut Bench<'_, '_>) -> Result<bool> {
    let began = bench.begin("test", "files");
    let source = bench.test.source.clone();
    let script = "mkdir -p \"${1%/*}\" && mkdir -p -m 1777 \"$2\" && mkdir -p -m 755 \"$3\"";
    let make = ["sh", "-ec", script, "sh", TREE, ARTIFACTS, TEMPORARY];
    let ran = bench.machine(ONLY)?.run(&make, QUICK)?;
    if ran.code != Some(0) {
        bail!("cannot make the test's directories: {}", ran.output.trim());
    }
    bench.machine(ONLY)?.put(&source, TREE)?;
    bench.end(began, passed("they are there"));
    if !package.has("build-needed") {
        return Ok(true);
    }
    let began = bench.begin("test", "build");
    let build = format!("cd {TREE} && dpkg-buildpackage -us -uc -b");
    let limit = bench.limit();
    let ran = bench.machine(ONLY)?.run(&["bash", "-c", &build], limit)?;
    bench.recorder.write("build.txt", &ran.output);
    Ok(match ran.code {
        Some(0) => bench.end(began, passed("built")),
        _ => {
            let seen = seen(&ran, limit.as_secs());
            bench.end(began, Finding::fail("exit status 0", seen, tail(&ran.output)))
        }
    })
}

/// The environment is autopkgtest's (its `adt_testbed.py`, `run_test`).
fn script(package: &Package, mark: &str) -> String {
    let mark = match mark {
        "" => String::new(),
        mark => format!("export AUTOPKGTEST_REBOOT_MARK={}; ", quoted(mark)),
    };
    let run = match &package.program {
        Program::File(path) => {
            let path = quoted(&format!("{TREE}/{path}"));
            format!("chmod +x {path}; exec {path}")
        }
        Program::Command(command) => format!("exec bash -ec {}", quoted(command)),
    };
    format!(
        "set -e; export USER=root; . /etc/profile >/dev/null 2>&1 || true; . ~/.profile >/dev/null 2>&1 || true; \
         unset LANGUAGE LC_CTYPE LC_NUMERIC LC_TIME LC_COLLATE LC_MONETARY LC_MESSAGES LC_ALL; \
         export LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive DEB_BUILD_OPTIONS=parallel=$(nproc); \
         export AUTOPKGTEST_ARTIFACTS={ARTIFACTS} AUTOPKGTEST_TMP={TEMPORARY} ADT_ARTIFACTS={ARTIFACTS} ADTTMP={TEMPORARY}; \
         {mark}echo $$ >{pid}; cd {TREE}; {run}",
        pid = reboot::PID,
    )
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What the test left for people, as evidence; where it left nothing, none is missed.
fn fetch_artifacts(bench: &mut Bench<'_, '_>) {
    let target = bench.wish().evidence.join("artifacts");
    if let Ok(machine) = bench.machine(ONLY) {
        let _ = std::fs::create_dir_all(&target)
            .map_err(anyhow::Error::from)
            .and_then(|()| machine.get(&format!("{ARTIFACTS}/."), &target));
    }
    // Only an empty one goes.
    let _ = std::fs::remove_dir(&target);
}

fn found(
    package: &Package,
    ran: &Ran,
    any_errors: bool,
    errors: &std::path::Path,
    limit: u64,
) -> Finding {
    let said = || String::from_utf8_lossy(&std::fs::read(errors).unwrap_or_default()).into_owned();
    let mut finding = match ran.code {
        Some(SKIPPED) if package.has("skippable") => {
            let last = ran.output.trim_end().lines().last().unwrap_or_default().to_owned();
            return skipped(if last.is_empty() {
                "exit status 77 of a skippable test"
            } else {
                &last
            });
        }
        Some(0) if any_errors && !package.has("allow-stderr") => {
            let text = said();
            let first = text.lines().next().unwrap_or_default();
            let seen = format!("on standard error: {first}");
            Finding::fail("nothing on standard error", seen, tail(&text))
        }
        Some(0) => {
            let superficial = package.has("superficial");
            return passed(if superficial {
                "exit status 0 (superficial)"
            } else {
                "exit status 0"
            });
        }
        _ => {
            let text = said();
            let cause = tail(if text.trim().is_empty() { &ran.output } else { &text });
            Finding::fail("exit status 0", seen(ran, limit), cause)
        }
    };
    if package.has("flaky") {
        finding.verdict = Verdict::Flaky;
        finding.seen += "; it is known to be flaky";
    }
    finding
}
