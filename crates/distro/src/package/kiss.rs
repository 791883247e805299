//! kiss.

use super::PackageManager;

/// kiss(1): KISS Linux.
pub(super) struct Kiss;

impl PackageManager for Kiss {
    fn name(&self) -> &'static str {
        "kiss"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/bin/kiss"]
    }

    fn databases(&self) -> &'static [&'static str] {
        &["/var/db/kiss"]
    }
}
