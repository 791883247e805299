//! apk.

use super::operation::version_in;
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
                Some(Work::command(&["apk", "info", "--quiet", "--who-owns", path], &[]))
            }
            Operation::Version(name) => Some(version_in(LIST, name)),
            Operation::Files(name) => {
                let script = "apk info --quiet --contents \"$0\" | sed -n 's,^[^/],/&,p'";
                Some(Work::command(&["sh", "-c", script, name], &[]))
            }
            Operation::InstallFiles(files) => Work::on(&["apk", "add", "--no-network"], files),
            Operation::ReinstallFiles(files) => {
                let mut work = Work::on(&["apk", "verify"], files)?;
                let script = format!("{DESCRIBE}\n{REINSTALL}");
                work.commands.extend(Work::on(&["sh", "-ec", &script, "apk"], files)?.commands);
                Some(work)
            }
            Operation::Describe(file) => {
                let script = format!("{DESCRIBE}\ndescribe \"$1\"");
                Some(Work::command(&["sh", "-c", &script, "apk", file], &[]))
            }
            Operation::List => Some(Work::command(&["sh", "-c", LIST], &[])),
            Operation::InstallNoDeps(_) | Operation::MarkAutomatic(_) => None,
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

const LIST: &str = "apk info -v | sed 's/-\\([^-]*-r[0-9]*\\)$/\\t\\1/'";

/// Name and version by the file that each package of the second format has (apk-package(5)).
const DESCRIBE: &str = "describe() { tar -xzOf \"$1\" .PKGINFO 2>/dev/null | awk -F' = ' '
$1 == \"pkgname\" { n = $2 } $1 == \"pkgver\" { v = $2 } END { if (n == \"\") exit 1; print n \"\\t\" v }'; }";

/// What is installed already is not added again, and `fix` (apk-fix(8)) takes packages of a repository only: so
/// these become one. Their own signatures were looked at before; the repository has none.
const REINSTALL: &str = "d=$(mktemp -d)
a=$d/$(apk --print-arch)
mkdir \"$a\"
names=
for file; do
    told=$(describe \"$file\")
    cp \"$file\" \"$a/$(echo \"$told\" | tr '\\t' -).apk\"
    names=\"$names $(echo \"$told\" | cut -f1)\"
done
apk index --quiet --allow-untrusted --output \"$a/APKINDEX.tar.gz\" \"$a\"/*.apk
apk fix --reinstall --no-network --allow-untrusted --repository \"$d\" $names
rm -rf \"$d\"";

const SIGNS: [Sign; 11] = [
    Sign { says: "UNTRUSTED signature", means: Cause::Signature },
    Sign { says: "BAD signature", means: Cause::Signature },
    Sign { says: "trying to overwrite", means: Cause::Conflict },
    Sign { says: "required by:", means: Cause::Dependency },
    Sign { says: "breaks:", means: Cause::Dependency },
    Sign { says: "no such package", means: Cause::NotFound },
    Sign { says: "v2 package integrity error", means: Cause::Signature },
    Sign { says: "v2 package format error", means: Cause::Damaged },
    Sign { says: "file format is invalid or inconsistent", means: Cause::Damaged },
    Sign { says: "exited with error", means: Cause::Script },
    Sign { says: "temporary error (try again later)", means: Cause::Unreachable },
];
