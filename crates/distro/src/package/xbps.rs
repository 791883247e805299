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
            Operation::Install(packages) => newest(Work::on(&["xbps-install", "--yes"], packages)?),
            Operation::Upgrade(packages) => {
                newest(Work::command(&["xbps-install", "--yes", "--update"], packages))
            }
            Operation::Reinstall(packages) => {
                newest(Work::on(&["xbps-install", "--yes", "--force"], packages)?)
            }
            Operation::Remove(packages) | Operation::Purge(packages) => {
                Work::on(&["xbps-remove", "--yes", "--recursive"], packages)
            }
            Operation::Clean => Some(Work::command(&["sh", "-c", "rm -rf /var/cache/xbps/*"], &[])),
            Operation::Owner(path) => Some(Work::command(&["xbps-query", "--ownedby", path], &[])),
            Operation::Version(name) => {
                Some(Work::command(&["xbps-uhelper", "version", name], &[]))
            }
            Operation::Files(name) => Some(Work::command(&["xbps-query", "--files", name], &[])),
            Operation::List => {
                let script = "xbps-query -l | sed 's/^.. \\([^ ]*\\)-\\([^- ]*\\) .*/\\1\\t\\2/'";
                Some(Work::command(&["sh", "-c", script], &[]))
            }
            Operation::MarkAutomatic(packages) => {
                Work::on(&["xbps-pkgdb", "--mode", "auto"], packages)
            }
            // Its keys are accepted by an answer to a question.
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

/// It does nothing else while there is a newer version of itself: "The 'xbps' package must be updated".
fn newest(mut work: Work) -> Option<Work> {
    work.commands
        .splice(0..0, Work::command(&["xbps-install", "--yes", "--update", "xbps"], &[]).commands);
    Some(work)
}

const SIGNS: [Sign; 8] = [
    Sign { says: "MISSING: ", means: Cause::Dependency },
    Sign { says: "unresolved shlibs", means: Cause::Dependency },
    Sign { says: "conflicting packages", means: Cause::Conflict },
    Sign { says: "conflicting files", means: Cause::Conflict },
    Sign { says: "not found in repository pool", means: Cause::NotFound },
    Sign { says: "RSA signature is not valid", means: Cause::Signature },
    Sign { says: "INSTALL script failed", means: Cause::Script },
    Sign { says: "failed to fetch", means: Cause::Unreachable },
];
