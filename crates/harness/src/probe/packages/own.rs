//! Packages of a system whose own manager finds what they need: names go to it as they are, and files are
//! brought inside first.

use anyhow::{Context, Error, Result};
use bakery::source::bootstrap::addition::{self, Asked};
use distro::package::{self, Operation, PackageManager, Repository as Added};
use spec::event::Silent;
use store::Store;

use super::super::Wish;
use super::super::inside::Ask;
use super::super::machine::Machine;
use super::super::repository::Repository;
use super::{Commands, NAMED, Package, Supply, asked as told, bring, commands, list};

pub(super) struct Own<'a> {
    store: &'a Store,
    manager: &'static dyn PackageManager,
    /// Its repositories can be asked.
    has_network: bool,
    repositories: Vec<Repository>,
}

impl<'a> Own<'a> {
    pub(super) fn new(store: &'a Store, manager: &'static dyn PackageManager, wish: &Wish) -> Self {
        let at = wish.boot.iter().position(|word| word == "--network");
        let network = at.and_then(|at| wish.boot.get(at + 1));
        // What lies on this host is asked without any.
        let here = wish.repositories.iter().any(|one| one.directory().is_some());
        let has_network = here || network.is_none_or(|mode| mode != "none");
        Self { store, manager, has_network, repositories: wish.repositories.clone() }
    }

    /// What a file says of itself; where the manager cannot tell, what its name says.
    fn describe(&self, machine: &mut Machine, path: &str) -> Result<(String, String)> {
        let Ok(described) = commands(self.manager, &Operation::Describe(path)) else {
            return Ok((by_file_name(path), String::new()));
        };
        let mut said = String::new();
        for command in described {
            said = told(machine, &command)
                .with_context(|| format!("{path} is no package of {}'s", self.manager.name()))?;
        }
        // Warnings may be among what is said.
        let (name, version) = said
            .lines()
            .rev()
            .find_map(|line| line.split_once('\t'))
            .with_context(|| format!("{path} says nothing of itself"))?;
        Ok((name.to_owned(), version.trim().to_owned()))
    }
}

/// All before the first part that begins with a digit: `web-1.0-r0.apk`.
fn by_file_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    let digit = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    let end = file.match_indices(['-', '_']).find(|(at, _)| digit(&file[at + 1..]));
    file[..end.map_or(file.len(), |(at, _)| at)].to_owned()
}

impl Own<'_> {
    fn add(&self, machine: &mut Machine, number: usize, one: &Repository) -> Result<()> {
        let key = one.key.as_ref().map(|file| {
            let what =
                || format!("cannot read the key {} as text: it has to be armoured", file.display());
            std::fs::read_to_string(file).with_context(what)
        });
        let (key, suite) = (key.transpose()?, one.parts());
        let name = one.name.clone().unwrap_or_else(|| format!("postroj-{number}"));
        let url = one.inside(number);
        let added = Added { name: &name, url: &url, suite: suite.as_deref(), key: key.as_deref() };
        let work = package::work(self.manager, &Operation::AddRepository(&added));
        let work = work.map_err(Error::msg)?;
        for (path, text) in work.files {
            machine.ask::<()>(&Ask::Write { path, text })?;
        }
        for command in work.commands {
            told(machine, &command)?;
        }
        Ok(())
    }
}

impl Supply for Own<'_> {
    fn add_repositories(&self, machine: &mut Machine) -> Result<String> {
        for (number, one) in self.repositories.iter().enumerate() {
            self.add(machine, number, one)
                .with_context(|| format!("cannot add the repository {}", one.url))?;
        }
        Ok(format!("{} of them", self.repositories.len()))
    }

    fn fetch(&self, machine: &mut Machine, asked: &[String]) -> Result<Vec<Package>> {
        let mut packages = Vec::new();
        for text in asked {
            let one = Asked::parse(text);
            let (name, version, path) = match addition::file(self.store, &Silent, &one)? {
                None => (text.clone(), String::new(), None),
                Some((file, sha256)) => {
                    let path = format!("{NAMED}/{file}");
                    bring(self.store, machine, &[(file, sha256)])?;
                    let (name, version) = self.describe(machine, &path)?;
                    (name, version, Some(path))
                }
            };
            packages.push(Package { name, version, asked: true, path });
        }
        Ok(packages)
    }

    fn install(&self, packages: &[Package], upgrades: bool) -> Result<Commands> {
        let names: Vec<&str> =
            packages.iter().filter(|p| p.path.is_none()).map(|p| &p.name[..]).collect();
        let files: Vec<&str> = packages.iter().filter_map(|p| p.path.as_deref()).collect();
        let mut all = Vec::new();
        if !names.is_empty() {
            all.extend(commands(self.manager, &Operation::Refresh)?);
            let operation =
                if upgrades { Operation::Upgrade(&names) } else { Operation::Install(&names) };
            all.extend(commands(self.manager, &operation)?);
        }
        if !files.is_empty() {
            let operation = if self.has_network {
                Operation::Install(&files)
            } else {
                Operation::InstallFiles(&files)
            };
            all.extend(commands(self.manager, &operation)?);
        }
        Ok(all)
    }

    fn purgeable(
        &self,
        machine: &mut Machine,
        asked: &[String],
        _: &[Package],
    ) -> Result<Vec<String>> {
        let listed = list(machine, self.manager)?;
        let is_there = |name: &&String| {
            listed.lines().any(|line| line.split('\t').next() == Some(name.as_str()))
        };
        Ok(asked.iter().filter(is_there).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::by_file_name;

    #[test]
    fn a_file_name_tells_the_package() {
        for (path, name) in [
            ("/x/web-1.0-r0.apk", "web"),
            ("lib-web2-utils-1.2-x86_64-1.txz", "lib-web2-utils"),
            ("web", "web"),
        ] {
            assert_eq!(by_file_name(path), name);
        }
    }
}
