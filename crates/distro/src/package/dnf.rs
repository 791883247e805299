//! dnf.

use super::{Operation, PackageManager, Sign, Work, rpm};

/// dnf(8), version 4: Red Hat's and Fedora's until 40.
pub(super) struct Dnf;

impl PackageManager for Dnf {
    fn name(&self) -> &'static str {
        "dnf"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/bin/dnf"]
    }

    fn databases(&self) -> &'static [&'static str] {
        &rpm::DATABASES
    }

    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        rpm::work("dnf", "upgrade", operation)
    }

    fn outside(&self, root: &str, packages: &[&str]) -> Option<Work> {
        rpm::outside("dnf", root, packages)
    }

    fn records(&self) -> &'static [&'static str] {
        &rpm::RECORDS
    }

    fn signs(&self) -> &'static [Sign] {
        &rpm::SIGNS
    }
}
