//! emerge.

use super::PackageManager;

/// emerge(1): Gentoo's Portage.
pub(super) struct Emerge;

impl PackageManager for Emerge {
    fn name(&self) -> &'static str {
        "emerge"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/bin/emerge"]
    }

    fn databases(&self) -> &'static [&'static str] {
        &["/var/db/pkg"]
    }
}
