//! `sandbox`: what a program of the host's sees, may do and leaves behind.

mod fixture;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fixture::{fails, home, out, program, said};

/// A directory of a project in a home that has secrets.
struct Project {
    home: PathBuf,
    here: PathBuf,
}

impl Project {
    fn new(name: &str) -> Self {
        let home = home().join(format!("sandbox-{name}-{}", std::process::id()));
        let here = home.join("project");
        std::fs::create_dir_all(here.join("sub")).unwrap();
        std::fs::create_dir_all(home.join(".config/postroj/sandbox.d")).unwrap();
        std::fs::write(home.join("secret"), "secret\n").unwrap();
        std::fs::write(here.join("source"), "source\n").unwrap();
        Self { home, here }
    }

    fn sandbox(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .arg("sandbox")
            .args(args)
            .current_dir(&self.here)
            .env("HOME", &self.home)
            .env_remove("XDG_CONFIG_HOME")
            .env("TOKEN", "token")
            .stdin(Stdio::null());
        command
    }

    fn sh(&self, options: &[&str], script: &str) -> Command {
        self.sandbox(&[options, &["--", "/bin/sh", "-c", script]].concat())
    }

    fn profile(&self, file: &str, text: &str) -> PathBuf {
        let path = self.home.join(".config/postroj/sandbox.d").join(file);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

#[test]
fn by_default_it_reads_the_system_and_writes_here() {
    let project = Project::new("default");
    let secret = project.home.join("secret");
    let script = format!(
        "cat source && echo made > new && pwd && cat /etc/os-release | grep -c ^ID= && \
         ! cat {} 2>/dev/null && ! touch /usr/made 2>/dev/null && ls /home /root /tmp/pj-* 2>/dev/null | \
         grep -c secret",
        secret.display()
    );
    let answer = said(&mut project.sh(&[], &script));
    let expected = format!("source\n{}\n1\n0\n", project.here.display());
    assert_eq!((answer.out.as_str(), answer.code), (expected.as_str(), 1), "{}", answer.err);
    assert_eq!(std::fs::read_to_string(project.here.join("new")).unwrap(), "made\n");
    assert!(!Path::new("/usr/made").exists());
}

#[test]
fn it_has_no_rights_no_network_and_few_variables() {
    let project = Project::new("rights");
    let status =
        out(&mut project
            .sh(&[], "grep -E '^(Cap(Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/self/status"));
    let words: Vec<&str> = status.split_whitespace().collect();
    let none = "0000000000000000";
    let rights = ["CapEff:", none, "CapBnd:", none, "CapAmb:", none, "NoNewPrivs:", "1"];
    assert_eq!(words[..8], rights, "{status}");
    assert_eq!(words[8..], ["Seccomp:", "2"], "{status}");
    let devices =
        "tail -n +3 /proc/self/net/dev | cut -d: -f1 | tr -d ' '; ls /proc | grep -c '^[0-9]'";
    let seen = out(&mut project.sh(&[], devices));
    let (names, processes) = seen.rsplit_once('\n').unwrap();
    assert_eq!(names, "lo");
    assert!(processes.parse::<u32>().unwrap() < 8, "processes of the host's are seen: {seen}");
    assert_eq!(
        out(&mut project.sh(&[], "echo ${TOKEN-none} $HOME")),
        format!("none {}", project.home.display())
    );
    assert_eq!(
        out(&mut project.sh(&["-e", "TOKEN", "-e", "A=b=c"], "echo $TOKEN $A")),
        "token b=c"
    );
    let host = std::fs::read_to_string("/proc/self/net/dev").unwrap().lines().count();
    let online = out(&mut project.sh(&["--network", "host"], "wc -l < /proc/self/net/dev"));
    assert_eq!(online.trim(), host.to_string());
    assert_eq!(
        out(&mut project.sh(&["-p", "online", "--network", "none"], "wc -l < /proc/self/net/dev")),
        "3"
    );
}

#[test]
fn more_is_shown_and_hidden_on_the_command_line() {
    let project = Project::new("options");
    let secret = project.home.join("secret");
    let secret = secret.to_str().unwrap();
    assert_eq!(out(&mut project.sh(&["--read", secret], &format!("cat {secret}"))), "secret");
    fails(&mut project.sh(&["--read", secret], &format!("echo x > {secret}")), 2, &["Read-only"]);
    assert_eq!(out(&mut project.sh(&["--write", "~/secret"], &format!("echo x > {secret}"))), "");
    assert_eq!(std::fs::read_to_string(secret).unwrap(), "x\n");
    assert_eq!(
        out(&mut project.sh(
            &["--hide", "/etc/passwd", "--hide", "/usr/share"],
            "wc -c < /etc/passwd; ls -A /usr/share"
        )),
        "0"
    );
    assert_eq!(
        out(&mut project.sh(&["-w", "sub"], "pwd")),
        format!("{}/sub", project.here.display())
    );
    fails(
        &mut project.sh(&["--read", "/no/such"], "true"),
        125,
        &["cannot show /no/such: there is no such path"],
    );
    fails(&mut project.sh(&["--hide", "/"], "true"), 125, &["cannot hide /"]);
}

#[test]
fn a_home_is_not_shown_as_the_current_directory() {
    let project = Project::new("home");
    let mut command = project.sh(&[], "ls -A; touch made && rm made");
    assert_eq!(out(command.current_dir(&project.home)), "");
    assert!(project.home.join("secret").exists());
}

#[test]
fn profiles() {
    let project = Project::new("profiles");
    fails(
        &mut project.sh(&["-p", "read-only"], "cat source > /dev/null; echo x > source"),
        2,
        &["Read-only"],
    );
    let strict = out(&mut project
        .sh(&["-p", "strict"], "ls /etc/hostname /var 2>/dev/null; cat source; echo y > new"));
    assert_eq!(strict, "source");
    project.profile(
        "mine.toml",
        "[mine]\nabout = \"My own\"\ninherits = \"default\"\nwrite = [\".\", \"~/secret\"]\n",
    );
    assert_eq!(out(&mut project.sh(&["-p", "mine"], "cat ~/secret")), "secret");
    let list = out(&mut project.sandbox(&["--profiles"]));
    let names: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["default", "mine", "online", "read-only", "strict"]);
    fails(
        &mut project.sh(&["-p", "none"], "true"),
        125,
        &["there is no profile none: there are default, mine"],
    );
    let wrong = project.profile("wrong.toml", "[wrong]\nraed = []\n");
    let place = format!("{}:2:1: unknown field `raed`", wrong.display());
    fails(&mut project.sandbox(&["-p", "mine", "true"]), 125, &[&place]);
    let file = project.profile("one", "[x]\ninherits = \"default\"\nnetwork = true\n");
    std::fs::remove_file(wrong).unwrap();
    let path = file.to_str().unwrap();
    let devices = out(&mut project.sh(&["-p", path], "wc -l < /proc/self/net/dev"));
    assert_eq!(
        devices.trim(),
        std::fs::read_to_string("/proc/self/net/dev").unwrap().lines().count().to_string()
    );
}

#[test]
fn exit_codes_are_those_of_run() {
    let project = Project::new("codes");
    assert_eq!(said(&mut project.sh(&[], "exit 7")).code, 7);
    assert_eq!(said(&mut project.sh(&[], "kill -9 $$")).code, 137);
    fails(
        &mut project.sandbox(&["no-such-command"]),
        127,
        &["cannot execute no-such-command in the sandbox"],
    );
    fails(&mut project.sandbox(&["/etc"]), 126, &["cannot execute /etc in the sandbox"]);
    let typo = said(&mut project.sandbox(&["--netwrok", "x", "true"]));
    assert_eq!(typo.code, 125);
    assert!(typo.err.contains("unexpected argument '--netwrok'"), "{typo:?}");
    let mut filter = project.sandbox(&["cat"]);
    let mut child = filter.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"through\n").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"through\n");
}

#[test]
fn with_it_ends_all_that_it_started() {
    let project = Project::new("ends");
    let word = format!("3600.{}", std::process::id());
    out(&mut project.sh(&[], &format!("sleep {word} & echo started")));
    fixture::wait_until("the sandbox's processes are gone", || {
        fixture::processes_with(&word).is_empty()
    });
}
