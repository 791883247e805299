//! nix.

use super::PackageManager;

/// nix-env(1): NixOS, and images made of Nix alone.
pub(super) struct Nix;

impl PackageManager for Nix {
    fn name(&self) -> &'static str {
        "nix"
    }

    fn programs(&self) -> &'static [&'static str] {
        &[
            "/run/current-system/sw/bin/nix-env",
            "/nix/var/nix/profiles/system/sw/bin/nix-env",
            "/nix/var/nix/profiles/default/bin/nix-env",
            "/root/.nix-profile/bin/nix-env",
        ]
    }

    fn databases(&self) -> &'static [&'static str] {
        &["/nix/var/nix/db/db.sqlite"]
    }
}
