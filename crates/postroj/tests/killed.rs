//! `kill -9` at random moments: after the next command nothing is left of what was under way.

mod fixture;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fixture::{Own, busybox, is_root, out, processes_with, tar, wait_until};

/// How often each is killed.
const TIMES: u32 = 200;

/// A store with an image `small:1`, and the archive that it is from.
fn with_image(name: &str) -> (Own, String) {
    let own = Own::new(name);
    let root = own.path("root");
    busybox(&root);
    // Large enough to take its time.
    for n in 0..200 {
        std::fs::write(root.join(format!("srv/{n}")), vec![n; 20_000]).unwrap();
    }
    let file = own.path("root.tar");
    tar(&root, &file);
    let image = format!("tar:{}", file.display());
    own.pull(&image);
    out(&mut own.postroj(&["tag", &image, "small:1"]));
    (own, image)
}

/// The program with its store as an argument, so that each of its processes is known by it.
fn marked(own: &Own, args: &[&str]) -> Command {
    let (store, run) = (own.store(), own.path("run"));
    let places = ["--store", store.to_str().unwrap(), "--runroot", run.to_str().unwrap()];
    own.postroj(&[&places[..], args].concat())
}

/// A moment up to `most`, another one each time.
fn moment(most: Duration) -> Duration {
    most.mul_f64(RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64)
}

fn kill_after(mut command: Command, moment: Duration) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(moment);
    child.kill().unwrap();
    child.wait().unwrap();
}

fn time(command: &mut Command) -> Duration {
    let start = Instant::now();
    out(command);
    start.elapsed()
}

/// No process, mount, record, control group or half-made object.
#[track_caller]
fn nothing_is_left(own: &Own, case: &str) {
    let store = own.store();
    let marks = [store.to_str().unwrap(), "sleep\x001006"];
    for mark in marks {
        wait_until(&format!("{case}: no process is left"), || processes_with(mark).is_empty());
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(marks[0]), "{case}: a mount is left");
    let machines = std::fs::read_dir(own.path("run/machines")).unwrap().flatten();
    let records: Vec<String> = machines.map(|e| e.path().display().to_string()).collect();
    assert!(records.is_empty(), "{case}: the record of a machine is left: {records:?}");
    own.is_sound();
}

/// All groups below one of ours.
fn groups() -> Vec<String> {
    let layout = sys::cgroups::Layout::read().unwrap();
    let mounts = layout.legacy.iter().chain(&layout.unified).map(|h| h.mount.join("postroj"));
    let entries = mounts.filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
    let directories = entries.filter(|e| e.path().is_dir());
    directories.map(|e| e.path().display().to_string()).collect()
}

#[test]
fn runs() {
    let (own, _) = with_image("killed-run");
    let whole = time(&mut marked(&own, &["run", "small:1", "true"]));
    for n in 0..TIMES {
        let limit = if is_root() && n % 2 == 0 { &["--pids-limit=100"][..] } else { &[] };
        let args = [&["run"], limit, &["small:1", "sleep", "1006"]].concat();
        let moment = moment(whole * 2);
        kill_after(marked(&own, &args), moment);
        assert_eq!(out(&mut marked(&own, &["run", "small:1", "echo", "next"])), "next");
        nothing_is_left(&own, &format!("run killed after {moment:?}"));
    }
}

/// The machines of other tests are not this one's, so it takes those that stay.
#[test]
fn control_groups() {
    if !is_root() {
        return println!("skipped: none is delegated to an ordinary user here");
    }
    let (own, _) = with_image("killed-group");
    let args = ["run", "--memory=64m", "--pids-limit=100", "small:1", "true"];
    let whole = time(&mut marked(&own, &args));
    let before = groups();
    for _ in 0..TIMES {
        kill_after(marked(&own, &args), moment(whole));
    }
    assert_eq!(out(&mut marked(&own, &["run", "small:1", "echo", "next"])), "next");
    let made: Vec<String> = groups().into_iter().filter(|g| !before.contains(g)).collect();
    wait_until("no control group is left", || made.iter().all(|g| !groups().contains(g)));
}

#[test]
fn pulls() {
    let (own, image) = with_image("killed-pull");
    let force = ["pull", "--quiet", "--force", &image];
    let whole = time(&mut marked(&own, &force));
    for _ in 0..TIMES {
        let moment = moment(whole);
        kill_after(marked(&own, &force), moment);
        out(&mut marked(&own, &["pull", "--quiet", &image]));
        nothing_is_left(&own, &format!("pull killed after {moment:?}"));
        assert_eq!(out(&mut own.sh(&image, "cat /srv/199 | wc -c")), "20000");
    }
}
