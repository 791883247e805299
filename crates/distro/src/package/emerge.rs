//! emerge.

use super::{Operation, PackageManager, Work};

/// emerge(1): Gentoo's Portage.
pub(super) struct Emerge;

impl PackageManager for Emerge {
    fn name(&self) -> &'static str {
        "emerge"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/bin/emerge"]
    }

    fn databases(&self) -> &'static [&'static str] {
        &["/var/db/pkg"]
    }

    /// Binary packages where there are some.
    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        let emerge = |verb: &[&str], packages: &[&str]| {
            Work::on(&[&["emerge", "--ask=n", "--color=n", "--quiet"], verb].concat(), packages)
        };
        match *operation {
            Operation::Refresh => emerge(&[], &["--sync"]),
            Operation::Install(packages) if packages.iter().any(|p| p.starts_with('/')) => None,
            Operation::Install(packages) => emerge(&["--getbinpkg", "--noreplace"], packages),
            Operation::Upgrade([]) => emerge(&["--getbinpkg", "--update", "--deep"], &["@world"]),
            Operation::Upgrade(packages) => emerge(&["--getbinpkg", "--update"], packages),
            Operation::Reinstall(packages) => emerge(&["--getbinpkg", "--oneshot"], packages),
            Operation::Remove(packages) | Operation::Purge(packages) => {
                emerge(&["--depclean"], packages)
            }
            Operation::Owner(path) => Some(Work::command(&["portageq", "owners", "/", path], &[])),
            Operation::Version(name) => Some(Work::command(&["portageq", "match", "/", name], &[])),
            Operation::Files(name) => {
                Some(Work::command(&["portageq", "contents", "/", name], &[]))
            }
            Operation::InstallNoDeps(_) | Operation::AddRepository(_) => None,
        }
    }
}
