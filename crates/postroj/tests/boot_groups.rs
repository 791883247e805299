//! Control groups as a booted system sees them, real ones and emulated ones: to whom nothing is
//! delegated, the same holds.

mod fixture;

use fixture::{Machine, debian, out, processes_with, said, wait_until};

fn system() -> Machine {
    Machine::boot(&["--fast"], &debian("debian-12"))
}

fn sh(machine: &Machine, script: &str) -> String {
    out(&mut machine.exec(&[], &["sh", "-c", script]))
}

fn is(machine: &Machine, unit: &str, state: &str) -> bool {
    said(&mut machine.exec(&[], &["systemctl", "is-active", unit])).out.trim() == state
}

#[test]
fn scopes() {
    let machine = system();
    let script = "list=/sys/fs/cgroup/system.slice/short.scope/cgroup.procs; \
        grep -qx $$ $list && systemctl is-active short.scope; exit 3";
    let scope = ["systemd-run", "--scope", "-q", "--unit=short", "sh", "-c", script];
    let said = said(&mut machine.exec(&[], &scope));
    assert_eq!((said.code, said.out.trim()), (3, "active"), "{said:?}");
    wait_until("the scope is gone", || is(&machine, "short.scope", "inactive"));
    // As a unit's own child, whose group it leaves.
    let unit = ["systemd-run", "--scope", "-q", "sh", "-c", "exit 4"];
    assert_eq!(fixture::said(&mut machine.exec(&["--unit"], &unit)).code, 4);
    // One that is stopped takes all of its processes along.
    let word = format!("17{:05}", std::process::id() % 100_000);
    let script = format!(
        "systemd-run --scope -q --unit=held sh -c 'sleep {word} & setsid sleep {word} & wait' \
         >/dev/null 2>&1 &"
    );
    sh(&machine, &script);
    let sleeps = format!("sleep\0{word}");
    wait_until("both sleep", || processes_with(&sleeps).len() == 2);
    wait_until("the scope is there", || is(&machine, "held.scope", "active"));
    sh(&machine, "systemctl stop held.scope");
    wait_until("none sleeps", || processes_with(&sleeps).is_empty());
    assert_eq!(sh(&machine, "systemctl --failed --no-legend --no-pager"), "");
    assert_eq!(machine.stop(), 0);
}

#[test]
fn a_forking_daemon_is_followed() {
    let machine = system();
    let word = format!("18{:05}", std::process::id() % 100_000);
    // Its parents end, and it leads a session of its own.
    let unit = format!(
        "[Service]\nType=forking\n\
         ExecStart=/bin/sh -c \"setsid sh -c 'sleep {word} & sleep {word} & wait' & exit 0\"\n"
    );
    sh(
        &machine,
        &format!(
            "printf '%s' \"{}\" >/run/systemd/system/forks.service",
            unit.replace('"', "\\\"")
        ),
    );
    sh(&machine, "systemctl daemon-reload && systemctl start forks");
    assert!(is(&machine, "forks", "active"));
    let sleeps = format!("sleep\0{word}");
    wait_until("it has forked", || processes_with(&sleeps).len() == 2);
    let group = "/sys/fs/cgroup/system.slice/forks.service";
    let listed =
        sh(&machine, &format!("wc -l <{group}/cgroup.procs; cat {group}/cgroup.procs | wc -l"));
    assert_eq!(listed, "3\n3");
    assert!(sh(&machine, &format!("cat {group}/cgroup.events")).contains("populated 1"));
    let busy = said(&mut machine.exec(&["--unit"], &["rmdir", group]));
    assert!(busy.code == 1 && busy.err.contains("busy"), "{busy:?}");
    let status = sh(&machine, "systemctl status --no-pager forks");
    assert!(status.matches('─').count() >= 3, "{status}");
    // Where it ends, its unit does.
    sh(&machine, &format!("kill $(cat {group}/cgroup.procs)"));
    wait_until("the unit has ended", || is(&machine, "forks", "inactive"));
    sh(&machine, &format!("! test -e {group}"));
    // Where its unit ends, it does.
    sh(&machine, "systemctl start forks");
    wait_until("it has forked", || processes_with(&sleeps).len() == 2);
    sh(&machine, "systemctl stop forks");
    wait_until("it has ended", || processes_with(&sleeps).is_empty());
    assert!(is(&machine, "forks", "inactive"));
    assert_eq!(sh(&machine, "systemctl --failed --no-legend --no-pager"), "");
    assert_eq!(machine.stop(), 0);
}
