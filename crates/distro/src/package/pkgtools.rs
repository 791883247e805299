//! pkgtools.

use super::{Cause, Operation, PackageManager, Sign, Work, split};

/// installpkg(8): Slackware.
pub(super) struct Pkgtools;

impl PackageManager for Pkgtools {
    fn name(&self) -> &'static str {
        "pkgtools"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/sbin/installpkg", "/usr/sbin/installpkg"]
    }

    /// The second was the place until 14.2.
    fn databases(&self) -> &'static [&'static str] {
        &["/var/lib/pkgtools/packages", "/var/log/packages"]
    }

    /// Files by pkgtools, which knows no dependencies, and names by slackpkg(8).
    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        let slackpkg = |verb: &str, packages: &[&str]| {
            Work::command(&["slackpkg", "-batch=on", "-default_answer=y", verb], packages)
        };
        let newest = |verb: &str, packages: &[&str]| {
            Work::command(&["sh", "-c", NEWEST, "pkgtools", verb], packages)
        };
        match *operation {
            Operation::Refresh => Some(slackpkg("update", &[])),
            Operation::Install(packages) => {
                let (names, files) = split(packages);
                let mut work = Work::default();
                if !names.is_empty() {
                    work = newest("install", &names);
                    work.commands.extend(script(ARE_THERE, &names)?.commands);
                }
                work.commands.extend(
                    Work::on(&["upgradepkg", "--terse", "--install-new"], &files)
                        .unwrap_or_default()
                        .commands,
                );
                (!work.commands.is_empty()).then_some(work)
            }
            // upgradepkg(8) replaces an older version; installpkg would leave both.
            Operation::InstallNoDeps(files) | Operation::InstallFiles(files) => {
                Work::on(&["upgradepkg", "--terse", "--install-new"], files)
            }
            Operation::ReinstallFiles(files) => {
                Work::on(&["upgradepkg", "--terse", "--reinstall"], files)
            }
            Operation::Upgrade([]) => Some(newest("upgrade-all", &[])),
            Operation::Upgrade(packages) => Some(newest("upgrade", packages)),
            Operation::Reinstall(packages) => Some(slackpkg("reinstall", packages)),
            Operation::Remove(packages) | Operation::Purge(packages) => {
                Work::on(&["removepkg"], packages)
            }
            Operation::List => script(LIST, &[]),
            Operation::Describe(file) => script(DESCRIBE, &[file]),
            Operation::Version(name) => script(VERSION, &[name]),
            Operation::Files(name) => script(FILES, &[name]),
            Operation::Owner(path) => script(OWNER, &[path.trim_start_matches('/')]),
            Operation::Clean | Operation::MarkAutomatic(_) | Operation::AddRepository(_) => None,
        }
    }

    fn records(&self) -> &'static [&'static str] {
        &["/var/lib/pkgtools", "/var/lib/slackpkg", "/var/log/pkgtools", "/var/log/packages"]
    }

    fn signs(&self) -> &'static [Sign] {
        &SIGNS
    }
}

/// The database is a directory of text files that are called as the packages are:
/// `name-version-architecture-build` (installpkg(8)). `P` turns such a name into one of a list.
fn script(text: &str, words: &[&str]) -> Option<Work> {
    let text = format!(
        "cd /var/lib/pkgtools/packages 2>/dev/null || cd /var/log/packages || exit 1\n{P}\n{text}"
    );
    Some(Work::command(&["sh", "-c", &text, "pkgtools"], words))
}

/// What slackpkg(8) ends with where there is nothing to be done is no failure (20), and where it has brought nothing
/// but itself up to date it has to be asked once more (50).
const NEWEST: &str = "for time in 1 2; do
slackpkg -batch=on -default_answer=y \"$@\"; code=$?
test $code = 50 || break; done
test $code = 20 && exit 0; exit $code";
/// It goes on where it cannot get one of them.
const ARE_THERE: &str = "for n; do ls | P | cut -f1 | grep -qxF -- \"$n\" || { echo \"No such package: $n\" >&2; exit 1; }; done";

const P: &str = "P() { sed 's/-\\([^-]*\\)-[^-]*-[^-]*$/\\t\\1/'; }";
const LIST: &str = "ls | P";
const DESCRIBE: &str = "test -f \"$1\" && basename \"$1\" | sed 's/\\.t[a-z]*$//' | P";
const VERSION: &str =
    "ls | P | awk -F'\\t' -v n=\"$1\" '$1 == n { print $2; f = 1 } END { exit !f }'";
const FILES: &str = "for p in \"$1\"-*; do
test \"$(echo \"$p\" | P | cut -f1)\" = \"$1\" && exec sed '1,/^FILE LIST:/d; /\\/$/d; s,^,/,' \"$p\"
done; exit 1";
const OWNER: &str =
    "p=$(grep -lxF -- \"$1\" * | head -n 1); test -n \"$p\" && echo \"$p\" | P | cut -f1";

const SIGNS: [Sign; 3] = [
    Sign { says: "No packages match the pattern", means: Cause::NotFound },
    Sign { says: "Cannot install", means: Cause::Damaged },
    Sign { says: "No such package", means: Cause::NotFound },
];
