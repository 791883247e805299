//! What changes a machine as a whole: restarts, snapshots, clones, and its ends.

use super::fixture::terminal::Terminal;
use super::fixture::{self, Machine, fails, out, postroj, said};
use super::{Case, Engine, LOOP, inspect, sh};

pub(super) const CASES: &[Case<Engine>] = &[
    ("restarts, snapshots, clones and an end", through_its_life),
    ("somebody attached to a terminal", attached),
];

/// In the order in which a machine is used, since each one takes a while to start.
fn through_its_life(engine: &Engine) {
    let machine = engine.start(&[], &["sh", "-c", LOOP]);
    restarts(&machine);
    goes_back(&machine);
    has_a_clone(&machine);
    ends(&machine);
}

fn restarts(machine: &Machine) {
    let name = &machine.name;
    sh(machine, "rm /etc/os-release; mkdir /srv/d; echo x >/srv/d/f; chown 1:2 /srv/d/f");
    for round in 1..3 {
        assert_eq!(&out(&mut postroj(&["restart", name])), name);
        let seen = "test ! -e /etc/os-release && cat /srv/d/f && stat -c %u:%g /srv/d/f";
        assert_eq!(sh(machine, seen), "x\n1:2", "round {round}");
        let log = out(&mut postroj(&["logs", name]));
        assert_eq!(log.matches("began").count(), round + 1, "{log}");
    }
    // What does not listen is killed, and starts all the same.
    sh(machine, "kill -STOP $(cat /tmp/main)");
    assert_eq!(&out(&mut postroj(&["restart", "-t", "0", name])), name);
    assert_eq!(sh(machine, "cat /srv/d/f"), "x");
    assert_eq!(inspect(name)["State"]["Status"], "running");
}

fn goes_back(machine: &Machine) {
    let name = &machine.name;
    sh(machine, "echo one >/srv/d/f; ln /srv/d/f /srv/d/hard; mkfifo /srv/d/fifo");
    let look = "ls -ln /srv/d; cat /srv/d/f";
    let before = sh(machine, look);
    assert_eq!(out(&mut postroj(&["snapshot", "create", name, "whole"])), "whole");
    sh(machine, "rm -r /srv/d; echo new >/srv/new");
    assert_eq!(out(&mut postroj(&["snapshot", "create", name])), "snap0");
    for _ in 0..2 {
        assert_eq!(&out(&mut postroj(&["restore", name, "whole"])), name);
        assert_eq!(sh(machine, look), before);
        assert_eq!(&out(&mut postroj(&["restore", name])), name);
        assert_eq!(sh(machine, "cat /srv/new; ls /srv"), "new\nnew");
    }
    out(&mut postroj(&["snapshot", "rm", name, "snap0"]));
    fails(&mut postroj(&["restore", name, "snap0"]), 125, &["has no snapshot snap0"]);
}

/// Of the snapshot that is left.
fn has_a_clone(machine: &Machine) {
    let clone = Machine { name: format!("{}-clone", machine.name) };
    let from = format!("{}/whole", machine.name);
    // A monitor must not hold the ends of our pipes.
    let status = postroj(&["clone", &from, &clone.name])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
    assert!(status.unwrap().success());
    assert_eq!(sh(&clone, "cat /srv/d/f"), "one");
    sh(&clone, "echo x >/srv/only");
    assert_eq!(said(&mut machine.exec(&[], &["test", "-e", "/srv/only"])).code, 1);
    assert_eq!(clone.stop(), 9);
}

fn ends(machine: &Machine) {
    let name = &machine.name;
    out(&mut postroj(&["pause", name]));
    assert_eq!(machine.stop(), 9, "a paused one is stopped in good order");
    let shown = inspect(name);
    assert_eq!(shown["State"]["Status"], "exited");
    assert_eq!(shown["State"]["ExitCode"], 9);
    for words in
        [&["exec", name, "true"][..], &["restart", name], &["pause", name], &["diff", name]]
    {
        fails(&mut postroj(words), 125, &["has ended"]);
    }
    assert!(out(&mut postroj(&["logs", name])).ends_with("told"));
    out(&mut postroj(&["rm", name]));
    fails(&mut postroj(&["inspect", name]), 125, &[name]);
}

fn attached(engine: &Engine) {
    let machine = engine.start(&["-it", "-e", "PS1=ready> "], &["sh"]);
    let mut person = Terminal::start(&["attach", &machine.name], &[]);
    fixture::wait_until("the terminal is raw", || person.is_raw());
    person.types("stty size; echo $((40 + 2))\n");
    person.sees("33 101\r\n42\r\n");
    // The first key alone is the machine's, and what follows it.
    person.types("\x10\x11");
    assert_eq!(person.ends(), 0);
    let mut person = Terminal::start(&["attach", &machine.name], &[]);
    fixture::wait_until("the terminal is raw", || person.is_raw());
    person.types("echo it goes $((0)) on; exit 7\n");
    person.sees("it goes 0 on");
    assert_eq!(person.ends(), 7);
    // Killed, another one says so.
    drop(machine);
    let machine = engine.start(&[], &["sleep", "1000"]);
    out(&mut postroj(&["kill", &machine.name]));
    assert_eq!(out(&mut postroj(&["wait", &machine.name])), "137");
}
