//! nix.

use super::{Cause, Operation, PackageManager, Repository, Sign, Work};

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

    /// In the user's profile, from the channel that is called nixpkgs. A file is what `nix-store --export` wrote.
    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        let by_attribute = |verb: &str, packages: &[&str]| {
            let names: Vec<String> = packages.iter().map(|p| format!("nixpkgs.{p}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            Work::on(&["nix-env", verb, "--attr"], &names)
        };
        let script = |text: &str, words: &[&str]| {
            Some(Work::command(&["sh", "-ec", text, "nix"], words)).filter(|_| !words.is_empty())
        };
        match *operation {
            Operation::Refresh => Some(Work::command(&["nix-channel", "--update"], &[])),
            Operation::Install(packages) if packages.iter().any(|p| p.contains('/')) => None,
            Operation::Install(packages) | Operation::Reinstall(packages) => {
                by_attribute("--install", packages)
            }
            Operation::InstallFiles(files) | Operation::ReinstallFiles(files) => {
                script(IMPORT, files)
            }
            Operation::Upgrade([]) => Some(Work::command(&["nix-env", "--upgrade"], &[])),
            Operation::Upgrade(packages) => by_attribute("--upgrade", packages),
            Operation::Remove(packages) | Operation::Purge(packages) => {
                Work::on(&["nix-env", "--uninstall"], packages)
            }
            Operation::Clean => Some(Work::command(&["nix-collect-garbage", "--delete-old"], &[])),
            Operation::Version(name) => script(VERSION, &[name]),
            Operation::Files(name) => script(FILES, &[name]),
            Operation::Owner(path) => script(OWNER, &[path]),
            Operation::List => script(LIST, &["all"]),
            Operation::AddRepository(repository) => Some(add(repository)),
            Operation::InstallNoDeps(_) | Operation::MarkAutomatic(_) | Operation::Describe(_) => {
                None
            }
        }
    }

    fn records(&self) -> &'static [&'static str] {
        &["/nix/var", "/root/.nix-"]
    }

    fn signs(&self) -> &'static [Sign] {
        &SIGNS
    }
}

/// Paths come with what they need, in the order in which they can be registered: the last is the package.
const IMPORT: &str = "for file; do
    paths=$(nix-store --import < \"$file\")
    nix-env --install \"$(echo \"$paths\" | tail -n 1)\"
done";

/// A name's version starts at the first digit after a dash (the Nix manual, "builtins.parseDrvName").
const LIST: &str = "nix-env --query | sed 's/-\\([0-9].*\\)$/\\t\\1/'";
const VERSION: &str = "nix-env --query \"$1\" | sed 's/^[^0-9]*-\\([0-9]\\)/\\1/'";
const FILES: &str = "path=$(nix-env --query --no-name --out-path \"$1\" | head -n 1)
find \"${path##*=}/\" ! -type d";
const OWNER: &str = "path=$(readlink -e \"$1\")
case $path in /nix/store/*) ;; *) echo \"$1 is of no package\" >&2; exit 1 ;; esac
path=${path#/nix/store/}
path=${path%%/*}
echo \"${path#*-}\" | sed 's/-[0-9].*$//'";

/// A cache of what the channels describe, and the key that signs it (nix.conf(5), "extra-substituters").
fn add(repository: &Repository<'_>) -> Work {
    let file = format!("/etc/nix/{}.conf", repository.name);
    let url = repository.url;
    let text = match repository.key {
        Some(key) => {
            format!("extra-substituters = {url}\nextra-trusted-public-keys = {}\n", key.trim())
        }
        // The Nix manual, "Store types": a setting of each store.
        None => format!("extra-substituters = {url}?trusted=true\n"),
    };
    let include = format!("!include {file}");
    Work::command(&["sh", "-ec", INCLUDE, "sh", &include], &[]).file(file, text)
}

const INCLUDE: &str = "touch /etc/nix/nix.conf
grep -qxF \"$1\" /etc/nix/nix.conf || printf '\\n%s\\n' \"$1\" >> /etc/nix/nix.conf";

const SIGNS: [Sign; 10] = [
    Sign { says: "not signed by any of the keys", means: Cause::Signature },
    Sign { says: "lacks a signature by a trusted key", means: Cause::Signature },
    Sign { says: "lacks a valid signature", means: Cause::Signature },
    Sign { says: "hash mismatch", means: Cause::Signature },
    Sign { says: "in selection path", means: Cause::NotFound },
    Sign { says: "is not valid", means: Cause::Dependency },
    Sign { says: "' missing", means: Cause::Dependency },
    Sign { says: "There is a conflict for the following files", means: Cause::Conflict },
    Sign { says: "builder for '", means: Cause::Script },
    Sign { says: "unable to download", means: Cause::Unreachable },
];
