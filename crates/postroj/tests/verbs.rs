//! Verbs about machines that run: pause, rename, top, stats, inspect.

mod fixture;

use std::process::Stdio;

use fixture::{Machine, debian, fails, out, postroj, said};

fn sh(machine: &Machine, script: &str) -> String {
    out(&mut machine.exec(&[], &["sh", "-c", script]))
}

fn json(args: &[&str]) -> serde_json::Value {
    let text = out(&mut postroj(args));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
}

fn inspect(name: &str) -> serde_json::Value {
    json(&["inspect", name])[0].clone()
}

/// The states of a machine's processes, process 1's first.
fn states(machine: &Machine) -> Vec<String> {
    let list = json(&["top", "--json", &machine.name]);
    let list = list.as_array().unwrap();
    list.iter().map(|process| process["State"].as_str().unwrap().to_owned()).collect()
}

/// Nothing of it goes on while it is paused, and all of it afterwards.
fn is_paused_and_goes_on(machine: &Machine, count: &str) {
    fixture::wait_until("it counts", || !sh(machine, count).is_empty());
    assert_eq!(out(&mut postroj(&["pause", &machine.name])), machine.name);
    assert_eq!(inspect(&machine.name)["State"]["Status"], "paused");
    let listed = out(&mut postroj(&["ps"]));
    assert!(listed.lines().any(|l| l.contains(&machine.name) && l.contains("Paused")), "{listed}");
    fails(&mut machine.exec(&[], &["true"]), 125, &["is paused", "postroj unpause"]);
    fails(&mut postroj(&["pause", &machine.name]), 125, &["paused already"]);
    // Two copies of what it writes, some time apart, are the same.
    let copy = || {
        let path = format!("{}:/srv/count", machine.name);
        postroj(&["cp", &path, "-"]).output().unwrap().stdout
    };
    let first = copy();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(first, copy());
    out(&mut postroj(&["unpause", &machine.name]));
    fails(&mut postroj(&["unpause", &machine.name]), 125, &["is not paused"]);
    fixture::wait_until("it goes on", || copy() != first);
    assert_eq!(inspect(&machine.name)["State"]["Status"], "running");
    // A paused one is stopped in good order.
    out(&mut postroj(&["pause", &machine.name]));
}

const COUNT: &str = "n=0; while :; do n=$((n+1)); echo $n >/srv/count; sleep 0.02; done";

#[test]
fn a_command_is_paused() {
    fixture::image();
    let script = format!("trap 'exit 7' TERM; ({COUNT}) & while :; do sleep 0.1; done");
    let machine = Machine::start(&["run", "-d", fixture::IMAGE, "sh", "-c", &script]);
    fixture::wait_until("it counts", || {
        said(&mut machine.exec(&[], &["cat", "/srv/count"])).code == 0
    });
    out(&mut postroj(&["pause", &machine.name]));
    assert!(states(&machine).iter().all(|state| state == "T"), "{:?}", states(&machine));
    out(&mut postroj(&["unpause", &machine.name]));
    is_paused_and_goes_on(&machine, "cat /srv/count");
    assert_eq!(machine.stop(), 7);
    fails(&mut postroj(&["pause", &machine.name]), 125, &["has ended"]);
}

#[test]
fn a_system_is_paused() {
    let machine = Machine::boot(&["--fast"], &debian("debian-12"));
    sh(&machine, &format!("systemd-run -q --unit counter sh -c '{}'", COUNT.replace('$', "$$")));
    is_paused_and_goes_on(&machine, "cat /srv/count");
    assert_eq!(machine.stop(), 0);
    // Killed while it is paused, nothing of it remains.
    let machine = Machine::boot(&["--fast"], &debian("debian-12"));
    out(&mut postroj(&["pause", &machine.name]));
    out(&mut postroj(&["rm", "-f", &machine.name]));
    fails(&mut postroj(&["inspect", &machine.name]), 125, &[&machine.name]);
}

#[test]
fn another_name() {
    fixture::image();
    let first = Machine::start(&["run", "-d", fixture::IMAGE, "sleep", "1000"]);
    let second = Machine::start(&["run", "-d", "--rm", fixture::IMAGE, "sleep", "1000"]);
    fails(&mut postroj(&["rename", &first.name, &second.name]), 125, &["is in use"]);
    fails(&mut postroj(&["rename", &first.name, "a/b"]), 125, &["invalid machine name"]);
    let renamed = |machine: &Machine| {
        let name = format!("{}-renamed", machine.name);
        out(&mut postroj(&["rename", &machine.name, &name]));
        Machine { name }
    };
    let (first_renamed, second_renamed) = (renamed(&first), renamed(&second));
    fails(&mut first.exec(&[], &["true"]), 125, &["there is no machine"]);
    out(&mut first_renamed.exec(&[], &["true"]));
    // Its monitor writes down its end under the new name, or forgets that.
    for machine in [&first_renamed, &second_renamed] {
        out(&mut postroj(&["kill", &machine.name]));
    }
    assert_eq!(out(&mut postroj(&["wait", &first_renamed.name])), "137");
    fixture::wait_until("the other is forgotten", || {
        !out(&mut postroj(&["ps", "-a"])).contains(&second.name)
    });
    // The old name is free.
    let again = Machine { name: first.name.clone() };
    let run = ["run", "-d", "--name", &first.name, fixture::IMAGE, "sleep", "1000"];
    assert!(postroj(&run).stdout(Stdio::null()).status().unwrap().success());
    out(&mut again.exec(&[], &["true"]));
}

#[test]
fn processes_and_what_they_use() {
    fixture::image();
    let script = "sleep 1000 & while :; do :; done";
    let options = ["run", "-d", "--network", "none", fixture::IMAGE, "sh", "-c", script];
    let machine = Machine::start(&options);
    let used = || {
        let stats = json(&["stats", "--no-stream", "--json", &machine.name]);
        let stats = &stats[0];
        assert_eq!(stats["Name"], machine.name[..]);
        assert!(stats["MemoryBytes"].as_u64().unwrap() > 4096, "{stats}");
        assert_eq!(stats["NetworkSentBytes"], 0);
        (stats["CPUSeconds"].as_f64().unwrap(), stats["Pids"].as_u64().unwrap())
    };
    fixture::wait_until("it has used a processor", || used().0 > 0.2);
    assert_eq!(used().1, 3);
    let top = out(&mut postroj(&["top", &machine.name]));
    assert!(top.starts_with("UID") && top.lines().any(|l| l.ends_with("sleep 1000")), "{top}");
    let stats = out(&mut postroj(&["stats", "--no-stream"]));
    assert!(stats.lines().any(|l| l.contains(&machine.name) && l.contains('%')), "{stats}");
    // A process may be called anything, and a terminal obeys none of it.
    sh(&machine, "printf '#!/bin/sh\\nsleep 1000\\n' >/srv/x && chmod 755 /srv/x");
    let odd = "cd /srv && sh -c 'exec ./x \"$(printf \"\\033[2J\")\"' >/dev/null 2>&1 &";
    sh(&machine, odd);
    fixture::wait_until("it is listed", || {
        let top = out(&mut postroj(&["top", &machine.name]));
        assert!(!top.contains('\x1b'));
        top.contains("./x ?[2J")
    });
    // A stream ends with its machine.
    let stream = ["stats", "--json", &machine.name];
    let mut child = postroj(&stream).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(line[0]["Name"], machine.name[..]);
    out(&mut postroj(&["kill", &machine.name]));
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
}

#[test]
fn everything_of_a_machine() {
    fixture::image();
    let volume = format!("{}:/srv/v:ro", fixture::home().display());
    let options =
        ["run", "-d", "-v", &volume, "-e", "A=b", "-w", "/srv", "-h", "box", fixture::IMAGE];
    let machine = Machine::start(&[&options[..], &["sleep", "1000"]].concat());
    let told = inspect(&machine.name);
    for (pointer, wanted) in [
        ("/Name", &machine.name[..]),
        ("/State/Status", "running"),
        ("/Path", "sleep"),
        ("/Args/0", "1000"),
        ("/Config/Hostname", "box"),
        ("/Config/WorkingDir", "/srv"),
        ("/Mounts/0/Destination", "/srv/v"),
        ("/Image", fixture::IMAGE),
    ] {
        assert_eq!(
            told.pointer(pointer).and_then(|v| v.as_str()),
            Some(wanted),
            "{pointer}: {told}"
        );
    }
    assert!(told["Config"]["Env"].as_array().unwrap().iter().any(|e| e == "A=b"));
    assert_eq!(told["Mounts"][0]["RW"], false);
    assert!(told["State"]["Pid"].as_i64().unwrap() > 1);
    out(&mut postroj(&["kill", &machine.name]));
    out(&mut postroj(&["wait", &machine.name]));
    let told = inspect(&machine.name);
    assert_eq!(
        (&told["State"]["Status"], &told["State"]["ExitCode"]),
        (&"exited".into(), &137.into())
    );
    // An image of that name is told of where there is no machine.
    assert_eq!(inspect(fixture::IMAGE)["Os"], "linux");
}
