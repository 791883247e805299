//! apt.

use super::{Cause, Explanation, Operation, PackageManager, Repository, Sign, Work, explanation};

/// apt-get(8): Debian, Ubuntu and their kin.
pub(super) struct Apt;

impl PackageManager for Apt {
    fn name(&self) -> &'static str {
        "apt"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/bin/apt-get"]
    }

    /// dpkg's list of its own files: other distributions package dpkg with an empty
    /// database as a tool, but only on a system that it manages has it installed itself.
    fn databases(&self) -> &'static [&'static str] {
        &["/var/lib/dpkg/info/dpkg.list"]
    }

    fn environment(&self) -> &'static [(&'static str, &'static str)] {
        &[("DEBIAN_FRONTEND", "noninteractive"), ("DEBCONF_NONINTERACTIVE_SEEN", "true")]
    }

    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        let some = |verb: &[&str], packages: &[&str]| {
            (!packages.is_empty()).then(|| apt_get(verb, packages))
        };
        let here = |verb: &[&str], files: &[&str]| some(&[&FILES_ONLY[..], verb].concat(), files);
        let query = |words: &[&str], last: &[&str]| {
            Some(Work::command(&[&["dpkg-query"], words].concat(), last))
        };
        match *operation {
            Operation::Refresh => Some(apt_get(&["update"], &[])),
            // apt takes no addresses of packages.
            Operation::Install(packages) if packages.iter().any(|p| p.contains("://")) => None,
            Operation::Install(packages) => some(&["install"], packages),
            Operation::InstallNoDeps(files) => {
                Work::on(&["dpkg", "--force-depends", "--install"], files)
            }
            Operation::InstallFiles(files) => here(&["install"], files),
            Operation::ReinstallFiles(files) => here(&["install", "--reinstall"], files),
            Operation::MarkAutomatic(packages) => Work::on(&["apt-mark", "auto"], packages),
            Operation::Upgrade([]) => Some(apt_get(&["dist-upgrade"], &[])),
            Operation::Upgrade(packages) => some(&["install", "--only-upgrade"], packages),
            Operation::Reinstall(packages) => some(&["install", "--reinstall"], packages),
            Operation::Remove(packages) => some(&["remove", "--autoremove"], packages),
            Operation::Purge(packages) => some(&["purge", "--autoremove"], packages),
            Operation::Clean => {
                let script = "apt-get clean; rm -rf /var/lib/apt/lists/*";
                Some(Work::command(&["sh", "-c", script], &[]))
            }
            Operation::Owner(path) => query(&["--search"], &[path]),
            Operation::Version(name) => query(&["--show", "--showformat=${Version}\\n"], &[name]),
            Operation::Files(name) => query(&["--listfiles"], &[name]),
            Operation::List => query(&["--show"], &[]),
            Operation::Describe(file) => {
                let format = "--showformat=${Package}\\t${Version}\\n";
                Some(Work::command(&["dpkg-deb", "--show", format, file], &[]))
            }
            Operation::AddRepository(repository) => add(repository),
        }
    }

    fn outside(&self, root: &str, packages: &[&str]) -> Option<Work> {
        let mut work = apt_get(&["update"], &[]);
        let words = [&["sh", "-ec", OUTSIDE, "apt", root], &OPTIONS[..], &["install"]].concat();
        work.commands.extend(Work::command(&words, packages).commands);
        Some(work)
    }

    fn signs(&self) -> &'static [Sign] {
        &SIGNS
    }

    fn explain(&self, output: &str) -> Option<Explanation> {
        explanation::by_signs(&SIGNS, output).or_else(|| script(output))
    }
}

/// Nobody is asked; a configuration file that was changed stays (dpkg(1)).
const OPTIONS: [&str; 12] = [
    "-y",
    "-q",
    "-o",
    "Dpkg::Use-Pty=0",
    "-o",
    "Dpkg::Options::=--force-confdef",
    "-o",
    "Dpkg::Options::=--force-confold",
    "-o",
    "APT::Install-Recommends=0",
    "-o",
    "APT::Cmd::Disable-Script-Warning=1",
];

/// No archive counts but the files that are given.
/// Nothing is waited for to be on a disk that is thrown away (dpkg(1), `--force-unsafe-io`).
const FILES_ONLY: [&str; 8] = [
    "-o",
    "Dpkg::Options::=--force-unsafe-io",
    "-o",
    "Dir::Etc::SourceList=/dev/null",
    "-o",
    "Dir::Etc::SourceParts=/dev/null",
    "-o",
    "APT::Sandbox::User=root",
];

/// In another system's root, whose database is dpkg's, or that of a distroless image: a file for each package,
/// which says nothing of its state: what such an image left out on purpose, nobody needs. Its scripts run there, or here where nothing runs them there (dpkg(1),
/// `--force-script-chrootless`): with `DPKG_ROOT`.
const OUTSIDE: &str = "root=$1; shift
db=$root/var/lib/dpkg
mkdir -p \"$db/info\" \"$db/updates\" \"$root/var/lib/apt\"
test -e \"$db/status\" || for file in \"$db\"/status.d/*; do
    case $file in *.md5sums | *'*') continue ;; esac
    sed -e '/^Status:/d' -e '/^Depends:/d' -e '/^Pre-Depends:/d' -e '/^$/d' -e 's/^Package:.*/&\\nStatus: install ok installed/' \"$file\"
    echo
done > \"$db/status\"
test -e \"$root/bin/sh\" || set -- -o DPkg::Options::=--force-script-chrootless \"$@\"
exec apt-get -o Dir::State::status=\"$db/status\" -o Dir::State::extended_states=\"$root/var/lib/apt/extended_states\" \\
    -o DPkg::Options::=--root=\"$root\" \"$@\"";

fn apt_get(words: &[&str], packages: &[&str]) -> Work {
    Work::command(&[&["apt-get"], &OPTIONS[..], words].concat(), packages)
}

/// A source in the style of sources.list(5), "DEB822-STYLE FORMAT".
fn add(repository: &Repository<'_>) -> Option<Work> {
    let (suite, components) = repository.suite?.split_once(' ').unwrap_or((repository.suite?, ""));
    let (name, url) = (repository.name, repository.url);
    let components = match components {
        "" => String::new(),
        some => format!("Components: {some}\n"),
    };
    let text = format!("Types: deb\nURIs: {url}\nSuites: {suite}\n{components}");
    let sources = format!("/etc/apt/sources.list.d/{name}.sources");
    Some(match repository.key {
        Some(key) => {
            let path = format!("/etc/apt/keyrings/{name}.asc");
            let text = format!("{text}Signed-By: {path}\n");
            Work::default().file(path, key.to_owned()).file(sources, text)
        }
        None => Work::default().file(sources, format!("{text}Trusted: yes\n")),
    })
}

const SIGNS: [Sign; 12] = [
    Sign { says: "trying to overwrite ", means: Cause::Conflict },
    Sign { says: " but it is not ", means: Cause::Dependency },
    Sign { says: "dpkg: dependency problems prevent", means: Cause::Dependency },
    Sign { says: "Hash Sum mismatch", means: Cause::Signature },
    Sign { says: "The following signatures couldn't be verified", means: Cause::Signature },
    Sign { says: "The following signatures were invalid", means: Cause::Signature },
    Sign { says: "packages cannot be authenticated", means: Cause::Signature },
    Sign { says: "is not signed", means: Cause::Signature },
    Sign { says: "Unable to locate package", means: Cause::NotFound },
    Sign { says: "has no installation candidate", means: Cause::NotFound },
    Sign { says: "is not a Debian format archive", means: Cause::Damaged },
    Sign { says: "E: Failed to fetch", means: Cause::Unreachable },
];

/// dpkg says that a script failed after what that has printed, and one line about the package in between.
fn script(output: &str) -> Option<Explanation> {
    // The second is what dpkg says from 1.23 on.
    let said = ["subprocess returned error exit status", "subprocess failed with exit status"];
    let at = said.iter().find_map(|said| output.find(said))?;
    let start = output[..at].rfind('\n').map_or(0, |end| end + 1);
    let script = output[start..].lines().next().unwrap_or_default().trim();
    let script = ["installed ", "new ", "old "]
        .iter()
        .fold(script, |script, word| script.strip_prefix(word).unwrap_or(script));
    let printed: Vec<&str> = output[..start]
        .lines()
        .filter(|line| !line.starts_with("dpkg: error processing"))
        .collect();
    let last = &printed[printed.len().saturating_sub(5)..];
    let text = format!("{script}; printed before:\n{}", last.join("\n"));
    Some(Explanation { text, cause: Cause::Script })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_explained() {
        let explained =
            |output: &str| Apt.explain(output).map(|e| (e.text, e.cause.is_of_package()));
        let script = "Setting up bad (1) ...\nno luck today\ndpkg: error processing package bad (--configure):\n \
                      installed bad package post-installation script subprocess returned error exit status 3\n";
        let (text, of_package) = explained(script).unwrap();
        assert!(of_package && text.contains("bad package post-installation script"), "{text}");
        assert!(text.contains("status 3") && text.ends_with("no luck today"), "{text}");
        let newer = "bye\ndpkg: error processing package bad (--configure):\n old bad package postinst maintainer script \
                     subprocess failed with exit status 3\n";
        assert!(explained(newer).unwrap().0.starts_with("bad package postinst maintainer script"));
        let conflict = " trying to overwrite '/bin/x', which is also in package other 1\n";
        assert!(
            explained(conflict)
                .unwrap()
                .0
                .starts_with("file conflict: trying to overwrite '/bin/x'")
        );
        let missing = " bad : Depends: nowhere but it is not installable\n";
        assert_eq!(
            explained(missing).unwrap().0,
            "dependency missing: bad : Depends: nowhere but it is not installable"
        );
        assert!(!explained("x: No space left on device\n").unwrap().1);
        assert_eq!(explained("all is well"), None);
    }
}
