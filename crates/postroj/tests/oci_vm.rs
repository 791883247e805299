//! The OCI runtime whose containers are virtual machines, under Debian's podman.

mod fixture;

use fixture::podman::Podman;
use fixture::{image, out, postroj, said};

/// What a runtime that podman starts has: a kernel that is there already.
fn podman(name: &str) -> Podman {
    image();
    let run = ["run", "--isolation", "vm", "--network", "none", fixture::IMAGE, "true"];
    out(&mut postroj(&run));
    Podman::new("postroj-vm", name)
}

fn host_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim().to_owned()
}

#[test]
fn podman_runs_virtual_machines() {
    let podman = podman("vm");
    let run = |options: &[&str], script: &str| {
        let mut command = podman.run(options, script);
        said(command.env("POSTROJ_STORE", fixture::home().join("store")))
    };
    let script = "uname -r; pwd; id -u; echo $WORD; hostname; cat /etc/hosts; echo no >&2; exit 7";
    let options =
        ["-e", "WORD=word", "-w", "/srv", "-u", "1000", "--hostname", "box", "--memory", "300m"];
    let ran = run(&options, script);
    assert_eq!(ran.code, 7, "{ran:?}");
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_ne!(lines[0], host_release());
    assert_eq!(lines[1..5], ["/srv", "1000", "word", "box"]);
    assert!(ran.out.contains("127.0.0.1"), "{ran:?}");
    assert!(ran.err.ends_with("no\n"), "{ran:?}");
    assert_eq!(run(&["--read-only"], "touch /x 2>/dev/null || echo ro").out, "ro\n");
    let share = run(&["-v", "/tmp:/mnt"], "true");
    assert!(share.code != 0 && share.err.contains("/tmp cannot be mounted at /mnt"), "{share:?}");
}

#[test]
fn the_life_of_a_virtual_machine() {
    let podman = podman("vml");
    let podman = |args: &[&str]| {
        let mut command = podman.podman(args);
        command.env("POSTROJ_STORE", fixture::home().join("store"));
        command
    };
    let script = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.1; done";
    let mut run = podman(&["run", "-d", "--name", "c", "--network", "none"]);
    out(run.args(["localhost/busybox", "sh", "-c", script]));
    assert_eq!(out(&mut podman(&["exec", "c", "echo", "inside"])), "inside");
    assert_ne!(out(&mut podman(&["exec", "c", "uname", "-r"])), host_release());
    assert_eq!(out(&mut podman(&["exec", "-u", "7:8", "c", "id", "-u"])), "7");
    assert_eq!(said(&mut podman(&["exec", "c", "sh", "-c", "exit 3"])).code, 3);
    let missing = said(&mut podman(&["exec", "c", "nosuch"]));
    assert_eq!(missing.code, 127, "{missing:?}");
    assert!(out(&mut podman(&["exec", "-t", "c", "tty"])).contains("/dev/pts/"));
    // podman itself refuses it to others, where control groups are of version 1.
    if fixture::is_root() {
        let status = ["ps", "--all", "--format", "{{.Status}}"];
        out(&mut podman(&["pause", "c"]));
        assert!(out(&mut podman(&status)).to_lowercase().contains("paused"));
        out(&mut podman(&["unpause", "c"]));
    }
    out(&mut podman(&["stop", "c"]));
    assert_eq!(out(&mut podman(&["logs", "c"])), "up\nbye");
    let code = ["inspect", "c", "--format", "{{.State.ExitCode}}"];
    assert_eq!(out(&mut podman(&code)), "7");
    out(&mut podman(&["start", "c"]));
    let id = out(&mut podman(&["inspect", "c", "--format", "{{.Id}}"]));
    assert!(!fixture::processes_with(&id).is_empty());
    out(&mut podman(&["rm", "--force", "--time", "0", "c"]));
    fixture::wait_until("QEMU has ended", || fixture::processes_with(&id).is_empty());
}
