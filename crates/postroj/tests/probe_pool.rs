//! Probes on machines out of pools.

#[path = "fixture/debs.rs"]
mod debs;
mod fixture;

use std::process::{Command, Stdio};

use debs::Deb;
use fixture::{Own, debian, home, out, postroj, said, wait_until};
use serde_json::Value;

/// A run directory with a pool of Debian 12.
struct Place(Own);

impl Place {
    fn new(name: &str, options: &[&str]) -> Self {
        let place = Self(Own::new(name));
        let start = ["pool", "create", "--network", "none", "--size", "2"];
        out(&mut place.postroj(&[&start, options, &[&debian("debian-12")]].concat()));
        place
    }

    fn postroj(&self, args: &[&str]) -> Command {
        let mut command = postroj(args);
        command.env("POSTROJ_RUNROOT", self.0.path("run"));
        command.env("XDG_CONFIG_HOME", home().join("config"));
        command
    }

    fn probe(&self, options: &[&str]) -> (i32, Value) {
        let evidence = self.0.path("evidence");
        let words =
            ["probe", "--pool", "--evidence", evidence.to_str().unwrap(), "--image", "debian-12"];
        let said = said(&mut self.postroj(&[&words, options].concat()));
        let text = std::fs::read_to_string(evidence.join("results.jsonl")).unwrap();
        let last = text.lines().last().unwrap_or_else(|| panic!("{said:?}"));
        (said.code, serde_json::from_str(last).unwrap())
    }

    /// Machines that are not the pool's.
    fn others(&self) -> Vec<Value> {
        let text = out(&mut self.postroj(&["ps", "--all", "--json"]));
        let all: Vec<Value> = serde_json::from_str(&text).unwrap();
        all.into_iter().filter(|machine| machine["Pool"].is_null()).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.postroj(&["pool", "rm", "debian-12"]).output();
        for machine in self.others() {
            let _ = self.postroj(&["rm", "-f", machine["Name"].as_str().unwrap()]).output();
        }
    }
}

/// What the first step, which is the boot, says.
fn came(cell: &Value) -> &str {
    assert_eq!(cell["verdict"], "pass", "{cell}");
    cell["steps"][0]["seen"].as_str().unwrap()
}

#[test]
fn probes_take_machines_out_of_pools_that_suit() {
    let place = Place::new("probe-pool", &["--packages"]);
    let (code, cell) = place.probe(&["--check-unit", "systemd-journald"]);
    assert_eq!((code, came(&cell)), (0, "it came out of a pool"));
    let says = "#!/bin/sh\necho packaged\n";
    let deb = Deb { name: "small", files: &[("/usr/bin/small", says)], ..Deb::default() };
    let deb = deb.build(&place.0.path(""));
    let checks = ["--package", deb.to_str().unwrap(), "--check-cmd", "small | grep -q packaged"];
    let (code, cell) = place.probe(&checks);
    assert_eq!((code, came(&cell)), (0, "it came out of a pool"), "{cell}");
    assert_eq!(place.others(), [] as [Value; 0], "their machines are gone");
    // Each had one to itself, and the next have new ones.
    wait_until("it is full again", || {
        let pools = out(&mut place.postroj(&["pool", "ls", "--json"]));
        serde_json::from_str::<Value>(&pools).unwrap()[0]["Ready"] == 2
    });
    let (code, cell) = place.probe(&["--check-file", "!/usr/bin/small"]);
    assert_eq!((code, came(&cell)), (0, "it came out of a pool"));
}

#[test]
fn where_no_machine_suits_one_is_booted() {
    let place = Place::new("probe-cold", &[]);
    let deb = Deb { name: "small", files: &[("/usr/bin/small", "x")], ..Deb::default() };
    let deb = deb.build(&place.0.path(""));
    let (code, cell) = place.probe(&["--package", deb.to_str().unwrap()]);
    assert_eq!((code, came(&cell)), (0, "it is up"), "it has no downloads");
    out(&mut place.postroj(&["pool", "rm", "debian-12"]));
    let (code, cell) = place.probe(&["--check-unit", "systemd-journald"]);
    assert_eq!((code, came(&cell)), (0, "it is up"), "there is no pool");
    let both = ["probe", "--pool", "--fast", "--image", "debian-12"];
    assert_eq!(said(&mut place.postroj(&both)).code, 2);
}

#[test]
fn the_machine_of_a_killed_probe_is_gone_with_the_next_command() {
    let place = Place::new("probe-pool-killed", &[]);
    let words = ["probe", "--pool", "--image", "debian-12", "--check-cmd", "sleep 1000"];
    let mut probe =
        place.postroj(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it has a machine", || place.others().len() == 1);
    let name = place.others()[0]["Name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("probe-"), "{name}");
    wait_until("its command runs", || {
        out(&mut place.postroj(&["top", &name])).contains("sleep 1000")
    });
    probe.kill().unwrap();
    probe.wait().unwrap();
    wait_until("its machine is gone", || place.others().is_empty());
}
