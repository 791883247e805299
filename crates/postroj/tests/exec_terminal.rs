//! `exec -it` and `shell`: a terminal of its own in a machine that runs.

mod fixture;

use std::fs::File;

use fixture::terminal::{Terminal, state};
use fixture::{IMAGE, Machine, out, postroj, processes_with, wait_until};
use rustix::process::Signal;

fn machine() -> Machine {
    fixture::image();
    Machine::start(&["run", "-d", IMAGE, "sleep", "1000"])
}

/// `exec -it MACHINE` with a command.
fn exec(machine: &Machine, options: &[&str], command: &[&str]) -> Terminal {
    let args = [&["exec", "-it"], options, &[&machine.name], command].concat();
    Terminal::start(&args, &[("TERM", "xterm-256color")])
}

/// Whom the command is run as, and what its home is.
const USERS: [(&[&str], &str); 2] = [(&[], "/root"), (&["-u", "app"], "/home/app")];

#[test]
fn it_ends_as_its_command_does_and_leaves_the_terminal_as_it_was() {
    let machine = machine();
    let before = Terminal::run(&[], &["true"]).modes();
    for (options, _) in USERS {
        for (command, code) in [
            (&["true"][..], 0),
            (&["sh", "-c", "exit 3"], 3),
            (&["sh", "-c", "kill -9 $$"], 137),
            (&["sh", "-c", "kill -TERM $$"], 143),
            (&["nonesuch"], 127),
            (&["/etc"], 126),
        ] {
            let mut terminal = exec(&machine, options, command);
            assert_eq!(terminal.ends(), code, "{options:?} {command:?}");
            assert_eq!(terminal.modes(), before, "{options:?} {command:?}");
        }
    }
    // What ends the one who asked ends the command, and nothing else.
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let mut terminal = exec(&machine, &[], &["sleep", "1006"]);
        wait_until("it sleeps", || processes_with("sleep\x001006").len() >= 2);
        terminal.signal(signal);
        assert_eq!(terminal.ends(), 128 + signal.as_raw());
        assert_eq!(terminal.modes(), before, "{signal:?}");
    }
    wait_until("none sleeps", || processes_with("sleep\x001006").is_empty());
    assert_eq!(out(&mut machine.exec(&[], &["echo", "alive"])), "alive");
}

#[test]
fn what_is_typed_is_its_input_and_all_output_is_shown() {
    let machine = machine();
    for (options, home) in USERS {
        let script = "echo $TERM; test -t 0 && test -t 1 && test -t 2 && echo terminal; \
            echo > /dev/tty && echo controlled; read line; echo got:$line:$HOME; exit 5";
        let mut terminal = exec(&machine, options, &["sh", "-c", script]);
        assert_eq!(terminal.sees("terminal\r\n"), "xterm-256color\r\n");
        terminal.sees("controlled\r\n");
        terminal.types("a b\n");
        // Shown once: by the inner terminal alone.
        assert_eq!(terminal.sees(&format!("got:a b:{home}\r\n")), "a b\r\n");
        assert_eq!(terminal.ends(), 5);
        // Its end is the person's to say.
        let mut terminal = exec(&machine, options, &["cat"]);
        terminal.types("line\n");
        assert_eq!(terminal.sees("line\r\nline\r\n"), "");
        terminal.types("\x04");
        assert_eq!(terminal.ends(), 0);
    }
    let said = fixture::said(&mut machine.exec(&["-t"], &["seq", "1", "100000"]));
    assert_eq!((said.code, said.out.lines().count()), (0, 100_000));
    assert!(said.out.ends_with("99999\r\n100000\r\n"));
}

#[test]
fn the_window_size_follows() {
    let machine = machine();
    let script = "stty size; trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.1; done";
    for (options, _) in USERS {
        let mut terminal = exec(&machine, options, &["sh", "-c", script]);
        assert_eq!(terminal.sees("up\r\n"), "33 101\r\n");
        terminal.resize(50, 132);
        terminal.sees("50 132\r\n");
        assert_eq!(terminal.ends(), 0);
    }
}

#[test]
fn control_c_interrupts_what_is_in_the_foreground() {
    let machine = machine();
    for (options, _) in USERS {
        let script = "trap 'echo caught; exit 9' INT; echo up; while :; do sleep 0.1; done";
        let mut terminal = exec(&machine, options, &["sh", "-c", script]);
        terminal.sees("up\r\n");
        // busybox's shell loses one that comes between two of its commands.
        let mut ended = None;
        wait_until("it is interrupted", || {
            terminal.types("\x03");
            ended = terminal.child.try_wait().unwrap();
            ended.is_some()
        });
        terminal.sees("caught");
        assert_eq!(ended.unwrap().code(), Some(9));
        for (key, code) in [("\x03", 130), ("\x1c", 131)] {
            let mut terminal = exec(&machine, options, &["cat"]);
            // Else the outer terminal echoes, and the command may not be there yet.
            wait_until("the terminal is raw", || terminal.is_raw());
            terminal.types("up\n");
            terminal.sees("up\r\nup\r\n");
            terminal.types(key);
            assert_eq!(terminal.ends(), code);
        }
    }
}

#[test]
fn a_shell_has_job_control() {
    let machine = machine();
    for (options, _) in USERS {
        let options = [options, &["-e", "PS1=ready> "]].concat();
        let mut terminal = exec(&machine, &options, &["sh"]);
        let start = terminal.sees("ready> ");
        assert!(!start.contains("job control"), "{start}");
        terminal.types("sleep 1008\n");
        wait_until("it sleeps", || processes_with("sleep\x001008").len() == 1);
        terminal.types("\x1a");
        terminal.sees("Stopped");
        terminal.sees("ready> ");
        let pid = processes_with("sleep\x001008")[0] as u32;
        assert_eq!(state(pid), 'T');
        terminal.types("bg\n");
        wait_until("it goes on", || state(pid) == 'S');
        terminal.types("fg; echo code=$?\n");
        // The shell may not have given the terminal to it at once.
        wait_until("it is interrupted", || {
            terminal.types("\x03");
            processes_with("sleep\x001008").is_empty()
        });
        terminal.types("echo settled\n");
        terminal.sees("settled\r\nsettled\r\n");
        terminal.types("exit 7\n");
        assert_eq!(terminal.ends(), 7);
    }
}

#[test]
fn shell_opens_one() {
    let machine = machine();
    let mut terminal = Terminal::start(&["shell", &machine.name], &[("PS1", "unused")]);
    terminal.types("echo $((40 + 2)) on $(tty | cut -c1-8)\n");
    terminal.sees("42 on /dev/pts");
    terminal.types("exit 4\n");
    assert_eq!(terminal.ends(), 4);
}

#[test]
fn a_machine_that_ends_gives_the_terminal_back() {
    let machine = machine();
    let before = Terminal::run(&[], &["true"]).modes();
    let mut terminal = exec(&machine, &[], &["sh", "-c", "echo up; exec sleep 1009"]);
    terminal.sees("up\r\n");
    out(&mut postroj(&["kill", &machine.name]));
    assert_eq!(terminal.ends(), 137);
    assert_eq!(terminal.modes(), before);
    // And a terminal that goes away ends the command, but not the machine.
    let machine = self::machine();
    let mut terminal = exec(&machine, &[], &["sleep", "1009"]);
    wait_until("it sleeps", || processes_with("sleep\x001009").len() >= 2);
    terminal.master = File::open("/dev/null").unwrap();
    wait_until("it ends", || processes_with("sleep\x001009").is_empty());
    assert_eq!(out(&mut machine.exec(&[], &["echo", "alive"])), "alive");
}
