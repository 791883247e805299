//! RPM's database, which several package managers share.

/// Its files: sqlite, ndb and Berkeley DB, where Fedora 36 and SUSE moved them
/// (<https://fedoraproject.org/wiki/Changes/RelocateRPMToUsr>) and where they were before.
/// The directory alone tells nothing: Debian's package rpm has one.
pub(super) const DATABASES: [&str; 6] = [
    "/usr/lib/sysimage/rpm/rpmdb.sqlite",
    "/usr/lib/sysimage/rpm/Packages.db",
    "/var/lib/rpm/rpmdb.sqlite",
    "/var/lib/rpm/Packages.db",
    "/var/lib/rpm/Packages",
    "/usr/share/rpm/rpmdb.sqlite",
];
