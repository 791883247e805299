//! Runs an external test: as a unit where there is systemd, as kola does.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::ignition::{Node, Provision};
use super::{External, Isolation, data};
use crate::probe::check::Finding;
use crate::probe::machine::{Machine, Ran};
use crate::probe::recorder::passed;
use crate::test::bench::{Bench, seen, tail};
use crate::test::reboot;

const UNIT: &str = "kola-runext.service";
const DATA: &str = "/var/opt/kola/extdata";
const PROGRAM: &str = "/usr/local/bin/kola-runext";
const OUTPUT: &str = "/var/opt/kola/output";
/// In memory: a mark is for one start.
const ENVIRONMENT: &str = "/run/kola-runext-env";
/// For what is done around the test.
const QUICK: Duration = Duration::from_secs(60);
/// The machine's name within its test.
const ONLY: &str = "";

/// # Errors
/// Where it cannot be run.
pub(in crate::test) fn run(external: &External, bench: &mut Bench<'_, '_>) -> Result<()> {
    let wish = bench.wish();
    if external.needs_internet && !bench.leads_outside() {
        bench.skip("it needs the internet, and the machine has no network that leads there");
        return Ok(());
    }
    let provision = match external.config.as_deref().map(Provision::read).transpose()? {
        Some(Err(beyond)) => {
            bench.skip(&format!("its configuration needs a virtual machine: {beyond}"));
            return Ok(());
        }
        Some(Ok(provision)) => Some(provision),
        None => None,
    };
    bench.boot(ONLY, &wish.image, &[], false)?;
    let distro = match &external.distro {
        Some(distro) => distro.clone(),
        None => distro_of(bench.machine(ONLY)?)?,
    };
    if !external.distros.is_empty() && !external.distros.contains(&distro) {
        bench.skip(&format!("it is for {}, and this is {distro}", external.distros.join(" ")));
        return Ok(());
    }
    let before = bench.look(ONLY)?;
    prepare(external, provision.as_ref(), bench)?;
    let name = bench.test.name.clone();
    let began = bench.begin("test", &name);
    let by_unit = bench.machine(ONLY)?.init()? == "systemd";
    let ran = reboot::run_through(
        bench,
        ONLY,
        &mut |bench, mark, left| match by_unit {
            true => as_unit(bench, mark, left),
            false => alone(external, bench, mark, left),
        },
        &mut |_| Ok(()),
    )?;
    bench.recorder.write("output.txt", &ran.output);
    let limit = bench.limit().as_secs();
    let good = match ran.code {
        Some(0 | 143) => bench.end(began, passed("exit status 0")),
        _ => bench.end(began, Finding::fail("exit status 0", seen(&ran, limit), tail(&ran.output))),
    };
    if good && !external.skip_base_checks {
        bench.check_units(ONLY, &before)?;
    }
    Ok(())
}

/// What kola calls the distribution of a machine.
fn distro_of(machine: &Machine) -> Result<String> {
    let facts = machine.facts()?;
    let field = |name: &str| facts.os_release.get(name).map(String::as_str).unwrap_or_default();
    Ok(match (field("ID"), field("VARIANT_ID")) {
        ("fedora", "coreos") => "fcos".into(),
        (id, _) => id.to_owned(),
    })
}

/// Runs what has to succeed.
fn well(bench: &mut Bench<'_, '_>, what: &str, script: &str, words: &[&str]) -> Result<()> {
    let command = [&["sh", "-ec", script], words].concat();
    let ran = bench.machine(ONLY)?.run(&command, QUICK)?;
    if ran.code != Some(0) {
        bail!("cannot {what}: {}", ran.output.trim());
    }
    Ok(())
}

fn prepare(
    external: &External,
    provision: Option<&Provision>,
    bench: &mut Bench<'_, '_>,
) -> Result<()> {
    let began = bench.begin("test", "files");
    let (directory, _) = DATA.rsplit_once('/').unwrap_or_default();
    let (bin, _) = PROGRAM.rsplit_once('/').unwrap_or_default();
    well(bench, "make kola's directories", "mkdir -p \"$@\"", &["sh", directory, bin])?;
    bench.machine(ONLY)?.put(&external.executable, PROGRAM)?;
    well(bench, "make the test executable", "chmod 755 \"$0\"", &[PROGRAM])?;
    if let Some(data) = &external.data {
        let scratch = bench.recorder.wish.evidence.clone();
        bench.machine(ONLY)?.put(&data::whole(data, &scratch)?, DATA)?;
        let _ = std::fs::remove_dir_all(scratch.join("extdata"));
    }
    if bench.machine(ONLY)?.init()? == "systemd" {
        let unit = unit(external, &bench.test.name);
        let script = "printf '%s' \"$2\" >\"/etc/systemd/system/$1\"; systemctl daemon-reload";
        well(bench, "make the test's unit", script, &["sh", UNIT, &unit])?;
    }
    if let Some(provision) = provision {
        apply(provision, bench)?;
        // Ignition works before a system's first boot: so this is made one.
        bench.machine(ONLY)?.restart().context("cannot boot what was set up")?;
    }
    bench.end(began, passed("they are there"));
    Ok(())
}

fn variables(external: &External, test: &str) -> Vec<(&'static str, String)> {
    let executable = external.executable.file_name().unwrap_or_default().to_string_lossy();
    let mut all = vec![
        ("KOLA_UNIT", UNIT.to_owned()),
        ("KOLA_TEST", test.into()),
        ("KOLA_TEST_EXE", executable.into()),
    ];
    all.extend(external.data.as_ref().map(|_| ("KOLA_EXT_DATA", DATA.to_owned())));
    all
}

fn unit(external: &External, test: &str) -> String {
    let environment: String = variables(external, test)
        .iter()
        .map(|(name, value)| format!("Environment=\"{name}={}\"\n", value.replace('%', "%%")))
        .collect();
    let confined = match external.isolation {
        None => "",
        Some(Isolation::Readonly) => "ProtectSystem=strict\nPrivateTmp=yes\n",
        Some(Isolation::Dynamicuser) => "DynamicUser=yes\n",
    };
    let pid = reboot::PID;
    // Death by SIGTERM is how tests of old asked for a restart.
    format!(
        "[Unit]\nDescription=an external test\n[Service]\nType=oneshot\nTimeoutStartSec=infinity\nSuccessExitStatus=SIGTERM\n\
         {environment}EnvironmentFile=-{ENVIRONMENT}\n\
         StandardOutput=append:{OUTPUT}\nStandardError=append:{OUTPUT}\n{confined}\
         ExecStart=/bin/sh -c 'echo $$$$ 2>/dev/null >{pid}; exec {PROGRAM}'\n"
    )
}

/// Starts the unit, which is over when the test is.
fn as_unit(bench: &mut Bench<'_, '_>, mark: &str, left: Duration) -> Result<Ran> {
    let script = format!("printf '%s' \"$1\" >{ENVIRONMENT}");
    let variable = match mark {
        "" => String::new(),
        mark => format!("AUTOPKGTEST_REBOOT_MARK={mark}\n"),
    };
    well(bench, "write the mark", &script, &["sh", &variable])?;
    let machine = bench.machine(ONLY)?;
    let started = machine.run(&["systemctl", "start", UNIT], left)?;
    let output = || -> Result<String> {
        let ran = machine.run(&["cat", OUTPUT], QUICK)?;
        Ok(if ran.code == Some(0) { ran.output } else { String::new() })
    };
    if started.code.is_none() || started.code == Some(0) {
        return Ok(Ran { code: started.code, output: output()?, ..started });
    }
    let properties = ["systemctl", "show", "-p", "ExecMainCode", "-p", "ExecMainStatus", UNIT];
    let shown = machine.run(&properties, QUICK)?.output;
    let number = |name: &str| {
        let value = shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse::<i32>().ok())
    };
    // CLD_EXITED (sigaction(2)): else the status is a signal's number.
    let code = match (number("ExecMainCode"), number("ExecMainStatus")) {
        (Some(1), Some(status)) => status,
        (Some(2 | 3), Some(signal)) => 128 + signal,
        // It was never executed, or the machine goes down.
        _ => 1,
    };
    let output = match output()? {
        output if output.is_empty() => started.output,
        output => output,
    };
    Ok(Ran { code: Some(code), output, errors: String::new() })
}

/// Where there is no systemd.
fn alone(
    external: &External,
    bench: &mut Bench<'_, '_>,
    mark: &str,
    left: Duration,
) -> Result<Ran> {
    let mut options = Vec::new();
    for (name, value) in variables(external, &bench.test.name) {
        options.extend(["-e".to_owned(), format!("{name}={value}")]);
    }
    if !mark.is_empty() {
        options.extend(["-e".to_owned(), format!("AUTOPKGTEST_REBOOT_MARK={mark}")]);
    }
    let script = format!("echo $$ >{}; exec {PROGRAM}", reboot::PID);
    bench.machine(ONLY)?.run_with(&options, &["sh", "-c", &script], false, left)
}

fn apply(provision: &Provision, bench: &mut Bench<'_, '_>) -> Result<()> {
    for user in &provision.users {
        let script = "id -u \"$0\" >/dev/null 2>&1 || useradd --create-home -- \"$0\"";
        well(bench, "make a user", script, &[user])?;
    }
    for directory in &provision.directories {
        well(bench, "make a directory", "mkdir -p -- \"$0\"", &[&directory.path])?;
        own(directory, bench)?;
    }
    let temporary = bench.recorder.wish.evidence.join("file.tmp");
    for (node, contents) in &provision.files {
        let parent = Path::new(&node.path).parent().and_then(Path::to_str).unwrap_or("/");
        well(bench, "make a directory", "mkdir -p -- \"$0\"", &[parent])?;
        std::fs::write(&temporary, contents)?;
        let put = bench.machine(ONLY)?.put(&temporary, &node.path);
        let _ = std::fs::remove_file(&temporary);
        put?;
        own(&Node { mode: Some(node.mode.unwrap_or(0o644)), ..node.clone() }, bench)?;
    }
    for (path, target) in &provision.links {
        let script = "mkdir -p -- \"$(dirname \"$0\")\"; ln -sfn -- \"$1\" \"$0\"";
        well(bench, "make a link", script, &[path, target])?;
    }
    for (verb, units) in [("enable", &provision.enabled), ("mask", &provision.masked)] {
        for unit in units {
            well(bench, &format!("{verb} {unit}"), "systemctl \"$0\" -- \"$1\"", &[verb, unit])?;
        }
    }
    Ok(())
}

fn own(node: &Node, bench: &mut Bench<'_, '_>) -> Result<()> {
    if let Some(owner) = &node.owner {
        well(bench, "give a file to its owner", "chown -- \"$1\" \"$0\"", &[&node.path, owner])?;
    }
    if let Some(mode) = node.mode {
        well(bench, "set a mode", "chmod -- \"$1\" \"$0\"", &[&node.path, &format!("{mode:o}")])?;
    }
    Ok(())
}
