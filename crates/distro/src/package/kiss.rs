//! kiss.

use super::operation::version_in;
use super::{Cause, Operation, PackageManager, Sign, Work, split};

/// kiss(1): KISS Linux.
pub(super) struct Kiss;

impl PackageManager for Kiss {
    fn name(&self) -> &'static str {
        "kiss"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/bin/kiss"]
    }

    fn databases(&self) -> &'static [&'static str] {
        &["/var/db/kiss"]
    }

    /// No question, and no other user to build as.
    fn environment(&self) -> &'static [(&'static str, &'static str)] {
        &[("KISS_PROMPT", "0")]
    }

    /// `update` is for the repositories, `upgrade` for all packages: of kiss itself first and of nothing else then,
    /// so that it is asked twice. What a package that is built depends on is installed with it; the package itself
    /// is only where nobody has forbidden to ask.
    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        match *operation {
            Operation::Refresh => Some(Work::command(&["kiss", "update"], &[])),
            Operation::Upgrade([]) => {
                let mut work = Work::command(&["kiss", "upgrade"], &[]);
                work.commands.extend(work.commands.clone());
                Some(work)
            }
            Operation::Install(packages)
            | Operation::Reinstall(packages)
            | Operation::Upgrade(packages) => {
                let (names, _) = split(packages);
                let mut work = Work::on(&["kiss", "build"], &names).unwrap_or_default();
                work.commands.extend(Work::on(&["kiss", "install"], packages)?.commands);
                Some(work)
            }
            Operation::Remove(packages) | Operation::Purge(packages) => {
                Work::on(&["kiss", "remove"], packages)
            }
            Operation::Owner(path) => Some(Work::command(&["kiss", "owns", path], &[])),
            Operation::Version(name) => Some(version_in(LIST, name)),
            Operation::Files(name) => Some(Work::command(&["kiss", "manifest", name], &[])),
            // Archives of its own (kiss(1), "install").
            Operation::InstallFiles(files) | Operation::ReinstallFiles(files) => {
                Work::on(&["kiss", "install"], files)
            }
            Operation::List => Some(Work::command(&["sh", "-c", LIST], &[])),
            Operation::Clean
            | Operation::InstallNoDeps(_)
            | Operation::MarkAutomatic(_)
            | Operation::Describe(_)
            | Operation::AddRepository(_) => None,
        }
    }

    fn records(&self) -> &'static [&'static str] {
        &["/var/db/kiss"]
    }

    fn signs(&self) -> &'static [Sign] {
        &SIGNS
    }
}

const LIST: &str = "kiss list | tr ' ' '\\t'";

const SIGNS: [Sign; 7] = [
    Sign { says: "not found", means: Cause::NotFound },
    Sign { says: "Package not installable, missing", means: Cause::Dependency },
    Sign { says: "Not removable, has dependents", means: Cause::Dependency },
    Sign { says: "Not a valid KISS package", means: Cause::Damaged },
    Sign { says: "Failed to download", means: Cause::Unreachable },
    Sign { says: "Checksum mismatch", means: Cause::Signature },
    Sign { says: "Failed to extract", means: Cause::Damaged },
];
