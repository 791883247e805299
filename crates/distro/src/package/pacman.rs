//! pacman.

use super::PackageManager;

/// pacman(8): Arch and its kin.
pub(super) struct Pacman;

impl PackageManager for Pacman {
    fn name(&self) -> &'static str {
        "pacman"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/bin/pacman"]
    }

    /// Written with the first package; pacman as a tool on other systems has no local database.
    fn databases(&self) -> &'static [&'static str] {
        &["/var/lib/pacman/local/ALPM_DB_VERSION"]
    }
}
