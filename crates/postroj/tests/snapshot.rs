//! Snapshots of machines: made while they work, gone back to, and made other machines of.

mod fixture;

use std::collections::BTreeSet;

use fixture::{IMAGE, Machine, debian, fails, image, out, postroj, said};

fn sh(machine: &str, script: &str) -> String {
    out(&mut postroj(&["exec", machine, "sh", "-c", script]))
}

fn list(machine: &str) -> serde_json::Value {
    serde_json::from_str(&out(&mut postroj(&["snapshot", "ls", "--json", machine]))).unwrap()
}

/// Every kind of file that can be written, and files of the image that are gone and changed.
const WRITE: &str = "mkdir -p /srv/d && echo one >/srv/d/f && ln /srv/d/f /srv/d/hard && ln -s f /srv/d/soft && \
    chown 7:8 /srv/d/f && chmod 4750 /srv/d/f && touch -d 2001-02-03 /srv/d/f && mkfifo /srv/d/fifo && \
    rm /etc/os-release && echo more >>/etc/group && dd if=/dev/zero of=/srv/d/big bs=1M count=9 2>/dev/null";

const LOOK: &str = "ls -ln --time-style=+%F /srv/d 2>/dev/null || ls -ln /srv/d; cat /srv/d/soft; \
    tail -n1 /etc/group; test -e /etc/os-release || echo gone";

fn goes_back(machine: &Machine) {
    let name = &machine.name;
    sh(name, WRITE);
    let before = sh(name, LOOK);
    assert_eq!(out(&mut postroj(&["snapshot", "create", name, "whole"])), "whole");
    sh(name, "rm -r /srv/d; echo new >/srv/new; cp /etc/group /etc/os-release");
    assert_eq!(out(&mut postroj(&["snapshot", "create", name])), "snap0");
    let listed = list(name);
    assert_eq!(listed[0]["Name"], "whole");
    assert!(listed[0]["Size"].as_u64().unwrap() > 9 << 20, "{listed}");
    assert_eq!(listed[1]["Name"], "snap0");
    // There and back again, twice: a snapshot stays what it is.
    for _ in 0..2 {
        assert_eq!(&out(&mut postroj(&["restore", name, "whole"])), name);
        assert_eq!(sh(name, LOOK), before);
        assert_eq!(said(&mut postroj(&["exec", name, "test", "-e", "/srv/new"])).code, 1);
        assert_eq!(&out(&mut postroj(&["restore", name])), name);
        assert_eq!(sh(name, "cat /srv/new; ls /srv"), "new\nnew");
    }
    let removed = out(&mut postroj(&["snapshot", "rm", name, "whole", "snap0"]));
    assert_eq!(removed, "whole\nsnap0");
    assert_eq!(list(name), serde_json::json!([]));
    fails(&mut postroj(&["restore", name]), 125, &["has no snapshot", "snapshot create"]);
    assert_eq!(sh(name, "cat /srv/new"), "new");
}

#[test]
fn a_system_goes_back_to_its_snapshots() {
    let machine = Machine::boot(&["--fast"], &debian("debian-12"));
    goes_back(&machine);
    assert_eq!(sh(&machine.name, "systemctl is-system-running"), "running");
    assert_eq!(machine.stop(), 0);
}

#[test]
fn a_command_goes_back_to_its_snapshots() {
    image();
    let machine = Machine::start(&["run", "-d", IMAGE, "sleep", "1000"]);
    goes_back(&machine);
    // Nothing is written while it is copied, and it goes on afterwards; or stays as it was.
    out(&mut postroj(&["pause", &machine.name]));
    out(&mut postroj(&["snapshot", "create", &machine.name, "paused"]));
    let state = out(&mut postroj(&["inspect", &machine.name]));
    assert!(state.contains("\"paused\""), "{state}");
    out(&mut postroj(&["restore", &machine.name, "paused"]));
    assert_eq!(sh(&machine.name, "cat /srv/new"), "new");
    for (words, why) in [
        (["snapshot", "create", "paused"], "has a snapshot paused already"),
        (["snapshot", "create", "a/b"], "invalid name"),
        (["snapshot", "rm", "other"], "has no snapshot other"),
    ] {
        let words = [words[0], words[1], &machine.name, words[2]];
        fails(&mut postroj(&words), 125, &[why]);
    }
}

#[test]
fn clones_have_the_files_and_a_life_of_their_own() {
    let machine = Machine::boot(&["--fast", "--hostname", "box"], &debian("debian-12"));
    let without_a_name = nameless();
    let name = &machine.name;
    sh(name, WRITE);
    let before = sh(name, LOOK);
    out(&mut postroj(&["snapshot", "create", name, "then"]));
    sh(name, "rm -r /srv/d; echo now >/srv/now");
    let (then, now) = (format!("{name}-then"), format!("{name}-now"));
    let (then, now) = (Machine { name: then }, Machine { name: now });
    let id = out(&mut postroj(&["clone", &format!("{name}/then"), &then.name]));
    out(&mut postroj(&["clone", "--rm", "--hostname", "other", name, &now.name]));
    assert_eq!(sh(&then.name, LOOK), before);
    assert_eq!(sh(&now.name, "cat /srv/now; ls /srv"), "now\nnow");
    assert_eq!(sh(&then.name, "cat /etc/machine-id"), id[..32]);
    assert_eq!(sh(&then.name, "hostname; cat /etc/hostname"), "box\nbox");
    assert_eq!(
        sh(&now.name, "hostname; grep -c other /etc/hosts; echo $HOSTNAME"),
        "other\n2\nother"
    );
    for clone in [&then, &now] {
        assert_eq!(sh(&clone.name, "systemctl is-system-running"), "running");
    }
    // What is written in one is not in the others.
    sh(&then.name, "echo x >/srv/only");
    for other in [name, &now.name] {
        assert_eq!(said(&mut postroj(&["exec", other, "test", "-e", "/srv/only"])).code, 1);
    }
    assert_eq!(machine.stop(), 0);
    assert_eq!(sh(&then.name, "cat /srv/only"), "x");
    let taken = ["clone", &then.name, &now.name];
    fails(&mut postroj(&taken), 125, &["is in use"]);
    assert_eq!(now.stop_and_forget(), 0);
    assert_eq!(then.stop(), 0);
    fails(&mut postroj(&["clone", &then.name]), 125, &["has ended"]);
    let new: Vec<String> = nameless().difference(&without_a_name).cloned().collect();
    assert!(new.is_empty(), "their layers did not go with them: {new:?}");
    fails(&mut postroj(&["clone", "nobody"]), 125, &["there is no machine"]);
}

/// Images that have no name: an earlier run may have left some.
fn nameless() -> BTreeSet<String> {
    let images = out(&mut postroj(&["images"]));
    let ids =
        images.lines().filter_map(|line| line.strip_prefix("<none>")?.split_whitespace().next());
    ids.map(str::to_owned).collect()
}

impl Machine {
    fn stop_and_forget(&self) -> i32 {
        said(&mut postroj(&["stop", &self.name])).code
    }
}
