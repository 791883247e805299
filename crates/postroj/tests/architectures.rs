//! Images for other processors, run by QEMU's emulators of user programs, which only the machine knows.
//!
//! Debian is made whole for each of them, and its own dpkg configures it: tens of thousands
//! of emulated programs.

mod fixture;

use std::path::{Path, PathBuf};
use std::process::Command;

use fixture::{IMAGE, Machine, Own, busybox, fails, home, image, out, postroj, said};

/// The program with a configuration that accepts the host's mirror even where that is a snapshot.
fn patient(args: &[&str]) -> Command {
    let config = home().join("config/postroj");
    std::fs::create_dir_all(&config).unwrap();
    let text = "[bootstrap.debian]\ncheck-valid-until = false\n";
    std::fs::write(config.join("config.toml"), text).unwrap();
    let mut command = postroj(args);
    command.env("XDG_CONFIG_HOME", home().join("config"));
    command
}

/// Runs a command in a release of Debian for a processor; whichever test comes first makes that.
fn run(label: &str, platform: &str, options: &[&str], command: &[&str]) -> Command {
    patient(&[&["run", "--platform", platform], options, &[label], command].concat())
}

/// What is asked of each: it says what it is, holds together, and installs a package with apt.
fn serves(label: &str, platform: &str, machine: &str, debian: &str) {
    assert_eq!(out(&mut run(label, platform, &[], &["uname", "-m"])), machine);
    let script = "dpkg --print-architecture && dpkg --audit && \
        apt-get -qq -o Acquire::Check-Valid-Until=false update && \
        apt-get -qq -y install hello >/dev/null && hello";
    let told = said(&mut run(label, platform, &[], &["sh", "-c", script]));
    assert_eq!(told.code, 0, "{told:?}");
    assert_eq!(told.out, format!("{debian}\nHello, world!\n"), "{told:?}");
}

#[test]
fn debian_for_arm64() {
    serves("debian-12", "linux/arm64", "aarch64", "arm64");
    // The plain name is not what was asked for with a platform.
    let names = out(&mut postroj(&["images"]));
    assert!(names.contains("debian-12@linux/arm64 "), "{names}");
    // Exit codes, signals, users, terminals' absence and set-user-id programs are as ever.
    let run = |options: &[&str], script: &str| {
        said(&mut run("debian-12", "linux/arm64", options, &["sh", "-c", script]))
    };
    assert_eq!(run(&[], "exit 42").code, 42);
    assert_eq!(run(&[], "kill -TERM $$").code, 128 + 15);
    assert_eq!(run(&["-u", "nobody"], "id -un").out, "nobody\n");
    assert_eq!(run(&["--network", "none", "--read-only"], "cat /proc/net/dev | wc -l").out, "3\n");
    let denied = run(&[], "echo x > /proc/sys/fs/binfmt_misc/register").code;
    assert_ne!(denied, 0, "what is protected stays so");
    let inside = run(&[], "ls /proc/sys/fs/binfmt_misc | grep -c postroj").out;
    assert_eq!(inside, "0\n", "the registration is out of the machine's sight");
    // The host knows nothing of it.
    let known = std::fs::read_dir("/proc/sys/fs/binfmt_misc").unwrap().flatten();
    assert!(known.into_iter().all(|e| !e.file_name().to_string_lossy().contains("postroj")));
}

#[test]
fn a_machine_in_the_background_is_entered() {
    // Made by whichever test comes first.
    out(&mut run("debian-12", "linux/arm64", &[], &["true"]));
    let words = ["run", "-d", "--platform", "linux/arm64", "debian-12", "sleep", "600"];
    let machine = Machine::start(&words);
    assert_eq!(out(&mut machine.exec(&[], &["uname", "-m"])), "aarch64");
    let script = "cat /etc/debian_version | cut -d. -f1; exit 3";
    let told = said(&mut machine.exec(&[], &["sh", "-c", script]));
    assert_eq!((told.code, &told.out[..]), (3, "12\n"), "{told:?}");
}

#[test]
#[ignore = "minutes"]
fn debian_for_riscv64() {
    serves("debian-sid", "linux/riscv64", "riscv64", "riscv64");
}

#[test]
#[ignore = "minutes"]
fn debian_for_s390x() {
    serves("debian-12", "linux/s390x", "s390x", "s390x");
}

#[test]
#[ignore = "not every mirror still serves its security updates whole"]
fn debian_for_i386_needs_no_emulator() {
    serves("debian-12", "linux/386", "x86_64", "i386");
}

/// A root whose only program is of another processor: nothing but its first bytes are real.
fn foreign_root(own: &Own, machine: u16, little: bool) -> PathBuf {
    let root = own.path(&format!("root-{machine}"));
    busybox(&root);
    let mut bytes = std::fs::read(root.join("bin/busybox")).unwrap();
    let word = if little { machine.to_le_bytes() } else { machine.to_be_bytes() };
    let kind: u16 = 2;
    bytes[5] = if little { 1 } else { 2 };
    bytes[16..18].copy_from_slice(&if little { kind.to_le_bytes() } else { kind.to_be_bytes() });
    bytes[18..20].copy_from_slice(&word);
    std::fs::write(root.join("bin/busybox"), bytes).unwrap();
    root
}

fn path_text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn what_nothing_runs_is_told_with_the_remedy() {
    let own = Own::new("foreign");
    let mips = foreign_root(&own, 8, false);
    fails(
        &mut own.postroj(&["run", path_text(&mips), "true"]),
        125,
        &["the image is for mips64", "nothing runs that on"],
    );
    let arm64 = foreign_root(&own, 183, true);
    if fixture::is_root() {
        fails(
            &mut own.postroj(&["run", "--userns=host", path_text(&arm64), "true"]),
            125,
            &["the image is for arm64", "--userns=host", "binfmt-support"],
        );
    }
    let host = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    fails(
        &mut own.postroj(&["run", "--platform", "linux/s390x", path_text(&arm64), "true"]),
        125,
        &["is for arm64, not for linux/s390x"],
    );
    let told = said(&mut own.postroj(&["run", "--platform", "windows/amd64", IMAGE, "true"]));
    assert_eq!(told.code, 125, "{told:?}");
    assert!(told.err.contains("no platform such as linux/arm64"), "{told:?}");
    // What is asked for and what is there may be the same.
    image();
    let native = format!("linux/{host}");
    assert_eq!(out(&mut postroj(&["run", "--platform", &native, IMAGE, "echo", "x"])), "x");
}
