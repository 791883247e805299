//! zypper.

use super::{Cause, Operation, PackageManager, Sign, Work, rpm};

/// zypper(8): SUSE's.
pub(super) struct Zypper;

impl PackageManager for Zypper {
    fn name(&self) -> &'static str {
        "zypper"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/bin/zypper"]
    }

    fn databases(&self) -> &'static [&'static str] {
        &rpm::DATABASES
    }

    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        let zypper = |verb: &[&str], packages: &[&str]| {
            Work::on(&[&["zypper", "--non-interactive"], verb].concat(), packages)
        };
        match *operation {
            Operation::Refresh => zypper(&[], &["refresh"]),
            Operation::Install(packages) => {
                zypper(&["install", "--auto-agree-with-licenses", "--no-recommends"], packages)
            }
            Operation::InstallFiles(files) => {
                zypper(&[&FILES_ONLY[..], &["--no-recommends"]].concat(), files)
            }
            Operation::ReinstallFiles(files) => {
                zypper(&[&FILES_ONLY[..], &["--force"]].concat(), files)
            }
            Operation::Upgrade([]) => zypper(&[], &["update"]),
            Operation::Upgrade(packages) => zypper(&["update"], packages),
            Operation::Reinstall(packages) => zypper(&["install", "--force"], packages),
            Operation::Remove(packages) | Operation::Purge(packages) => {
                zypper(&["remove", "--clean-deps"], packages)
            }
            Operation::Clean => zypper(&[], &["clean", "--all"]),
            Operation::AddRepository(repository) => {
                // Else a list that is signed would vouch for packages of any key (zypper(8), "gpgcheck").
                Some(rpm::repository("/etc/zypp/repos.d", repository, "pkg_gpgcheck=1\n"))
            }
            ref other => rpm::query(other),
        }
    }

    /// By the repositories of the system that it runs on (zypper(8), "--installroot"), whose keys the other one
    /// has to know.
    fn outside(&self, root: &str, packages: &[&str]) -> Option<Work> {
        let there = ["zypper", "--non-interactive", "--installroot", root];
        let install = ["install", "--auto-agree-with-licenses", "--no-recommends"];
        let mut work = Work::command(&["sh", "-ec", TRUST, "sh", root], &[]);
        work.commands.extend(Work::on(&[&there[..], &install].concat(), packages)?.commands);
        work.commands.extend(Work::command(&there, &["clean", "--all"]).commands);
        Some(work)
    }

    fn records(&self) -> &'static [&'static str] {
        &["/etc/zypp", "/var/lib/zypp", "/var/log/zypp", "/var/lib/rpm", "/usr/lib/sysimage/rpm"]
    }

    fn signs(&self) -> &'static [Sign] {
        &SIGNS
    }
}

/// rpm keeps a key as a package whose description it is.
const TRUST: &str = "keys=$(mktemp)
rpm -q gpg-pubkey --queryformat '%{DESCRIPTION}\\n' > \"$keys\" || exit 0
rpm --root \"$1\" --import \"$keys\"
rm \"$keys\"";

/// `--disable-repositories` would leave files out as well: they are made a repository. Files that nobody
/// signed are what their makers have; those that are signed must be by a key that is known.
const FILES_ONLY: [&str; 4] = ["--reposd-dir", "/nonexistent", "install", "--allow-unsigned-rpm"];

/// What only warns, as of an unsigned file, comes after what it fails of.
const SIGNS: [Sign; 9] = [
    Sign { says: "scriptlet failed", means: Cause::Script },
    Sign { says: "nothing provides ", means: Cause::Dependency },
    Sign { says: "conflicts with file from", means: Cause::Conflict },
    Sign { says: "Signature verification failed", means: Cause::Signature },
    Sign { says: "Digest verification failed", means: Cause::Signature },
    Sign { says: "NOKEY", means: Cause::Signature },
    Sign { says: "No provider of ", means: Cause::NotFound },
    Sign { says: "not found", means: Cause::NotFound },
    Sign { says: "Valid metadata not found", means: Cause::Unreachable },
];
