//! `attach`: machines in the background, in front of one again; by several at once.

mod fixture;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use fixture::terminal::Terminal;
use fixture::{IMAGE, Machine, debian, fails, out, postroj, said};
use rustix::process::{Pid, Signal};

/// Detaches from where it stands before it has seen its first word, unless it was heard.
fn attach(machine: &Machine, options: &[&str]) -> Terminal {
    Terminal::start(&[&["attach"], options, &[&machine.name]].concat(), &[])
}

fn start(options: &[&str], command: &[&str]) -> Machine {
    fixture::image();
    Machine::start(&[&["run", "-d"], options, &[IMAGE], command].concat())
}

#[test]
fn a_terminal_is_shared_and_left_again() {
    let machine = start(&["-it", "-e", "PS1=ready> "], &["sh"]);
    let mut first = attach(&machine, &[]);
    let before = Terminal::run(&[], &["true"]).modes();
    fixture::wait_until("the terminal is raw", || first.is_raw());
    first.types("stty size; echo $((40 + 2))\n");
    first.sees("33 101\r\n42\r\n");
    let mut second = attach(&machine, &[]);
    fixture::wait_until("the terminal is raw", || second.is_raw());
    second.types("echo from the $((1 + 1))nd\n");
    first.sees("from the 2nd\r\n");
    second.sees("from the 2nd\r\n");
    // The window is that of who changed it last.
    first.resize(50, 132);
    fixture::wait_until("the size is the first one's", || {
        first.types("stty size\n");
        first.sees("ready> ").contains("50 132")
    });
    // The first key alone is the machine's, and what follows it.
    first.types("\x10\x11");
    assert_eq!(first.ends(), 0);
    assert_eq!(first.modes(), before);
    second.types("echo it goes $((0)) on; exit 7\n");
    second.sees("it goes 0 on");
    assert_eq!(second.ends(), 7);
    assert_eq!(second.modes(), before);
    fails(&mut postroj(&["attach", &machine.name]), 125, &["has ended", "postroj logs"]);
}

#[test]
fn other_keys_detach_and_input_can_be_left_out() {
    let machine = start(&["-it"], &["cat"]);
    let mut terminal = attach(&machine, &["--detach-keys", "x,ctrl-]"]);
    fixture::wait_until("the terminal is raw", || terminal.is_raw());
    terminal.types("\x10\x11axb\n");
    terminal.sees("axb\r\n");
    terminal.types("x\x1d");
    assert_eq!(terminal.ends(), 0);
    // What is typed at it is not the machine's.
    let mut deaf = attach(&machine, &["--no-stdin"]);
    let mut other = attach(&machine, &[]);
    fixture::wait_until("the terminal is raw", || other.is_raw());
    // Nothing else shows that it listens.
    fixture::wait_until("the deaf one listens", || {
        other.types("listen\n");
        while deaf.read() {}
        deaf.shown.windows(6).any(|word| word == b"listen")
    });
    deaf.types("unheard\n");
    other.types("heard\n");
    // Its terminal is not raw, and turns each line end into one more.
    deaf.sees("heard\r\r\nheard\r\r\n");
    assert!(!other.sees("heard\r\nheard\r\n").contains("unheard"));
    // End of input, as the person says it.
    other.types("\x04");
    assert_eq!((other.ends(), deaf.ends()), (0, 0));
    let bad = said(&mut postroj(&["attach", "--detach-keys", "ctrl-1", &machine.name]));
    assert!(bad.code == 125 && bad.err.contains("is no key"), "{bad:?}");
}

/// `attach` at pipes, once it is there.
fn at_pipes(machine: &Machine, options: &[&str]) -> Child {
    let mut command = postroj(&[&["attach"], options, &[&machine.name]].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn pipes_carry_input_and_signals_are_passed_on() {
    let script = "trap 'echo caught; exit 3' TERM; while read x; do echo got:$x; done; echo over";
    let machine = start(&["-i"], &["sh", "-c", script]);
    let mut first = at_pipes(&machine, &[]);
    let mut input = first.stdin.take().unwrap();
    let mut lines = BufReader::new(first.stdout.take().unwrap()).lines();
    input.write_all(b"a\nb\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "got:a");
    assert_eq!(lines.next().unwrap().unwrap(), "got:b");
    // The end of one's input is not the machine's.
    drop(input);
    let mut second = at_pipes(&machine, &["--sig-proxy=false"]);
    second.stdin.as_mut().unwrap().write_all(b"c\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "got:c");
    signal(&second, Signal::TERM);
    assert_eq!(second.wait().unwrap().code(), None);
    let running = out(&mut postroj(&["ps"]));
    assert!(running.contains(&machine.name), "{running}");
    signal(&first, Signal::TERM);
    assert_eq!(lines.next().unwrap().unwrap(), "caught");
    assert_eq!(first.wait().unwrap().code(), Some(3));
}

#[test]
fn a_machine_without_input_is_listened_to() {
    let script = "trap 'echo heard; exit 4' USR1; echo up; while :; do sleep 0.1; done";
    let machine = start(&[], &["sh", "-c", script]);
    fixture::wait_until("the signal is waited for", || {
        out(&mut postroj(&["logs", &machine.name])) == "up"
    });
    let mut child = at_pipes(&machine, &[]);
    // It is attached when it passes a signal on; what comes before is not its own.
    fixture::wait_until("the signal is blocked", || {
        let path = format!("/proc/{}/status", child.id());
        let text = std::fs::read_to_string(path).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix("SigBlk:\t")).unwrap().to_owned();
        u64::from_str_radix(&line, 16).unwrap() & (1 << (Signal::USR1.as_raw() - 1)) != 0
    });
    signal(&child, Signal::USR1);
    let mut text = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut text).unwrap();
    assert_eq!((text.as_str(), child.wait().unwrap().code()), ("heard\n", Some(4)));
    let machine = start(&[], &["sleep", "1000"]);
    out(&mut postroj(&["pause", &machine.name]));
    fails(&mut postroj(&["attach", &machine.name]), 125, &["is paused", "unpause"]);
}

#[test]
fn a_system_s_console() {
    let machine = Machine::boot(&[], &debian("debian-12"));
    let mut console = attach(&machine, &[]);
    fixture::wait_until("the terminal is raw", || console.is_raw());
    console.types("\n");
    console.sees("login: ");
    out(&mut machine.exec(&[], &["sh", "-c", "echo on the console >/dev/console"]));
    console.sees("on the console");
    console.types("\x10\x11");
    assert_eq!(console.ends(), 0);
    let mut console = attach(&machine, &[]);
    fixture::wait_until("the terminal is raw", || console.is_raw());
    assert_eq!(machine.stop(), 0);
    assert_eq!(console.ends(), 0);
}
