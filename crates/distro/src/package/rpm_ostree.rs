//! rpm-ostree.

use super::{Operation, PackageManager, Sign, Work, rpm};

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

    /// Layers packages over the deployed system; in a container that is done at once
    /// (rpm-ostree's documentation, "OSTree native containers"), where there is nobody to be told to read lists,
    /// which each installation reads anew.
    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        match *operation {
            Operation::Refresh => Some(Work::command(
                &["sh", "-c", "test ! -e /run/ostree-booted || exec rpm-ostree refresh-md"],
                &[],
            )),
            Operation::Install(packages) => {
                let install = ["rpm-ostree", "install", "--assumeyes", "--idempotent"];
                rpm::checked(packages, Work::on(&install, packages))
            }
            Operation::Upgrade([]) => Some(Work::command(&["rpm-ostree", "upgrade"], &[])),
            Operation::Remove(packages) | Operation::Purge(packages) => {
                Work::on(&["rpm-ostree", "uninstall", "--assumeyes"], packages)
            }
            // On a booted system this option is refused.
            Operation::InstallFiles(files) => {
                let script = "test -e /run/ostree-booted || set -- '--disablerepo=*' \"$@\"
                    exec rpm-ostree install --assumeyes \"$@\"";
                rpm::checked(files, Work::on(&["sh", "-c", script, "rpm-ostree"], files))
            }
            Operation::Clean => Some(Work::command(&["rpm-ostree", "cleanup", "--repomd"], &[])),
            Operation::Upgrade(_) | Operation::Reinstall(_) | Operation::InstallNoDeps(_) => None,
            Operation::AddRepository(repository) => {
                Some(rpm::repository("/etc/yum.repos.d", repository, ""))
            }
            ref other => rpm::query(other),
        }
    }

    fn records(&self) -> &'static [&'static str] {
        &rpm::RECORDS
    }

    fn signs(&self) -> &'static [Sign] {
        &rpm::SIGNS
    }
}
