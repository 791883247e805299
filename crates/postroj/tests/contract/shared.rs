//! What is asked of a machine that runs, by verbs that leave it as it is.

use std::io::Write;
use std::process::Stdio;

use super::fixture::terminal::Terminal;
use super::fixture::{self, Machine, fails, home, out, postroj, said};
use super::{Engine, inspect, json, sh};

/// A machine that all cases share.
pub(super) struct Bed {
    engine: &'static Engine,
    machine: Machine,
}

impl Bed {
    pub(super) fn new(engine: &'static Engine) -> Self {
        let options = ["-e", "A=1", "--hostname", "box", "--pids-limit", "200"];
        // Not everybody may limit anything here.
        let limited = engine.is_vm() || said(&mut engine.run(&options[4..], &["true"])).code == 0;
        let options = if limited { &options[..] } else { &options[..4] };
        let machine = engine.start(options, &["sh", "-c", super::LOOP]);
        Self { engine, machine }
    }
}

pub(super) const CASES: &[(&str, fn(&Bed))] = &[
    ("codes and streams of exec", codes),
    ("user, directory and environment of exec", places),
    ("megabytes both ways", megabytes),
    ("a terminal of exec", terminal),
    ("who does not read", flood),
    ("files in and out", files),
    ("lists and descriptions", descriptions),
    ("output", logs),
    ("processes", processes),
    ("what was changed", changes),
    ("an archive of all", archive),
    ("an image of it", image),
    ("standing still", paused),
    ("another name", renamed),
    ("a wait for what is in it", waited),
];

fn codes(bed: &Bed) {
    let both = said(&mut bed.machine.exec(&[], &["sh", "-c", "echo $A; echo no >&2; exit 3"]));
    assert_eq!((both.code, &*both.out, &*both.err), (3, "1\n", "no\n"));
    fails(&mut bed.machine.exec(&[], &["nothing"]), 127, &["cannot execute"]);
    fails(&mut bed.machine.exec(&[], &["/etc/passwd"]), 126, &["not marked as executable"]);
    assert_eq!(said(&mut bed.machine.exec(&[], &["sh", "-c", "kill -9 $$"])).code, 137);
    assert_eq!(said(&mut bed.machine.exec(&[], &["sh", "-c", "kill -TERM $$"])).code, 143);
    // Where nothing is passed on, there is an end of input.
    assert_eq!(out(&mut bed.machine.exec(&[], &["wc", "-c"])), "0");
}

fn places(bed: &Bed) {
    let exec =
        |options: &[&str], script: &str| out(&mut bed.machine.exec(options, &["sh", "-c", script]));
    assert_eq!(exec(&["-u", "app"], "id -un; id -G"), "app\n1000 2000");
    assert_eq!(exec(&["-u", "1000:5"], "id -u; id -g"), "1000\n5");
    assert_eq!(exec(&["-w", "/srv", "-e", "B=2"], "pwd; echo $A$B; hostname"), "/srv\n12\nbox");
    fails(&mut bed.machine.exec(&["-u", "nobody-such"], &["true"]), 125, &["nobody-such"]);
    assert_eq!(exec(&["-w", "/srv/made/anew"], "pwd"), "/srv/made/anew");
}

fn megabytes(bed: &Bed) {
    let mut echo = bed.machine.exec(&["-i"], &["cat"]);
    let mut child = echo.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let sent: Vec<u8> = (0..2u32 << 20).map(|n| (n >> 3) as u8).collect();
    let bytes = sent.clone();
    let writer = std::thread::spawn(move || input.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success() && output.stdout == sent);
}

fn terminal(bed: &Bed) {
    let script = "stty size; read line; echo got-$line; read line; stty size; exit 4";
    let words = ["exec", "-it", &bed.machine.name, "sh", "-c", script];
    let mut person = Terminal::start(&words, &[("TERM", "xterm")]);
    person.sees("33 101");
    person.types("word\r");
    person.sees("got-word");
    person.resize(20, 60);
    person.signal(rustix::process::Signal::WINCH);
    person.types("\r");
    person.sees("20 60");
    assert_eq!(person.ends(), 4);
    assert!(!person.is_raw());
}

/// It holds up nobody else, and its command ends with it.
fn flood(bed: &Bed) {
    let mut flood = bed.machine.exec(&[], &["yes", "flood"]);
    let mut flood = flood.stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(sh(&bed.machine, "echo fine"), "fine");
    flood.kill().unwrap();
    flood.wait().unwrap();
    let ends = || !out(&mut postroj(&["top", &bed.machine.name])).contains("yes");
    fixture::wait_until("its command has ended", ends);
}

fn files(bed: &Bed) {
    let own = home().join(format!("contract-{}", bed.machine.name));
    std::fs::create_dir_all(own.join("in/deep")).unwrap();
    std::fs::write(own.join("in/deep/file"), "copied").unwrap();
    std::os::unix::fs::symlink("deep/file", own.join("in/link")).unwrap();
    let path = |name: &str| own.join(name).to_str().unwrap().to_owned();
    let inside = |name: &str| format!("{}:{name}", bed.machine.name);
    out(&mut postroj(&["cp", &path("in"), &inside("/srv")]));
    assert_eq!(sh(&bed.machine, "cat /srv/in/link; readlink /srv/in/link"), "copieddeep/file");
    out(&mut postroj(&["cp", &inside("/srv/in"), &path("out")]));
    assert_eq!(std::fs::read_to_string(own.join("out/link")).unwrap(), "copied");
    // The last file is what says that nothing was copied before.
    fails(&mut postroj(&["cp", &inside("/nothing"), &path("x")]), 125, &["/nothing"]);
    fails(&mut postroj(&["cp", &path("nothing"), &inside("/srv")]), 125, &["/nothing"]);
    std::fs::remove_dir_all(own).unwrap();
}

fn descriptions(bed: &Bed) {
    let name = &bed.machine.name;
    let listed = json(&["ps", "--json"]);
    let listed = listed.as_array().unwrap().iter().find(|m| m["Name"] == name[..]).unwrap();
    assert_eq!(listed["State"], "running");
    assert_eq!(listed["Command"][0], "sh");
    let shown = inspect(name);
    assert_eq!(shown["Id"], listed["Id"]);
    assert_eq!(
        (&shown["State"]["Status"], &shown["State"]["ExitCode"]),
        (&"running".into(), &0.into())
    );
    assert_eq!(shown["Config"]["Hostname"], "box");
    assert!(shown["Config"]["Env"].as_array().unwrap().contains(&"A=1".into()), "{shown}");
    assert_eq!(shown["HostConfig"]["AutoRemove"], false);
    // Whoever kills that process ends the machine.
    let pid = shown["State"]["Pid"].as_u64().unwrap();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    fails(&mut postroj(&["rm", name]), 125, &["is running"]);
}

fn logs(bed: &Bed) {
    assert_eq!(out(&mut postroj(&["logs", &bed.machine.name])), "began");
}

fn processes(bed: &Bed) {
    let shown = json(&["top", "--json", &bed.machine.name]);
    let shown = shown.as_array().unwrap();
    assert!(shown.len() >= 2, "{shown:?}");
    let text = out(&mut postroj(&["top", &bed.machine.name]));
    assert!(text.starts_with("UID") && text.contains("trap"), "{text}");
}

const CHANGE: &str = "rm /etc/group; mkdir -p /srv/new; echo x >/srv/new/f; chown 1000:2000 /srv/new/f; \
                      chmod 4750 /srv/new/f; echo more >>/etc/passwd; ln /srv/new/f /srv/hard; \
                      rm -r /home; mkdir /home; echo y >/home/only";

/// Changes what the cases after this look for.
fn changes(bed: &Bed) {
    let diff = || -> Vec<String> {
        let text = out(&mut postroj(&["diff", &bed.machine.name]));
        text.lines().map(str::to_owned).collect()
    };
    let before = diff();
    assert!(!before.iter().any(|line| line.contains("hostname")), "{before:?}");
    sh(&bed.machine, CHANGE);
    let mut after = diff();
    after.retain(|line| !before.contains(line));
    for wanted in [
        "D /etc/group",
        "C /etc/passwd",
        "C /home",
        "D /home/app",
        "A /home/only",
        "A /srv/hard",
        "A /srv/new",
        "A /srv/new/f",
    ] {
        assert!(after.iter().any(|line| line == wanted), "{wanted}: {after:?}");
    }
}

fn archive(bed: &Bed) {
    let file = home().join(format!("{}.tar", bed.machine.name));
    out(&mut postroj(&["export", "-o", file.to_str().unwrap(), &bed.machine.name]));
    let listed = std::process::Command::new("tar").arg("-tf").arg(&file).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    std::fs::remove_file(file).unwrap();
    assert!(listed.contains("./srv/new/f\n") && !listed.contains("./etc/group\n"), "{listed}");
    assert!(listed.contains("./proc/\n") && !listed.contains("./proc/1/"), "{listed}");
}

/// The other engine has what was written, too.
fn image(bed: &Bed) {
    let name = format!("contract-{}:1", bed.machine.name);
    let id = out(&mut postroj(&["commit", "-c", "ENV B=b", &bed.machine.name, &name]));
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(sh(&bed.machine, "echo goes on"), "goes on");
    let seen = "test ! -e /etc/group && test ! -e /home/app && tail -n1 /etc/passwd && \
                stat -c '%u:%g %a %h' /srv/hard && cat /home/only && echo $B";
    for engine in [&super::CONTAINER, bed.engine] {
        let words = [&["run"], engine.options, &[&name, "sh", "-c", seen]].concat();
        assert_eq!(out(&mut postroj(&words)), "more\n1000:2000 4750 2\ny\nb", "{}", engine.name);
    }
    out(&mut postroj(&["rmi", &name]));
}

fn paused(bed: &Bed) {
    let name = &bed.machine.name;
    let count = "n=0; while :; do n=$((n+1)); echo $n >/srv/count; sleep 0.02; done";
    sh(&bed.machine, &format!("({count}) >/dev/null 2>&1 &"));
    let counted = || sh(&bed.machine, "cat /srv/count").parse::<u64>().unwrap_or(0);
    fixture::wait_until("it counts", || counted() > 3);
    assert_eq!(&out(&mut postroj(&["pause", name])), name);
    assert_eq!(inspect(name)["State"]["Status"], "paused");
    fails(&mut bed.machine.exec(&[], &["true"]), 125, &["is paused", "postroj unpause"]);
    fails(&mut postroj(&["pause", name]), 125, &["paused already"]);
    out(&mut postroj(&["unpause", name]));
    fails(&mut postroj(&["unpause", name]), 125, &["is not paused"]);
    let before = counted();
    fixture::wait_until("it goes on", || counted() > before);
    // A clock that stood still is right again.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let inside: u64 = sh(&bed.machine, "date +%s").parse().unwrap();
    assert!(inside.abs_diff(now.as_secs()) < 60, "{inside} {now:?}");
}

fn renamed(bed: &Bed) {
    let (old, new) = (&bed.machine.name, format!("{}-x", bed.machine.name));
    out(&mut postroj(&["rename", old, &new]));
    fails(&mut bed.machine.exec(&[], &["true"]), 125, &["there is no machine"]);
    assert_eq!(out(&mut postroj(&["exec", &new, "hostname"])), "box");
    out(&mut postroj(&["rename", &new, old]));
}

fn waited(bed: &Bed) {
    sh(&bed.machine, "(sleep 0.3; touch /srv/made) >/dev/null 2>&1 &");
    fixture::wait_until("it is made", || {
        said(&mut bed.machine.exec(&[], &["test", "-e", "/srv/made"])).code == 0
    });
    // Not while it runs.
    let waits = ["wait", "--timeout", "1", &bed.machine.name];
    assert_ne!(said(&mut postroj(&waits)).code, 0);
}
