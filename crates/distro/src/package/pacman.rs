//! pacman.

use super::{Operation, PackageManager, Work, split};

/// pacman(8): Arch and its kin.
pub(super) struct Pacman;

impl PackageManager for Pacman {
    fn name(&self) -> &'static str {
        "pacman"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/bin/pacman"]
    }

    /// Written with the first package; pacman as a tool on other systems has no local database.
    fn databases(&self) -> &'static [&'static str] {
        &["/var/lib/pacman/local/ALPM_DB_VERSION"]
    }

    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        let pacman = |verb: &[&str], packages: &[&str]| {
            Work::on(&[&["pacman", "--noconfirm", "--noprogressbar"], verb].concat(), packages)
        };
        match *operation {
            Operation::Refresh => pacman(&[], &["-Sy"]),
            Operation::Install(packages) => {
                let (names, files) = split(packages);
                let mut work = pacman(&["-S", "--needed"], &names).unwrap_or_default();
                work.commands.extend(pacman(&["-U"], &files).unwrap_or_default().commands);
                (!work.commands.is_empty()).then_some(work)
            }
            Operation::InstallNoDeps(files) => pacman(&["-Udd"], files),
            Operation::Upgrade([]) => pacman(&[], &["-Syu"]),
            Operation::Upgrade(packages) | Operation::Reinstall(packages) => {
                pacman(&["-S"], packages)
            }
            Operation::Remove(packages) => pacman(&["-R"], packages),
            Operation::Purge(packages) => pacman(&["-Rn"], packages),
            Operation::Owner(path) => Some(Work::command(&["pacman", "-Qoq", path], &[])),
            Operation::Version(name) => Some(Work::command(&["pacman", "-Q", name], &[])),
            Operation::Files(name) => Some(Work::command(&["pacman", "-Qlq", name], &[])),
            // Its repositories are in one file, and its keys signed by its own: not by adding a file.
            Operation::AddRepository(_) => None,
        }
    }
}
