//! What a host may lack: each is told in one line, with a remedy, and leaves nothing half-made.

mod fixture;

use std::fs;
use std::process::{Command, Stdio};

use fixture::{Own, Said, busybox, fails, is_root, out, said, tar};

/// A small image's archive, and one with `megabytes` more.
fn archives(own: &Own, megabytes: usize) -> (String, String) {
    let root = own.path("root");
    busybox(&root);
    let pack = |name: &str| {
        tar(&root, &own.path(name));
        own.path(name).to_str().unwrap().to_owned()
    };
    let small = pack("small.tar");
    let noise: Vec<u8> =
        (0..1 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for n in 0..megabytes {
        fs::write(root.join(format!("srv/{n}")), &noise).unwrap();
    }
    (small, pack("large.tar"))
}

/// A shell in a mount namespace of its own, as root or as root of a user namespace with all of the
/// user's ids; `$P` is the program, `$S` its store.
fn apart(own: &Own, script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !is_root() {
        command.args(["--user", "--map-root-user", "--map-auto"]);
    }
    fs::create_dir_all(own.store()).unwrap();
    command
        .args(["sh", "-c", &format!("set -e; {script}")])
        .env("P", fixture::program())
        .env("S", own.store())
        .env("D", own.path("."))
        .env("POSTROJ_STORE", own.store())
        .env("POSTROJ_RUNROOT", own.path("run"))
        .env("POSTROJ_NETWORK", "host")
        .stdin(Stdio::null());
    command
}

/// The lines of an error by postroj, which is one.
#[track_caller]
fn says(said: &Said, parts: &[&str]) {
    let lines: Vec<&str> = said.err.lines().filter(|l| l.starts_with("postroj: ")).collect();
    assert_eq!(lines.len(), 1, "an error is one line: {said:?}");
    for part in parts {
        assert!(lines[0].contains(part), "it does not say {part:?}: {said:?}");
    }
}

const FULL: &[&str] = &["o space left on device", "free some space", "postroj system prune"];

#[test]
fn a_full_disk() {
    let own = Own::new("full");
    let (small, large) = archives(&own, 24);
    // Root's is a disk indeed.
    let mount = match is_root() {
        true => "truncate -s 16M $D/disk; mkfs.ext4 -q $D/disk; mount -o loop $D/disk $S",
        false => "mount -t tmpfs -o size=16M none $S",
    };
    let script = format!(
        "{mount}; $P pull -q {large} && exit 9; $P pull -q {large} && exit 9; \
         $P system check; ls $S/tmp; $P pull -q {small}; $P run --pull=never tar:{small} echo ran; \
         $P system check; umount $S"
    );
    let told = said(&mut apart(&own, &script));
    assert_eq!(told.out, "The store is sound\nran\nThe store is sound\n", "{told:?}");
    assert_eq!(told.code, 0, "{told:?}");
    let errors: Vec<&str> = told.err.lines().filter(|l| l.starts_with("postroj: ")).collect();
    assert_eq!(errors.len(), 2, "{told:?}");
    for error in errors {
        for part in FULL {
            assert!(error.contains(part), "it does not say {part:?}: {error}");
        }
    }
}

/// The download of packages, too.
#[test]
fn a_full_disk_while_packages_come() {
    let own = Own::new("full-cache");
    let script = "mount -t tmpfs -o size=12M none $S; $P pull -q debian-12; e=$?; \
                  $P system check; umount $S; exit $e";
    let told = said(&mut apart(&own, &format!("set +e; {script}")));
    assert_eq!((told.code, &told.out[..]), (125, "The store is sound\n"), "{told:?}");
    says(&told, FULL);
}

#[test]
fn a_read_only_store() {
    let own = Own::new("read-only");
    let (small, large) = archives(&own, 1);
    own.pull(&small);
    let script = format!(
        "mount --bind $S $S; mount -o remount,bind,ro $S; \
         $P run --pull=never tar:{small} echo ran; $P images -q | wc -l; \
         $P pull -q {large} && exit 9; $P rmi tar:{small} && exit 9; true"
    );
    let told = said(&mut apart(&own, &script));
    assert_eq!((told.code, &told.out[..]), (0, "ran\n1\n"), "{told:?}");
    let errors: Vec<&str> = told.err.lines().filter(|l| l.starts_with("postroj: ")).collect();
    assert_eq!(errors.len(), 2, "{told:?}");
    for error in errors {
        assert!(error.contains("ead-only file system") && error.contains("can be run"), "{error}");
    }
    let closed = own.path("nowhere");
    fs::write(&closed, "").unwrap();
    let store = closed.join("store");
    let mut elsewhere = own.postroj(&["--store", store.to_str().unwrap(), "images"]);
    fails(&mut elsewhere, 125, &["nowhere", "ot a directory"]);
}

#[test]
fn no_newuidmap() {
    if is_root() {
        return;
    }
    let own = Own::new("helpers");
    let (small, large) = archives(&own, 1);
    own.pull(&small);
    let image = format!("tar:{small}");
    let without = |args: &[&str]| {
        let mut command = own.postroj(args);
        command.env("PATH", "/nonexistent");
        command
    };
    let remedy = &["newuidmap", "apt install uidmap"];
    let never = ["run", "--pull=never"];
    fails(&mut without(&[&never[..], &[&image, "true"]].concat()), 125, remedy);
    fails(&mut without(&["pull", &large]), 125, remedy);
    let single = [&never[..], &["--userns=single", &image, "echo", "ran"]].concat();
    assert_eq!(out(&mut without(&single)), "ran");
}

/// A user without an account and so without a range, whom only root can be.
#[test]
fn no_subordinate_ids() {
    if !is_root() {
        return println!("skipped: only root can be such a user");
    }
    let own = Own::new("no-ids");
    let (small, _) = archives(&own, 0);
    let program = own.path("postroj");
    fs::copy(fixture::program(), &program).unwrap();
    const USER: u32 = 987_654;
    let home = own.path("home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(USER), Some(USER)).unwrap();
    let as_user = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]);
        command.arg(&program).args(args).env_clear().env("HOME", &home);
        command.env("PATH", "/usr/bin:/bin").env("XDG_RUNTIME_DIR", &home).stdin(Stdio::null());
        command
    };
    let root = format!("dir:{}", own.path("root").display());
    let remedy = &["/etc/subuid", "usermod --add-subuids"];
    fails(
        &mut as_user(&["run", &root, "true"]),
        125,
        &[&remedy[..], &["--userns=single"]].concat(),
    );
    fails(&mut as_user(&["pull", &small]), 125, remedy);
    assert_eq!(out(&mut as_user(&["run", "--userns=single", &root, "id", "-u"])), "0");
    let doctor = said(&mut as_user(&["doctor"]));
    assert_eq!(doctor.code, 0, "{doctor:?}");
    assert!(doctor.out.contains("limited   subordinate ids: none in /etc/subuid"), "{doctor:?}");
}

/// A kernel that refuses something, as strace(1) plays it. A tracer takes newuidmap its
/// right, so that an ordinary user has one id only.
fn refusing(own: &Own, injection: &str, image: &str) -> Said {
    let userns = if is_root() { "--userns=auto" } else { "--userns=single" };
    let plain = own.postroj(&["run", "--pull=never", userns, image, "true"]);
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-o", "/dev/null", "-e", injection]);
    traced.arg(plain.get_program()).args(plain.get_args()).stdin(Stdio::null());
    for (name, value) in plain.get_envs() {
        traced.env(name, value.unwrap());
    }
    said(&mut traced)
}

#[test]
fn a_kernel_that_refuses() {
    let own = Own::new("refused");
    let (small, _) = archives(&own, 0);
    own.pull(&small);
    let image = format!("tar:{small}");
    let image = &image[..];
    // Which of the calls mounts the overlay: strace counts them for each process.
    let log = own.path("strace");
    let userns = if is_root() { "--userns=auto" } else { "--userns=single" };
    let plain = own.postroj(&["run", "--pull=never", userns, image, "true"]);
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-e", "trace=mount", "-o"]).arg(&log);
    traced.arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        traced.env(name, value.unwrap());
    }
    out(&mut traced);
    let log = fs::read_to_string(log).unwrap();
    let nth = 1 + log.lines().position(|l| l.contains("\"overlay\"")).expect("an overlay");
    for (injection, parts) in [
        (
            &format!("inject=mount:error=EPERM:when={nth}")[..],
            &["mount the root overlay", "Linux 5.11 or newer", "or root"][..],
        ),
        (
            &format!("inject=mount:error=ENODEV:when={nth}"),
            &["mount the root overlay", "no overlayfs"],
        ),
        ("inject=clone3:error=EPERM", &["namespaces", "kernel.unprivileged_userns_clone=1"]),
        ("inject=clone3:error=ENOSPC", &["namespaces", "/proc/sys/user/max_"]),
    ] {
        let told = refusing(&own, injection, image);
        assert_eq!(told.code, 125, "{injection}: {told:?}");
        says(&told, parts);
    }
    // Filters of a container around us that know no openat2(2), or cannot look into clone3(2), are no hindrance.
    for call in ["openat2", "clone3"] {
        let told = refusing(&own, &format!("inject={call}:error=ENOSYS"), image);
        assert_eq!(told.code, 0, "{call}: {told:?}");
    }
}
