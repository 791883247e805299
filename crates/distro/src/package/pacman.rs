//! pacman.

use super::{Cause, Operation, PackageManager, Repository, Sign, Work, split};

/// pacman(8): Arch and its kin.
pub(super) struct Pacman;

impl PackageManager for Pacman {
    fn name(&self) -> &'static str {
        "pacman"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/bin/pacman"]
    }

    /// Written with the first package; pacman as a tool on other systems has no local database.
    fn databases(&self) -> &'static [&'static str] {
        &["/var/lib/pacman/local/ALPM_DB_VERSION"]
    }

    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        let pacman = |verb: &[&str], packages: &[&str]| {
            Work::on(&[&["pacman", "--noconfirm", "--noprogressbar"], verb].concat(), packages)
        };
        match *operation {
            Operation::Refresh => pacman(&[], &["-Sy"]),
            Operation::Install(packages) => {
                let (names, files) = split(packages);
                let mut work = pacman(&["-S", "--needed"], &names).unwrap_or_default();
                work.commands.extend(pacman(&["-U"], &files).unwrap_or_default().commands);
                (!work.commands.is_empty()).then_some(work)
            }
            // Whatever repository there may be is asked for what is missing: only from its list here.
            Operation::InstallFiles(files) | Operation::ReinstallFiles(files) => {
                pacman(&["-U"], files)
            }
            Operation::MarkAutomatic(packages) => pacman(&["-D", "--asdeps"], packages),
            Operation::InstallNoDeps(files) => pacman(&["-Udd"], files),
            Operation::Upgrade([]) => pacman(&[], &["-Syu"]),
            Operation::Upgrade(packages) | Operation::Reinstall(packages) => {
                pacman(&["-S"], packages)
            }
            Operation::Remove(packages) => pacman(&["-Rs"], packages),
            Operation::Purge(packages) => pacman(&["-Rns"], packages),
            Operation::Clean => {
                let script = "rm -rf /var/cache/pacman/pkg/* /var/lib/pacman/sync/*";
                Some(Work::command(&["sh", "-c", script], &[]))
            }
            Operation::Owner(path) => Some(Work::command(&["pacman", "-Qoq", path], &[])),
            Operation::Version(name) => Some(Work::command(&["pacman", "-Q", name], &[])),
            Operation::Files(name) => Some(Work::command(&["pacman", "-Qlq", name], &[])),
            Operation::List => listed(LIST, ""),
            Operation::Describe(file) => listed(DESCRIBE, file),
            Operation::AddRepository(repository) => Some(add(repository)),
        }
    }

    fn records(&self) -> &'static [&'static str] {
        &["/var/lib/pacman", "/var/log/pacman.log", "/etc/pacman.d/gnupg"]
    }

    fn signs(&self) -> &'static [Sign] {
        &SIGNS
    }
}

const LIST: &str = "pacman -Q | tr ' ' '\\t'";
const DESCRIBE: &str = "of=$(pacman -Qp \"$1\") && echo \"$of\" | tr ' ' '\\t'";

fn listed(script: &str, word: &str) -> Option<Work> {
    Some(Work::command(&["sh", "-c", script, "pacman", word], &[]))
}

/// Its repositories are in one file (pacman.conf(5), "Include"), and a key counts once the system's own has
/// signed it (pacman-key(8)).
fn add(repository: &Repository<'_>) -> Work {
    let (name, url) = (repository.name, repository.url);
    let (key, file) = (format!("/etc/pacman.d/{name}.asc"), format!("/etc/pacman.d/{name}.repo"));
    let level = match repository.key {
        Some(_) => "Required DatabaseOptional",
        // A signature that is there has to be of a known key even with `Optional TrustAll`.
        None => "Never",
    };
    let text = format!("[{name}]\nSigLevel = {level}\nServer = {url}\n");
    let mut work = Work::default();
    if let Some(content) = repository.key {
        work = Work::command(&["sh", "-ec", TRUST, "pacman-key", &key], &[])
            .file(key.clone(), content.to_owned());
    }
    let include = format!("Include = {file}");
    work.commands.extend(Work::command(&["sh", "-ec", INCLUDE, "sh", &include], &[]).commands);
    work.file(file, text)
}

const TRUST: &str = "test -s /etc/pacman.d/gnupg/trustdb.gpg || pacman-key --init
pacman-key --add \"$1\"
id=$(gpg --show-keys --with-colons \"$1\" | sed -n 's/^fpr:*\\([0-9A-F]*\\):$/\\1/p' | head -n 1)
pacman-key --lsign-key \"$id\"";

const INCLUDE: &str =
    "grep -qxF \"$1\" /etc/pacman.conf || printf '\\n%s\\n' \"$1\" >> /etc/pacman.conf";

const SIGNS: [Sign; 15] = [
    Sign { says: "unable to satisfy dependency", means: Cause::Dependency },
    Sign { says: "could not satisfy dependencies", means: Cause::Dependency },
    Sign { says: "exists in filesystem", means: Cause::Conflict },
    Sign { says: "are in conflict", means: Cause::Conflict },
    Sign { says: "missing required signature", means: Cause::Signature },
    Sign { says: "unknown trust", means: Cause::Signature },
    Sign { says: "required key missing from keyring", means: Cause::Signature },
    Sign { says: "(PGP signature)", means: Cause::Signature },
    Sign { says: "is invalid", means: Cause::Signature },
    Sign { says: "is corrupted", means: Cause::Signature },
    Sign { says: "invalid or corrupted package", means: Cause::Damaged },
    Sign { says: "target not found", means: Cause::NotFound },
    Sign { says: "command failed to execute correctly", means: Cause::Script },
    Sign { says: "Partition / too full", means: Cause::DiskFull },
    Sign { says: "failed retrieving file", means: Cause::Unreachable },
];
