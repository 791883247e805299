//! zypper.

use super::{Operation, PackageManager, Work, rpm};

/// zypper(8): SUSE's.
pub(super) struct Zypper;

impl PackageManager for Zypper {
    fn name(&self) -> &'static str {
        "zypper"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/bin/zypper"]
    }

    fn databases(&self) -> &'static [&'static str] {
        &rpm::DATABASES
    }

    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        let zypper = |verb: &[&str], packages: &[&str]| {
            Work::on(&[&["zypper", "--non-interactive"], verb].concat(), packages)
        };
        match *operation {
            Operation::Refresh => zypper(&[], &["refresh"]),
            Operation::Install(packages) => zypper(&["install"], packages),
            Operation::Upgrade([]) => zypper(&[], &["update"]),
            Operation::Upgrade(packages) => zypper(&["update"], packages),
            Operation::Reinstall(packages) => zypper(&["install", "--force"], packages),
            Operation::Remove(packages) | Operation::Purge(packages) => {
                zypper(&["remove"], packages)
            }
            Operation::AddRepository(repository) => {
                Some(rpm::repository("/etc/zypp/repos.d", repository))
            }
            ref other => rpm::query(other),
        }
    }
}
