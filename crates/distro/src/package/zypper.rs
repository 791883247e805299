//! zypper.

use super::{PackageManager, rpm};

/// zypper(8): SUSE's.
pub(super) struct Zypper;

impl PackageManager for Zypper {
    fn name(&self) -> &'static str {
        "zypper"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/bin/zypper"]
    }

    fn databases(&self) -> &'static [&'static str] {
        &rpm::DATABASES
    }
}
