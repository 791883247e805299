//! What a package manager is asked to do, and the commands by which it does that: data, which
//! others run. They never ask anything, and resolve dependencies or fail.

use super::PackageManager;

/// One thing to be done with packages. A package is a name, the absolute path of a file inside, or
/// an address, where the manager takes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Reads the lists of the repositories anew.
    Refresh,
    /// Installs packages and what they depend on.
    Install(&'a [&'a str]),
    /// Installs files of packages whatever they depend on.
    InstallNoDeps(&'a [&'a str]),
    /// Installs files of packages, which need nothing but each other and what is installed: no
    /// repository is asked.
    InstallFiles(&'a [&'a str]),
    /// The same with what is installed already.
    ReinstallFiles(&'a [&'a str]),
    /// Notes that nobody asked for these, so that they go with those that need them.
    MarkAutomatic(&'a [&'a str]),
    /// Brings packages up to date; all where none is named.
    Upgrade(&'a [&'a str]),
    /// Installs again what is installed.
    Reinstall(&'a [&'a str]),
    /// Removes packages, with what was installed only for them where the manager knows that.
    Remove(&'a [&'a str]),
    /// The same with their settings, where the manager tells them apart.
    Purge(&'a [&'a str]),
    /// Removes what was downloaded to install packages, and lists of repositories.
    Clean,
    /// Prints the package that a path belongs to.
    Owner(&'a str),
    /// Prints the version of an installed package.
    Version(&'a str),
    /// Prints the paths of an installed package.
    Files(&'a str),
    /// Prints every installed package: its name, a tab, and its version.
    List,
    /// Prints the name and the version of the package in a file, with a tab between.
    Describe(&'a str),
    /// Adds a repository, whose packages must be signed with its key where it has one.
    AddRepository(&'a Repository<'a>),
}

/// A repository of packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repository<'a> {
    /// Names its files; letters, digits and dashes.
    pub name: &'a str,
    /// Where it is.
    pub url: &'a str,
    /// An archive's suite and components, where it has them (sources.list(5)).
    pub suite: Option<&'a str>,
    /// Its OpenPGP key in ASCII armour, or what the manager has in place of one; without a key whatever it
    /// has is good.
    pub key: Option<&'a str>,
}

/// What has to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Work {
    /// Paths and contents of files to be written.
    pub files: Vec<(String, String)>,
    /// Commands with their arguments; the first that fails ends it.
    pub commands: Vec<Vec<String>>,
}

impl Work {
    /// One command.
    pub(super) fn command(command: &[&str], packages: &[&str]) -> Self {
        let words = command.iter().chain(packages);
        Self { files: Vec::new(), commands: vec![words.map(|word| (*word).to_owned()).collect()] }
    }

    /// One command; `None` where no package is given, for some would take that as all.
    pub(super) fn on(command: &[&str], packages: &[&str]) -> Option<Self> {
        (!packages.is_empty()).then(|| Self::command(command, packages))
    }

    pub(super) fn file(mut self, path: String, content: String) -> Self {
        self.files.push((path, content));
        self
    }
}

/// The version of an installed package, out of the list that a script prints (see [`Operation::List`]). A package's
/// category may be left out.
pub(super) fn version_in(list: &str, name: &str) -> Work {
    let found = "awk -F'\\t' -v n=\"$1\" 'BEGIN { f = 1 } \
                 $1 == n || substr($1, length($1) - length(n)) == \"/\" n { print $2; f = 0 } END { exit f }'";
    Work::command(&["sh", "-c", &format!("{{ {list}; }} | {found}"), "sh", name], &[])
}

/// Names and files apart: some managers take them by different commands.
pub(super) fn split<'a>(packages: &[&'a str]) -> (Vec<&'a str>, Vec<&'a str>) {
    packages.iter().copied().partition(|package| !is_file(package))
}

pub(super) fn is_file(package: &str) -> bool {
    package.starts_with('/') || package.contains("://")
}

/// The work of an operation.
///
/// # Errors
/// A name is none, or would be taken for an option, or the manager cannot do this.
pub fn work(manager: &dyn PackageManager, operation: &Operation<'_>) -> Result<Work, String> {
    let words: Vec<&str> = match operation {
        Operation::Refresh | Operation::Clean | Operation::List => vec![],
        Operation::Install(packages)
        | Operation::InstallNoDeps(packages)
        | Operation::InstallFiles(packages)
        | Operation::ReinstallFiles(packages)
        | Operation::MarkAutomatic(packages)
        | Operation::Upgrade(packages)
        | Operation::Reinstall(packages)
        | Operation::Remove(packages)
        | Operation::Purge(packages) => packages.to_vec(),
        Operation::Owner(word)
        | Operation::Version(word)
        | Operation::Files(word)
        | Operation::Describe(word) => vec![word],
        Operation::AddRepository(repository) => {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            if repository.name.is_empty() || !repository.name.bytes().all(plain) {
                return Err(format!("{:?} is no name of a repository", repository.name));
            }
            [Some(repository.url), repository.suite].into_iter().flatten().collect()
        }
    };
    // A suite comes with its components.
    let is_repository = matches!(operation, Operation::AddRepository(_));
    if let Some(word) = words.iter().find(|word| is_bad(word) && !is_repository) {
        return Err(format!("{word:?} is no package"));
    }
    if is_repository && words.iter().any(|word| word.contains(char::is_control)) {
        return Err("the repository's address has control characters".into());
    }
    let files: &[&str] = match operation {
        Operation::InstallNoDeps(files)
        | Operation::InstallFiles(files)
        | Operation::ReinstallFiles(files) => files,
        Operation::Describe(file) => &[*file],
        _ => &[],
    };
    if let Some(name) = files.iter().find(|package| !is_file(package)) {
        return Err(format!("{name} is no file of a package"));
    }
    manager.work(operation).ok_or_else(|| format!("{} cannot do this", manager.name()))
}

/// The work of installing packages in another system's root: see [`PackageManager::outside`].
///
/// # Errors
/// A name is none, or would be taken for an option, or the manager cannot do this.
pub fn work_outside(
    manager: &dyn PackageManager,
    root: &str,
    packages: &[&str],
) -> Result<Work, String> {
    if let Some(word) = packages.iter().find(|word| is_bad(word) || is_file(word)) {
        return Err(format!("{word:?} is no name of a package"));
    }
    let cannot = || format!("{} cannot install packages in another system", manager.name());
    manager.outside(root, packages).filter(|_| !packages.is_empty()).ok_or_else(cannot)
}

/// No name, or one that would be taken for an option.
fn is_bad(word: &str) -> bool {
    let blank = |c: char| c.is_control() || (c.is_whitespace() && !is_file(word));
    word.is_empty() || word.starts_with('-') || word.contains(blank)
}
