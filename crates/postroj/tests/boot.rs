//! `boot`, and machines in the background: real systems, as root and as an ordinary user
//! to whom nothing is delegated.

mod fixture;

use std::io::Write;
use std::process::{Command, Stdio};

use fixture::{Machine, debian, fails, is_root, out, postroj, run, said};

/// Boots, and checks everything that a healthy system does.
fn is_healthy(label: &str) {
    let machine = Machine::boot(&[], &debian(label));
    assert_eq!(out(&mut machine.exec(&[], &["systemctl", "is-system-running"])), "running");
    let failed = ["systemctl", "--failed", "--no-legend", "--no-pager"];
    assert_eq!(out(&mut machine.exec(&[], &failed)), "", "{label}");
    // A unit of its own: its output and its exit status come back.
    let unit = ["systemd-run", "--pipe", "--wait", "-q", "sh", "-c", "echo said; exit 7"];
    let unit = said(&mut machine.exec(&[], &unit));
    assert_eq!((unit.code, unit.out.trim()), (7, "said"), "{label}: {unit:?}");
    out(&mut machine.exec(&[], &["systemctl", "restart", "systemd-logind"]));
    let active = ["systemctl", "is-active", "systemd-logind", "dbus"];
    assert_eq!(out(&mut machine.exec(&[], &active)), "active\nactive", "{label}");
    let journal = postroj(&["logs", "-u", "systemd-logind", &machine.name]).output().unwrap();
    let journal = String::from_utf8_lossy(&journal.stdout).into_owned();
    assert!(journal.contains("systemd-logind"), "{label}: {journal}");
    assert_eq!(machine.stop(), 0, "{label}");
    let log = out(&mut postroj(&["logs", &machine.name]));
    assert!(log.contains("Welcome to"), "{label}: {log}");
}

#[test]
fn debian_11_boots() {
    is_healthy("debian-11");
}

#[test]
fn debian_12_boots() {
    is_healthy("debian-12");
}

#[test]
fn debian_13_boots() {
    is_healthy("debian-13");
}

#[test]
fn debian_sid_boots() {
    is_healthy("debian-sid");
}

#[test]
fn a_fast_boot_is_healthy_too() {
    let machine =
        Machine::boot(&["--fast", "--mask", "systemd-logind.service"], &debian("debian-12"));
    assert_eq!(out(&mut machine.exec(&[], &["systemctl", "is-system-running"])), "running");
    let masked = said(&mut machine.exec(&[], &["systemctl", "is-active", "systemd-logind"]));
    assert_eq!(masked.out.trim(), "inactive");
    assert_eq!(machine.stop(), 0);
}

#[test]
fn a_system_that_is_not_well_is_degraded_and_says_of_what() {
    let image = debian("debian-12");
    let unit = fixture::home().join(format!("broken-{}.service", std::process::id()));
    let text = "[Service]\nType=oneshot\nExecStart=/bin/false\n";
    std::fs::write(&unit, text).unwrap();
    // One that is wanted already.
    let target = "/lib/systemd/system/systemd-user-sessions.service";
    let volume = format!("{}:{target}:ro", unit.display());
    let machine = Machine::boot(&["-v", &volume], &image);
    let waited = postroj(&["wait", "--for", "ready", &machine.name]).output().unwrap();
    let told = String::from_utf8_lossy(&waited.stderr).into_owned();
    assert!(
        !waited.status.success() && told.contains("degraded: systemd-user-sessions.service"),
        "{told}"
    );
    let listed = out(&mut postroj(&["ps"]));
    assert!(
        listed.lines().any(|l| l.contains(&machine.name) && l.contains("degraded")),
        "{listed}"
    );
    drop(machine);
    std::fs::remove_file(unit).unwrap();
}

#[test]
fn credentials_and_names_reach_the_system() {
    let options = ["--credential", "greeting=hello", "--hostname", "box"];
    let machine = Machine::boot(&options, &debian("debian-12"));
    let read =
        ["cat", "/run/host/credentials/greeting", "/etc/hostname", "/run/host/container-manager"];
    assert_eq!(out(&mut machine.exec(&[], &read)), "hellobox\npostroj");
    let virt = said(&mut machine.exec(&[], &["systemd-detect-virt", "--container"]));
    assert_eq!((virt.code, virt.out.is_empty()), (0, false), "{virt:?}");
    // What is for the init alone is not in the environment of others.
    let env = out(&mut machine.exec(&[], &["env"]));
    assert!(env.contains("container=postroj") && !env.contains("NOTIFY_SOCKET"), "{env}");
}

#[test]
fn what_knows_only_older_control_groups_says_so() {
    let old = fixture::home().join(format!("old-{}", std::process::id()));
    fixture::busybox(&old);
    // Else busybox is what boots it.
    std::fs::remove_file(old.join("bin/init")).unwrap();
    std::fs::create_dir_all(old.join("usr/lib/systemd")).unwrap();
    std::fs::copy(old.join("bin/busybox"), old.join("usr/lib/systemd/systemd")).unwrap();
    let text = "ID=\"centos\"\nVERSION_ID=\"7\"\nPRETTY_NAME=\"CentOS Linux 7 (Core)\"\n";
    std::fs::write(old.join("etc/os-release"), text).unwrap();
    let name = format!("dir:{}", old.display());
    let parts = ["cannot boot", "CentOS Linux 7", "control groups of version 1", "postroj run"];
    fails(&mut postroj(&["boot", &name]), 125, &parts);
    assert_eq!(out(&mut postroj(&["run", &name, "echo", "x"])), "x");
    std::fs::remove_dir_all(old).unwrap();
}

#[test]
fn an_image_without_an_init_says_so() {
    fixture::image();
    let bare = fixture::home().join("bare");
    std::fs::create_dir_all(bare.join("etc")).unwrap();
    let bare = format!("dir:{}", bare.display());
    fails(&mut postroj(&["boot", &bare]), 125, &["cannot boot", "no init", "--init"]);
    let unknown = ["boot", "--init", "upstart", fixture::IMAGE];
    fails(&mut postroj(&unknown), 125, &["no init is called \"upstart\"", "openrc"]);
}

#[test]
fn a_foreground_boot_powers_off_when_asked_to() {
    let image = debian("debian-12");
    let mut child = postroj(&["boot", "--name", &format!("fg-{}", std::process::id()), &image])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let name = format!("fg-{}", std::process::id());
    fixture::wait_until("it is up", || {
        postroj(&["wait", "--for", "ready", &name]).output().unwrap().status.success()
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = {
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(0));
        let mut text = String::new();
        std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut text).unwrap();
        text
    };
    assert!(output.contains("Welcome to"), "{output}");
    // Nothing of a machine in the foreground remains.
    fails(&mut postroj(&["logs", &name]), 125, &["there is no machine"]);
}

/// A control group that an ordinary user has been given, and may start machines in.
struct Delegated {
    group: std::path::PathBuf,
    home: std::path::PathBuf,
    program: std::path::PathBuf,
    user: (u32, u32),
}

impl Delegated {
    /// Only root can give one away.
    fn new() -> Option<Self> {
        let user = fixture::another_user().filter(|_| is_root())?;
        let unified = sys::cgroups::Layout::read().unwrap().unified?.mount;
        let group = unified.join(format!("postroj-test-{}", std::process::id()));
        std::fs::create_dir(&group).unwrap();
        let own = |path: &std::path::Path| {
            std::os::unix::fs::chown(path, Some(user.0), Some(user.1)).unwrap();
        };
        own(&group);
        for file in ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
            own(&group.join(file));
        }
        let home = fixture::home().join(format!("delegated-{}", std::process::id()));
        std::fs::create_dir(&home).unwrap();
        own(&home);
        let program = home.join("program");
        std::fs::copy(fixture::program(), &program).unwrap();
        Some(Self { group, home, program, user })
    }

    fn postroj(&self, args: &[&str]) -> Command {
        let inner = fixture::as_user(self.user, &self.program, &self.home, args);
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\"/cgroup.procs; exec \"$@\""]).arg(&self.group);
        command.arg(inner.get_program()).args(inner.get_args()).env_clear();
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::null());
        command
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let _ = self.postroj(&["rm", "-f", "box"]).output();
        let _ = self.postroj(&["system", "prune", "--all"]).output();
        let procs = self.group.join("cgroup.procs");
        fixture::wait_until("nobody is in the group", || {
            std::fs::read_to_string(&procs).is_ok_and(|text| text.is_empty())
        });
        let _ = std::fs::remove_dir(self.group.join("postroj"));
        std::fs::remove_dir(&self.group).unwrap();
        std::fs::remove_dir_all(&self.home).unwrap();
    }
}

#[test]
fn an_ordinary_user_with_a_control_group_of_its_own() {
    let Some(delegated) = Delegated::new() else { return };
    for label in ["debian-11", "debian-12", "debian-13", "debian-sid"] {
        let said = delegated.home.join("said");
        let file = std::fs::File::create(&said).unwrap();
        let mut boot = delegated.postroj(&["boot", "-d", "--name", "box", label]);
        let status = boot.stdout(file.try_clone().unwrap()).stderr(file).status().unwrap();
        let text = std::fs::read_to_string(&said).unwrap();
        assert!(status.success(), "{label}: {text}");
        assert!(!text.contains("emulated"), "{label}: {text}");
        let inside =
            |command: &[&str]| out(&mut delegated.postroj(&[&["exec", "box"], command].concat()));
        assert_eq!(inside(&["systemctl", "is-system-running"]), "running", "{label}");
        let failed = ["systemctl", "--failed", "--no-legend", "--no-pager"];
        assert_eq!(inside(&failed), "", "{label}");
        // A scope needs a real hierarchy: the kernel tells which processes are in it.
        let scope = ["systemd-run", "--scope", "-q", "cat", "/proc/self/cgroup"];
        let scope = inside(&scope);
        assert!(scope.contains("0::/system.slice/run-"), "{label}: {scope}");
        inside(&["systemctl", "restart", "systemd-logind"]);
        out(&mut delegated.postroj(&["stop", "box"]));
        assert_eq!(out(&mut delegated.postroj(&["wait", "box"])), "0", "{label}");
        out(&mut delegated.postroj(&["rm", "box"]));
    }
}

/// Boots another init, finds `program` running, and powers off.
fn another_init(label: &str, program: &str) {
    let machine = Machine::boot(&[], &debian(label));
    let names = ["sh", "-c", "cat /proc/[0-9]*/comm"];
    fixture::wait_until("its service manager is there", || {
        said(&mut machine.exec(&[], &names)).out.lines().any(|name| name == program)
    });
    let first = out(&mut machine.exec(&[], &["cat", "/proc/1/comm"]));
    assert!(label.contains(&first) || first == "init" || first.starts_with("s6"), "{first}");
    assert_eq!(machine.stop(), 0, "{label}");
}

#[test]
fn sysvinit_boots() {
    another_init("debian-12+sysvinit", "init");
}

#[test]
fn openrc_boots() {
    let machine = Machine::boot(&[], &debian("debian-12+openrc"));
    assert_eq!(out(&mut machine.exec(&[], &["cat", "/run/openrc/softlevel"])), "default");
    let status = said(&mut machine.exec(&[], &["rc-status"]));
    assert!(status.code == 0 && status.out.contains("Runlevel: default"), "{status:?}");
    assert_eq!(machine.stop(), 0);
}

#[test]
fn runit_boots() {
    another_init("debian-12+runit", "runsvdir");
}

#[test]
fn finit_boots() {
    another_init("debian-12+finit", "finit");
}

#[test]
fn s6_boots() {
    let machine = Machine::boot(&["--init", "s6"], &debian("debian-12+s6"));
    let script = "mkdir -p /srv/web && printf '#!/bin/sh\\nexec sleep 1000\\n' > /srv/web/run && \
                  chmod +x /srv/web/run && ln -s /srv/web /run/service/web && \
                  s6-svscanctl -a /run/service";
    out(&mut machine.exec(&[], &["sh", "-c", script]));
    let up = ["s6-svstat", "-o", "up", "/run/service/web"];
    fixture::wait_until("the service is up", || {
        said(&mut machine.exec(&[], &up)).out.trim() == "true"
    });
    out(&mut machine.exec(&[], &["s6-svc", "-wd", "-d", "/run/service/web"]));
    assert_eq!(out(&mut machine.exec(&[], &up)), "false");
    assert_eq!(machine.stop(), 0);
}

#[test]
fn busybox_boots() {
    fixture::image();
    let inittab = fixture::home().join(format!("inittab-{}", std::process::id()));
    let text = "::sysinit:/bin/echo system is up\n::respawn:/bin/sh -c 'exec sleep 1000'\n\
                ::shutdown:/bin/echo going down\n";
    std::fs::write(&inittab, text).unwrap();
    let volume = format!("{}:/etc/inittab:ro", inittab.display());
    let machine = Machine::boot(&["-v", &volume], fixture::IMAGE);
    fixture::wait_until("its service runs", || {
        said(&mut machine.exec(&[], &["pidof", "sleep"])).code == 0
    });
    // What is respawned comes back.
    out(&mut machine.exec(&[], &["killall", "sleep"]));
    fixture::wait_until("its service runs again", || {
        said(&mut machine.exec(&[], &["pidof", "sleep"])).code == 0
    });
    assert_eq!(machine.stop(), 0);
    let log = out(&mut postroj(&["logs", &machine.name]));
    assert!(log.contains("system is up") && log.contains("going down"), "{log}");
    std::fs::remove_file(inittab).unwrap();
}

#[test]
fn exec_is_exact() {
    fixture::image();
    let machine = Machine::start(&["run", "-d", fixture::IMAGE, "sleep", "1000"]);
    for (command, code) in [
        (vec!["true"], 0),
        (vec!["sh", "-c", "exit 42"], 42),
        (vec!["sh", "-c", "kill -9 $$"], 137),
        (vec!["sh", "-c", "kill -TERM $$"], 143),
        (vec!["nonesuch"], 127),
        (vec!["/etc"], 126),
    ] {
        assert_eq!(said(&mut machine.exec(&[], &command)).code, code, "{command:?}");
    }
    let both = said(&mut machine.exec(&[], &["sh", "-c", "echo out; echo err >&2"]));
    assert_eq!((&both.out[..], &both.err[..]), ("out\n", "err\n"));
    let args = ["sh", "-c", "printf '[%s]' \"$@\"", "sh", "a b", "", "'"];
    assert_eq!(out(&mut machine.exec(&[], &args)), "[a b][][']");
    // Input only where it is asked for.
    let mut child = machine.exec(&["-i"], &["cat"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"x\n").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"x\n");
    assert_eq!(out(&mut machine.exec(&[], &["cat"])), "");
    // User, directory and variables.
    let id = ["sh", "-c", "echo $(id -u):$(id -g):$(id -G):$HOME:$PWD:$X"];
    let options = ["-u", "app", "-w", "/srv", "-e", "X=y"];
    assert_eq!(out(&mut machine.exec(&options, &id)), "1000:1000:1000 2000:/home/app:/srv:y");
    fails(&mut machine.exec(&["-u", "nosuch"], &id), 125, &["no user \"nosuch\""]);
    fails(&mut machine.exec(&["-w", "srv"], &id), 125, &["not absolute"]);
    // The machine's own process is seen, and no right beyond its own is had.
    let seen = out(&mut machine.exec(&[], &["sh", "-c", "cat /proc/2/cmdline | tr '\\0' ' '"]));
    assert_eq!(seen.trim(), "sleep 1000");
    let rights = "grep -E 'CapBnd|Seccomp:' /proc/self/status | cut -f2 | tr '\\n' ' '";
    let rights = out(&mut machine.exec(&[], &["sh", "-c", rights]));
    assert_eq!(rights.trim(), "00000000a80425fb 2");
}

#[test]
fn exec_as_a_unit() {
    let machine = Machine::boot(&["--fast"], &debian("debian-12"));
    let unit = |options: &[&str], script: &str| {
        let options = [&["--unit"], options].concat();
        said(&mut machine.exec(&options, &["sh", "-c", script]))
    };
    let both = unit(&[], "echo out; echo err >&2; exit 7");
    assert_eq!((both.code, &both.out[..], &both.err[..]), (7, "out\n", "err\n"));
    let seen =
        unit(&["-u", "daemon:tty", "-w", "/srv", "-e", "A=b c"], "id -un; id -gn; pwd; echo $A");
    assert_eq!(seen.out, "daemon\ntty\n/srv\nb c\n", "{seen:?}");
    // It is a unit of systemd's, whose environment is that of a service.
    let seen =
        unit(&[], "echo ${INVOCATION_ID:+has one}; cut -d: -f3 /proc/self/cgroup | tail -n1");
    assert!(seen.out.starts_with("has one\n"), "{seen:?}");
    let mut child = machine.exec(&["--unit", "-i"], &["cat"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"x\n").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"x\n");
    drop(machine);
    let machine = Machine::start(&["run", "-d", fixture::IMAGE, "sleep", "1000"]);
    fails(&mut machine.exec(&["--unit"], &["true"]), 125, &["no systemd runs"]);
}

#[test]
fn much_goes_through_and_many_at_once() {
    fixture::image();
    let machine = Machine::start(&["run", "-d", fixture::IMAGE, "sleep", "1000"]);
    let count = out(&mut machine.exec(&[], &["sh", "-c", "head -c 1073741824 /dev/zero | wc -c"]));
    assert_eq!(count, "1073741824");
    let mut zeros = machine.exec(&[], &["head", "-c", "1073741824", "/dev/zero"]);
    let mut zeros = zeros.stdout(Stdio::piped()).spawn().unwrap();
    let copied = std::io::copy(&mut zeros.stdout.take().unwrap(), &mut std::io::sink()).unwrap();
    assert_eq!(copied, 1 << 30);
    assert!(zeros.wait().unwrap().success());
    let children: Vec<_> = (0..100)
        .map(|n| {
            let mut command = machine.exec(&[], &["sh", "-c", &format!("echo {n}; exit {n}")]);
            command.stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for (n, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(n as i32));
        assert_eq!(output.stdout, format!("{n}\n").into_bytes());
    }
}

#[test]
fn machines_in_the_background() {
    fixture::image();
    let script =
        "trap 'echo bye; exit 5' TERM; echo out; echo err >&2; while :; do sleep 0.1; done";
    let machine = Machine::start(&["run", "-d", fixture::IMAGE, "sh", "-c", script]);
    let record: serde_json::Value =
        serde_json::from_str(&out(&mut postroj(&["ps", "--json"]))).unwrap();
    let found = record.as_array().unwrap().iter().find(|m| m["Name"] == machine.name[..]).unwrap();
    assert_eq!(found["State"], "running");
    assert_eq!(found["Id"].as_str().unwrap().len(), 64);
    fixture::wait_until("it has said something", || {
        out(&mut postroj(&["logs", &machine.name])) == "out\nerr"
    });
    // By the beginning of its id as well.
    let id = &found["Id"].as_str().unwrap()[..12];
    assert_eq!(out(&mut postroj(&["exec", id, "echo", "x"])), "x");
    fails(&mut postroj(&["rm", &machine.name]), 125, &["is running", "--force"]);
    out(&mut postroj(&["stop", &machine.name]));
    assert_eq!(out(&mut postroj(&["wait", &machine.name])), "5");
    assert_eq!(out(&mut postroj(&["logs", &machine.name])), "out\nerr\nbye");
    fails(&mut machine.exec(&[], &["true"]), 125, &["has ended"]);
    let taken = ["run", "--name", &machine.name, fixture::IMAGE, "true"];
    fails(&mut postroj(&taken), 125, &["has ended", "postroj rm"]);
    out(&mut postroj(&["rm", &machine.name]));
    fails(&mut postroj(&["logs", &machine.name]), 125, &["there is no machine"]);
}

#[test]
fn a_machine_that_forgets_itself() {
    fixture::image();
    let machine = Machine::start(&["run", "-d", "--rm", fixture::IMAGE, "sleep", "1000"]);
    out(&mut postroj(&["kill", "-s", "TERM", &machine.name]));
    fixture::wait_until("it is gone", || !out(&mut postroj(&["ps", "-a"])).contains(&machine.name));
}

#[test]
fn a_failure_in_the_background_is_told() {
    fails(&mut run(&["-d"], &["nonesuch"]), 127, &["\"nonesuch\""]);
}

#[test]
fn a_killed_monitor_takes_its_machine_along() {
    fixture::image();
    let word = format!("{}", 100_000 + std::process::id());
    let machine = Machine::start(&["run", "-d", fixture::IMAGE, "sleep", &word]);
    let pids = fixture::processes_with(&format!("\0sleep\0{word}"));
    let own =
        |pid: &&i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() != "sleep\n";
    let monitor = *pids.iter().find(own).expect("there is a monitor");
    let monitor = rustix::process::Pid::from_raw(monitor).unwrap();
    rustix::process::kill_process(monitor, rustix::process::Signal::KILL).unwrap();
    let listed = || out(&mut postroj(&["ps", "-a"]));
    fixture::wait_until("ps tells the truth", || {
        listed().lines().any(|l| l.contains(&machine.name) && l.contains("Exited (137)"))
    });
    fixture::wait_until("it is gone", || fixture::processes_with(&word).is_empty());
    out(&mut postroj(&["rm", "-f", &machine.name]));
    assert!(!listed().contains(&machine.name));
}

#[test]
fn no_group_is_left_behind() {
    let image = debian("debian-12");
    if is_root() {
        let machine = Machine::boot(&["--memory", "512m"], &image);
        assert_eq!(machine.stop(), 0);
    }
    let groups = sys::cgroups::Layout::read().unwrap();
    for hierarchy in groups.legacy.iter().chain(&groups.unified) {
        let ours = hierarchy.mount.join("postroj");
        let names = std::fs::read_dir(ours).into_iter().flatten().flatten();
        let dead = names.filter(|e| e.path().is_dir()).filter(|e| {
            std::fs::read_to_string(e.path().join("cgroup.procs")).is_ok_and(|p| p.is_empty())
                && !e.path().join("init.scope").exists()
        });
        assert_eq!(dead.count(), 0);
    }
}

#[test]
fn run_boots_where_the_command_is_an_init() {
    let image = debian("debian-12");
    let runs = |options: &[&str], command: &[&str]| {
        Machine::start(&[&["run", "-d", "--network=none"], options, &[&image], command].concat())
    };
    // As podman: by itself for an init, and by request for what becomes one.
    let script = "exec /lib/systemd/systemd";
    for (options, command) in
        [(&[][..], &["/sbin/init"][..]), (&["--systemd=always"], &["/bin/sh", "-c", script])]
    {
        let machine = runs(options, command);
        out(&mut postroj(&["wait", "--for", "ready", &machine.name]));
        assert_eq!(out(&mut machine.exec(&[], &["systemctl", "is-system-running"])), "running");
        assert_eq!(machine.stop(), 0, "{command:?}");
    }
    // Else it is a command like any other.
    let machine = runs(&["--systemd=false"], &["/lib/systemd/systemd", "--version"]);
    assert_eq!(out(&mut postroj(&["wait", &machine.name])), "0");
    let log = out(&mut postroj(&["logs", &machine.name]));
    assert!(log.starts_with("systemd 252"), "{log}");
    let machine = runs(&["--systemd=auto"], &["sleep", "1000"]);
    assert_ne!(out(&mut machine.exec(&[], &["cat", "/proc/1/comm"])), "systemd");
}
