//! kiss.

use super::{Cause, Operation, PackageManager, Sign, Work};

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

    /// What is built is installed together with what it depends on.
    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        match *operation {
            Operation::Refresh | Operation::Upgrade([]) => {
                Some(Work::command(&["kiss", "update"], &[]))
            }
            Operation::Install(packages)
            | Operation::Reinstall(packages)
            | Operation::Upgrade(packages) => {
                let (mut work, install) = (
                    Work::on(&["kiss", "build"], packages)?,
                    Work::on(&["kiss", "install"], packages)?,
                );
                work.commands.extend(install.commands);
                Some(work)
            }
            Operation::Remove(packages) | Operation::Purge(packages) => {
                Work::on(&["kiss", "remove"], packages)
            }
            Operation::Owner(path) => Some(Work::command(&["kiss", "owns", path], &[])),
            Operation::Version(name) => Some(Work::command(&["kiss", "list", name], &[])),
            Operation::Files(name) => Some(Work::command(&["kiss", "manifest", name], &[])),
            // Archives of its own (kiss(1), "install").
            Operation::InstallFiles(files) | Operation::ReinstallFiles(files) => {
                Work::on(&["kiss", "install"], files)
            }
            Operation::List => Some(Work::command(&["sh", "-c", "kiss list | tr ' ' '\\t'"], &[])),
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

const SIGNS: [Sign; 4] = [
    Sign { says: "not found", means: Cause::NotFound },
    Sign { says: "Missing dep", means: Cause::Dependency },
    Sign { says: "Checksum mismatch", means: Cause::Signature },
    Sign { says: "Failed to extract", means: Cause::Damaged },
];
