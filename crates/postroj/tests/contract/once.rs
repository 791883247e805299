//! Machines in the foreground: how they begin and end.

use std::io::Write;
use std::process::Stdio;

use super::fixture::terminal::Terminal;
use super::fixture::{IMAGE, fails, out, postroj, said};
use super::{Engine, sh};

pub(super) const CASES: &[(&str, fn(&Engine))] = &[
    ("streams, environment, user and code", streams),
    ("commands that cannot be executed", not_executed),
    ("an end by a signal", signalled),
    ("read-only roots, memory and sizes", confined),
    ("a terminal", terminal),
    ("a time limit", late),
    ("a signal from outside", told),
];

fn streams(engine: &Engine) {
    let script = "cat; pwd; id -u; id -g; id -G; echo $WORD; hostname; echo trouble >&2; exit 7";
    let options = ["-i", "-e", "WORD=word", "-w", "/srv", "-u", "app", "--hostname", "box"];
    let mut command = engine.sh(&options, script);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"input\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(7), "{text} {error}");
    let groups = "1000 2000";
    assert_eq!(text, format!("input\n/srv\n1000\n1000\n{groups}\nword\nbox\n"));
    // A note of how it is run may come first.
    assert!(error.ends_with("trouble\n"), "{error}");
}

fn not_executed(engine: &Engine) {
    let code = |command: &str| said(&mut engine.run(&[], &[command]));
    let missing = code("nothing");
    assert_eq!(missing.code, 127, "{missing:?}");
    assert!(missing.err.contains("cannot execute \"nothing\""), "{missing:?}");
    let plain = code("/etc/passwd");
    assert_eq!(plain.code, 126, "{plain:?}");
    assert!(plain.err.contains("not marked as executable"), "{plain:?}");
}

fn signalled(engine: &Engine) {
    let killed = said(&mut engine.sh(&[], "echo before; kill -9 $$"));
    assert_eq!((killed.code, &*killed.out), (137, "before\n"), "{killed:?}");
}

fn confined(engine: &Engine) {
    let script = "touch /srv/x 2>/dev/null || echo refused; touch /tmp/x && echo fine; \
                  head -c 1m /dev/zero >/x/big 2>/dev/null || echo full; stat -c %a /x";
    let options = ["--read-only", "--tmpfs", "/x:size=64k,mode=0711"];
    assert_eq!(out(&mut engine.sh(&options, script)), "refused\nfine\nfull\n711");
}

fn terminal(engine: &Engine) {
    let script = "tty -s && stty size; read word; echo got-$word; exit 5";
    let words = [&["run", "-it"], engine.options, &[IMAGE, "sh", "-c", script]].concat();
    let mut person = Terminal::start(&words, &[("TERM", "xterm")]);
    person.sees("33 101");
    person.types("word\r");
    person.sees("got-word");
    assert_eq!(person.ends(), 5);
    assert!(!person.is_raw());
}

fn late(engine: &Engine) {
    assert_eq!(said(&mut engine.run(&["--timeout", "1"], &["sleep", "1000"])).code, 137);
}

/// What its launcher is sent goes to the command; and of one that is to be forgotten nothing is left.
fn told(engine: &Engine) {
    let machine = engine.start(&["--rm"], &["sh", "-c", super::LOOP]);
    assert_eq!(sh(&machine, "echo there"), "there");
    out(&mut postroj(&["kill", "-s", "TERM", &machine.name]));
    super::fixture::wait_until("it is forgotten", || {
        !out(&mut postroj(&["ps", "-a"])).contains(&machine.name)
    });
    fails(&mut machine.exec(&[], &["true"]), 125, &["there is no machine"]);
}
