//! `matrix`: commands in many images, and one thing in several ways.

mod fixture;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use fixture::{IMAGE, Said, debian, home, image, out, processes_with, said, wait_until};
use rustix::process::{Pid, Signal};
use serde_json::Value;

/// A run directory and files of one test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = home().join(format!("mx-{name}-{}", std::process::id()));
        fs::create_dir_all(path.join("run")).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// The program with a run directory of its own, by which its processes are found.
    fn postroj(&self, args: &[&str]) -> Command {
        fixture::postroj(&[&["--runroot", &self.path("run")], args].concat())
    }

    /// Goes through a matrix; title, verdict and reason of each cell.
    fn matrix(&self, args: &[&str]) -> (Said, Vec<(String, String, String)>) {
        let file = self.path("report.json");
        let (json, evidence) = (format!("json={file}"), self.path("evidence"));
        let more = ["--report", &json, "--evidence", &evidence];
        let told = said(&mut self.postroj(&[&["matrix"], &more[..], args].concat()));
        let text = fs::read(&file).unwrap_or_else(|_| panic!("{told:?}"));
        let report: Value = serde_json::from_slice(&text).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let cell = |cell: &Value| {
            let variant = &cell["wish"]["variant"];
            (text(variant), text(&cell["verdict"]), text(&cell["reason"]))
        };
        (told, report["cells"].as_array().unwrap().iter().map(cell).collect())
    }

    #[track_caller]
    fn nothing_is_left(&self) {
        out(&mut self.postroj(&["ps", "-a"]));
        let own = self.path("run");
        wait_until("no process is left", || processes_with(&own).is_empty());
        wait_until("no machine is left", || out(&mut self.postroj(&["ps", "-aq"])).is_empty());
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

#[track_caller]
fn are(cells: &[(String, String, String)], expected: &[(&str, &str, &str)]) {
    let same = cells.iter().zip(expected).all(|((variant, verdict, reason), wanted)| {
        (&variant[..], &verdict[..]) == (wanted.0, wanted.1) && reason.contains(wanted.2)
    });
    assert!(same && cells.len() == expected.len(), "{cells:#?} are not {expected:#?}");
}

#[test]
fn a_command_runs_in_many_images_in_several_ways() {
    image();
    let place = Place::new("run");
    let variants = ["--variant", "one=-e WORD=one", "--variant", "two=-e 'WORD=not one'"];
    let command = ["--output", "^one", "--", "sh", "-c", "echo $WORD"];
    let (told, cells) =
        place.matrix(&[&["--image", IMAGE, "-e", "OTHER=x"][..], &variants, &command].concat());
    assert_eq!(told.code, 1, "{told:?}");
    are(&cells, &[("one", "pass", ""), ("two", "fail", "output that does not match")]);
    assert!(told.out.contains("[two]"), "{told:?}");
    let directories = fs::read_dir(place.0.join("evidence")).unwrap().flatten();
    let mut commands: Vec<String> = directories
        .filter_map(|entry| fs::read_to_string(entry.path().join("command.txt")).ok())
        .collect();
    commands.sort();
    assert!(
        commands[0].starts_with("postroj run --rm --network none -e OTHER=x -e 'WORD=not one' "),
        "{commands:?}"
    );
    place.nothing_is_left();
}

#[test]
fn a_file_has_runs_and_variants() {
    image();
    let label = debian("debian-12");
    let place = Place::new("file");
    let text = format!(
        "[[run]]\nimage = [{IMAGE:?}]\ncommand = [\"sh\", \"-c\", \"echo not here; exit 77\"]\n\
         [[run]]\nimage = [{IMAGE:?}]\ncommand = [\"sleep\", \"100\"]\ntimeout = 1\n\
         [[run]]\nimage = [\"dir:/nowhere/at/all\"]\n\
         [[probe]]\nimage = [{label:?}]\nfast = true\ncheck-file = [\"/etc/passwd\"]\n\
         [probe.variant.bad]\ncheck-file = [\"/etc/nothing\"]\n[probe.variant.good]\ncheck-file = [\"!/etc/nothing\"]\n"
    );
    fs::write(place.path("postroj.toml"), text).unwrap();
    let file = place.path("postroj.toml");
    let (told, cells) = place.matrix(&[&file]);
    assert_eq!(told.code, 1, "{told:?}");
    are(
        &cells,
        &[
            ("bad", "fail", "/etc/nothing"),
            ("good", "pass", ""),
            ("", "skipped", "not here"),
            ("", "fail", "not done after 1 s"),
            ("", "error", "/nowhere/at/all"),
        ],
    );
    place.nothing_is_left();
    // What is done is not done again.
    let (_, again) = place.matrix(&[&file, "--resume"]);
    assert_eq!(again, cells);
    for (args, part) in [
        (&["matrix", "--output", "x"][..], "--output is for a command in images: give --image"),
        (&["matrix", "--image", IMAGE, "--variant", "x y=--fast"], "is no name of a variant"),
        (&["matrix", "--image", IMAGE, "--variant", "x=--fast"], "unexpected argument '--fast'"),
        (&["matrix", "--image", IMAGE, "--output", "(", "--", "true"], "is no pattern"),
    ] {
        let told = said(&mut place.postroj(args));
        assert!(told.code == 2 && told.err.contains(part), "{args:?}: {told:?}");
    }
}

#[test]
fn a_matrix_that_is_killed_takes_its_commands_along() {
    image();
    let place = Place::new("kill");
    let args = ["matrix", "--image", IMAGE, "--", "sh", "-c", "sleep 4711"];
    let mut child = place.postroj(&args).stdout(Stdio::null()).spawn().unwrap();
    let machines = place.0.join("run/machines");
    wait_until("the command runs", || {
        let records = fs::read_dir(&machines).into_iter().flatten().flatten();
        records
            .filter_map(|entry| fs::read_to_string(entry.path()).ok())
            .any(|r| r.contains("pid "))
    });
    rustix::process::kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
    place.nothing_is_left();
}
