//! RPM, whose database and queries several package managers share.

use super::{Cause, Operation, Repository, Sign, Work, split};

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

/// What dnf(8) and those that speak like it do; `upgrade` is their word for bringing up to date.
pub(super) fn work(program: &str, upgrade: &str, operation: &Operation<'_>) -> Option<Work> {
    let run = |verb: &str, packages: &[&str]| Work::on(&[program, "-y", verb], packages);
    match *operation {
        // What they have counts as fresh for days (dnf.conf(5), "metadata_expire").
        Operation::Refresh => Some(Work::command(&[program, "-y", "--refresh", "makecache"], &[])),
        Operation::Install(packages) => checked(packages, run("install", packages)),
        Operation::InstallFiles(files) => {
            checked(files, Work::on(&[program, "-y", "--disablerepo=*", "install"], files))
        }
        Operation::ReinstallFiles(files) => {
            checked(files, Work::on(&[program, "-y", "--disablerepo=*", "reinstall"], files))
        }
        Operation::Upgrade(packages) => Some(Work::command(&[program, "-y", upgrade], packages)),
        Operation::Reinstall(packages) => run("reinstall", packages),
        Operation::Remove(packages) | Operation::Purge(packages) => run("remove", packages),
        Operation::Clean => Some(Work::command(&[program, "-y", "clean", "all"], &[])),
        Operation::AddRepository(added) => Some(repository("/etc/yum.repos.d", added, "")),
        ref other => query(other),
    }
}

/// Checks the files among the packages first, by rpmkeys(8): those that speak like dnf look at no signature of a
/// file, or refuse one that nobody signed (dnf.conf(5), "localpkg_gpgcheck"). Files that nobody signed are what
/// their makers have; those that are signed must be by a key that is known.
pub(super) fn checked(packages: &[&str], install: Option<Work>) -> Option<Work> {
    let files: Vec<&str> = packages.iter().copied().filter(|p| p.starts_with('/')).collect();
    let mut work = Work::on(&["rpmkeys", "--checksig"], &files).unwrap_or_default();
    work.commands.extend(install?.commands);
    Some(work)
}

/// The same for those that take names only: a file is installed by rpm, which refuses what lacks a
/// dependency.
pub(super) fn work_by_name(
    program: &str,
    upgrade: &str,
    operation: &Operation<'_>,
) -> Option<Work> {
    let packages = match *operation {
        Operation::Install(packages) => packages,
        Operation::InstallFiles(files) => return checked(files, Work::on(&["rpm", "-U"], files)),
        Operation::ReinstallFiles(files) => {
            return checked(files, Work::on(&["rpm", "-U", "--replacepkgs"], files));
        }
        _ => return work(program, upgrade, operation),
    };
    let (names, files) = split(packages);
    let mut done = work(program, upgrade, &Operation::Install(&names)).unwrap_or_default();
    let install = checked(&files, Work::on(&["rpm", "-U"], &files));
    done.commands.extend(install.unwrap_or_default().commands);
    (!done.commands.is_empty()).then_some(done)
}

/// In another system's root (dnf(8), "--installroot"): keys are looked for where dnf runs, and so are the
/// repositories by this, which else are the other system's where it has some.
pub(super) fn outside(program: &str, root: &str, packages: &[&str]) -> Option<Work> {
    let there = format!("--installroot={root}");
    let run = |words: &[&str], packages: &[&str]| {
        let common = [program, "-y", &there, "--setopt=reposdir=/etc/yum.repos.d"];
        Work::command(&[&common, words].concat(), packages)
    };
    let mut work = run(&["--setopt=install_weak_deps=0", "install"], packages);
    work.commands.extend(run(&["clean", "all"], &[]).commands);
    Some(work)
}

/// A package of a list, in rpm's words.
const LISTED: &str = "%{NAME}\\t%{VERSION}-%{RELEASE}\\n";

/// What rpm, dnf and those that share their libraries write down themselves.
pub(super) const RECORDS: [&str; 10] = [
    "/usr/lib/sysimage/dnf",
    "/usr/lib/sysimage/libdnf5",
    "/usr/lib/sysimage/rpm",
    "/usr/share/rpm",
    "/var/lib/dnf",
    "/var/lib/rpm",
    "/var/lib/yum",
    "/var/log/dnf",
    "/var/log/hawkey.log",
    "/var/log/yum.log",
];

/// What rpm, dnf and those that speak like them print where they fail.
pub(super) const SIGNS: [Sign; 30] = [
    Sign { says: "conflicts with file from package", means: Cause::Conflict },
    Sign { says: "conflicts between attempted installs", means: Cause::Conflict },
    Sign { says: "nothing provides ", means: Cause::Dependency },
    Sign { says: " is needed by ", means: Cause::Dependency },
    Sign { says: "requires ", means: Cause::Dependency },
    Sign { says: " conflicts with ", means: Cause::Conflict },
    Sign { says: "is not signed", means: Cause::Signature },
    Sign { says: "is not installed. Failing package is", means: Cause::Signature },
    Sign { says: "GPG check FAILED", means: Cause::Signature },
    Sign { says: "Signature verification failed", means: Cause::Signature },
    Sign { says: "NOKEY", means: Cause::Signature },
    Sign { says: " NOT OK", means: Cause::Signature },
    Sign { says: "digest: BAD", means: Cause::Signature },
    Sign { says: "checksum doesn't match", means: Cause::Signature },
    Sign { says: "incorrect checksum", means: Cause::Signature },
    Sign { says: "but expected", means: Cause::Signature },
    Sign { says: "not an rpm package", means: Cause::Damaged },
    Sign { says: "scriptlet failed", means: Cause::Script },
    Sign { says: "No match for argument", means: Cause::NotFound },
    Sign { says: "Unable to find a match", means: Cause::NotFound },
    // microdnf, and tdnf.
    Sign { says: "No package matches", means: Cause::NotFound },
    Sign { says: "No matching packages", means: Cause::NotFound },
    Sign { says: "RPM not signed", means: Cause::Signature },
    Sign { says: "public key is unavailable", means: Cause::Signature },
    Sign { says: "failed to match with known keys", means: Cause::Signature },
    Sign { says: "File checksum does not match", means: Cause::Signature },
    Sign { says: "more space needed on the", means: Cause::DiskFull },
    Sign { says: "Failed to download metadata", means: Cause::Unreachable },
    Sign { says: "Cannot download", means: Cause::Unreachable },
    Sign { says: "Cannot prepare internal mirrorlist", means: Cause::Unreachable },
];

/// What rpm(8) itself does.
pub(super) fn query(operation: &Operation<'_>) -> Option<Work> {
    let rpm =
        |options: &[&str], last: &str| Some(Work::command(&[&["rpm"], options].concat(), &[last]));
    match *operation {
        Operation::InstallNoDeps(files) => Work::on(&["rpm", "-U", "--nodeps"], files),
        Operation::Owner(path) => rpm(&["-q", "--queryformat", "%{NAME}\\n", "-f"], path),
        Operation::Version(name) => rpm(&["-q", "--queryformat", "%{VERSION}-%{RELEASE}\\n"], name),
        Operation::Files(name) => rpm(&["-q", "--list"], name),
        Operation::List => Some(Work::command(&["rpm", "-qa", "--queryformat", LISTED], &[])),
        Operation::Describe(file) => rpm(&["-q", "--queryformat", LISTED, "-p"], file),
        _ => None,
    }
}

/// A repository's file (dnf.conf(5), "Repo Options") and its key, which signs every package; `checked` stands
/// there where it has one.
pub(super) fn repository(directory: &str, repository: &Repository<'_>, checked: &str) -> Work {
    let (name, url) = (repository.name, repository.url);
    let key = format!("/etc/pki/rpm-gpg/{name}.asc");
    let file = format!("{directory}/{name}.repo");
    // Else dnf would go on without one that it cannot reach, where its configuration says so.
    let text = format!("[{name}]\nname={name}\nbaseurl={url}\nenabled=1\nskip_if_unavailable=0\n");
    let Some(content) = repository.key else {
        return Work::default().file(file, format!("{text}gpgcheck=0\n"));
    };
    let text = format!("{text}gpgcheck=1\ngpgkey=file://{key}\n{checked}");
    let import = Work::command(&["rpm", "--import", &key], &[]);
    import.file(key.clone(), content.to_owned()).file(file, text)
}
