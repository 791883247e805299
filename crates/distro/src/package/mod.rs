//! The package managers that an image may have.

use sys::rooted::Root;

mod apk;
mod apt;
mod dnf;
mod dnf5;
mod emerge;
mod kiss;
mod microdnf;
mod nix;
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

    /// How it installs and removes packages that lie there as files; `None` where that is not known yet.
    fn operations(&self) -> Option<&'static dyn Operations> {
        None
    }
}

/// What a package manager is told to do: command lines, none of which asks anybody or uses a network.
pub trait Operations: Sync {
    /// Installs or upgrades to packages, by their paths, and everything in the order that it takes.
    fn install(&self, paths: &[String]) -> Vec<String>;

    /// Installs the same again.
    fn reinstall(&self, paths: &[String]) -> Vec<String>;

    /// Notes that nobody asked for these, so that they go with those that need them.
    fn mark_automatic(&self, names: &[String]) -> Vec<String>;

    /// Removes packages, with what nobody needs any more; `purge` with their configuration.
    fn remove(&self, names: &[String], purge: bool) -> Vec<String>;

    /// Why it failed, from what it printed.
    fn explain(&self, output: &str) -> Option<Explanation>;
}

/// Why a package manager failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// One line, or that and what a script printed.
    pub text: String,
    /// It is the packages' fault, not that of where they were to be installed.
    pub of_package: bool,
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

/// Finds the package manager of `root`; `None` where there is none, as in most application
/// images, or where it may not be looked at.
pub fn find(root: &Root) -> Option<&'static dyn PackageManager> {
    let any = |paths: &[&str]| paths.iter().any(|path| root.exists(path).unwrap_or(false));
    PACKAGE_MANAGERS.iter().copied().find(|kind| any(kind.programs()) && any(kind.databases()))
}
