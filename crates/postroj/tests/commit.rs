//! `diff`, `commit` and `export`: what was written in a machine.

mod fixture;

use fixture::{Machine, Own, debian, fails, out, postroj, said};

fn sh(machine: &Machine, script: &str) {
    out(&mut machine.exec(&[], &["sh", "-c", script]));
}

fn diff(machine: &Machine) -> Vec<String> {
    out(&mut postroj(&["diff", &machine.name])).lines().map(str::to_owned).collect()
}

const CHANGES: &str = "rm /etc/group; rm -r /home; mkdir -p /home/new; echo x >/home/new/f; \
                       chown 1000:2000 /home/new/f; chmod 4750 /home/new/f; echo more >>/etc/passwd; \
                       ln -s passwd /etc/link; ln /home/new/f /srv/hard";

#[test]
fn what_was_changed() {
    fixture::image();
    let machine = Machine::start(&["run", "-d", fixture::IMAGE, "sleep", "1000"]);
    let before = diff(&machine);
    // What the launcher supplies is not the image's.
    assert!(!before.iter().any(|line| line.contains("hostname")), "{before:?}");
    sh(&machine, CHANGES);
    let mut after = diff(&machine);
    after.retain(|line| !before.contains(line));
    let wanted = [
        "D /etc/group",
        "A /etc/link",
        "C /etc/passwd",
        "C /home",
        "D /home/app",
        "A /home/new",
        "A /home/new/f",
        "C /srv",
        "A /srv/hard",
    ];
    assert_eq!(after, wanted);
    let json = out(&mut postroj(&["diff", "--json", &machine.name]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let gone = json.as_array().unwrap().iter().find(|c| c["Path"] == "/etc/group").unwrap();
    assert_eq!(gone["Kind"], 2);
    // What was changed is told after a restart too.
    out(&mut postroj(&["restart", "-t", "0", &machine.name]));
    let mut again = diff(&machine);
    again.retain(|line| !before.contains(line));
    assert_eq!(again, wanted);
    out(&mut postroj(&["kill", &machine.name]));
    out(&mut postroj(&["wait", &machine.name]));
    fails(&mut postroj(&["diff", &machine.name]), 125, &["has ended"]);
}

#[test]
fn an_image_of_it() {
    fixture::image();
    let own = Own::new("commit");
    let tar = fixture::home().join("busybox.tar");
    own.pull(tar.to_str().unwrap());
    let base = format!("tar:{}", tar.display());
    let start = |name: &str, image: &str| {
        let said = own.path("said");
        let file = std::fs::File::create(&said).unwrap();
        let mut run = own.postroj(&["run", "-d", "--name", name, image, "sleep", "1000"]);
        assert!(run.stdout(file).status().unwrap().success());
    };
    start("first", &base);
    out(&mut own.postroj(&["exec", "first", "sh", "-c", CHANGES]));
    let change = ["-c", "CMD [\"cat\", \"/home/new/f\"]", "-c", "ENV A=b"];
    let words = [&["commit"][..], &change, &["first", "mine:1"]].concat();
    let id = out(&mut own.postroj(&words));
    assert!(id.starts_with("sha256:"), "{id}");
    // The machine goes on.
    out(&mut own.postroj(&["exec", "first", "true"]));
    assert_eq!(out(&mut own.postroj(&["run", "mine:1"])), "x");
    let seen = "test ! -e /etc/group && test ! -e /home/app && \
                tail -n1 /etc/passwd && readlink /etc/link && stat -c '%u:%g %a %h' /srv/hard && \
                echo $A";
    let wanted = "more\npasswd\n1000:2000 4750 2\nb";
    assert_eq!(out(&mut own.sh("mine:1", seen)), wanted);
    // Over that, another one; and what is sent away comes back the same.
    start("second", "mine:1");
    out(&mut own.postroj(&["exec", "second", "sh", "-c", "echo two >/srv/two; rm /etc/link"]));
    out(&mut own.postroj(&["commit", "--pause=false", "second", "mine:2"]));
    let seen = "cat /srv/two; test ! -e /etc/link && test ! -e /home/app && cat /srv/hard";
    assert_eq!(out(&mut own.sh("mine:2", seen)), "two\nx");
    let archive = own.path("saved.tar");
    let archive = archive.to_str().unwrap();
    out(&mut own.postroj(&["save", "--as", "oci-archive", "-o", archive, "mine:2"]));
    for name in ["first", "second"] {
        out(&mut own.postroj(&["rm", "-f", name]));
    }
    for image in ["mine:2", "mine:1"] {
        out(&mut own.postroj(&["rmi", image]));
    }
    out(&mut own.postroj(&["load", "-i", archive]));
    assert_eq!(out(&mut own.sh("mine:2", seen)), "two\nx");
    own.is_sound();
    for bad in [&["commit", "nonesuch"][..], &["commit", "-c", "RUN x", "first"]] {
        assert_eq!(said(&mut own.postroj(bad)).code, 125);
    }
}

#[test]
fn all_of_it() {
    fixture::image();
    let machine = Machine::start(&["run", "-d", fixture::IMAGE, "sleep", "1000"]);
    sh(&machine, CHANGES);
    let file = fixture::home().join(format!("{}.tar", machine.name));
    out(&mut postroj(&["export", "-o", file.to_str().unwrap(), &machine.name]));
    let listed = std::process::Command::new("tar").arg("-tf").arg(&file).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("./home/new/f\n") && !listed.contains("./etc/group\n"), "{listed}");
    // What is mounted is empty.
    assert!(listed.contains("./proc/\n") && !listed.contains("./proc/1/"), "{listed}");
    let own = Own::new("export");
    out(&mut own.postroj(&["import", file.to_str().unwrap(), "exported:1"]));
    assert_eq!(out(&mut own.sh("exported:1", "cat /home/new/f")), "x");
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_system_is_committed_and_boots() {
    let machine = Machine::boot(&["--fast"], &debian("debian-12"));
    sh(&machine, "echo mine >/etc/mine");
    let name = format!("committed-{}:1", std::process::id());
    out(&mut postroj(&["commit", &machine.name, &name]));
    let copy = Machine::boot(&["--fast"], &name);
    assert_eq!(out(&mut copy.exec(&[], &["cat", "/etc/mine"])), "mine");
    assert_eq!(out(&mut copy.exec(&[], &["systemctl", "is-system-running"])), "running");
    assert_eq!(copy.stop(), 0);
    drop(copy);
    out(&mut postroj(&["rmi", &name]));
}
