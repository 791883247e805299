//! xbps.

use super::{Cause, Operation, PackageManager, Sign, Work};

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
                Work::on(&["xbps-remove", "--yes", "--recursive"], packages)
            }
            Operation::Clean => Some(Work::command(&["sh", "-c", "rm -rf /var/cache/xbps/*"], &[])),
            Operation::Owner(path) => Some(Work::command(&["xbps-query", "--ownedby", path], &[])),
            Operation::Version(name) => {
                Some(Work::command(&["xbps-query", "--property", "pkgver", name], &[]))
            }
            Operation::Files(name) => Some(Work::command(&["xbps-query", "--files", name], &[])),
            // Its keys are accepted by an answer to a question.
            Operation::List => {
                let script = "xbps-query -l | sed 's/^.. \\([^ ]*\\)-\\([^- ]*\\) .*/\\1\\t\\2/'";
                Some(Work::command(&["sh", "-c", script], &[]))
            }
            Operation::MarkAutomatic(packages) => {
                Work::on(&["xbps-pkgdb", "--mode", "auto"], packages)
            }
            Operation::InstallNoDeps(_)
            | Operation::InstallFiles(_)
            | Operation::ReinstallFiles(_)
            | Operation::Describe(_)
            | Operation::AddRepository(_) => None,
        }
    }

    fn records(&self) -> &'static [&'static str] {
        &["/var/db/xbps"]
    }

    fn signs(&self) -> &'static [Sign] {
        &SIGNS
    }
}

const SIGNS: [Sign; 6] = [
    Sign { says: "MISSING: ", means: Cause::Dependency },
    Sign { says: "conflicting files", means: Cause::Conflict },
    Sign { says: "not found in repository pool", means: Cause::NotFound },
    Sign { says: "RSA signature is not valid", means: Cause::Signature },
    Sign { says: "INSTALL script failed", means: Cause::Script },
    Sign { says: "failed to fetch", means: Cause::Unreachable },
];
