//! What every engine owes: the same cases over each, with the same expectations. What an engine cannot do
//! stands in [`refusals`], with what it says then.
//!
//! A virtual machine takes seconds to start where it is emulated, so that most cases share one machine, each
//! with files of its own in it.

#[path = "../fixture/mod.rs"]
mod fixture;

mod once;
mod own;
mod refusals;
mod shared;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use fixture::{IMAGE, Machine, image, out, postroj};

/// An engine, and what its cases may use.
struct Engine {
    name: &'static str,
    options: &'static [&'static str],
}

const CONTAINER: Engine = Engine { name: "container", options: &["--network", "none"] };
const VM: Engine = Engine { name: "vm", options: &["--isolation", "vm", "--network", "none"] };

/// What the shared machine runs, and others: something that takes SIGTERM, and says so by its code.
const LOOP: &str = "trap 'echo told >&2; exit 9' TERM; echo $$ >/tmp/main; echo began; while :; do sleep 0.2; done";

impl Engine {
    /// `run` with this engine.
    fn run(&self, options: &[&str], command: &[&str]) -> Command {
        image();
        postroj(&[&["run"], self.options, options, &[IMAGE], command].concat())
    }

    fn sh(&self, options: &[&str], script: &str) -> Command {
        self.run(options, &["sh", "-c", script])
    }

    /// One in the background.
    fn start(&self, options: &[&str], command: &[&str]) -> Machine {
        image();
        Machine::start(&[&["run", "-d"], self.options, options, &[IMAGE], command].concat())
    }

    fn is_vm(&self) -> bool {
        self.name == VM.name
    }
}

/// The output of a script in a machine.
#[track_caller]
fn sh(machine: &Machine, script: &str) -> String {
    out(&mut machine.exec(&[], &["sh", "-c", script]))
}

/// A verb with its output as JSON.
#[track_caller]
fn json(args: &[&str]) -> serde_json::Value {
    let text = out(&mut postroj(args));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
}

#[track_caller]
fn inspect(name: &str) -> serde_json::Value {
    json(&["inspect", name])[0].clone()
}

/// What has to hold, in words, and how it is seen.
type Case<T> = (&'static str, fn(&T));

/// All of them, even where some fail.
fn each<T: ?Sized>(subject: &T, cases: &[Case<T>]) {
    let failed: Vec<&str> = cases
        .iter()
        .filter(|(name, case)| {
            eprintln!("case: {name}");
            catch_unwind(AssertUnwindSafe(|| case(subject))).is_err()
        })
        .map(|(name, _)| *name)
        .collect();
    assert!(failed.is_empty(), "failed: {}", failed.join(", "));
}

#[test]
fn a_container_runs_once() {
    each(&CONTAINER, once::CASES);
}

#[test]
fn a_virtual_machine_runs_once() {
    each(&VM, once::CASES);
}

#[test]
fn a_container_is_asked_many_things() {
    each(&shared::Bed::new(&CONTAINER), shared::CASES);
}

#[test]
fn a_virtual_machine_is_asked_many_things() {
    each(&shared::Bed::new(&VM), shared::CASES);
}

#[test]
fn a_container_is_changed_as_a_whole() {
    each(&CONTAINER, own::CASES);
}

#[test]
fn a_virtual_machine_is_changed_as_a_whole() {
    each(&VM, own::CASES);
}

#[test]
fn what_an_engine_refuses_is_listed() {
    each(refusals::LIST, &[("refusals", refusals::are_told)]);
}
