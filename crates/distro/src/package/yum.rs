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
        rpm::work("yum", "update", operation)
    }

    fn signs(&self) -> &'static [Sign] {
        &rpm::SIGNS
    }
}
