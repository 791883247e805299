//! apk.

use super::{Cause, Operation, PackageManager, Repository, Sign, Work};

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

    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        match *operation {
            Operation::Refresh => Some(Work::command(&["apk", "update"], &[])),
            Operation::Install(packages) => Work::on(&["apk", "add"], packages),
            Operation::Upgrade([]) => Some(Work::command(&["apk", "upgrade"], &[])),
            Operation::Upgrade(packages) => Work::on(&["apk", "add", "--upgrade"], packages),
            Operation::Reinstall(packages) => Work::on(&["apk", "fix", "--reinstall"], packages),
            Operation::Remove(packages) => Work::on(&["apk", "del"], packages),
            Operation::Purge(packages) => Work::on(&["apk", "del", "--purge"], packages),
            Operation::Clean => Some(Work::command(&["sh", "-c", "rm -rf /var/cache/apk/*"], &[])),
            Operation::Owner(path) => {
                Some(Work::command(&["apk", "info", "--who-owns", path], &[]))
            }
            Operation::Version(name) => {
                Some(Work::command(&["apk", "list", "--installed", name], &[]))
            }
            Operation::Files(name) => {
                Some(Work::command(&["apk", "info", "--contents", name], &[]))
            }
            Operation::InstallFiles(files) => Work::on(&["apk", "add", "--no-network"], files),
            Operation::ReinstallFiles(files) => {
                Work::on(&["apk", "add", "--no-network", "--force-refresh"], files)
            }
            Operation::List => Some(Work::command(
                &["sh", "-c", "apk info -v | sed 's/-\\([^-]*-r[0-9]*\\)$/\\t\\1/'"],
                &[],
            )),
            Operation::InstallNoDeps(_) | Operation::MarkAutomatic(_) | Operation::Describe(_) => {
                None
            }
            Operation::AddRepository(repository) => add(repository),
        }
    }

    /// With the keys and by the repositories of the system that it runs on.
    fn outside(&self, root: &str, packages: &[&str]) -> Option<Work> {
        let own = ["--keys-dir", "/etc/apk/keys", "--repositories-file", "/etc/apk/repositories"];
        let command = [&["apk", "--root", root][..], &own, &["--no-cache", "add", "--initdb"]];
        Work::on(&command.concat(), packages)
    }

    fn records(&self) -> &'static [&'static str] {
        &["/lib/apk", "/usr/lib/apk", "/etc/apk/world", "/var/log/apk.log"]
    }

    fn signs(&self) -> &'static [Sign] {
        &SIGNS
    }
}

/// apk 2 and 3 both read this directory's files as well. What is not signed is let through by an option for
/// all repositories only, so that none of these is added.
fn add(repository: &Repository<'_>) -> Option<Work> {
    let Repository { name, url, key, .. } = repository;
    let work = Work::default().file(format!("/etc/apk/keys/{name}.rsa.pub"), (*key)?.to_owned());
    Some(work.file(format!("/etc/apk/repositories.d/{name}.list"), format!("{url}\n")))
}

const SIGNS: [Sign; 9] = [
    Sign { says: "UNTRUSTED signature", means: Cause::Signature },
    Sign { says: "BAD signature", means: Cause::Signature },
    Sign { says: "trying to overwrite", means: Cause::Conflict },
    Sign { says: "required by:", means: Cause::Dependency },
    Sign { says: "breaks:", means: Cause::Dependency },
    Sign { says: "no such package", means: Cause::NotFound },
    Sign { says: "v2 package format error", means: Cause::Damaged },
    Sign { says: "script exited with error", means: Cause::Script },
    Sign { says: "temporary error (try again later)", means: Cause::Unreachable },
];
