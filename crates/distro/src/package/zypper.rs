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
            Operation::InstallFiles(files) => zypper(
                &[NO_REPOSITORIES[0], NO_REPOSITORIES[1], "install", "--no-recommends"],
                files,
            ),
            Operation::ReinstallFiles(files) => {
                zypper(&[NO_REPOSITORIES[0], NO_REPOSITORIES[1], "install", "--force"], files)
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

    fn signs(&self) -> &'static [Sign] {
        &SIGNS
    }
}

/// `--disable-repositories` would leave files out as well: they are made a repository.
const NO_REPOSITORIES: [&str; 2] = ["--reposd-dir", "/nonexistent"];

/// Its own; the rest is rpm's.
const SIGNS: [Sign; 10] = [
    Sign { says: "nothing provides ", means: Cause::Dependency },
    Sign { says: " file conflict", means: Cause::Conflict },
    Sign { says: "Signature verification failed", means: Cause::Signature },
    Sign { says: "Package is not signed", means: Cause::Signature },
    Sign { says: "Digest verification failed", means: Cause::Signature },
    Sign { says: "NOKEY", means: Cause::Signature },
    Sign { says: "scriptlet failed", means: Cause::Script },
    Sign { says: "No provider of ", means: Cause::NotFound },
    Sign { says: "not found", means: Cause::NotFound },
    Sign { says: "Valid metadata not found", means: Cause::Unreachable },
];
