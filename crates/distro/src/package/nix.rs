//! nix.

use super::{Cause, Operation, PackageManager, Sign, Work};

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

    /// In the user's profile, from the channel that is called nixpkgs.
    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        let attributes = |packages: &[&str]| -> Vec<String> {
            packages.iter().map(|name| format!("nixpkgs.{name}")).collect()
        };
        match *operation {
            Operation::Refresh => Some(Work::command(&["nix-channel", "--update"], &[])),
            Operation::Install(packages) if packages.iter().any(|p| p.contains('/')) => None,
            Operation::Install(packages) | Operation::Reinstall(packages) => {
                let names = attributes(packages);
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                Work::on(&["nix-env", "--install", "--attr"], &names)
            }
            Operation::Upgrade(packages) => {
                Some(Work::command(&["nix-env", "--upgrade"], packages))
            }
            Operation::Remove(packages) | Operation::Purge(packages) => {
                Work::on(&["nix-env", "--uninstall"], packages)
            }
            Operation::Version(name) => Some(Work::command(&["nix-env", "--query", name], &[])),
            Operation::List => {
                let script = "nix-env --query | sed 's/-\\([0-9][^-]*\\)$/\\t\\1/'";
                Some(Work::command(&["sh", "-c", script], &[]))
            }
            Operation::Clean
            | Operation::InstallNoDeps(_)
            | Operation::InstallFiles(_)
            | Operation::ReinstallFiles(_)
            | Operation::MarkAutomatic(_)
            | Operation::Describe(_)
            | Operation::Owner(_)
            | Operation::Files(_)
            | Operation::AddRepository(_) => None,
        }
    }

    fn records(&self) -> &'static [&'static str] {
        &["/nix/var", "/root/.nix-"]
    }

    fn signs(&self) -> &'static [Sign] {
        &SIGNS
    }
}

const SIGNS: [Sign; 3] = [
    Sign { says: "lacks a valid signature", means: Cause::Signature },
    Sign { says: "attribute '", means: Cause::NotFound },
    Sign { says: "unable to download", means: Cause::Unreachable },
];
