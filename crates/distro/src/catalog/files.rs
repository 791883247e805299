//! The catalog's files: those that are built in, and the user's.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};

use super::{Catalog, Family, check};

/// Every family's file, as it is built into the binary.
const FILES: &[&str] = &[
    include_str!("../../distros/debian.toml"),
    include_str!("../../distros/ubuntu.toml"),
    include_str!("../../distros/fedora.toml"),
    include_str!("../../distros/centos.toml"),
    include_str!("../../distros/rhel.toml"),
    include_str!("../../distros/rocky.toml"),
    include_str!("../../distros/almalinux.toml"),
    include_str!("../../distros/oracle.toml"),
    include_str!("../../distros/amazon.toml"),
    include_str!("../../distros/opensuse.toml"),
    include_str!("../../distros/sles.toml"),
    include_str!("../../distros/arch.toml"),
    include_str!("../../distros/alpine.toml"),
    include_str!("../../distros/void.toml"),
    include_str!("../../distros/gentoo.toml"),
    include_str!("../../distros/slackware.toml"),
    include_str!("../../distros/nixos.toml"),
    include_str!("../../distros/kiss.toml"),
    include_str!("../../distros/wolfi.toml"),
    include_str!("../../distros/photon.toml"),
    include_str!("../../distros/mageia.toml"),
];

/// Where the user's files are, the first before the second.
fn directories() -> Vec<PathBuf> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let user = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    let directories = user.into_iter().chain([PathBuf::from("/etc")]);
    directories.map(|directory| directory.join("postroj/distro.d")).collect()
}

/// The user's files in the order in which they count, sorted by name within a directory.
///
/// # Errors
/// A directory that is there cannot be read.
fn own() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for directory in directories() {
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            // What is another user's is not ours to read.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => continue,
            Err(error) => return Err(error).with_context(|| reading(&directory)),
        };
        let mut here = Vec::new();
        for entry in entries {
            let path = entry.with_context(|| reading(&directory))?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                here.push(path);
            }
        }
        here.sort();
        files.extend(here);
    }
    Ok(files)
}

fn reading(path: &Path) -> String {
    format!("reading the catalog in {}", path.display())
}

impl Catalog {
    /// The catalog that is built in.
    pub fn builtin() -> &'static Self {
        static BUILTIN: OnceLock<Catalog> = OnceLock::new();
        BUILTIN.get_or_init(|| {
            let parse =
                |text: &&str| toml::from_str(text).expect("the built-in catalog was tested");
            Self { families: FILES.iter().map(parse).collect() }
        })
    }

    /// The texts of the built-in catalog.
    #[must_use]
    pub fn texts() -> &'static [&'static str] {
        FILES
    }

    /// The user's files in the order in which they count.
    ///
    /// # Errors
    /// A directory that is there cannot be read.
    pub fn files() -> Result<Vec<PathBuf>> {
        own()
    }

    /// The user's files, those of `$XDG_CONFIG_HOME/postroj/distro.d` before those of
    /// `/etc/postroj/distro.d`, and then what is built in.
    ///
    /// # Errors
    /// One cannot be read or has a fault: with its line and column.
    pub fn load() -> Result<Self> {
        let mut families = Vec::new();
        for path in own()? {
            families.push(read(&path)?);
        }
        let builtin = &Self::builtin().families;
        for family in &mut families {
            if let Some(base) = builtin.iter().find(|base| base.name == family.name) {
                family.inherit(base);
            }
        }
        families.extend(builtin.iter().cloned());
        Ok(Self { families })
    }

    /// A catalog of these families alone; the first counts before the others.
    #[must_use]
    pub fn of(families: Vec<Family>) -> Self {
        Self { families }
    }
}

fn read(path: &Path) -> Result<Family> {
    let text = std::fs::read_to_string(path).with_context(|| reading(path))?;
    match check(&text) {
        Ok(family) => Ok(Family { file: Some(path.to_owned()), ..family }),
        Err(faults) => match faults.first() {
            Some(fault) => bail!("{}:{fault}", path.display()),
            None => bail!("{} is no file of the catalog", path.display()),
        },
    }
}

impl Family {
    /// A file of the user's that adds a release to a family need not say again what is known of it.
    fn inherit(&mut self, base: &Self) {
        let text = |own: &mut String, base: &String| {
            if own.is_empty() {
                own.clone_from(base);
            }
        };
        let list = |own: &mut Vec<String>, base: &Vec<String>| {
            if own.is_empty() {
                own.clone_from(base);
            }
        };
        text(&mut self.package_manager, &base.package_manager);
        text(&mut self.init, &base.init);
        text(&mut self.signed_by, &base.signed_by);
        list(&mut self.archives, &base.archives);
        list(&mut self.keyrings, &base.keyrings);
        if self.bootable.is_empty() {
            self.bootable.clone_from(&base.bootable);
        }
        if self.architectures.is_empty() {
            self.architectures.clone_from(&base.architectures);
        }
    }
}

/// Whether the catalog has this label or other spelling. Called for every reference, so
/// of what is built in it reads the text and parses nothing. A file of the user's that is at fault
/// has no names here; whoever asks for one of them is told why.
pub fn is_label(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'+');
    // Without a dash it is a registry's short name.
    if !name.contains('-') || name.len() > 64 || !name.bytes().all(plain) {
        return false;
    }
    if name.contains('+') {
        return Catalog::load().is_ok_and(|catalog| catalog.resolve(name).is_some());
    }
    is_builtin(name) || own().is_ok_and(|files| !files.is_empty() && is_own(name, &files))
}

fn is_builtin(name: &str) -> bool {
    let quoted = format!("\"{name}\"");
    let is_name_line = |line: &&str| line.starts_with("label = ") || line.starts_with("aliases = ");
    let mut lines = FILES.iter().flat_map(|text| text.lines()).filter(is_name_line);
    lines.any(|line| line.contains(&quoted))
}

/// The name may also stand in a file with a fault, so that the fault is told instead of
/// a registry asked for something else.
fn is_own(name: &str, files: &[PathBuf]) -> bool {
    files.iter().any(|path| match read(path) {
        Ok(family) => Catalog { families: vec![family] }.find(name).is_some(),
        Err(_) => {
            std::fs::read_to_string(path).is_ok_and(|text| text.contains(&format!("\"{name}\"")))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_look_agrees_with_the_catalog() {
        let catalog = Catalog::builtin();
        for name in catalog.names() {
            assert!(is_builtin(name), "{name}");
        }
        let words =
            FILES.iter().flat_map(|text| text.split(|c: char| c == '"' || c.is_whitespace()));
        let others =
            ["", "debian", "debian-1", "debian-122", "ebian-12", "a\"b", ", ", "*", "main", "-"];
        for word in words.chain(others) {
            let known = catalog.find(word).is_some();
            assert!(is_builtin(word) == known || !word.contains('-'), "{word:?}");
            assert_eq!(is_label(word), known, "{word:?}");
        }
        assert!(!is_label(&"d-".repeat(1 << 20)));
        assert!(is_label("debian-12+openrc") && !is_label("debian-12+systemd-"));
        assert!(!is_label("fedora-43+openrc"), "what is not made here has the init that it has");
    }

    #[test]
    fn a_user_s_release_inherits_what_its_family_is_known_for() {
        let own = "family = \"debian\"\n[[release]]\nlabel = \"debian-mine\"\n\
            bootstrap = { suite = \"mine\", components = [\"main\"], usr = \"shipped\", sources = \"deb822\" }\n";
        let mut family = check(own).expect("a good file");
        let base = &Catalog::builtin().families[0];
        family.inherit(base);
        assert_eq!(
            (&family.keyrings, &family.package_manager),
            (&base.keyrings, &base.package_manager)
        );
        let catalog = Catalog::of(vec![family, base.clone()]);
        assert_eq!(
            catalog.resolve("debian-mine+runit").expect("its init").bootable,
            ["runit-init"]
        );
        assert!(catalog.find("debian-12").is_some());
    }
}
