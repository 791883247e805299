//! pkgtools.

use super::{Operation, PackageManager, Work, split};

/// installpkg(8): Slackware.
pub(super) struct Pkgtools;

impl PackageManager for Pkgtools {
    fn name(&self) -> &'static str {
        "pkgtools"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/sbin/installpkg", "/usr/sbin/installpkg"]
    }

    /// The second was the place until 14.2.
    fn databases(&self) -> &'static [&'static str] {
        &["/var/lib/pkgtools/packages", "/var/log/packages"]
    }

    /// Files by pkgtools, which knows no dependencies, and names by slackpkg(8).
    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        let slackpkg = |verb: &str, packages: &[&str]| {
            Work::command(&["slackpkg", "-batch=on", "-default_answer=y", verb], packages)
        };
        match *operation {
            Operation::Refresh => Some(slackpkg("update", &[])),
            Operation::Install(packages) => {
                let (names, files) = split(packages);
                let mut work = Work::default();
                if !names.is_empty() {
                    work = slackpkg("install", &names);
                }
                work.commands.extend(
                    Work::on(&["installpkg", "--terse"], &files).unwrap_or_default().commands,
                );
                (!work.commands.is_empty()).then_some(work)
            }
            Operation::InstallNoDeps(files) => Work::on(&["installpkg", "--terse"], files),
            Operation::Upgrade([]) => Some(slackpkg("upgrade-all", &[])),
            Operation::Upgrade(packages) => Some(slackpkg("upgrade", packages)),
            Operation::Reinstall(packages) => Some(slackpkg("reinstall", packages)),
            Operation::Remove(packages) | Operation::Purge(packages) => {
                Work::on(&["removepkg"], packages)
            }
            Operation::Owner(_)
            | Operation::Version(_)
            | Operation::Files(_)
            | Operation::AddRepository(_) => None,
        }
    }
}
