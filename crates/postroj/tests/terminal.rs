//! `run -t`: a terminal of its own inside, and the launcher's left as it was.

mod fixture;

use std::fs::File;

use fixture::terminal::{Terminal, state};
use fixture::{fails, out, processes_with, run, said, wait_until};
use rustix::process::Signal;

#[test]
fn a_shell_has_job_control() {
    let mut terminal = Terminal::run(&["-e", "PS1=ready> "], &[]);
    let start = terminal.sees("ready> ");
    assert!(!start.contains("job control"), "{start}");
    terminal.types("sleep 1004\n");
    wait_until("it sleeps", || processes_with("sleep\x001004").len() == 1);
    terminal.types("\x1a");
    terminal.sees("Stopped");
    terminal.sees("ready> ");
    let pid = processes_with("sleep\x001004")[0];
    assert_eq!(state(pid as u32), 'T');
    terminal.types("bg\n");
    wait_until("it goes on", || state(pid as u32) == 'S');
    terminal.types("jobs\n");
    terminal.sees("Running");
    terminal.sees("ready> ");
    terminal.types("fg; echo code=$?\n");
    // The shell may not have given the terminal to it at once.
    wait_until("it is interrupted", || {
        terminal.types("\x03");
        processes_with("sleep\x001004").is_empty()
    });
    terminal.types("echo settled\n");
    terminal.sees("settled\r\nsettled\r\n");
    terminal.sees("ready> ");
    // What is typed is shown once: by the inner terminal alone.
    terminal.types("true once\n");
    let echoed = terminal.sees("ready> ");
    assert_eq!(echoed.matches("once").count(), 1, "{echoed:?}");
    terminal.types("exit 7\n");
    assert_eq!(terminal.ends(), 7);
}

#[test]
fn the_window_size_is_the_launchers_and_follows_it() {
    let script = "stty size; trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.1; done";
    let mut terminal = Terminal::run(&[], &["sh", "-c", script]);
    assert_eq!(terminal.sees("up\r\n"), "33 101\r\n");
    terminal.resize(50, 132);
    terminal.sees("50 132\r\n");
    assert_eq!(terminal.ends(), 0);
}

#[test]
fn what_programs_ask_of_a_terminal() {
    let script = "echo $TERM; test -t 0 && test -t 1 && test -t 2 && echo terminal; \
                  printf '\\033[31mred\\033[0m\\n'; tty; echo > /dev/tty && echo controlled";
    let mut terminal = Terminal::run(&[], &["sh", "-c", script]);
    assert_eq!(terminal.sees("terminal\r\n"), "xterm-256color\r\n");
    assert_eq!(terminal.sees("\x1b[31mred\x1b[0m\r\n"), "");
    assert_eq!(terminal.sees("\r\n"), "/dev/pts/0");
    terminal.sees("controlled\r\n");
    assert_eq!(terminal.ends(), 0);
    // Without one, no program shall think of colours.
    let mut plain = run(&[], &["sh", "-c", "echo ${TERM-none}; test -t 1 || echo no terminal"]);
    assert_eq!(out(plain.env("TERM", "xterm")), "none\nno terminal");
}

#[test]
fn input_ends_where_the_person_says_so() {
    let mut terminal = Terminal::run(&[], &["cat"]);
    terminal.types("line\n");
    assert_eq!(terminal.sees("line\r\nline\r\n"), "");
    terminal.types("\x04");
    assert_eq!(terminal.ends(), 0);
}

#[test]
fn the_terminal_is_left_as_it_was_on_every_way_out() {
    let before = Terminal::run(&[], &["true"]).modes();
    let ends = |options: &[&str], command: &[&str], code: i32, act: &dyn Fn(&Terminal)| {
        let mut terminal = Terminal::run(options, command);
        act(&terminal);
        let ended = terminal.ends();
        let shown = String::from_utf8_lossy(&terminal.shown).into_owned();
        assert_eq!(ended, code, "{options:?} {command:?}: {shown}");
        assert_eq!(terminal.modes(), before, "{options:?} {command:?}: {shown}");
    };
    let nothing = |_: &Terminal| {};
    ends(&[], &["true"], 0, &nothing);
    ends(&[], &["sh", "-c", "exit 3"], 3, &nothing);
    ends(&[], &["sh", "-c", "kill -9 $$"], 137, &nothing);
    ends(&[], &["nonesuch"], 127, &nothing);
    ends(&[], &["/etc"], 126, &nothing);
    ends(&["-w", "/etc/passwd"], &["true"], 125, &nothing);
    ends(&["--timeout=1"], &["sleep", "1000"], 137, &nothing);
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let act = |terminal: &Terminal| {
            wait_until("the terminal is raw", || terminal.is_raw());
            terminal.signal(signal);
        };
        ends(&[], &["sleep", "1000"], 128 + signal.as_raw(), &act);
    }
}

#[test]
fn stopped_it_gives_the_terminal_back_and_takes_it_again() {
    let mut terminal = Terminal::run(&[], &["sh", "-c", "echo up; cat"]);
    terminal.sees("up");
    wait_until("the terminal is raw", || terminal.is_raw());
    let pid = terminal.child.id();
    let before = Terminal::run(&[], &["true"]).modes();
    for _ in 0..3 {
        terminal.signal(Signal::TSTP);
        wait_until("it stops", || state(pid) == 'T');
        assert_eq!(terminal.modes(), before);
        // A shell that was used meanwhile may leave it in another size.
        terminal.resize(20, 70);
        terminal.signal(Signal::CONT);
        wait_until("the terminal is raw again", || terminal.is_raw());
        terminal.types("again\n");
        terminal.sees("again\r\nagain\r\n");
    }
    terminal.types("\x04");
    assert_eq!(terminal.ends(), 0);
    assert_eq!(terminal.modes(), before);
}

#[test]
fn a_terminal_that_goes_away_ends_the_machine() {
    let mut terminal = Terminal::run(&[], &["sleep", "1005"]);
    wait_until("it sleeps", || processes_with("sleep\x001005").len() >= 2);
    // With the last master the terminal is gone.
    terminal.master = File::open("/dev/null").unwrap();
    wait_until("it ends", || processes_with("sleep\x001005").is_empty());
}

#[test]
fn output_alone() {
    assert_eq!(out(&mut run(&["-t"], &["tty"])), "/dev/pts/0\r");
    // All of it, the end too.
    let said = said(&mut run(&["-t"], &["seq", "1", "100000"]));
    assert_eq!(said.code, 0);
    assert_eq!(said.out.lines().count(), 100_000);
    assert!(said.out.ends_with("99999\r\n100000\r\n"));
    fails(&mut run(&["-it"], &["true"]), 125, &["standard input is no terminal: leave -t out"]);
}
