//! microdnf.

use super::{Operation, PackageManager, Sign, Work, rpm};

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

    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        rpm::work_by_name("microdnf", "upgrade", operation)
    }

    fn records(&self) -> &'static [&'static str] {
        &rpm::RECORDS
    }

    fn signs(&self) -> &'static [Sign] {
        &rpm::SIGNS
    }
}
