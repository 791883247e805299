//! Restarts, from inside and from outside: what was written stays, and what is in memory goes.

mod fixture;

use fixture::{Machine, debian, fails, out, postroj, said};

fn inspect(machine: &Machine) -> serde_json::Value {
    let text = out(&mut postroj(&["inspect", &machine.name]));
    serde_json::from_str::<serde_json::Value>(&text).unwrap()[0].clone()
}

fn sh(machine: &Machine, script: &str) -> String {
    out(&mut machine.exec(&[], &["sh", "-c", script]))
}

/// Writes, restarts, and finds what was written; several times.
fn keeps_what_was_written(machine: &Machine, restart: impl Fn(&Machine)) {
    sh(
        machine,
        "rm -f /etc/issue; mkdir /srv/d; echo x >/srv/d/f; chown 1:2 /srv/d/f; echo y >/tmp/f",
    );
    for round in 0..3 {
        sh(machine, &format!("echo {round} >>/srv/rounds; echo mine >/etc/hostname"));
        let before = inspect(machine)["State"]["Pid"].clone();
        restart(machine);
        fixture::wait_until("it runs again", || {
            let now = inspect(machine);
            now["State"]["Pid"] != before && now["State"]["Pid"] != 0
        });
        fixture::wait_until("it can be entered", || {
            said(&mut machine.exec(&[], &["true"])).code == 0
        });
        let seen =
            "test ! -e /etc/issue && cat /srv/d/f && stat -c %u:%g /srv/d/f && cat /etc/hostname";
        assert_eq!(sh(machine, seen), "x\n1:2\nmine", "round {round}");
        let rounds: Vec<String> = (0..=round).map(|n| n.to_string()).collect();
        assert_eq!(sh(machine, "cat /srv/rounds"), rounds.join("\n"));
    }
}

#[test]
fn a_system_reboots() {
    let machine = Machine::boot(&["--fast"], &debian("debian-12"));
    let before = sh(&machine, "cat /proc/sys/kernel/random/boot_id /etc/machine-id");
    keeps_what_was_written(&machine, |machine| {
        // It ends while it is asked.
        let _ = said(&mut machine.exec(&[], &["systemctl", "reboot"]));
    });
    out(&mut postroj(&["wait", "--for", "ready", &machine.name]));
    assert_eq!(sh(&machine, "systemctl is-system-running"), "running");
    assert_eq!(sh(&machine, "cat /proc/sys/kernel/random/boot_id /etc/machine-id"), before);
    assert_eq!(machine.stop(), 0);
}

#[test]
fn a_system_is_restarted() {
    for label in ["debian-13", "debian-12+sysvinit"] {
        let machine = Machine::boot(&[], &debian(label));
        keeps_what_was_written(&machine, |machine| {
            assert_eq!(out(&mut postroj(&["restart", &machine.name])), machine.name);
        });
        assert_eq!(machine.stop(), 0);
        fails(&mut postroj(&["restart", &machine.name]), 125, &["has ended"]);
    }
}

#[test]
fn a_command_is_restarted() {
    fixture::image();
    let script = "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done";
    let machine = Machine::start(&["run", "-d", fixture::IMAGE, "sh", "-c", script]);
    fixture::wait_until("it can be entered", || said(&mut machine.exec(&[], &["true"])).code == 0);
    sh(&machine, "echo x >/etc/issue");
    keeps_what_was_written(&machine, |machine| {
        out(&mut postroj(&["restart", &machine.name]));
    });
    assert_eq!(out(&mut postroj(&["logs", &machine.name])), "up\nup\nup\nup");
    // Under another name, and paused, as well.
    let name = format!("{}-x", machine.name);
    out(&mut postroj(&["rename", &machine.name, &name]));
    let machine = Machine { name };
    out(&mut postroj(&["pause", &machine.name]));
    out(&mut postroj(&["restart", "-t", "20", &machine.name]));
    fixture::wait_until("it is up for the fifth time", || {
        out(&mut postroj(&["logs", &machine.name])) == "up\nup\nup\nup\nup"
    });
    assert_eq!(sh(&machine, "cat /srv/d/f"), "x");
    assert_eq!(machine.stop(), 3);
    // What ends by itself is not started again.
    assert_eq!(inspect(&machine)["State"]["Status"], "exited");
}

#[test]
fn one_with_the_host_s_files_is_restarted() {
    // One of the host's mounts is gone when it starts again.
    let vanishes = format!("/srv/postroj-vanishes-{}", std::process::id());
    if fixture::is_root() {
        std::fs::create_dir_all(&vanishes).unwrap();
        out(std::process::Command::new("mount").arg("--bind").args([&vanishes, &vanishes]));
    }
    let machine = Machine::start(&["run", "-d", "host", "sleep", "1000"]);
    if fixture::is_root() {
        sh(&machine, &format!("mountpoint {vanishes}"));
        out(std::process::Command::new("umount").arg(&vanishes));
        std::fs::remove_dir(vanishes).unwrap();
    }
    sh(&machine, "echo x >/etc/postroj-test; echo y >/usr/postroj-test");
    out(&mut postroj(&["restart", "-t", "0", &machine.name]));
    fixture::wait_until("it can be entered", || said(&mut machine.exec(&[], &["true"])).code == 0);
    assert_eq!(sh(&machine, "cat /etc/postroj-test /usr/postroj-test"), "x\ny");
    assert!(!std::path::Path::new("/etc/postroj-test").exists());
}

#[test]
fn a_killed_one_is_gone_with_its_files() {
    fixture::image();
    let machine = Machine::start(&["run", "-d", fixture::IMAGE, "sleep", "1000"]);
    out(&mut postroj(&["restart", "-t", "0", &machine.name]));
    let monitor = inspect(&machine)["Monitor"].as_i64().unwrap();
    let monitor = rustix::process::Pid::from_raw(monitor as i32).unwrap();
    rustix::process::kill_process(monitor, rustix::process::Signal::KILL).unwrap();
    fixture::wait_until("ps tells", || {
        out(&mut postroj(&["ps", "-a"]))
            .lines()
            .any(|l| l.contains(&machine.name) && l.contains("Exited (137)"))
    });
    out(&mut postroj(&["rm", &machine.name]));
}
