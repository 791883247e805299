//! microdnf.

use super::{Operation, PackageManager, Work, rpm, split};

/// microdnf(8): Red Hat's minimal images, which have no other.
pub(super) struct Microdnf;

impl PackageManager for Microdnf {
    fn name(&self) -> &'static str {
        "microdnf"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/bin/microdnf"]
    }

    fn databases(&self) -> &'static [&'static str] {
        &rpm::DATABASES
    }

    /// It takes names only: a file is installed by rpm, which refuses what lacks a dependency.
    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        match *operation {
            Operation::Install(packages) => {
                let (names, files) = split(packages);
                let mut work = rpm::work("microdnf", "upgrade", &Operation::Install(&names))
                    .unwrap_or_default();
                work.commands.extend(Work::on(&["rpm", "-U"], &files).unwrap_or_default().commands);
                (!work.commands.is_empty()).then_some(work)
            }
            ref other => rpm::work("microdnf", "upgrade", other),
        }
    }
}
