//! xbps.

use super::{Operation, PackageManager, Work};

/// xbps-install(1): Void.
pub(super) struct Xbps;

impl PackageManager for Xbps {
    fn name(&self) -> &'static str {
        "xbps"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/bin/xbps-install"]
    }

    fn databases(&self) -> &'static [&'static str] {
        &["/var/db/xbps"]
    }

    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        match *operation {
            Operation::Refresh => Some(Work::command(&["xbps-install", "--sync"], &[])),
            // It takes files only from a directory that has an index.
            Operation::Install(packages) if packages.iter().any(|p| p.contains('/')) => None,
            Operation::Install(packages) => Work::on(&["xbps-install", "--yes"], packages),
            Operation::Upgrade(packages) => {
                Some(Work::command(&["xbps-install", "--yes", "--update"], packages))
            }
            Operation::Reinstall(packages) => {
                Work::on(&["xbps-install", "--yes", "--force"], packages)
            }
            Operation::Remove(packages) | Operation::Purge(packages) => {
                Work::on(&["xbps-remove", "--yes"], packages)
            }
            Operation::Owner(path) => Some(Work::command(&["xbps-query", "--ownedby", path], &[])),
            Operation::Version(name) => {
                Some(Work::command(&["xbps-query", "--property", "pkgver", name], &[]))
            }
            Operation::Files(name) => Some(Work::command(&["xbps-query", "--files", name], &[])),
            // Its keys are accepted by an answer to a question.
            Operation::InstallNoDeps(_) | Operation::AddRepository(_) => None,
        }
    }
}
