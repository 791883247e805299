//! apk.

use super::{Operation, PackageManager, Work};

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
            Operation::Owner(path) => {
                Some(Work::command(&["apk", "info", "--who-owns", path], &[]))
            }
            Operation::Version(name) => {
                Some(Work::command(&["apk", "list", "--installed", name], &[]))
            }
            Operation::Files(name) => {
                Some(Work::command(&["apk", "info", "--contents", name], &[]))
            }
            Operation::InstallNoDeps(_) => None,
            // apk 2 and 3 both read this directory's files as well.
            Operation::AddRepository(repository) => Some(
                Work::default()
                    .file(
                        format!("/etc/apk/keys/{}.rsa.pub", repository.name),
                        repository.key.to_owned(),
                    )
                    .file(
                        format!("/etc/apk/repositories.d/{}.list", repository.name),
                        format!("{}\n", repository.url),
                    ),
            ),
        }
    }
}
