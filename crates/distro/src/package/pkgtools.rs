//! pkgtools.

use super::PackageManager;

/// installpkg(8): Slackware.
pub(super) struct Pkgtools;

impl PackageManager for Pkgtools {
    fn name(&self) -> &'static str {
        "pkgtools"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/sbin/installpkg", "/usr/sbin/installpkg"]
    }

    /// The second was the place until 14.2.
    fn databases(&self) -> &'static [&'static str] {
        &["/var/lib/pkgtools/packages", "/var/log/packages"]
    }
}
