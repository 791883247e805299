//! microdnf.

use super::{PackageManager, rpm};

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
}
