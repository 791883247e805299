//! Many at once: of one user, and of two.

mod fixture;

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};

use fixture::{Own, busybox, is_root, out, tar};

fn start(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn finish(children: Vec<Child>) -> Vec<Output> {
    children.into_iter().map(|child| child.wait_with_output().unwrap()).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// How many of these pulls did the work; the others waited, and found it done.
fn downloads(outputs: &[Output]) -> usize {
    for output in outputs {
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    outputs.iter().filter(|o| text(&o.stdout).contains("Status: Downloaded image")).count()
}

#[test]
fn four_pulls_and_sixteen_runs_of_two_users() {
    let own = Own::new("together");
    busybox(&own.path("root"));
    let archive = own.path("root.tar");
    tar(&own.path("root"), &archive);
    let archive = archive.to_str().unwrap();
    let program = own.path("postroj");
    std::fs::copy(fixture::program(), &program).unwrap();
    let home = own.path("home");
    std::fs::create_dir(&home).unwrap();
    let other = fixture::another_user().filter(|_| is_root());
    if let Some((uid, gid)) = other {
        std::os::unix::fs::chown(&home, Some(uid), Some(gid)).unwrap();
        for path in [home.parent().unwrap(), home.parent().unwrap().parent().unwrap()] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        }
    }
    let pull = ["pull", archive];
    let run = ["run", archive, "sh", "-c", "hostname; ls / | wc -l"];
    // Both kinds at once: a run pulls what is not there yet.
    let pulls: Vec<Child> = (0..4).map(|_| start(own.postroj(&pull))).collect();
    let runs: Vec<Child> = (0..16).map(|_| start(own.postroj(&run))).collect();
    let others: Vec<Child> = other
        .iter()
        .flat_map(|user| {
            let pulls = (0..4).map(|_| start(fixture::as_user(*user, &program, &home, &pull)));
            let runs = (0..16).map(|_| start(fixture::as_user(*user, &program, &home, &run)));
            pulls.chain(runs).collect::<Vec<_>>()
        })
        .collect();
    let (pulls, runs, others) = (finish(pulls), finish(runs), finish(others));
    // A run may have been the first.
    assert!(downloads(&pulls) <= 1);
    let mut names: Vec<String> = Vec::new();
    for output in runs.iter().chain(others.iter().skip(4)) {
        assert!(output.status.success(), "{}", text(&output.stderr));
        names.push(text(&output.stdout));
    }
    assert_eq!(names.len(), if other.is_some() { 32 } else { 16 });
    names.sort();
    names.dedup();
    assert_eq!(names.len(), if other.is_some() { 32 } else { 16 }, "each has a name of its own");
    assert!(downloads(&others[..others.len().min(4)]) <= 1);
    assert_eq!(own.json(&["images", "--json"]).as_array().unwrap().len(), 1);
    let layers = std::fs::read_dir(own.store().join("layers")).unwrap().count();
    assert_eq!(layers, 1, "it was unpacked once");
    own.is_sound();
    if let Some(user) = other {
        let check = &mut fixture::as_user(user, &program, &home, &["system", "check"]);
        assert_eq!(out(check), "The store is sound");
        out(&mut fixture::as_user(user, &program, &home, &["system", "prune", "--all"]));
    }
}

#[test]
fn one_download_of_many_pulls_from_an_archive() {
    let own = Own::new("together-debian");
    let pulls = finish((0..4).map(|_| start(own.postroj(&["pull", "debian-12"]))).collect());
    assert_eq!(downloads(&pulls), 1);
    let run = ["run", "--pull=never", "debian-12", "dpkg", "--audit"];
    for output in finish((0..16).map(|_| start(own.postroj(&run))).collect()) {
        assert!(output.status.success() && output.stdout.is_empty(), "{}", text(&output.stderr));
    }
    own.is_sound();
}
