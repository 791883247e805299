//! Distributions whose mirrors cannot be reached, made small: Debian's packages of their package managers, with
//! an empty database of their own, and repositories of packages that are built there. What each manager is told
//! is what `distro::package` says, and nothing else.

mod fixture;

use std::fs::File;

use distro::package::{self, Cause, Operation, PackageManager, Repository, Work};
use fixture::{Machine, Said, home, out, postroj, said, wait_until};

/// Debian with all of these package managers; a file of the catalog.
const MINI: &str = "family = \"mini\"\npackage-manager = \"none\"\ninit = \"systemd\"\n\
    archives = [\"debian\", \"debian-security\"]\nkeyrings = [\"debian-archive-keyring\"]\n\
    signed-by = \"/usr/share/keyrings/debian-archive-keyring.gpg\"\n\
    [bootable]\nsystemd = [\"systemd\", \"systemd-sysv\", \"dbus\", \"dnf\", \"rpm\", \"createrepo-c\", \"file\", \
    \"gpg\", \"gpg-agent\", \"zypper\", \"pacman-package-manager\", \"makepkg\", \"libarchive-tools\", \"zstd\", \"fakeroot\"]\n\
    [architectures]\namd64 = \"amd64\"\narm64 = \"arm64\"\n\
    [[release]]\nlabel = \"mini-12\"\n[release.bootstrap]\nsuite = \"bookworm\"\n\
    components = [\"main\"]\nextras = []\nusr = \"links-first\"\nsources = \"one-line\"\n";

/// A distribution.
struct Mini {
    manager: &'static str,
    /// What it says of itself.
    os_release: &'static str,
    /// Builds its packages; see each.
    scripts: [&'static str; 2],
    /// Programs of others, which it does not have.
    without: &'static str,
    /// A package's file, by its name and version.
    file: fn(&str, &str) -> String,
}

const KEYS: &str = include_str!("mini/keys.sh");

const DNF: Mini = Mini {
    manager: "dnf",
    os_release: "ID=fedora\nVERSION_ID=38\nPRETTY_NAME=\"Mini Fedora\"\n",
    scripts: [KEYS, include_str!("mini/rpm.sh")],
    without: "/usr/bin/zypper /usr/bin/pacman",
    file: |name, version| format!("{name}-{version}-1.noarch.rpm"),
};

const ZYPPER: Mini = Mini {
    manager: "zypper",
    os_release: "ID=opensuse-leap\nVERSION_ID=15.6\nID_LIKE=\"suse opensuse\"\nPRETTY_NAME=\"Mini Leap\"\n",
    without: "/usr/bin/dnf /usr/bin/dnf-3 /usr/bin/pacman",
    ..DNF
};

const PACMAN: Mini = Mini {
    manager: "pacman",
    os_release: "ID=arch\nPRETTY_NAME=\"Mini Arch\"\n",
    scripts: [KEYS, include_str!("mini/pacman.sh")],
    without: "/usr/bin/dnf /usr/bin/dnf-3 /usr/bin/zypper /usr/bin/rpm",
    file: |name, version| format!("{name}-{version}-1-any.pkg.tar.zst"),
};

impl Mini {
    /// Its image; whichever test comes first makes it.
    fn image(&self) -> String {
        let base = base();
        let name = format!("mini:{}", self.manager);
        // Whoever changes a script gets another image.
        let mut hasher = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(&(self.scripts, self.without, self.os_release), &mut hasher);
        let done = format!("mini-{}-{:x}.done", self.manager, std::hash::Hasher::finish(&hasher));
        let done = home().join(done);
        let lock = File::create(home().join(format!("mini-{}.lock", self.manager))).unwrap();
        lock.lock().unwrap();
        if done.exists() {
            return name;
        }
        let script = format!(
            "set -e\n{}\n{}\nrm -rf {}\nprintf '%s' '{}' > /usr/lib/os-release\necho READY\nexec sleep 600",
            self.scripts[0], self.scripts[1], self.without, self.os_release
        );
        let machine =
            Machine::start(&["run", "-d", "--network", "none", &base, "sh", "-c", &script]);
        wait_until("the packages are built", || {
            let log = out(&mut postroj(&["logs", &machine.name]));
            let state = said(&mut machine.exec(&[], &["true"]));
            assert_eq!(state.code, 0, "the script failed: {log}");
            log.ends_with("READY")
        });
        out(&mut postroj(&["commit", &machine.name, &name]));
        File::create(done).unwrap();
        name
    }

    fn manager(&self) -> &'static dyn PackageManager {
        package::by_name(self.manager).unwrap()
    }
}

/// Debian's part of all of them.
fn base() -> String {
    let lock = File::create(home().join("mini.lock")).unwrap();
    lock.lock().unwrap();
    let config = home().join("config-mini");
    if !home().join("mini.done").exists() {
        std::fs::create_dir_all(config.join("postroj/distro.d")).unwrap();
        std::fs::write(config.join("postroj/distro.d/mini.toml"), MINI).unwrap();
        let text = "[bootstrap.mini]\ncheck-valid-until = false\n";
        std::fs::write(config.join("postroj/config.toml"), text).unwrap();
        out(postroj(&["pull", "mini-12"]).env("XDG_CONFIG_HOME", &config));
        File::create(home().join("mini.done")).unwrap();
    }
    "mini-12".into()
}

/// A machine of one, and what its package manager does there.
struct System {
    manager: &'static dyn PackageManager,
    machine: Machine,
}

impl System {
    fn new(mini: &Mini) -> Self {
        let image = mini.image();
        let words = ["run", "-d", "--network", "none", &image, "sleep", "600"];
        Self { manager: mini.manager(), machine: Machine::start(&words) }
    }

    fn sh(&self, script: &str) -> String {
        out(&mut self.machine.exec(&[], &["sh", "-c", script]))
    }

    /// Does an operation: the first command that fails ends it.
    fn attempt(&self, operation: &Operation<'_>) -> Said {
        let Work { files, commands } = package::work(self.manager, operation)
            .unwrap_or_else(|why| panic!("{operation:?}: {why}"));
        for (path, content) in files {
            let script = "mkdir -p \"$(dirname \"$1\")\" && printf %s \"$2\" > \"$1\"";
            out(&mut self.machine.exec(&[], &["sh", "-c", script, "sh", &path, &content]));
        }
        let environment: Vec<String> = self
            .manager
            .environment()
            .iter()
            .chain(&[("LC_ALL", "C.UTF-8")])
            .flat_map(|(name, value)| ["-e".to_owned(), format!("{name}={value}")])
            .collect();
        let environment: Vec<&str> = environment.iter().map(String::as_str).collect();
        let mut all = Said { code: 0, out: String::new(), err: String::new() };
        for command in commands {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let told = said(&mut self.machine.exec(&environment, &words));
            all.out += &told.out;
            all.err += &told.err;
            all.code = told.code;
            if told.code != 0 {
                break;
            }
        }
        all
    }

    #[track_caller]
    fn done(&self, operation: &Operation<'_>) -> String {
        let told = self.attempt(operation);
        assert_eq!(told.code, 0, "{operation:?}: {told:?}");
        told.out
    }

    /// It is refused, and why is understood.
    #[track_caller]
    fn refused(&self, operation: &Operation<'_>, cause: Cause, part: &str) {
        let before = self.list();
        let told = self.attempt(operation);
        assert_ne!(told.code, 0, "{operation:?}: {told:?}");
        let output = told.out + &told.err;
        let explained = self.manager.explain(&output).unwrap_or_else(|| panic!("{output}"));
        assert_eq!(explained.cause, cause, "{operation:?}: {explained:?}: {output}");
        assert!(explained.text.contains(part), "{operation:?}: {explained:?}: {output}");
        assert_eq!(self.list(), before, "{operation:?} changed something");
    }

    /// What is installed, but for keys.
    fn list(&self) -> Vec<String> {
        let listed = self.done(&Operation::List);
        let packages = listed.lines().filter(|line| !line.starts_with("gpg-pubkey"));
        let mut packages: Vec<String> = packages.map(str::to_owned).collect();
        packages.sort();
        packages
    }

    fn add_repository(&self) {
        let key = self.sh("cat /srv/mini.asc") + "\n";
        let url = "file:///srv/repo";
        let repository = Repository { name: "mini", url, suite: None, key: &key };
        self.done(&Operation::AddRepository(&repository));
        // A second time changes nothing.
        self.done(&Operation::AddRepository(&repository));
        self.done(&Operation::Refresh);
    }
}

/// All that issue 6 asks of a package manager.
fn serves(mini: &Mini) {
    let system = System::new(mini);
    let file = |name: &str, version: &str| format!("/srv/files/{}", (mini.file)(name, version));
    let recognised = fixture::postroj(&["inspect", &mini.image()]).output().unwrap();
    let recognised: serde_json::Value = serde_json::from_slice(&recognised.stdout).unwrap();
    assert_eq!(recognised[0]["Facts"]["PackageManager"], mini.manager);
    assert_eq!(system.list(), ["base\t1.0-1"]);
    system.add_repository();
    // By name, with what it needs.
    system.done(&Operation::Install(&["web"]));
    assert_eq!(system.list(), ["base\t1.0-1", "lib\t1.0-1", "web\t1.0-1"]);
    assert_eq!(system.sh("cat /usr/share/web/version"), "web 1.0");
    assert_eq!(system.done(&Operation::Owner("/usr/share/web/version")).trim(), "web");
    let version = system.done(&Operation::Version("web"));
    assert!(version.trim().ends_with("1.0-1"), "{version}");
    let files = system.done(&Operation::Files("web"));
    assert!(files.lines().any(|line| line == "/usr/share/web/version"), "{files}");
    system.done(&Operation::Reinstall(&["web"]));
    // What goes is what nobody needs any more.
    system.done(&Operation::Remove(&["web"]));
    assert_eq!(system.list(), ["base\t1.0-1"]);
    // By files, that need each other, without any repository.
    let (web, lib, web_2) = (file("web", "1.0"), file("lib", "1.0"), file("web", "2.0"));
    system.refused(
        &Operation::InstallFiles(&[&file("broken", "1.0")]),
        Cause::Dependency,
        "nowhere",
    );
    system.done(&Operation::InstallFiles(&[&web, &lib]));
    assert_eq!(system.done(&Operation::Describe(&web_2)).lines().last(), Some("web\t2.0-1"));
    system.done(&Operation::InstallFiles(&[&web_2]));
    assert_eq!(system.list(), ["base\t1.0-1", "lib\t1.0-1", "web\t2.0-1"]);
    system.done(&Operation::ReinstallFiles(&[&web_2]));
    system.done(&Operation::Purge(&["web", "lib"]));
    // An upgrade by the repository.
    system.done(&Operation::Install(&["web"]));
    system.sh("sh -e /srv/release.sh");
    system.done(&Operation::Refresh);
    system.done(&Operation::Upgrade(&["web"]));
    assert_eq!(system.list(), ["base\t1.0-1", "lib\t1.0-1", "web\t2.0-1"]);
    assert_eq!(system.sh("cat /usr/share/web/version"), "web 2.0");
    // What is wrong is refused, and nothing is changed.
    for (name, cause, part) in [
        ("broken", Cause::Dependency, "nowhere"),
        ("clash", Cause::Conflict, ""),
        ("tampered", Cause::Signature, ""),
        ("foreign", Cause::Signature, ""),
        ("no-such-thing", Cause::NotFound, "no-such-thing"),
    ] {
        system.refused(&Operation::Install(&[name]), cause, part);
    }
    let tampered = file("tampered", "1.0");
    system.refused(&Operation::InstallFiles(&[&tampered]), Cause::Signature, "");
    system.done(&Operation::Clean);
}

#[test]
fn dnf() {
    serves(&DNF);
}

#[test]
fn zypper() {
    serves(&ZYPPER);
}

#[test]
fn pacman() {
    serves(&PACMAN);
}
