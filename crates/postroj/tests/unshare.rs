//! `unshare`, `become-root` and `install-faces`.

mod fixture;

use std::process::{Command, Stdio};

use fixture::{Own, fails, home, is_root, out, postroj, program, said};

/// As the name of another program.
fn become_root(args: &[&str]) -> Command {
    let directory = home().join(format!("become-{}", std::process::id()));
    out(&mut postroj(&["install-faces", directory.to_str().unwrap(), "become-root"]));
    let mut command = Command::new(directory.join("become-root"));
    command.args(args).stdin(Stdio::null());
    command
}

struct Installed;

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(home().join(format!("become-{}", std::process::id())));
    }
}

fn ids(command: &mut Command) -> Vec<Vec<u64>> {
    let map = out(command);
    map.lines().map(|l| l.split_whitespace().map(|n| n.parse().unwrap()).collect()).collect()
}

#[test]
fn all_ids_of_the_user() {
    let map = ["cat", "/proc/self/uid_map"];
    let mut unshare = postroj(&[&["unshare"][..], &map].concat());
    if is_root() {
        fails(&mut unshare, 125, &["please use unshare with rootless"]);
        return;
    }
    let lines = ids(&mut unshare);
    let uid = u64::from(rustix::process::getuid().as_raw());
    assert_eq!(lines[0], [0, uid, 1], "oneself is root");
    assert!(lines[1][0] == 1 && lines[1][2] >= 65_536, "and then there are all others: {lines:?}");
    // Files of another owner can be made, and looked after.
    let own = Own::new("unshare");
    let file = own.path("file");
    let script = format!("touch {0} && chown 7:9 {0} && stat -c %u:%g {0}", file.display());
    assert_eq!(out(&mut postroj(&["unshare", "sh", "-c", &script])), "7:9");
    assert!(std::fs::remove_file(&file).is_ok());
    // A mount is seen inside only.
    let at = own.path("at");
    std::fs::create_dir(&at).unwrap();
    let script = format!("mount -t tmpfs none {0} && touch {0}/x && echo made", at.display());
    assert_eq!(out(&mut postroj(&["unshare", "sh", "-c", &script])), "made");
    assert_eq!(std::fs::read_dir(&at).unwrap().count(), 0);
    std::fs::remove_dir(&at).unwrap();
}

#[test]
fn ends_of_what_is_run_with_ones_ids() {
    let unshare = |args: &[&str]| postroj(&[&["unshare"], args].concat());
    fails(&mut unshare(&["--rootless-netns", "true"]), 125, &["share no network namespace"]);
    assert_eq!(said(&mut unshare(&["--nosuch"])).code, 125);
    assert_eq!(said(&mut unshare(&["--help"])).code, 0);
    if is_root() {
        return;
    }
    assert_eq!(said(&mut unshare(&["sh", "-c", "exit 7"])).code, 7);
    assert_eq!(out(&mut unshare(&["echo", "-x", "--help"])), "-x --help");
    fails(&mut unshare(&["/nosuch"]), 127, &["/nosuch"]);
    fails(&mut unshare(&["/etc/passwd"]), 126, &["/etc/passwd"]);
    assert!(out(unshare(&[]).env("SHELL", "/usr/bin/id")).starts_with("uid=0("));
    // Our own store is found from inside.
    let own = Own::new("inside");
    let store = |command: &mut Command| {
        let info = out(command);
        info.lines().find(|l| l.contains("tore")).map(str::to_owned)
    };
    let (unset, program) = (["POSTROJ_STORE", "POSTROJ_RUNROOT"], program());
    let mut inside = postroj(&["unshare", program.to_str().unwrap(), "system", "info"]);
    let mut outside = postroj(&["system", "info"]);
    for command in [&mut inside, &mut outside] {
        for name in unset {
            command.env_remove(name);
        }
        command.env("XDG_DATA_HOME", own.path("data")).env("XDG_RUNTIME_DIR", own.path("run"));
        command.env("HOME", own.path("home"));
    }
    std::fs::create_dir(own.path("run")).unwrap();
    assert_eq!(store(&mut inside), store(&mut outside));
    assert!(store(&mut outside).is_some());
}

#[test]
fn root_of_namespaces() {
    let _installed = Installed;
    assert_eq!(out(&mut become_root(&["id", "-u"])), "0");
    let lines = ids(&mut become_root(&["cat", "/proc/self/gid_map"]));
    assert!(lines.iter().map(|line| line[2]).sum::<u64>() > 65_536, "{lines:?}");
    assert_eq!(
        out(&mut become_root(&["grep", "NoNewPrivs", "/proc/self/status"])),
        "NoNewPrivs:\t1"
    );
    assert_eq!(out(&mut become_root(&["printenv", "_LIBPOD_USERNS_CONFIGURED"])), "init");
    // In namespaces of its own it is alone, and sees what is its own.
    let look = "echo $$; ls -d /proc/[0-9]* | wc -l; ls /sys/class/net; hostname x && hostname";
    let told = out(&mut become_root(&["-A", "sh", "-c", look]));
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!((lines[0], lines[2], lines[3]), ("1", "lo", "x"), "{told}");
    assert!(lines[1].parse::<u32>().unwrap() <= 3, "{told}");
    // Under a process 1 that reaps.
    let look = "(sh -c 'exit 3' &); while grep -qs '^State:.Z' /proc/[0-9]*/status; do :; done; echo $$; exit 5";
    let told = said(&mut become_root(&["-mrP", "sh", "-c", look]));
    assert_eq!((told.code, told.out.as_str()), (5, "2\n"), "{told:?}");
    for (args, code) in [
        (&["sh", "-c", "exit 9"][..], 9),
        (&["-p", "sh", "-c", "exit 9"], 9),
        (&["-p", "sh", "-c", "kill -9 $$; sleep 9"], 137),
        (&["-N", "true"], 1),
        (&["-x", "true"], 1),
        (&["nosuch"], 1),
        (&["--help"], 0),
    ] {
        // A process 1 is spared its own signals (pid_namespaces(7)).
        let args = if code == 137 { &["-rp", "sh", "-c", "kill -9 $$"][..] } else { args };
        assert_eq!(said(&mut become_root(args)).code, code, "{args:?}");
    }
    fails(&mut become_root(&["-P", "true"]), 1, &["could not mount proc", "-m gives it"]);
}

#[test]
fn links_are_installed() {
    let own = Own::new("faces");
    let directory = own.path("bin");
    let install =
        |more: &[&str]| postroj(&[&["install-faces", directory.to_str().unwrap()], more].concat());
    let told = out(&mut install(&[]));
    assert!(told.lines().count() > 5, "{told}");
    for line in told.lines() {
        let version = said(Command::new(line).arg("--help").stdin(Stdio::null()));
        assert!(!(version.out + &version.err).contains("Pull"), "{line} is another program");
        assert_eq!(std::fs::canonicalize(line).unwrap(), std::fs::canonicalize(program()).unwrap());
    }
    // Again is no error; something else is not replaced.
    assert_eq!(out(&mut install(&[])), told);
    std::fs::remove_file(directory.join("tini")).unwrap();
    std::fs::write(directory.join("tini"), "mine").unwrap();
    fails(&mut install(&[]), 125, &["bin/tini is there already", "nothing was done"]);
    assert_eq!(out(&mut install(&["catatonit"])).lines().count(), 1);
    assert_eq!(std::fs::read(directory.join("tini")).unwrap(), b"mine");
    out(&mut install(&["--force", "tini"]));
    assert!(std::fs::read_link(directory.join("tini")).is_ok());
    assert_eq!(said(&mut install(&["nosuch"])).code, 2);
}
