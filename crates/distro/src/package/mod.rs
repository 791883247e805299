//! The package managers that an image may have.

use sys::rooted::Root;

pub use explanation::{Cause, Explanation, Sign};
use operation::split;
pub use operation::{Operation, Repository, Work, work, work_outside};

mod apk;
mod apt;
mod dnf;
mod dnf5;
mod emerge;
mod explanation;
mod kiss;
mod microdnf;
mod nix;
mod operation;
mod pacman;
mod pkgtools;
mod rpm;
mod rpm_ostree;
mod tdnf;
mod xbps;
mod yum;
mod zypper;

/// A kind of package manager.
pub trait PackageManager: Sync {
    /// What it is called, in lower case.
    fn name(&self) -> &'static str;

    /// Absolute paths of its program, of which one exists where it is installed.
    fn programs(&self) -> &'static [&'static str];

    /// Absolute paths of its database, of which one exists where it manages the system.
    /// Hosts that build images have several package managers, but are managed by one.
    fn databases(&self) -> &'static [&'static str];

    /// Variables that its commands need in order not to ask.
    fn environment(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// What an operation takes; `None` where it cannot be done. To be asked through [`work`], which
    /// checks the names.
    fn work(&self, operation: &Operation<'_>) -> Option<Work>;

    /// The commands by which packages are installed, with what they depend on, in the system whose root is at
    /// that path of the one with this manager, by the repositories of the latter; `None` where it cannot. To be
    /// asked through [`work_outside`], which checks the names.
    fn outside(&self, _root: &str, _packages: &[&str]) -> Option<Work> {
        None
    }

    /// What it prints where it fails, and what that means; what comes first counts first.
    fn signs(&self) -> &'static [Sign] {
        &[]
    }

    /// Paths, and beginnings of paths, of what it writes down itself: its records, caches and logs.
    fn records(&self) -> &'static [&'static str] {
        &[]
    }

    /// What went wrong although it ended well, from what it printed: some go on after a script that failed.
    fn complaint(&self, output: &str) -> Option<Explanation> {
        explanation::of_scripts(self.signs(), output)
    }

    /// Why it failed, from what it printed.
    fn explain(&self, output: &str) -> Option<Explanation> {
        explanation::by_signs(self.signs(), output)
    }
}

/// Every package manager there is. The first that both is installed and manages the
/// system has it: front ends of one database stand in the order of preference.
pub const PACKAGE_MANAGERS: &[&dyn PackageManager] = &[
    &apt::Apt,
    &rpm_ostree::RpmOstree,
    &dnf5::Dnf5,
    &dnf::Dnf,
    &tdnf::Tdnf,
    &yum::Yum,
    &microdnf::Microdnf,
    &zypper::Zypper,
    &pacman::Pacman,
    &apk::Apk,
    &xbps::Xbps,
    &emerge::Emerge,
    &pkgtools::Pkgtools,
    &kiss::Kiss,
    &nix::Nix,
];

/// The package manager of that name.
pub fn by_name(name: &str) -> Option<&'static dyn PackageManager> {
    PACKAGE_MANAGERS.iter().copied().find(|kind| kind.name() == name)
}

/// Finds the package manager of `root`; `None` where there is none, as in most application
/// images, or where it may not be looked at.
pub fn find(root: &Root) -> Option<&'static dyn PackageManager> {
    let any = |paths: &[&str]| paths.iter().any(|path| root.exists(path).unwrap_or(false));
    PACKAGE_MANAGERS.iter().copied().find(|kind| any(kind.programs()) && any(kind.databases()))
}
