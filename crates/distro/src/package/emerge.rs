//! emerge.

use super::operation::{is_file, version_in};
use super::{Cause, Operation, PackageManager, Sign, Work};

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
            Operation::Install(packages) if packages.iter().any(|p| is_file(p)) => None,
            Operation::Install(packages) => emerge(&["--getbinpkg", "--noreplace"], packages),
            Operation::Upgrade([]) => emerge(&["--getbinpkg", "--update", "--deep"], &["@world"]),
            Operation::Upgrade(packages) => emerge(&["--getbinpkg", "--update"], packages),
            Operation::Reinstall(packages) => emerge(&["--getbinpkg", "--oneshot"], packages),
            Operation::Remove(packages) | Operation::Purge(packages) => {
                emerge(&["--depclean"], packages)
            }
            Operation::Owner(path) => Some(Work::command(&["portageq", "owners", "/", path], &[])),
            Operation::Version(name) => Some(version_in(LIST, name)),
            Operation::Files(name) => {
                Some(Work::command(&["portageq", "contents", "/", name], &[]))
            }
            Operation::List => Some(Work::command(&["sh", "-c", LIST], &[])),
            Operation::MarkAutomatic(packages) => emerge(&["--deselect"], packages),
            Operation::Clean
            | Operation::InstallNoDeps(_)
            | Operation::InstallFiles(_)
            | Operation::ReinstallFiles(_)
            | Operation::Describe(_)
            | Operation::AddRepository(_) => None,
        }
    }

    fn records(&self) -> &'static [&'static str] {
        &["/var/db/pkg", "/var/db/repos", "/var/lib/portage", "/var/log/emerge"]
    }

    fn signs(&self) -> &'static [Sign] {
        &SIGNS
    }
}

/// What is installed is a directory each, `category/name-version` (portage(5)).
const LIST: &str = "cd /var/db/pkg && printf '%s\\n' */* | sed 's/-\\([0-9][^-]*\\(-r[0-9]*\\)\\{0,1\\}\\)$/\\t\\1/'";

const SIGNS: [Sign; 5] = [
    Sign { says: "there are no ebuilds to satisfy", means: Cause::NotFound },
    Sign { says: "there are no binary packages to satisfy", means: Cause::NotFound },
    Sign { says: "Detected file collision", means: Cause::Conflict },
    Sign { says: "Invalid binary package", means: Cause::Signature },
    Sign { says: "Fetch failed", means: Cause::Unreachable },
];
