//! Distributions whose mirrors cannot be reached, made small: Debian's packages of their package managers, with
//! an empty database of their own, and repositories of packages that are built there. What each manager is told
//! is what `distro::package` says, and nothing else.

mod fixture;
#[path = "fixture/mini.rs"]
mod mini;

use distro::package::{self, Cause, Operation, PackageManager, Repository, Work};
use fixture::{Machine, Said, out, said};
use mini::{APK, DNF, DNF5, Mini, NIX, PACMAN, ZYPPER};

/// A machine of one, and what its package manager does there.
struct System {
    manager: &'static dyn PackageManager,
    machine: Machine,
    foresees_conflicts: bool,
}

impl System {
    fn new(mini: &Mini) -> Self {
        let image = mini.image();
        let words = ["run", "-d", "--network", "none", &image, "sleep", "600"];
        let foresees_conflicts = mini.foresees_conflicts;
        Self { manager: mini.manager(), machine: Machine::start(&words), foresees_conflicts }
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
        if cause == Cause::Conflict && !self.foresees_conflicts {
            let Operation::Install(packages) = operation else { panic!("{operation:?}") };
            self.done(&Operation::Remove(packages));
        }
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
        let repository = Repository { name: "mini", url, suite: None, key: Some(&key) };
        self.done(&Operation::AddRepository(&repository));
        // A second time changes nothing.
        self.done(&Operation::AddRepository(&repository));
        self.done(&Operation::Refresh);
    }
}

/// All that issue 6 asks of a package manager.
fn serves(mini: &Mini) {
    let system = System::new(mini);
    let recognised = fixture::postroj(&["inspect", &mini.image()]).output().unwrap();
    let recognised: serde_json::Value = serde_json::from_slice(&recognised.stdout).unwrap();
    assert_eq!(recognised[0]["Facts"]["PackageManager"], mini.manager);
    assert_eq!(system.list(), packages(mini, &[("base", "1.0")]));
    system.add_repository();
    by_name(mini, &system);
    by_file(mini, &system);
    // An upgrade by the repository.
    system.done(&Operation::Install(&["web"]));
    system.sh("sh -e /srv/release.sh");
    system.done(&Operation::Refresh);
    system.done(&Operation::Upgrade(&["web"]));
    assert_eq!(system.list(), packages(mini, &[("base", "1.0"), ("lib", "1.0"), ("web", "2.0")]));
    assert_eq!(system.sh(&format!("cat {}/share/web/version", mini.prefix)), "web 2.0");
    refusals(mini, &system);
    system.done(&Operation::Clean);
}

/// What is listed where these are installed.
fn packages(mini: &Mini, expected: &[(&str, &str)]) -> Vec<String> {
    let listed = expected.iter().filter(|(name, _)| mini.lists_needed || *name != "lib");
    listed.map(|(name, version)| format!("{name}\t{}", (mini.version)(version))).collect()
}

/// With what it needs.
fn by_name(mini: &Mini, system: &System) {
    let version = format!("{}/share/web/version", mini.prefix);
    system.done(&Operation::Install(&["web"]));
    assert_eq!(system.list(), packages(mini, &[("base", "1.0"), ("lib", "1.0"), ("web", "1.0")]));
    assert_eq!(system.sh(&format!("cat {version}")), "web 1.0");
    assert_eq!(system.done(&Operation::Owner(&version)).trim(), "web");
    let told = system.done(&Operation::Version("web"));
    assert!(told.trim().ends_with(&(mini.version)("1.0")), "{told}");
    let files = system.done(&Operation::Files("web"));
    assert!(files.lines().any(|line| line.ends_with("/share/web/version")), "{files}");
    system.done(&Operation::Reinstall(&["web"]));
    // What goes is what nobody needs any more.
    system.done(&Operation::Remove(&["web"]));
    assert_eq!(system.list(), packages(mini, &[("base", "1.0")]));
}

/// By files, that need each other, without any repository.
fn by_file(mini: &Mini, system: &System) {
    let file = |name: &str, version: &str| format!("/srv/files/{}", (mini.file)(name, version));
    let (web, lib, web_2) = (file("web", "1.0"), file("lib", "1.0"), file("web", "2.0"));
    system.refused(
        &Operation::InstallFiles(&[&file("broken", "1.0")]),
        Cause::Dependency,
        "nowhere",
    );
    system.done(&Operation::InstallFiles(&[&web, &lib]));
    if mini.files_speak {
        let described = system.done(&Operation::Describe(&web_2));
        assert_eq!(described.lines().last(), Some(&*format!("web\t{}", (mini.version)("2.0"))));
    }
    system.done(&Operation::InstallFiles(&[&web_2]));
    let list = system.list();
    assert!(list.contains(&format!("web\t{}", (mini.version)("2.0"))), "{list:?}");
    assert_eq!(list.iter().filter(|line| line.starts_with("web\t")).count(), 1, "{list:?}");
    system.done(&Operation::ReinstallFiles(&[&web_2]));
    system.done(&Operation::Purge(&["web", "lib"]));
    assert_eq!(system.list(), packages(mini, &[("base", "1.0")]));
}

/// What is wrong is refused, and nothing is changed.
fn refusals(mini: &Mini, system: &System) {
    for (name, cause, part) in [
        ("broken", Cause::Dependency, "nowhere"),
        ("clash", Cause::Conflict, ""),
        ("tampered", Cause::Signature, ""),
        ("foreign", Cause::Signature, ""),
        ("no-such-thing", Cause::NotFound, "no-such-thing"),
    ] {
        system.refused(&Operation::Install(&[name]), cause, part);
    }
    for name in ["tampered", "foreign"].iter().filter(|_| mini.files_speak) {
        let file = format!("/srv/files/{}", (mini.file)(name, "1.0"));
        system.refused(&Operation::InstallFiles(&[&file]), Cause::Signature, "");
    }
}

#[test]
fn dnf() {
    serves(&DNF);
}

#[test]
fn dnf5() {
    serves(&DNF5);
}

#[test]
fn zypper() {
    serves(&ZYPPER);
}

#[test]
fn pacman() {
    serves(&PACMAN);
}

#[test]
fn nix() {
    serves(&NIX);
}

/// Needs `usr/sbin/apk`, `usr/bin/abuild-tar` and `usr/bin/openssl` in `$POSTROJ_MINIS/apk`: Debian has no apk-tools.
#[test]
#[ignore = "needs apk-tools, which Debian has not"]
fn apk() {
    serves(&APK);
}
