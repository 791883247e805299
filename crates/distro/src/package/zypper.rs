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
                zypper(&["--disable-repositories", "install", "--no-recommends"], files)
            }
            Operation::ReinstallFiles(files) => {
                zypper(&["--disable-repositories", "install", "--force"], files)
            }
            Operation::Upgrade([]) => zypper(&[], &["update"]),
            Operation::Upgrade(packages) => zypper(&["update"], packages),
            Operation::Reinstall(packages) => zypper(&["install", "--force"], packages),
            Operation::Remove(packages) | Operation::Purge(packages) => {
                zypper(&["remove", "--clean-deps"], packages)
            }
            Operation::Clean => zypper(&[], &["clean", "--all"]),
            Operation::AddRepository(repository) => {
                Some(rpm::repository("/etc/zypp/repos.d", repository))
            }
            ref other => rpm::query(other),
        }
    }

    fn signs(&self) -> &'static [Sign] {
        &SIGNS
    }
}

/// Its own; the rest is rpm's.
const SIGNS: [Sign; 9] = [
    Sign { says: "nothing provides ", means: Cause::Dependency },
    Sign { says: "Detected file conflicts", means: Cause::Conflict },
    Sign { says: "Signature verification failed", means: Cause::Signature },
    Sign { says: "Package is not signed", means: Cause::Signature },
    Sign { says: "Digest verification failed", means: Cause::Signature },
    Sign { says: "NOKEY", means: Cause::Signature },
    Sign { says: "scriptlet failed", means: Cause::Script },
    Sign { says: "not found", means: Cause::NotFound },
    Sign { says: "Valid metadata not found", means: Cause::Unreachable },
];
