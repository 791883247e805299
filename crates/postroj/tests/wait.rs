//! `wait --for`: each thing, in time, too late, and in a machine that ends before it.

mod fixture;

use std::process::{Child, Stdio};

use fixture::{Machine, debian, fails, out, postroj, said};

fn wait(machine: &Machine, what: &str) -> Child {
    let mut command = postroj(&["wait", "--for", what, "--timeout", "60", &machine.name]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// It waits, until something is done.
fn holds_after(machine: &Machine, what: &str, script: &str) {
    let late = ["wait", "--for", what, "--timeout", "0", &machine.name];
    fails(&mut postroj(&late), 125, &["took longer than 0 s"]);
    let waiting = wait(machine, what);
    out(&mut machine.exec(&[], &["sh", "-c", script]));
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    // What holds already is not waited for.
    out(&mut postroj(
        &late[..3].iter().chain(&["--timeout", "60", &machine.name]).copied().collect::<Vec<_>>(),
    ));
}

fn ends_before(machine: &Machine, what: &[&str]) {
    let waiting: Vec<Child> = what.iter().map(|what| wait(machine, what)).collect();
    out(&mut postroj(&["kill", &machine.name]));
    for waiting in waiting {
        let output = waiting.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(said.contains("ended before"), "{said}");
    }
}

#[test]
fn ports_and_lines_of_a_command() {
    fixture::image();
    let script =
        "echo one; while [ ! -e /srv/go ]; do sleep 0.05; done; printf 'ready> '; sleep 1000";
    let options = ["run", "-d", "--network", "none", fixture::IMAGE, "sh", "-c", script];
    let machine = Machine::start(&options);
    holds_after(&machine, "port:80", "httpd -p 127.0.0.1:80");
    holds_after(&machine, "port:81", "httpd -p '[::]:81'");
    holds_after(
        &machine,
        "port:67/udp",
        "printf 'interface lo\nstart 127.0.0.2\nend 127.0.0.9\nlease_file /srv/leases\n' >/srv/conf; \
         touch /srv/leases; udhcpd /srv/conf",
    );
    fails(
        &mut postroj(&["wait", "--for", "port:67", "--timeout", "0", &machine.name]),
        125,
        &["longer"],
    );
    out(&mut postroj(&["wait", "--for", "log:^on.$", "--timeout", "60", &machine.name]));
    // A prompt is no whole line.
    holds_after(&machine, "log:^ready> $", "touch /srv/go");
    let unit = ["wait", "--for", "unit:x", &machine.name];
    fails(&mut postroj(&unit), 125, &["runs a command only"]);
    ends_before(&machine, &["port:82", "log:never"]);
    for bad in ["port:0", "log:(", "up"] {
        let said = said(&mut postroj(&["wait", "--for", bad, &machine.name]));
        assert!(said.code == 2 && said.err.contains(bad), "{said:?}");
    }
}

#[test]
fn units_and_the_journal_of_systemd() {
    let machine = Machine::boot(&["--fast"], &debian("debian-12"));
    let run = |unit: &str, command: &str| format!("systemd-run -q --unit {unit} {command}");
    out(&mut postroj(&["wait", "--for", "unit:dbus", "--timeout", "60", &machine.name]));
    holds_after(&machine, "unit:sleeper", &run("sleeper", "sleep 1000"));
    holds_after(&machine, "log:^said by [a-z]+$", &run("sayer", "sh -c 'echo said by sayer'"));
    out(&mut machine.exec(&[], &["systemd-run", "-q", "--unit", "bad", "false"]));
    let failed = ["wait", "--for", "unit:bad", "--timeout", "60", &machine.name];
    fails(&mut postroj(&failed), 125, &["bad has failed"]);
    ends_before(&machine, &["unit:nonesuch", "log:never", "port:9"]);
}

#[test]
fn services_of_others() {
    let machine = Machine::boot(&[], &debian("debian-12+sysvinit"));
    let script = "cat >/etc/init.d/flag <<'E'\n#!/bin/sh\n[ -e /srv/flag ] || exit 3\nE\n\
                  chmod 755 /etc/init.d/flag";
    out(&mut machine.exec(&[], &["sh", "-c", script]));
    holds_after(&machine, "unit:flag", "touch /srv/flag");
    ends_before(&machine, &["unit:other"]);
}

#[test]
fn who_waits_leaves_nothing_when_it_is_killed() {
    let machine = Machine::boot(&["--fast"], &debian("debian-12"));
    let mut waiting = wait(&machine, "log:never");
    let journal = ["sh", "-c", "cat /proc/[0-9]*/comm | grep -qx journalctl"];
    fixture::wait_until("it reads the journal", || {
        said(&mut machine.exec(&[], &journal)).code == 0
    });
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    fixture::wait_until("nobody does", || said(&mut machine.exec(&[], &journal)).code == 1);
}
