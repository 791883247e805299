//! kiss.

use super::{Operation, PackageManager, Work};

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
            Operation::InstallNoDeps(_) | Operation::AddRepository(_) => None,
        }
    }
}
