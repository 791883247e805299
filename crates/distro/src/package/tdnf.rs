//! tdnf.

use super::{Operation, PackageManager, Work, rpm, split};

/// tdnf(8): Photon OS and Azure Linux.
pub(super) struct Tdnf;

impl PackageManager for Tdnf {
    fn name(&self) -> &'static str {
        "tdnf"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/bin/tdnf"]
    }

    fn databases(&self) -> &'static [&'static str] {
        &rpm::DATABASES
    }

    /// It takes names only: a file is installed by rpm, which refuses what lacks a dependency.
    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        match *operation {
            Operation::Install(packages) => {
                let (names, files) = split(packages);
                let mut work =
                    rpm::work("tdnf", "upgrade", &Operation::Install(&names)).unwrap_or_default();
                work.commands.extend(Work::on(&["rpm", "-U"], &files).unwrap_or_default().commands);
                (!work.commands.is_empty()).then_some(work)
            }
            ref other => rpm::work("tdnf", "upgrade", other),
        }
    }
}
