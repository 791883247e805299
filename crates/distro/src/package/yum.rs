//! yum.

use super::{Operation, PackageManager, Sign, Work, rpm};

/// yum(8), version 3: CentOS 7, Amazon Linux 2. Later systems have the name as a link
/// to dnf, which is recognised before.
pub(super) struct Yum;

impl PackageManager for Yum {
    fn name(&self) -> &'static str {
        "yum"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/bin/yum"]
    }

    fn databases(&self) -> &'static [&'static str] {
        &rpm::DATABASES
    }

    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        if *operation == Operation::Refresh {
            let mut work = Work::command(&["yum", "-y", "clean", "expire-cache"], &[]);
            work.commands.extend(Work::command(&["yum", "-y", "makecache"], &[]).commands);
            return Some(work);
        }
        rpm::work("yum", "update", operation)
    }

    fn outside(&self, root: &str, packages: &[&str]) -> Option<Work> {
        rpm::outside("yum", root, packages)
    }

    fn records(&self) -> &'static [&'static str] {
        &rpm::RECORDS
    }

    fn signs(&self) -> &'static [Sign] {
        &rpm::SIGNS
    }
}
