//! The small inits, each beside the original from Debian: what is started by either sees and
//! says the same.

mod fixture;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use fixture::{Said, home, program, said, wait_until};
use rustix::pty::OpenptFlags;

/// The originals, where the packages of the same names put them.
const ORIGINALS: [&str; 3] = ["tini", "catatonit", "dumb-init"];

/// This program under another name.
fn face(name: &str) -> PathBuf {
    let link = home().join(format!("faces-{}", std::process::id())).join(name);
    std::fs::create_dir_all(link.parent().unwrap()).unwrap();
    let _ = std::os::unix::fs::symlink(program(), &link);
    link
}

fn original(name: &str) -> PathBuf {
    let path = PathBuf::from("/usr/bin").join(name);
    assert!(path.exists(), "the package {name} is installed (`cargo xtask setup`)");
    path
}

/// The links of one test are removed with it.
struct Links;

impl Drop for Links {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(home().join(format!("faces-{}", std::process::id())));
    }
}

fn command(program: &PathBuf, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command
}

/// What differs from run to run, or is a name of ours, taken out.
fn plain(said: Said) -> Said {
    let tidy = |text: &str| {
        let text = text.replace(" - postroj 0.1.0", "").replace(" (postroj 0.1.0)", "");
        let text = text.replace(&face("").display().to_string(), "/usr/bin/");
        let mut told = String::new();
        for part in text.split_inclusive(|c: char| !c.is_ascii_digit()) {
            let digits = part.trim_end_matches(|c: char| !c.is_ascii_digit());
            // Process ids are longer than the other numbers that are told.
            told += if digits.len() > 3 { "PID" } else { digits };
            told += &part[digits.len()..];
        }
        told
    };
    Said { code: said.code, out: tidy(&said.out), err: tidy(&said.err) }
}

/// Both with these arguments: exit code, output and messages are the same.
#[track_caller]
fn alike(name: &str, args: &[&str]) -> Said {
    alike_with(name, args, &[])
}

#[track_caller]
fn alike_with(name: &str, args: &[&str], environment: &[(&str, &str)]) -> Said {
    let both = [original(name), face(name)]
        .map(|program| plain(said(command(&program, args).envs(environment.iter().copied()))));
    let [theirs, ours] = both;
    assert_eq!(
        (ours.code, &ours.out, &ours.err),
        (theirs.code, &theirs.out, &theirs.err),
        "{name} {args:?}"
    );
    ours
}

#[test]
fn ends_of_commands() {
    let _links = Links;
    for name in ORIGINALS {
        for code in [0, 1, 2, 77, 125, 128, 255] {
            let told = alike(name, &["--", "sh", "-c", &format!("exit {code}")]);
            assert_eq!(told.code, code);
        }
        for signal in [1, 6, 9, 11, 15, 31] {
            let told = alike(name, &["--", "sh", "-c", &format!("kill -{signal} $$")]);
            assert_eq!(told.code, 128 + signal, "{name}");
        }
        for program in ["nosuch", "/nosuch/program", "/etc/passwd", "/etc"] {
            alike(name, &["--", program]);
        }
    }
    for (expected, code) in [("3", 3), ("0", 0), ("143", 143), ("3", 4), ("255", 255)] {
        alike("tini", &["-s", "-e", expected, "-e7", "--", "sh", "-c", &format!("exit {code}")]);
    }
    assert_eq!(alike("tini", &["-e", "143", "--", "sh", "-c", "kill -15 $$"]).code, 0);
}

#[test]
fn options() {
    let _links = Links;
    for args in [
        &[][..],
        &["--"],
        &["--version"],
        &["-x", "true"],
        &["--nosuch", "true"],
        &["-g", "--", "true"],
        &["-gg", "true"],
        &["true", "--", "-x"],
        &["--version", "true"],
        &["--version=3"],
        &["--vers"],
        &["--", "echo", "-x", "--version", "--"],
    ] {
        for name in ORIGINALS {
            // The usage is told in our own words.
            let both = [original(name), face(name)].map(|p| plain(said(&mut command(&p, args))));
            let first = |s: &Said| s.err.lines().next().map(str::to_owned);
            let [theirs, ours] = both;
            assert_eq!(
                (ours.code, first(&ours), &ours.out),
                (theirs.code, first(&theirs), &theirs.out),
                "{name} {args:?}"
            );
        }
    }
    for args in [
        &["-e", "256", "true"][..],
        &["-e", "x", "true"],
        &["-e", "-1", "true"],
        &["-e"],
        &["-p", "SIGNONE", "true"],
        &["-p", "TERM", "true"],
        &["-svw", "--", "true"],
        &["-sp", "SIGKILL", "--", "true"],
        &["-svvv", "--", "sh", "-c", "exit 3"],
        &["-svvvg", "--", "nosuch"],
    ] {
        let both = [original("tini"), face("tini")].map(|p| plain(said(&mut command(&p, args))));
        let first = |s: &Said| s.err.lines().next().map(str::to_owned);
        let [theirs, ours] = both;
        assert_eq!((ours.code, first(&ours)), (theirs.code, first(&theirs)), "tini {args:?}");
        let told = |s: &Said| {
            // How often an init looks is its own affair, and a child of the original does not flush.
            let own = ["No child", "SIGCHLD", "tcsetpgrp"];
            let lines = s.out.lines().filter(|line| !own.iter().any(|word| line.contains(word)));
            let mut lines: Vec<_> = lines.map(str::to_owned).collect();
            lines.dedup();
            lines
        };
        assert_eq!(told(&ours), told(&theirs), "tini {args:?}");
    }
    for args in [
        &["-r", "15:0", "true"][..],
        &["-r", "0:15", "true"],
        &["-r", "15", "true"],
        &["-r"],
        &["--rewrite=2:3", "true"],
        &["--rew", "2:32", "true"],
        &["--ver", "true"],
        &["-V"],
        &["-c", "echo", "-c"],
        &["echo", "-V"],
    ] {
        alike("dumb-init", args);
    }
    alike_with("dumb-init", &["true"], &[("DUMB_INIT_SETSID", "0")]);
    alike_with("catatonit", &["true"], &[("CATATONIT_LOG", "1")]);
    for variable in ["TINI_SUBREAPER", "TINI_KILL_PROCESS_GROUP"] {
        alike_with("tini", &["true"], &[(variable, "")]);
    }
    for level in ["0", "1", "x", " 1y"] {
        alike_with("tini", &["true"], &[("TINI_VERBOSITY", level)]);
    }
}

/// What a command is started with: masks and dispositions of signals, descriptors, its group and
/// session, and its directory.
#[test]
fn what_commands_are_started_with() {
    let _links = Links;
    let look = "grep -E '^(Sig|Shd)(Blk|Ign)' /proc/self/status; ls /proc/self/fd | wc -l; pwd; \
                read -r pid name state parent group session rest </proc/$$/stat; \
                echo $((pid == group)) $((pid == session)) $((parent == session))";
    for name in ORIGINALS {
        for prefix in ["", "trap '' INT TTOU PIPE CHLD; ", "trap '' HUP; exec 7</dev/null; "] {
            for options in ["", "-g"] {
                if (name, options) == ("dumb-init", "-g") {
                    continue;
                }
                let both = [original(name), face(name)].map(|program| {
                    let script = format!("{prefix}exec {} {options} -- \"$@\"", program.display());
                    plain(said(Command::new("sh").args(["-c", &script, "sh", "sh", "-c", look])))
                });
                let [theirs, ours] = both;
                assert_eq!((ours.code, &ours.out), (theirs.code, &theirs.out), "{name} {prefix}");
            }
        }
    }
    let single = plain(said(&mut command(&face("dumb-init"), &["-c", "sh", "-c", look])));
    assert_eq!(
        single.out,
        plain(said(&mut command(&original("dumb-init"), &["-c", "sh", "-c", look]))).out
    );
    // A socket that was activated for the init is the command's.
    for program in [original("catatonit"), face("catatonit")] {
        let script = format!(
            "export LISTEN_PID=$$; exec {} -- sh -c 'echo $(($$ - LISTEN_PID))'",
            program.display()
        );
        assert_eq!(said(Command::new("sh").args(["-c", &script])).out, "0\n");
    }
}

/// A command that tells which signals it gets, and has a child that does as well.
const LISTENERS: &str = "
    listen() { for s in HUP INT QUIT USR1 USR2 TERM CONT; do trap \"echo $1 $s; got=1\" $s; done; }
    trap 'exit 9' ALRM
    (listen inner; echo inner ready; while :; do sleep 0.05; done) & inner=$!
    listen outer; echo outer ready
    while [ -z \"$got\" ]; do sleep 0.05; done
    n=0; while [ $n -lt 4 ]; do sleep 0.05; n=$((n + 1)); done
    kill -9 $inner; exit 5";

fn start(program: &PathBuf, args: &[&str]) -> Child {
    let mut command = command(program, args);
    // What is sent to the group of the test must not be what it looks at.
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// The lines that are told after each of two has said that it is ready.
fn hears(program: &PathBuf, options: &[&str], signal: i32) -> (i32, Vec<String>) {
    use std::io::BufRead;
    let args = [options, &["--", "sh", "-c", LISTENERS]].concat();
    let mut child = start(program, &args);
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let mut ready = 0;
    while ready < 2 {
        ready += usize::from(lines.next().unwrap().unwrap().ends_with("ready"));
    }
    sys_kill(child.id(), signal);
    let mut told: Vec<String> = lines.map(Result::unwrap).collect();
    told.sort();
    told.dedup();
    (child.wait().unwrap().code().unwrap(), told)
}

fn sys_kill(pid: u32, signal: i32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn signals_to_commands_and_groups() {
    let _links = Links;
    for (name, options) in [
        ("tini", &["-s"][..]),
        ("tini", &["-s", "-g"]),
        ("catatonit", &[]),
        ("catatonit", &["-g"]),
        ("dumb-init", &[]),
        ("dumb-init", &["-c"]),
        ("dumb-init", &["-r", "15:10", "-r", "1:12"]),
    ] {
        for signal in [1, 15] {
            let theirs = hears(&original(name), options, signal);
            let ours = hears(&face(name), options, signal);
            assert_eq!(ours, theirs, "{name} {options:?} {signal}");
            assert!(!ours.1.is_empty());
        }
    }
}

/// Orphans are reaped, by a process 1 and by one that is asked to.
#[test]
fn orphans_are_reaped() {
    let _links = Links;
    let script = "
        n=0; while [ $n -lt 20 ]; do (sh -c 'exit 3' & sh -c 'kill -9 $$' & exit 0); n=$((n + 1)); done
        while grep -qs '^State:.Z' /proc/[0-9]*/status; do :; done
        echo none left; exit 6";
    let namespaces = ["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"];
    for name in ORIGINALS {
        for program in [original(name), face(name)] {
            let mut inside = Command::new("unshare");
            inside.args(namespaces).arg(program).args(["--", "sh", "-c", script]);
            let told = said(&mut inside);
            assert_eq!((told.code, told.out.as_str()), (6, "none left\n"), "{name}: {told:?}");
        }
    }
    let orphan = "(sh -c 'exit 3' &); while grep -qs 'State:.Z' /proc/$PPID/task/*/children; do :; done; sleep 0.2";
    for program in [original("tini"), face("tini")] {
        let told = said(&mut command(&program, &["-s", "-w", "--", "sh", "-c", orphan]));
        assert_eq!(told.code, 0);
        assert!(told.err.contains("Reaped zombie process with pid="), "{told:?}");
    }
}

#[test]
fn nothing_is_run_in_pause_mode() {
    let _links = Links;
    for program in [original("catatonit"), face("catatonit")] {
        for signal in [2, 15] {
            let mut child = start(&program, &["-P"]);
            // One that waits in sigwaitinfo(2) seems to block nothing meanwhile.
            wait_until("it waits for signals", || {
                let path = format!("/proc/{}/status", child.id());
                std::fs::read_to_string(path).unwrap().contains("State:\tS")
            });
            sys_kill(child.id(), 10);
            sys_kill(child.id(), signal);
            assert_eq!(child.wait().unwrap().code(), Some(0));
        }
    }
}

/// An init that is stopped by its terminal stops its command, and both go on together.
#[test]
fn stops_and_goes_on() {
    let _links = Links;
    for program in [original("dumb-init"), face("dumb-init")] {
        let mut child = start(&program, &["sh", "-c", "echo $$; exec sleep 60"]);
        let mut pid = String::new();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut lines, &mut pid).unwrap();
        let state = |pid: &str| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
        };
        let both = [pid.trim().to_owned(), child.id().to_string()];
        sys_kill(child.id(), 20);
        wait_until("both are stopped", || both.iter().all(|pid| state(pid) == 'T'));
        sys_kill(child.id(), 18);
        wait_until("both go on", || both.iter().all(|pid| state(pid) != 'T'));
        sys_kill(child.id(), 15);
        assert_eq!(child.wait().unwrap().code(), Some(143));
    }
}

/// The command has the terminal, and with it job control.
#[test]
fn the_terminal_is_handed_over() {
    let _links = Links;
    // The foreground group of the terminal is that of the command (proc(5), `tpgid`).
    let look = "read -r pid name state parent group session tty foreground rest </proc/$$/stat; \
                echo $((group == foreground)) $((pid == session)) $((tty != 0)) >&3; exit 4";
    for name in ORIGINALS {
        let both = [original(name), face(name)].map(|program| {
            let master =
                rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
                    .unwrap();
            rustix::pty::grantpt(&master).unwrap();
            rustix::pty::unlockpt(&master).unwrap();
            let path = rustix::pty::ptsname(&master, Vec::new()).unwrap();
            let slave =
                std::fs::File::options().read(true).write(true).open(path.to_str().unwrap());
            let script =
                format!("exec 3>&1 >/dev/null; exec {} -- sh -c '{look}'", program.display());
            // It is no group's leader, or setsid(1) would fork and not wait.
            let mut command = Command::new("setsid");
            command.args(["--ctty", "--wait", "sh", "-c", &script]).stdin(slave.unwrap());
            let told = said(&mut command);
            (told.code, told.out)
        });
        let [theirs, ours] = both;
        assert_eq!(ours, theirs, "{name}");
        assert_eq!(ours.0, 4, "{name}");
        assert!(ours.1.starts_with('1') && ours.1.ends_with(" 1\n"), "{name}: {ours:?}");
    }
}

/// `postroj init` has tini's options, but those of its command are the command's.
#[test]
fn our_own() {
    let init = |args: &[&str]| {
        let mut all = vec!["init"];
        all.extend(args);
        said(&mut command(&program(), &all))
    };
    let told = init(&["-s", "sh", "-c", "echo $0 \"$@\"; exit 7", "a", "-l", "--version"]);
    assert_eq!((told.code, told.out.as_str(), told.err.as_str()), (7, "a -l --version\n", ""));
    assert_eq!(init(&["-s", "-e", "7", "sh", "-c", "exit 7"]).code, 0);
    assert_eq!(init(&["-s", "/nosuch"]).code, 127);
    assert!(init(&["--help"]).out.contains("Usage: postroj init [OPTIONS]"));
    assert!(init(&["-l"]).out.contains("Apache"));
    assert_eq!(init(&[]).code, 1);
}
