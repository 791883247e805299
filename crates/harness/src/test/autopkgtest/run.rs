//! Runs a test of a source package.

use std::time::Duration;

use anyhow::{Context, Result, bail};

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
    if package.has("isolation-machine") && wish.isolation() != Some("vm") {
        bench.skip("it needs a virtual machine: isolation-machine (--isolation vm is one)");
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
    let user = user(package, bench)?;
    if !install(package, &architecture, bench)? || !put(package, &user, bench)? {
        return Ok(());
    }
    let name = bench.test.name.clone();
    let began = bench.begin("test", &name);
    let (mut all, mut errors) = (String::new(), String::new());
    let ran = reboot::run_through(
        bench,
        ONLY,
        &mut |bench, mark, left| {
            let script = script(package, &user, mark);
            let machine = bench.machine(ONLY)?;
            let command = ["bash", "-c", &script];
            let options = match package.has("needs-root") {
                true => Vec::new(),
                false => user.options(),
            };
            let ran = machine.run_with(&options, &command, true, left)?;
            all += &ran.output;
            errors += &ran.errors;
            Ok(ran)
        },
        &mut |_| Ok(()),
    )?;
    bench.recorder.write("stdout.txt", &all);
    bench.recorder.write("stderr.txt", &errors);
    let fetched = fetch_artifacts(bench);
    bench.recorder.note(fetched);
    let finding = found(package, &ran, &errors, bench.limit().as_secs());
    bench.end(began, finding);
    Ok(())
}

/// Who runs tests that need not be root.
struct User {
    name: String,
    home: String,
}

impl User {
    /// Options of `exec`.
    fn options(&self) -> Vec<String> {
        let Self { name, home } = self;
        let variables = [("USER", name), ("LOGNAME", name), ("HOME", home)];
        let variables = variables.map(|(variable, value)| format!("{variable}={value}"));
        let variables = variables.into_iter().flat_map(|text| ["-e".to_owned(), text]);
        ["--user".to_owned(), name.clone()].into_iter().chain(variables).collect()
    }
}

/// The user that was asked for, or the image's first ordinary one, or one that is made as autopkgtest makes one
/// (its `setup-commands/create-normal-user`); root where an image cannot make any.
fn user(package: &Package, bench: &mut Bench<'_, '_>) -> Result<User> {
    const FIND: &str = r#"
        first() { while IFS=: read -r name _ id _ _ home _; do
            if [ "$1" = "$name" ] || { [ -z "$1" ] && [ "$id" -ge 1000 ] && [ "$id" -lt 60000 ]; }; then
                echo "$name:$home"; return 0
            fi
        done </etc/passwd; return 1; }
        first "$1" && exit
        [ -z "$1" ] || { echo "there is no user $1" >&2; exit 1; }
        useradd --comment 'made for a test' --create-home --user-group test >&2 && first test || echo root:/root"#;
    let wanted = package.user.as_deref().unwrap_or_default();
    let ran = bench.machine(ONLY)?.run(&["sh", "-c", FIND, "sh", wanted], QUICK)?;
    let last = ran.output.lines().last().unwrap_or_default();
    match (ran.code, last.split_once(':')) {
        (Some(0), Some((name, home))) => Ok(User { name: name.into(), home: home.into() }),
        _ => bail!("cannot find who runs the test: {}", ran.output.trim()),
    }
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
fn put(package: &Package, user: &User, bench: &mut Bench<'_, '_>) -> Result<bool> {
    let began = bench.begin("test", "files");
    let source = bench.test.source.clone();
    let script = "mkdir -p \"${1%/*}\" && mkdir -p -m 1777 \"$2\" && mkdir -p -m 755 \"$3\"";
    let make = ["sh", "-ec", script, "sh", TREE, ARTIFACTS, TEMPORARY];
    let ran = bench.machine(ONLY)?.run(&make, QUICK)?;
    if ran.code != Some(0) {
        bail!("cannot make the test's directories: {}", ran.output.trim());
    }
    bench.machine(ONLY)?.put(&source, TREE)?;
    give(user, bench)?;
    if package.has("needs-sudo") {
        let ran = bench.machine(ONLY)?.run(&["sh", "-ec", SUDO, "sh", &user.name], QUICK)?;
        if ran.code != Some(0) {
            bail!("cannot let {} use sudo: {}", user.name, ran.output.trim());
        }
    }
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
        Some(0) => {
            give(user, bench)?;
            bench.end(began, passed("built"))
        }
        _ => {
            let seen = seen(&ran, limit.as_secs());
            bench.end(began, Finding::fail("exit status 0", seen, tail(&ran.output)))
        }
    })
}

/// As autopkgtest does it (its `setup-commands/enable-sudo`).
const SUDO: &str = "umask 337; mkdir -p -m 750 /etc/sudoers.d; \
    echo \"$1 ALL=(ALL:ALL) NOPASSWD: ALL\" >/etc/sudoers.d/autopkgtest-needs-sudo";

/// Gives the tree, and the directory for what is temporary, to who runs the test.
fn give(user: &User, bench: &mut Bench<'_, '_>) -> Result<()> {
    let chown = ["chown", "-R", &user.name, "--", TREE, TEMPORARY];
    let ran = bench.machine(ONLY)?.run(&chown, QUICK)?;
    if ran.code != Some(0) {
        bail!("cannot give the test's tree to {}: {}", user.name, ran.output.trim());
    }
    Ok(())
}

/// The environment is autopkgtest's (its `adt_testbed.py`, `run_test`).
fn script(package: &Package, user: &User, mark: &str) -> String {
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
    let root = match package.has("needs-root") {
        true => format!(
            "export USER=root AUTOPKGTEST_NORMAL_USER={name} ADT_NORMAL_USER={name}; ",
            name = quoted(&user.name)
        ),
        false => String::new(),
    };
    format!(
        "set -e; {root}. /etc/profile >/dev/null 2>&1 || true; . ~/.profile >/dev/null 2>&1 || true; \
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
fn fetch_artifacts(bench: &mut Bench<'_, '_>) -> Result<()> {
    let target = bench.wish().evidence.join("artifacts");
    let machine = bench.machine(ONLY)?;
    let any = machine.run(&["sh", "-c", "ls -A \"$0\" | grep -q .", ARTIFACTS], QUICK);
    if !any.is_ok_and(|ran| ran.code == Some(0)) {
        return Ok(());
    }
    std::fs::create_dir_all(&target)
        .with_context(|| format!("cannot make {}", target.display()))?;
    machine.get(&format!("{ARTIFACTS}/."), &target)
}

fn found(package: &Package, ran: &Ran, errors: &str, limit: u64) -> Finding {
    let mut finding = match ran.code {
        Some(SKIPPED) if package.has("skippable") => {
            let last = ran.output.trim_end().lines().last().unwrap_or_default().to_owned();
            return skipped(if last.is_empty() {
                "exit status 77 of a skippable test"
            } else {
                &last
            });
        }
        Some(0) if !errors.is_empty() && !package.has("allow-stderr") => {
            let first = errors.lines().next().unwrap_or_default();
            let seen = format!("on standard error: {first}");
            Finding::fail("nothing on standard error", seen, tail(errors))
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
            let cause = tail(if errors.trim().is_empty() { &ran.output } else { errors });
            Finding::fail("exit status 0", seen(ran, limit), cause)
        }
    };
    if package.has("flaky") {
        finding.verdict = Verdict::Flaky;
        finding.seen += "; it is known to be flaky";
    }
    finding
}
