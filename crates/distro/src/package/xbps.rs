//! xbps.

use super::PackageManager;

/// xbps-install(1): Void.
pub(super) struct Xbps;

impl PackageManager for Xbps {
    fn name(&self) -> &'static str {
        "xbps"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/bin/xbps-install"]
    }

    fn databases(&self) -> &'static [&'static str] {
        &["/var/db/xbps"]
    }
}
