//! Ways out of a machine that were found in other programs, by their published causes.

mod fixture;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use fixture::{Own, busybox, is_root, out, said};

/// An image with the attacker in it.
struct Victim {
    own: Own,
    image: String,
}

impl Victim {
    fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    /// One whose root was changed.
    fn with(name: &str, change: impl FnOnce(&Path)) -> Self {
        let own = Own::new(name);
        let root = own.path("root");
        busybox(&root);
        let source = own.path("attack.c");
        fs::write(&source, include_str!("fixture/attack.c")).unwrap();
        let compiled = Command::new("cc")
            .args(["-static", "-w", "-o"])
            .args([&root.join("bin/attack"), &source])
            .status();
        assert!(compiled.expect("cc, which Rust links with").success());
        change(&root);
        let archive = own.path("root.tar");
        fixture::tar(&root, &archive);
        let archive = format!("tar:{}", archive.display());
        own.pull(&archive);
        let image = "victim:1".to_owned();
        out(&mut own.postroj(&["tag", &archive, &image]));
        // What nothing in a machine may change.
        fs::create_dir(own.path("outside")).unwrap();
        fs::write(own.path("outside/canary"), "sings").unwrap();
        Self { own, image }
    }

    /// `run` with options and a command.
    fn run(&self, options: &[&str], command: &[&str]) -> Command {
        self.own.postroj(&[&["run"], options, &[&self.image], command].concat())
    }

    #[track_caller]
    fn attack(&self, options: &[&str], what: &[&str]) {
        let command = [&["attack"], what].concat();
        assert_eq!(out(&mut self.run(options, &command)), "tried", "{options:?} {what:?}");
    }

    fn outside(&self) -> String {
        self.own.path("outside").to_str().unwrap().to_owned()
    }

    #[track_caller]
    fn check_outside(&self, case: &str) {
        let outside = self.own.path("outside");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{case}: something was made");
        assert_eq!(fs::read_to_string(outside.join("canary")).unwrap(), "sings", "{case}");
    }
}

/// The machines that have the most rights here.
fn strongest() -> Vec<Vec<&'static str>> {
    let mut options = vec![vec![], vec!["--privileged"], vec!["--cap-add=ALL"]];
    if is_root() {
        options.push(vec!["--userns=host", "--cap-add=SYS_PTRACE"]);
    } else {
        options.push(vec!["--userns=single", "--cap-add=SYS_PTRACE"]);
        options.push(vec!["--userns=keep-id", "-u", "0", "--cap-add=SYS_PTRACE"]);
    }
    options
}

/// CVE-2019-5736: the runtime's own program is within reach as /proc/self/exe.
#[test]
fn the_launchers_program_cannot_be_overwritten() {
    let victim = Victim::with("exe", |root| {
        symlink("/proc/self/exe", root.join("bin/itself")).unwrap();
        fs::write(root.join("bin/through"), "#!/proc/self/exe\n").unwrap();
        fs::set_permissions(root.join("bin/through"), PermissionsExt::from_mode(0o755)).unwrap();
    });
    // A copy that belongs to the user, who is root inside.
    let program = victim.own.path("postroj");
    fs::copy(fixture::program(), &program).unwrap();
    let bytes = fs::read(&program).unwrap();
    let run = |options: &[&str], command: &[&str]| {
        let plain = victim.run(options, command);
        let mut ours = Command::new(&program);
        ours.args(plain.get_args()).stdin(std::process::Stdio::null());
        for (name, value) in plain.get_envs() {
            ours.env(name, value.unwrap());
        }
        ours
    };
    for options in strongest() {
        for command in ["/proc/self/exe", "itself"] {
            let told = said(&mut run(&options, &[command, "--version"]));
            assert!(told.code != 0 || told.out.starts_with("postroj "), "{options:?} {told:?}");
        }
        let _ = said(&mut run(&options, &["through"]));
        for path in ["/proc/1/exe", "/proc/self/exe", "/proc/2/exe"] {
            let told = said(&mut run(&options, &["attack", "exe", path]));
            // Its own program is the image's.
            let itself = path != "/proc/1/exe";
            assert!(itself || told.out == "tried\n", "{options:?} {path}: {told:?}");
        }
        let as_pid_1 = [&options[..], &["--as-pid-1"]].concat();
        let _ = said(&mut run(&as_pid_1, &["attack", "exe", "/proc/1/exe"]));
        assert!(fs::read(&program).unwrap() == bytes, "{options:?}: the program was changed");
        let mode = fs::metadata(&program).unwrap().permissions().mode();
        assert_ne!(mode & 0o777, 0o777, "{options:?}: its mode was changed");
    }
}

/// CVE-2024-21626: a descriptor of the host's tree, and a working directory through it.
#[test]
fn no_descriptor_and_no_working_directory_leads_out() {
    let victim = Victim::with("fds", |root| {
        for fd in 0..16 {
            symlink(format!("/proc/self/fd/{fd}"), root.join(format!("srv/{fd}"))).unwrap();
        }
    });
    for fd in 0..16 {
        for directory in [
            format!("/proc/self/fd/{fd}"),
            format!("/proc/self/fd/{fd}/../../.."),
            format!("/proc/thread-self/fd/{fd}"),
            format!("/proc/1/fd/{fd}"),
            format!("/srv/{fd}"),
            format!("/srv/{fd}/.."),
        ] {
            let told = said(
                &mut victim.run(&["-w", &directory], &["sh", "-c", "pwd; ls -a /proc/self/cwd/"]),
            );
            let inside = told.out.starts_with("/\n") || told.out.starts_with("/srv\n");
            assert!(told.code == 125 || inside, "{directory}: {told:?}");
        }
    }
    for path in ["/proc/1/root", "/proc/self/root", "/proc/1/cwd", "/proc/self/root/../.."] {
        let told = said(&mut victim.run(&["-w", path], &["ls", "/proc/self/cwd/"]));
        assert!(told.code == 125 || told.out.contains("home\n"), "{path}: {told:?}");
        assert!(!told.out.contains("lib64"), "{path}: {told:?}");
    }
}

/// Descriptors that whoever started postroj forgot to close, or passed on purpose.
#[test]
fn inherited_descriptors_stay_outside() {
    let victim = Victim::new("inherited");
    for options in strongest() {
        let plain = victim.run(&options, &["attack", "fds"]);
        let mut shell = Command::new("sh");
        let script = "exec 5</ 7<&0 8<\"$0\" 9</etc/passwd; exec \"$@\"";
        shell.args(["-c", script, &victim.outside()]).arg(plain.get_program());
        shell.args(plain.get_args()).stdin(std::process::Stdio::null());
        for (name, value) in plain.get_envs() {
            shell.env(name, value.unwrap());
        }
        assert_eq!(out(&mut shell), "tried", "{options:?}");
    }
    // Process 1 is still postroj's own: it has no more, once it has let go of its launcher.
    let script = "sleep 0.5; for fd in /proc/1/fd/*; do echo \"${fd##*/}\"; done; ls -d /proc/1/root/lib64 /proc/1/cwd/lib64";
    for options in strongest() {
        let told = said(&mut victim.run(&options, &["sh", "-c", script]));
        let fds: Vec<&str> = told.out.lines().collect();
        assert!(fds == ["*"] || fds == ["0", "1", "2"], "{options:?}: {told:?}");
    }
}

/// CVE-2017-5226: typing into the terminal that the launcher was started from.
#[test]
fn nothing_is_typed_into_the_launchers_terminal() {
    let victim = Victim::new("typing");
    for options in [&["-i"][..], &[], &["-i", "--privileged"], &["-i", "--as-pid-1"]] {
        if is_root() && options.contains(&"--privileged") {
            // The host's own CAP_SYS_ADMIN, which may type anywhere (tty(4)).
            continue;
        }
        let plain = victim.run(options, &["attack", "type"]);
        let words: Vec<String> = std::iter::once(plain.get_program())
            .chain(plain.get_args())
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        // `cat` would show what was typed; it ends by itself.
        let line = format!("{}; timeout 0.3 cat; true", words.join(" "));
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        for (name, value) in plain.get_envs() {
            script.env(name, value.unwrap());
        }
        script.stdin(std::process::Stdio::null());
        let told = out(&mut script);
        // A terminal shows the end of input of `script` itself.
        let told = told.replace(['\r', '\u{8}'], "").replace("^D", "");
        assert_eq!(told.trim(), "tried", "{options:?}");
    }
}

/// What a privileged machine of root's may do by design is left out.
#[test]
fn the_hosts_files_cannot_be_opened_by_number() {
    let victim = Victim::new("numbers");
    let volume = format!("{}:/data", victim.outside());
    for options in [&["-v", &volume][..], &["-v", &volume, "--cap-add=DAC_READ_SEARCH,MKNOD"]] {
        victim.attack(options, &["handle"]);
        victim.attack(options, &["disk"]);
    }
    if !is_root() {
        victim.attack(&["-v", &volume, "--privileged"], &["handle"]);
        victim.attack(&["-v", &volume, "--privileged"], &["disk"]);
    }
}

/// Kernel settings that the published attacks wrote to.
fn settings() -> Vec<Option<String>> {
    ["core_pattern", "modprobe", "hotplug", "hostname", "sysrq"]
        .map(|name| fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok())
        .to_vec()
}

/// Fails where something below /proc and /sys that must be protected is not.
const PROTECTED: &str = "test -c /proc/kcore || test ! -e /proc/kcore || echo kcore; \
    test -z \"$(cat /proc/keys)\" || echo keys; \
    for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger; do \
    (echo x > $f) 2>/dev/null && echo $f; done; ls /sys/firmware";

/// CVE-2025-31133: /dev/null, which hides what must be hidden, is not the image's.
/// CVE-2025-52565: nor is what becomes /dev/console.
#[test]
fn an_images_devices_are_not_used() {
    let before = settings();
    let victim = Victim::with("devices", |root| {
        let pattern = "/proc/sys/kernel/core_pattern";
        for name in ["null", "console", "tty", "zero", "ptmx"] {
            symlink(pattern, root.join("dev").join(name)).unwrap();
        }
        fs::create_dir(root.join("dev/pts")).unwrap();
        for name in ["0", "ptmx"] {
            symlink("/proc/sysrq-trigger", root.join("dev/pts").join(name)).unwrap();
        }
    });
    for options in [&[][..], &["-t"], &["--read-only"], &["-t", "--userns=auto"]] {
        let told = out(&mut victim.run(options, &["sh", "-c", PROTECTED]));
        assert_eq!(told, "", "{options:?}");
        let devices = "ls -l /dev/null /dev/console /dev/ptmx 2>/dev/null | grep -c proc";
        let told = said(&mut victim.run(options, &["sh", "-c", devices]));
        assert_eq!(told.out.trim(), "0", "{options:?}");
    }
    // The same where a volume, which another machine may change at the same time, is /dev.
    let root = victim.own.path("root/dev");
    for target in ["/dev", "/dev/pts", "/x"] {
        let volume = format!("{}:{target}", root.display());
        for terminal in [&[][..], &["-t"]] {
            let options = [&["-v", &volume], terminal].concat();
            let told = said(&mut victim.run(&options, &["sh", "-c", PROTECTED]));
            assert!(told.code == 125 || told.out.trim() == "", "{options:?}: {told:?}");
        }
    }
    assert_eq!(settings(), before);
}

/// CVE-2025-52881: what is written to /proc must not be led elsewhere. So nothing may
/// be mounted there, and a /proc that is a link is the image's own affair.
#[test]
fn proc_is_the_kernels() {
    let before = settings();
    let victim = Victim::new("proc");
    let fake = victim.own.path("outside");
    for target in
        ["/proc", "/proc/self", "/proc/sys", "/proc/self/attr", "/proc/../proc", "//proc/1/"]
    {
        let volume = format!("{}:{target}", fake.display());
        for options in [&["-v", &volume][..], &["--tmpfs", target]] {
            let told = said(&mut victim.run(options, &["true"]));
            assert_eq!(told.code, 125, "{options:?}");
            let parts = ["/proc", ".."];
            assert!(parts.iter().any(|part| told.err.contains(part)), "{told:?}");
        }
    }
    victim.check_outside("mounts on /proc");
    // Traced: once the machine's own /proc is there, nothing of it is opened for writing.
    // A tracer takes newuidmap its right, so an ordinary user has one id only.
    let options: &[&str] = if is_root() { &["-t"] } else { &["-t", "--userns=single"] };
    let plain = victim.run(options, &["true"]);
    let log = victim.own.path("strace");
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-e", "trace=open,openat,openat2,mount,execve", "-o"]).arg(&log);
    traced.arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        traced.env(name, value.unwrap());
    }
    out(&mut traced);
    let log = fs::read_to_string(log).unwrap();
    let (_, after) = log.split_once("mount(\"proc\"").expect("a /proc is mounted");
    for line in after.lines().filter(|l| l.contains("O_WRONLY") || l.contains("O_RDWR")) {
        assert!(!line.contains("/proc") && !line.contains("attr"), "{line}");
    }
    assert_eq!(settings(), before);
}

/// Where the image has links in the place of what is mounted or written.
#[test]
fn links_of_the_image_do_not_lead_out() {
    for (name, path) in [
        ("l-proc", "proc"),
        ("l-sys", "sys"),
        ("l-dev", "dev"),
        ("l-tmp", "tmp"),
        ("l-run", "run"),
        ("l-etc", "etc"),
        ("l-hosts", "etc/hosts"),
        ("l-resolv", "etc/resolv.conf"),
        ("l-hostname", "etc/hostname"),
        ("l-machine", "etc/machine-id"),
        ("l-passwd", "etc/passwd"),
        ("l-srv", "srv"),
    ] {
        for up in [false, true] {
            let mut outside = PathBuf::new();
            let victim = Victim::with(&format!("{name}{}", u8::from(up)), |root| {
                outside = root.parent().unwrap().join("outside");
                let link = root.join(path);
                if link.is_dir() {
                    fs::remove_dir_all(&link).unwrap();
                } else {
                    let _ = fs::remove_file(&link);
                }
                let text = outside.to_str().unwrap();
                let text = if up { format!("{}{text}", "../".repeat(20)) } else { text.to_owned() };
                // As a file's place it leads to a file that is there.
                let file = path.starts_with("etc/");
                let text = if file { format!("{text}/canary") } else { text };
                symlink(text, link).unwrap();
            });
            let volume = format!("{}:/srv/below:ro", victim.own.path("root").display());
            let tmpfs = "/srv/tmpfs/deep";
            let options = ["-v", &volume, "--tmpfs", tmpfs, "-w", "/srv/made", "-h", "evil"];
            for read_only in [&[][..], &["--read-only"], &["-t"]] {
                let options = [&options[..], read_only].concat();
                let script = "echo evil > /tmp/evil; echo evil > /etc/hosts; echo ran";
                let told = said(&mut victim.run(&options, &["sh", "-c", script]));
                assert!(told.code == 125 || told.out.contains("ran"), "{name}: {told:?}");
                victim.check_outside(&format!("{name} {options:?}: {told:?}"));
            }
        }
    }
}
