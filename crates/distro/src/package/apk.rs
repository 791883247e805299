//! apk.

use super::PackageManager;

/// apk(8): Alpine and its kin.
pub(super) struct Apk;

impl PackageManager for Apk {
    fn name(&self) -> &'static str {
        "apk"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/sbin/apk", "/usr/sbin/apk", "/usr/bin/apk"]
    }

    /// The second is where apk 3 keeps it.
    fn databases(&self) -> &'static [&'static str] {
        &["/lib/apk/db/installed", "/usr/lib/apk/db/installed"]
    }
}
