//! tdnf.

use super::{Operation, PackageManager, Sign, Work, rpm};

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

    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        rpm::work_by_name("tdnf", "upgrade", operation)
    }

    fn records(&self) -> &'static [&'static str] {
        &rpm::RECORDS
    }

    fn signs(&self) -> &'static [Sign] {
        &rpm::SIGNS
    }
}
