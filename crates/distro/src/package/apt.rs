//! apt.

use super::{Explanation, PackageManager};

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

    fn operations(&self) -> Option<&'static dyn super::Operations> {
        Some(&Operations)
    }
}

/// apt-get(8) and apt-mark(8).
struct Operations;

/// No archive counts but the files that are given; nobody is asked; a configuration file that was changed
/// stays; and nothing is waited for to be on a disk that is thrown away (dpkg(1), `--force-unsafe-io`).
const OPTIONS: [&str; 20] = [
    "-y",
    "-q",
    "-o",
    "Dir::Etc::SourceList=/dev/null",
    "-o",
    "Dir::Etc::SourceParts=/dev/null",
    "-o",
    "APT::Sandbox::User=root",
    "-o",
    "Dpkg::Use-Pty=0",
    "-o",
    "Dpkg::Options::=--force-confdef",
    "-o",
    "Dpkg::Options::=--force-confold",
    "-o",
    "Dpkg::Options::=--force-unsafe-io",
    "-o",
    "APT::Install-Recommends=0",
    "-o",
    "APT::Cmd::Disable-Script-Warning=1",
];

fn apt_get(words: &[&str], packages: &[String]) -> Vec<String> {
    let words = ["apt-get"].iter().chain(&OPTIONS).chain(words);
    words.map(|word| (*word).to_owned()).chain(packages.iter().cloned()).collect()
}

impl super::Operations for Operations {
    fn install(&self, paths: &[String]) -> Vec<String> {
        apt_get(&["install"], paths)
    }

    fn reinstall(&self, paths: &[String]) -> Vec<String> {
        apt_get(&["install", "--reinstall"], paths)
    }

    fn mark_automatic(&self, names: &[String]) -> Vec<String> {
        [&["apt-mark".to_owned(), "auto".into()][..], names].concat()
    }

    fn remove(&self, names: &[String], purge: bool) -> Vec<String> {
        apt_get(&[if purge { "purge" } else { "remove" }, "--autoremove"], names)
    }

    fn explain(&self, output: &str) -> Option<Explanation> {
        let of_package = |text: String| Some(Explanation { text, of_package: true });
        if output.contains("No space left on device") {
            let text = "the machine's disk is full".to_owned();
            return Some(Explanation { text, of_package: false });
        }
        if let Some(line) = output.lines().find(|line| line.contains("trying to overwrite ")) {
            return of_package(format!("file conflict: {}", line.trim()));
        }
        if let Some(line) = output.lines().find(|line| {
            line.contains(" but it is not ") || line.contains(" but it is not installable")
        }) {
            return of_package(format!("dependency missing: {}", line.trim()));
        }
        // The second is what dpkg says from 1.23 on.
        let said = ["subprocess returned error exit status", "subprocess failed with exit status"];
        let at = said.iter().find_map(|said| output.find(said))?;
        let start = output[..at].rfind('\n').map_or(0, |end| end + 1);
        let script = output[start..].lines().next().unwrap_or_default().trim();
        let script = ["installed ", "new ", "old "]
            .iter()
            .fold(script, |script, word| script.strip_prefix(word).unwrap_or(script));
        // dpkg says so after what the script has printed, and one line about the package in between.
        let printed: Vec<&str> = output[..start]
            .lines()
            .filter(|line| !line.starts_with("dpkg: error processing"))
            .collect();
        let last = &printed[printed.len().saturating_sub(5)..];
        of_package(format!("{script}; printed before:\n{}", last.join("\n")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Operations as _;
    use super::*;

    #[test]
    fn failures_are_explained() {
        let explained = |output: &str| Operations.explain(output).map(|e| (e.text, e.of_package));
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
