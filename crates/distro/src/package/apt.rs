//! apt.

use super::{Operation, PackageManager, Work};

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

    /// Settings that the user has changed stay as they are, without a question (dpkg(1)).
    fn work(&self, operation: &Operation<'_>) -> Option<Work> {
        let apt = |verb: &[&str], packages: &[&str]| {
            let options =
                ["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"];
            Work::command(&[&["apt-get", "-q", "-y"], &options[..], verb].concat(), packages)
        };
        let some =
            |verb: &[&str], packages: &[&str]| (!packages.is_empty()).then(|| apt(verb, packages));
        match *operation {
            Operation::Refresh => Some(apt(&["update"], &[])),
            // apt takes no addresses of packages.
            Operation::Install(packages) if packages.iter().any(|p| p.contains("://")) => None,
            Operation::Install(packages) => some(&["install", "--no-install-recommends"], packages),
            Operation::InstallNoDeps(files) => {
                Work::on(&["dpkg", "--force-depends", "--install"], files)
            }
            Operation::Upgrade([]) => Some(apt(&["dist-upgrade"], &[])),
            Operation::Upgrade(packages) => some(&["install", "--only-upgrade"], packages),
            Operation::Reinstall(packages) => some(&["install", "--reinstall"], packages),
            Operation::Remove(packages) => some(&["remove"], packages),
            Operation::Purge(packages) => some(&["purge"], packages),
            Operation::Owner(path) => Some(Work::command(&["dpkg-query", "--search", path], &[])),
            Operation::Version(name) => Some(Work::command(
                &["dpkg-query", "--show", "--showformat=${Version}\\n", name],
                &[],
            )),
            Operation::Files(name) => {
                Some(Work::command(&["dpkg-query", "--listfiles", name], &[]))
            }
            Operation::AddRepository(repository) => {
                let (suite, components) =
                    repository.suite?.split_once(' ').unwrap_or((repository.suite?, ""));
                let (name, url) = (repository.name, repository.url);
                let key = format!("/etc/apt/keyrings/{name}.asc");
                let components = if components.is_empty() {
                    String::new()
                } else {
                    format!("Components: {components}\n")
                };
                let text = format!(
                    "Types: deb\nURIs: {url}\nSuites: {suite}\n{components}Signed-By: {key}\n"
                );
                let sources = format!("/etc/apt/sources.list.d/{name}.sources");
                Some(Work::default().file(key, repository.key.to_owned()).file(sources, text))
            }
        }
    }
}
