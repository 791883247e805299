//! dnf5.

use super::{Operation, PackageManager, Sign, Work, rpm};

/// dnf5(8): Fedora from 41 on.
pub(super) struct Dnf5;

impl PackageManager for Dnf5 {
    fn name(&self) -> &'static str {
        "dnf5"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/bin/dnf5"]
    }

    fn databases(&self) -> &'static [&'static str] {
        &rpm::DATABASES
    }

    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        rpm::work("dnf5", "upgrade", operation)
    }

    fn outside(&self, root: &str, packages: &[&str]) -> Option<Work> {
        rpm::outside("dnf5", root, packages)
    }

    fn records(&self) -> &'static [&'static str] {
        &rpm::RECORDS
    }

    fn signs(&self) -> &'static [Sign] {
        &rpm::SIGNS
    }
}
