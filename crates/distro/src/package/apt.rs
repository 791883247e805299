//! apt.

use super::PackageManager;

/// apt-get(8): Debian, Ubuntu and their kin.
pub(super) struct Apt;

impl PackageManager for Apt {
    fn name(&self) -> &'static str {
        "apt"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/bin/apt-get"]
    }

    /// dpkg's list of its own files: other distributions package dpkg with an empty
    /// database as a tool, but only on a system that it manages has it installed itself.
    fn databases(&self) -> &'static [&'static str] {
        &["/var/lib/dpkg/info/dpkg.list"]
    }
}
