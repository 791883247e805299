//! `probe` and `matrix`: packages that are broken on purpose, on real systems, as root and as an ordinary user.

#[path = "fixture/debs.rs"]
mod debs;
mod fixture;

use std::path::{Path, PathBuf};
use std::process::Command;

use debs::{Deb, RELOAD, START, STOP, server, unit};
use fixture::{debian, home, postroj, said};
use serde_json::Value;

/// A directory for one test's packages and evidence.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = home().join(format!("probe-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn evidence(&self) -> String {
        self.path("evidence")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// The program, with what it needs to read a mirror that may be a snapshot.
fn probe(args: &[&str]) -> Command {
    let mut command = postroj(args);
    command.env("XDG_CONFIG_HOME", home().join("config"));
    command
}

/// One broken package, and what has to be said of it.
struct Case {
    what: &'static str,
    package: PathBuf,
    /// More lines of its `[[probe]]`.
    more: String,
    verdict: &'static str,
    /// The step that says so, and what it says.
    step: &'static str,
    says: &'static [&'static str],
}

fn cases(place: &Path) -> Vec<Case> {
    let package = |deb: Deb<'_>| deb.build(place);
    let serves = |name: &str, program: &str, more: &str| {
        let path = format!("/usr/lib/{name}/daemon");
        let unit_path = format!("/lib/systemd/system/{name}.service");
        Deb {
            name,
            scripts: &[("postinst", START), ("prerm", STOP), ("postrm", RELOAD)],
            files: &[(&path, program), (&unit_path, &unit(&path, more))],
            ..Deb::default()
        }
        .build(place)
    };
    let web = |port| format!("check-network = [\"http://localhost:{port}/?status=200\"]");
    let all = "phase = [\"install\", \"reinstall\", \"remove\", \"purge\"]";
    let sleeps = "#!/bin/sh\nexec sleep 100000\n";
    vec![
        Case {
            what: "nothing is wrong",
            package: serves("good", &server(8001, "200 OK"), ""),
            more: format!("check-unit = [\"good\"]\n{}\n{all}", web(8001)),
            verdict: "pass",
            step: "",
            says: &[],
        },
        Case {
            what: "installation fails",
            package: package(Deb {
                name: "no-install",
                scripts: &[("postinst", "echo there is no luck today; exit 3")],
                ..Deb::default()
            }),
            more: String::new(),
            verdict: "fail",
            step: "install",
            says: &[
                "exit status 100",
                "no-install package post",
                "exit status 3",
                "there is no luck today",
            ],
        },
        Case {
            what: "unit fails",
            package: serves("unit-fails", "#!/bin/sh\necho the configuration is bad\nexit 4\n", ""),
            more: "check-unit = [\"unit-fails\"]".into(),
            verdict: "fail",
            step: "unit unit-fails.service",
            says: &["failed (failed)", "expected: active", "the configuration is bad"],
        },
        Case {
            what: "unit fails, and nobody asked for it",
            package: serves("unit-fails-too", "#!/bin/sh\nexit 4\n", ""),
            more: String::new(),
            verdict: "fail",
            step: "units",
            says: &["failed: unit-fails-too.service", "status=4"],
        },
        Case {
            what: "unit stays activating",
            package: serves("activating", sleeps, "Type=notify\n"),
            more: "check-unit = [\"activating\"]\ntimeout = 2".into(),
            verdict: "fail",
            step: "unit activating.service",
            says: &["activating (start)", "after 2 s"],
        },
        Case {
            what: "port never opens",
            package: serves("no-port", sleeps, ""),
            more: "check-network = [\"tcp://localhost:8005\"]\ntimeout = 2".into(),
            verdict: "fail",
            step: "tcp://localhost:8005",
            says: &[
                "connection refused for 2 s",
                "somebody listens on port 8005",
                "nobody listens at all",
            ],
        },
        Case {
            what: "another port opens",
            package: serves("other-port", &server(8016, "200 OK"), ""),
            more: "check-network = [\"tcp://localhost:8006\"]\ntimeout = 2".into(),
            verdict: "fail",
            step: "tcp://localhost:8006",
            says: &["connection refused", "listening: tcp 0.0.0.0:8016 (daemon)"],
        },
        Case {
            what: "a port too many opens",
            package: serves("two-ports", &server(8017, "200 OK"), ""),
            more: "check-network = [\"udp://localhost:9\"]\ntimeout = 2\nallow-port = []".into(),
            verdict: "fail",
            step: "ports",
            says: &["tcp 0.0.0.0:8017 (daemon)", "only ports that are named"],
        },
        Case {
            what: "HTTP 503",
            package: serves("unavailable", &server(8007, "503 Service Unavailable"), ""),
            more: format!("{}\ntimeout = 2", web(8007)),
            verdict: "fail",
            step: "http://localhost:8007/?status=200",
            says: &["status 503 Service Unavailable", "expected: status 200"],
        },
        Case {
            what: "file left after purge",
            package: package(Deb {
                name: "leaves",
                scripts: &[("postinst", "mkdir -p /etc/leaves; echo x > /etc/leaves/made.conf")],
                ..Deb::default()
            }),
            more: all.into(),
            verdict: "fail",
            step: "files",
            says: &["/etc/leaves/made.conf", "left after the purge"],
        },
        Case {
            what: "upgrade fails",
            package: package(Deb {
                name: "upgrades",
                version: "2",
                scripts: &[(
                    "preinst",
                    "[ \"$1\" = install ] || { echo old data cannot be read; exit 5; }",
                )],
                ..Deb::default()
            }),
            more: format!(
                "from-version = [{:?}]",
                package(Deb { name: "upgrades", ..Deb::default() })
            ),
            verdict: "fail",
            step: "upgrade",
            says: &["upgrades package pre", "exit status 5", "old data cannot be read"],
        },
        Case {
            what: "daemon survives removal",
            package: package(Deb {
                name: "survives",
                scripts: &[("postinst", "setsid /usr/lib/survives/daemon > /dev/null 2>&1 &")],
                files: &[("/usr/lib/survives/daemon", sleeps)],
                ..Deb::default()
            }),
            more: "phase = [\"install\", \"remove\"]".into(),
            verdict: "fail",
            step: "processes",
            says: &["sleep 100000", "not stopped by its removal"],
        },
        Case {
            what: "file of another package",
            package: package(Deb {
                name: "conflicts",
                files: &[("/usr/bin/env", "mine")],
                ..Deb::default()
            }),
            more: String::new(),
            verdict: "fail",
            step: "install",
            says: &["file conflict: trying to overwrite '/usr/bin/env'", "coreutils"],
        },
        Case {
            what: "dependency is missing",
            package: package(Deb {
                name: "depends",
                control: "Depends: nowhere-to-be-found (>= 2)\n",
                ..Deb::default()
            }),
            more: String::new(),
            verdict: "fail",
            step: "fetch",
            says: &["dependency missing", "nowhere-to-be-found"],
        },
        Case {
            what: "error in the journal",
            package: package(Deb {
                name: "complains",
                scripts: &[("postinst", "logger -p user.err -t complains something is rotten")],
                ..Deb::default()
            }),
            more: String::new(),
            verdict: "fail",
            step: "journal errors",
            says: &["complains: something is rotten"],
        },
    ]
}

/// Probes all broken packages on a release at once, and compares every verdict and explanation.
fn explained_on(label: &str) {
    let label = debian(label);
    let place = Place::new(&label);
    let cases = cases(&place.0);
    let probes: String = cases
        .iter()
        .map(|case| {
            format!(
                "[[probe]]\nimage = [{label:?}]\npackage = [{:?}]\n{}\n\n",
                case.package, case.more
            )
        })
        .collect();
    std::fs::write(place.path("postroj.toml"), probes).unwrap();
    let (file, evidence) = (place.path("postroj.toml"), place.evidence());
    let json = format!("json={}", place.path("report.json"));
    let ran = said(&mut probe(&["matrix", &file, "--evidence", &evidence, "--report", &json]));
    assert_eq!(ran.code, 1, "{ran:?}");
    let report = std::fs::read_to_string(place.path("report.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    let cells = report["cells"].as_array().unwrap();
    assert_eq!(cells.len(), cases.len());
    let mut wrong = String::new();
    for (case, cell) in cases.iter().zip(cells) {
        if let Err(why) = is_as_expected(case, cell) {
            wrong += &format!("{label}: {}: {why}: {cell:#}\n", case.what);
        }
        let directory = cell["wish"]["evidence"].as_str().unwrap();
        if case.step.contains("://") {
            has_a_trace(Path::new(directory), case);
        }
        for name in [
            "console.txt",
            "journal.txt",
            "journal.export",
            "packages-before.txt",
            "packages-after.txt",
            "command.txt",
        ] {
            let path = Path::new(directory).join(name);
            let length = path.metadata().map_or(0, |metadata| metadata.len());
            assert!(length > 0, "{label}: {}: {name} is not there", case.what);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    nothing_is_left();
}

/// What was sent and what came, for people and for tcpdump; and the command that does it all once more.
fn has_a_trace(directory: &Path, case: &Case) {
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = files
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("network-"))
        .collect();
    let with = |ending: &str| files.iter().find(|path| path.extension().unwrap() == ending);
    let text = std::fs::read_to_string(with("txt").expect("a trace")).unwrap();
    assert!(text.starts_with(case.step) && text.contains(" times, until "), "{text}");
    if case.what == "HTTP 503" {
        assert!(text.contains("\nHTTP/1.1 503 Service Unavailable\n"), "{text}");
        assert!(text.contains("GET / HTTP/1.1\n") && text.contains("hello"), "{text}");
    }
    // A kernel without packet sockets has no packets to show.
    if Path::new("/proc/net/packet").exists() {
        let packets = std::fs::read(with("pcap").expect("packets")).unwrap();
        assert!(packets.starts_with(&0xa1b2_c3d4u32.to_le_bytes()) && packets.len() > 24 + 16 + 54);
    }
    if case.what == "port never opens" {
        let again = std::fs::read_to_string(directory.join("command.txt")).unwrap();
        let script = format!("postroj() {{ \"$POSTROJ\" \"$@\"; }}\n{again}");
        let own = probe(&[]);
        let mut command = Command::new("sh");
        command.args(["-c", &script]).env("POSTROJ", own.get_program());
        command.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let said = said(&mut command);
        assert!(said.code == 1 && said.out.contains("nobody listens at all"), "{said:?}");
    }
}

fn is_as_expected(case: &Case, cell: &Value) -> Result<(), String> {
    if cell["verdict"] != case.verdict {
        return Err(format!("it is no {}", case.verdict));
    }
    let steps = cell["steps"].as_array().unwrap();
    let bad = steps.iter().find(|step| step["verdict"] != "pass");
    let Some(bad) = bad else {
        return if case.step.is_empty() { Ok(()) } else { Err("no step is bad".into()) };
    };
    let named = steps.iter().find(|step| step["verdict"] != "pass" && step["name"] == case.step);
    let step = named.ok_or_else(|| format!("{} is bad, not {}", bad["name"], case.step))?;
    let told = format!(
        "expected: {}\n{}\n{}",
        text(step, "expected"),
        text(step, "seen"),
        text(step, "cause")
    );
    let missing: Vec<&&str> = case.says.iter().filter(|part| !told.contains(**part)).collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("it does not say {missing:?}, but {told}"))
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// No machine of a probe that is over remains.
fn nothing_is_left() {
    let listed = fixture::out(&mut postroj(&["ps", "--all", "--json"]));
    let machines: Value = serde_json::from_str(&listed).unwrap();
    for machine in machines.as_array().unwrap() {
        let name = machine["Names"].as_str().or(machine["name"].as_str()).unwrap_or_default();
        let id = name.strip_prefix("probe-").and_then(|id| id.parse::<u32>().ok());
        let alive = id.is_some_and(|id| Path::new(&format!("/proc/{id}")).exists());
        assert!(id.is_none() || alive, "{name} is left: {listed}");
    }
}

#[test]
fn the_table_in_the_docs_is_complete() {
    let place = Place::new("table");
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/probe.md"));
    let docs = docs.unwrap();
    for case in cases(&place.0) {
        let row = format!("| {} | {}", case.what, case.step);
        assert!(docs.lines().any(|line| line.starts_with(row.trim_end())), "{row} is missing");
    }
}

#[test]
fn broken_packages_are_explained_on_debian_11() {
    explained_on("debian-11");
}

#[test]
fn broken_packages_are_explained_on_debian_12() {
    explained_on("debian-12");
}

#[test]
fn broken_packages_are_explained_on_debian_13() {
    explained_on("debian-13");
}

#[test]
fn broken_packages_are_explained_on_debian_sid() {
    explained_on("debian-sid");
}
