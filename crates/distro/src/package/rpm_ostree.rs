//! rpm-ostree.

use super::PackageManager;

/// rpm-ostree(1): Fedora's image-based systems, where dnf changes nothing that lasts.
pub(super) struct RpmOstree;

impl PackageManager for RpmOstree {
    fn name(&self) -> &'static str {
        "rpm-ostree"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/bin/rpm-ostree"]
    }

    /// The repository that the system was deployed from: rpm-ostree alone is also a tool
    /// to build such systems with.
    fn databases(&self) -> &'static [&'static str] {
        &["/sysroot/ostree/repo", "/ostree/repo"]
    }
}
