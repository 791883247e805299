//! Probes that end otherwise than they should, the reports of probes, and what is said of wrong usage.

#[path = "fixture/debs.rs"]
mod debs;
mod fixture;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use debs::Deb;
use fixture::{busybox, debian, home, is_root, out, processes_with, said, wait_until};
use rustix::process::{Pid, Signal};
use serde_json::Value;

/// A run directory, evidence and packages of one test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = home().join(format!("pe-{name}-{}", std::process::id()));
        fs::create_dir_all(path.join("run")).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// The program with a run directory of its own, by which its processes are found.
    fn postroj(&self, args: &[&str]) -> Command {
        let mut command = fixture::postroj(&[&["--runroot", &self.path("run")], args].concat());
        command.env("XDG_CONFIG_HOME", home().join("config"));
        command
    }

    /// An image that pretends to boot, and never gets there.
    fn never_ready(&self) -> String {
        let root = self.0.join("never");
        if root.exists() {
            return format!("dir:{}", root.display());
        }
        busybox(&root);
        // The kernel's choice would be busybox's own (init/main.c).
        let _ = fs::remove_file(root.join("bin/init"));
        let init = root.join("usr/lib/systemd/systemd");
        fs::create_dir_all(init.parent().unwrap()).unwrap();
        fs::write(&init, "#!/bin/sh\nwhile :; do sleep 1; done\n").unwrap();
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).unwrap();
        format!("dir:{}", root.display())
    }

    #[track_caller]
    fn results(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("evidence/results.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// After whatever was killed, the next command cleans up, and then nothing is there.
    #[track_caller]
    fn nothing_is_left(&self) {
        out(&mut self.postroj(&["ps", "-a"]));
        let own = self.path("run");
        wait_until("no process is left", || {
            let left = processes_with(&own);
            left.is_empty()
        });
        // A process that is dying has no command line any more, and may have its files for a moment.
        wait_until("no machine is left", || out(&mut self.postroj(&["ps", "-aq"])).is_empty());
        let records = fs::read_dir(self.0.join("run/machines")).unwrap().count();
        assert_eq!(records, 0, "records are left");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let removed = fs::remove_dir_all(&self.0);
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

#[test]
fn an_image_that_never_gets_ready() {
    let place = Place::new("never");
    let (image, evidence) = (place.never_ready(), place.path("evidence"));
    let args = ["probe", "--image", &image, "--boot-timeout", "2", "--evidence", &evidence];
    let told = said(&mut place.postroj(&args));
    assert_eq!(told.code, 3, "{told:?}");
    assert!(
        told.out.contains("ERROR in") && told.out.contains("it was not up after 2 s"),
        "{told:?}"
    );
    place.nothing_is_left();
}

#[test]
fn what_cannot_be_probed_is_no_failure() {
    let place = Place::new("cannot");
    for (args, code, part) in [
        (&["--image", "dir:/nowhere/at/all"][..], 3, "/nowhere/at/all"),
        (
            &["--image", "debian-12", "--package", "/nowhere/x.deb"],
            2,
            "cannot find the package /nowhere/x.deb",
        ),
        (
            &["--image", "debian-12", "--check-network", "localhost"],
            2,
            "--check-network: \"localhost\" is no tcp://",
        ),
        (&["--image", "debian-12", "--check-journal", "("], 2, "no pattern"),
        (&["--image", "debian-12", "--without", "luck"], 2, "no built-in check is called \"luck\""),
        (
            &["--image", "debian-12", "--package", "x", "--phase", "upgrade"],
            2,
            "the first phase has to be install",
        ),
        (
            &["--image", "debian-12", "--package", "x", "--phase", "install,upgrade"],
            2,
            "give --from-version",
        ),
        (
            &["--image", "debian-12", "--package", "x", "--phase", "setup"],
            2,
            "no phase is called \"setup\"",
        ),
        (&["--image", "debian-12", "--report", "xml"], 2, "there is no such report"),
        (&["--image", "debian-12", "--shard", "4/3"], 2, "a shard is NUMBER/COUNT"),
        (&[], 2, "--image"),
    ] {
        let told = said(&mut place.postroj(&[&["probe"], args].concat()));
        assert_eq!(told.code, code, "{args:?}: {told:?}");
        assert!(
            (told.err.clone() + &told.out).contains(part),
            "{args:?} does not say {part:?}: {told:?}"
        );
    }
    let told = said(&mut place.postroj(&["matrix", "/nowhere.toml"]));
    assert!(told.code == 2 && told.err.contains("cannot read /nowhere.toml"), "{told:?}");
    fs::write(place.path("bad.toml"), "[[probe]]\nimages = [\"x\"]\n").unwrap();
    let told = said(&mut place.postroj(&["matrix", &place.path("bad.toml")]));
    assert!(told.code == 2 && told.err.contains("unknown field `images`"), "{told:?}");
    place.nothing_is_left();
}

/// A probe of two systems, one after the other, of which the second takes long.
fn two(place: &Place, more: &[&str]) -> Command {
    let (good, never) = (debian("debian-12"), place.never_ready());
    let evidence = place.path("evidence");
    let args =
        ["probe", "--jobs", "1", "--image", &good, "--image", &never, "--boot-timeout", "20"];
    place.postroj(&[&args[..], &["--evidence", &evidence], more].concat())
}

#[test]
fn an_interruption_is_told_and_resumed() {
    let place = Place::new("interrupt");
    let report = format!("json={}", place.path("report.json"));
    let mut command = two(&place, &["--report", &report]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the second one boots", || {
        place.results().len() == 1 && out(&mut place.postroj(&["ps"])).contains("/never")
    });
    rustix::process::kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let report: Value =
        serde_json::from_slice(&fs::read(place.path("report.json")).unwrap()).unwrap();
    assert_eq!(report["cells"][0]["verdict"], "pass", "{report:#}");
    assert_eq!(report["cells"][1]["verdict"], "error", "{report:#}");
    assert_eq!(report["cells"][1]["reason"], "interrupted", "{report:#}");
    place.nothing_is_left();
    // What is done is not done again; what was interrupted is.
    let first = place.results()[0].clone();
    let told = said(&mut two(&place, &["--resume"]));
    assert_eq!(told.code, 3, "{told:?}");
    let results = place.results();
    assert_eq!((results.len(), &results[0]), (2, &first));
    assert!(results[1]["reason"].as_str().unwrap().contains("not up after 20 s"), "{results:#?}");
    place.nothing_is_left();
}

/// The process below `pid` of which the command line contains a word.
fn below(pid: u32, word: &str) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().find_map(|child| {
        let child: u32 = child.parse().ok()?;
        let line = fs::read(format!("/proc/{child}/cmdline")).ok()?;
        if line.windows(word.len()).any(|window| window == word.as_bytes()) {
            return Some(child as i32);
        }
        below(child, word)
    })
}

#[test]
fn whoever_is_killed_takes_the_rest_along() {
    for victim in ["probe", "probe-cell", "--detach"] {
        let place = Place::new(&format!("kill-{}", victim.len()));
        let (never, evidence) = (place.never_ready(), place.path("evidence"));
        let args = ["probe", "--image", &never, "--boot-timeout", "60", "--evidence", &evidence];
        let mut command = place.postroj(&args);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut machine = None;
        wait_until("the machine runs", || {
            let machines =
                fs::read_dir(place.0.join("run/machines")).into_iter().flatten().flatten();
            machine = machines.filter_map(|entry| fs::read_to_string(entry.path()).ok()).find_map(
                |text| {
                    text.lines().find_map(|l| {
                        l.strip_prefix("pid ")?.split(' ').next()?.parse::<i32>().ok()
                    })
                },
            );
            machine.is_some()
        });
        let pid = match victim {
            "probe" => child.id() as i32,
            word => below(child.id(), word).expect("the process is there"),
        };
        rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        match victim {
            "probe" => assert_eq!(output.status.code(), None),
            "probe-cell" => assert!(told.contains("its process was ended by signal 9"), "{told}"),
            _ => assert!(told.contains("it ended before it was up"), "{told}"),
        }
        let machine = format!("/proc/{}/root", machine.unwrap());
        wait_until("the machine is gone", || fs::symlink_metadata(&machine).is_err());
        place.nothing_is_left();
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let place = Place::new("full");
    let image = debian("debian-12");
    let noise: String =
        (0..200_000u32).map(|n| format!("{:x}", n.wrapping_mul(2_654_435_761))).collect();
    let deb =
        Deb { name: "large", files: &[("/srv/large", &noise)], ..Deb::default() }.build(&place.0);
    // The cache is on a disk of its own, which only these see.
    let script = "set -e; mount -t tmpfs -o size=64k none $C; mkdir $C/sha256 $C/partial; \
                  exec $P --runroot $R probe --image $I --package $D --evidence $E";
    let mut command = apart(&place, &image, script);
    let told = said(command.env("C", home().join("store/cache")).env("D", deb));
    assert_eq!(told.code, 3, "{told:?}");
    assert!(
        told.out.contains("cannot get the packages") && told.out.contains("o space left"),
        "{told:?}"
    );
    place.nothing_is_left();
}

/// A shell in a mount namespace of its own, with what it needs to probe `$I`.
fn apart(place: &Place, image: &str, script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !is_root() {
        command.args(["--user", "--map-root-user", "--map-auto"]);
    }
    command
        .args(["sh", "-c", script])
        .env("P", fixture::program())
        .env("R", place.path("run"))
        .env("E", place.path("evidence"))
        .env("I", image)
        .env("POSTROJ_STORE", home().join("store"))
        .stdin(Stdio::null());
    command
}

#[test]
fn a_full_disk_under_the_evidence_is_an_error() {
    let place = Place::new("evidence");
    let image = debian("debian-12");
    // Full to the last byte; later there is room.
    let script = "mkdir -p $E; mount -t tmpfs -o size=1m none $E; \
        cat /dev/zero >$E/filler 2>/dev/null; \
        $P --runroot $R probe --image $I --fast --check-cmd true --evidence $E --report json=$E/report.json \
            2>&1; echo code $?; \
        cat $E/results.jsonl | wc -c; $P --runroot $R ps -aq; rm $E/filler; \
        $P --runroot $R probe --image $I --fast --check-cmd true --evidence $E --resume; echo code $?; \
        cat $E/results.jsonl | wc -l; cat $E/*/command.txt | wc -l";
    let told = said(&mut apart(&place, &image, script));
    let (full, later) = told.out.split_once("code 3\n").unwrap_or_else(|| panic!("{told:?}"));
    assert!(full.contains("ERROR in"), "{told:?}");
    assert!(full.contains("No space left on device") && full.contains("(pass)"), "{told:?}");
    assert!(full.contains("cannot write the report"), "the report is missed: {told:?}");
    assert!(later.starts_with("0\n"), "nothing is half written, and no machine is left: {told:?}");
    assert!(later.ends_with("code 0\n1\n1\n"), "{told:?}");
    place.nothing_is_left();
}

#[test]
fn evidence_that_does_not_fit_is_an_error_and_no_verdict_is_lost_for_good() {
    let place = Place::new("little");
    let image = debian("debian-12");
    // There is room for results, and for no journal: what a command says is not said to the disk.
    let script = "mkdir -p $E; mount -t tmpfs -o size=128k none $E; \
        C='yes | head -n 300000; seq 2000 | systemd-cat; journalctl --sync; exit 7'; \
        $P --runroot $R probe --image $I --fast --check-cmd \"$C\" --evidence $E; echo code $?; \
        cat $E/results.jsonl; ls $E/*/; mount -o remount,size=64m $E; \
        $P --runroot $R probe --image $I --fast --check-cmd \"$C\" --evidence $E --resume; echo code $?; \
        tail -n 1 $E/results.jsonl; cat $E/*/journal.txt | wc -l; ls $E/*/";
    let told = said(&mut apart(&place, &image, script));
    let (little, later) = told.out.split_once("code 3\n").unwrap_or_else(|| panic!("{told:?}"));
    assert!(little.contains("exit status 7"), "the command was not hindered: {told:?}");
    assert!(little.contains("ERROR in") && little.contains("what came of it is not kept (fail: "));
    let (kept, later) = later.split_once("code 1\n").unwrap_or_else(|| panic!("{told:?}"));
    let cell: Value = serde_json::from_str(kept.lines().next().unwrap()).unwrap();
    assert_eq!(cell["verdict"], "error", "{told:?}");
    assert!(!kept.lines().any(|name| name == "journal.export"), "no file is a part only: {told:?}");
    let cell: Value = serde_json::from_str(later.lines().next().unwrap()).unwrap();
    assert_eq!((&cell["verdict"], cell["steps"].as_array().unwrap().len()), (&"fail".into(), 3));
    assert!(later.contains("\njournal.export\n") && later.contains("\nresult.json\n"), "{told:?}");
    place.nothing_is_left();
}

#[test]
fn reports_are_what_their_readers_expect() {
    let place = Place::new("reports");
    let image = debian("debian-12");
    let fails = "echo '<b>&\"]]>`' >&2; exit 1";
    let report = |format: &str| format!("{format}={}", place.path(format));
    let formats = ["junit", "tap", "json", "markdown", "html", "github", "gitlab"];
    let reports: Vec<String> = formats.iter().map(|format| report(format)).collect();
    let mut args = vec!["probe", "--image", &image, "--fast", "--check-unit", "systemd-journald"];
    args.extend([
        "--check-cmd",
        fails,
        "--check-file",
        "/etc/passwd",
        "--check-file",
        "!/etc/nothing",
    ]);
    args.extend(["--check-journal", "Reached target"]);
    reports.iter().for_each(|report| args.extend(["--report", report]));
    let told = said(&mut place.postroj(&args));
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.out.contains("✗ cmd echo") && told.out.contains("FAIL in"), "{told:?}");
    let read = |format: &str| fs::read_to_string(place.path(format)).unwrap();

    fs::write(place.path("junit.rng"), JUNIT).unwrap();
    let (schema, junit) = (place.path("junit.rng"), place.path("junit"));
    let valid = said(Command::new("xmllint").args(["--noout", "--relaxng", &schema, &junit]));
    assert_eq!(valid.code, 0, "{valid:?}: {}", read("junit"));
    let xml = read("junit");
    assert!(xml.contains("tests=\"7\" failures=\"1\" errors=\"0\""), "{xml}");
    assert!(xml.contains("exit status 1") && xml.contains("&lt;b&gt;&amp;&quot;]]&gt;"), "{xml}");

    let proved = said(Command::new("prove").args(["-e", "cat", &place.path("tap")]));
    assert_eq!(proved.code, 1, "{proved:?}");
    assert!(proved.out.contains("Failed 1/7 subtests"), "{proved:?}");

    let json: Value = serde_json::from_str(&read("json")).unwrap();
    let steps = json["cells"][0]["steps"].as_array().unwrap();
    let bad: Vec<&Value> = steps.iter().filter(|step| step["verdict"] == "fail").collect();
    assert_eq!((steps.len(), bad.len()), (7, 1), "{json:#}");
    assert!(bad[0]["cause"].as_str().unwrap().contains("<b>&"), "{json:#}");

    assert!(read("markdown").contains("| ❌ fail | debian-12 |"), "{}", read("markdown"));
    assert!(read("markdown").contains("<details><summary>debian-12: boot: cmd echo"));
    let github = read("github");
    assert!(github.starts_with("::error title=debian-12%3A cmd echo"), "{github}");
    assert_eq!(github.lines().count(), 1, "{github}");
    let gitlab: Value = serde_json::from_str(&read("gitlab")).unwrap();
    assert_eq!(gitlab[0]["severity"], "major");
    assert_eq!(gitlab[0]["fingerprint"].as_str().unwrap().len(), 64);
    let html = read("html");
    assert!(
        html.contains("\\u003cb>") && !html.contains("<b>&") && !html.contains("http://"),
        "{html}"
    );
    place.nothing_is_left();
}

/// What Jenkins's xUnit plugin takes as JUnit: elements, their order and their attributes.
const JUNIT: &str = r#"<grammar xmlns="http://relaxng.org/ns/structure/1.0" datatypeLibrary="http://www.w3.org/2001/XMLSchema-datatypes">
<start><element name="testsuites"><attribute name="name"/><ref name="counts"/><zeroOrMore><ref name="suite"/></zeroOrMore></element></start>
<define name="counts"><attribute name="tests"><data type="nonNegativeInteger"/></attribute>
<attribute name="failures"><data type="nonNegativeInteger"/></attribute>
<attribute name="errors"><data type="nonNegativeInteger"/></attribute>
<attribute name="time"><data type="decimal"/></attribute></define>
<define name="suite"><element name="testsuite"><attribute name="name"/><ref name="counts"/>
<attribute name="skipped"><data type="nonNegativeInteger"/></attribute><zeroOrMore><ref name="case"/></zeroOrMore></element></define>
<define name="case"><element name="testcase"><attribute name="name"/><attribute name="classname"/>
<attribute name="time"><data type="decimal"/></attribute>
<optional><choice>
<element name="failure"><attribute name="type"/><attribute name="message"/><text/></element>
<element name="error"><attribute name="type"/><attribute name="message"/><text/></element>
<element name="skipped"><attribute name="message"/></element>
</choice></optional></element></define></grammar>"#;

#[test]
fn a_machine_is_kept_where_that_is_wanted() {
    let place = Place::new("keep");
    let image = debian("debian-12");
    let args = ["probe", "--image", &image, "--check-cmd", "false", "--keep-on-failure", "--fast"];
    let told = said(&mut place.postroj(&args));
    assert_eq!(told.code, 1, "{told:?}");
    let name = told.out.lines().find_map(|line| line.strip_prefix("kept: postroj shell ")).unwrap();
    let name = name.split(';').next().unwrap();
    assert_eq!(out(&mut place.postroj(&["exec", name, "cat", "/proc/1/comm"])), "systemd");
    out(&mut place.postroj(&["rm", "-f", name]));
    place.nothing_is_left();
}

#[test]
fn what_may_fail_may_fail_and_the_rest_is_skipped_in_time() {
    let place = Place::new("allow");
    let good = debian("debian-12");
    let base = ["probe", "--jobs", "1", "--image", "dir:/no/where", "--image", &good, "--fast"];
    let allowed = said(&mut place.postroj(&[&base[..], &["--allow-fail", "/where"]].concat()));
    assert_eq!(allowed.code, 0, "{allowed:?}");
    assert!(
        allowed.out.contains("(allowed)") && allowed.out.contains("1 pass, 1 error"),
        "{allowed:?}"
    );
    let fast = said(&mut place.postroj(&[&base[..], &["--fail-fast"]].concat()));
    assert_eq!(fast.code, 3, "{fast:?}");
    assert!(fast.out.contains("1 error, 1 skipped"), "{fast:?}");
    let retried =
        said(&mut place.postroj(&[&base[..], &["--retry", "1", "--shard", "1/2"]].concat()));
    assert!(retried.code == 3 && !retried.out.contains("debian-12"), "{retried:?}");
    place.nothing_is_left();
}

#[test]
fn a_package_server_that_stalls_is_an_error() {
    let place = Place::new("stalls");
    let image = debian("debian-12");
    // One that says nothing at all, and one that stops in the middle.
    for begins in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nxxxx"] {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x.deb", server.local_addr().unwrap());
        // It ends with this process.
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for stream in server.incoming().flatten() {
                let _ = std::io::Write::write_all(&mut &stream, begins);
                open.push(stream);
            }
        });
        let args =
            ["probe", "--image", &image, "--fast", "--package", &url, "--phase-timeout", "2"];
        let mut command = place.postroj(&args);
        let told = said(
            command.env_remove("http_proxy").env_remove("HTTP_PROXY").env("no_proxy", "127.0.0.1"),
        );
        assert_eq!(told.code, 3, "{told:?}");
        assert!(
            told.out.contains("cannot get the packages")
                && told.out.contains("does not answer, or too slowly"),
            "{told:?}"
        );
        place.nothing_is_left();
    }
}

#[test]
fn a_shell_is_opened_and_what_was_skipped_is_said() {
    let place = Place::new("shell");
    let image = debian("debian-12");
    let args = ["probe", "--image", &image, "--fast", "--check-cmd", "echo x >/srv/x; false"];
    let mut command = place.postroj(&[&args[..], &["--shell-on-failure"]].concat());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"cat /srv/x; cat /proc/1/comm\n").unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text.contains("x\nsystemd\n"), "the shell is in the machine: {output:?}");
    place.nothing_is_left();
    // All was skipped.
    fs::write(place.path("skip.test.toml"), "[[step]]\nrun = \"exit 77\"\n").unwrap();
    let told = said(&mut place.postroj(&[
        "test",
        "--image",
        &image,
        "--fast",
        &place.path("skip.test.toml"),
    ]));
    assert_eq!(told.code, 77, "{told:?}");
    place.nothing_is_left();
}
