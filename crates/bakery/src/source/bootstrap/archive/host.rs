//! What the host's own apt knows: its sources, and the keys of a family.

use std::path::{Path, PathBuf};

use distro::catalog::Family;

use super::super::apt_conf;
use super::super::sources_list::{self, Source};

/// What the host's apt knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Host {
    /// Its sources, in apt's order.
    pub(crate) sources: Vec<Source>,
    /// Files that hold a family's keys.
    pub(crate) keyrings: Vec<PathBuf>,
}

/// Where keyrings are installed (apt-secure(8), sources.list(5)), the usual place first.
const KEYRING_DIRECTORIES: [&str; 3] =
    ["usr/share/keyrings", "etc/apt/keyrings", "etc/apt/trusted.gpg.d"];

impl Host {
    /// Reads what is below a root; what cannot be read is as if it were not there.
    pub(crate) fn read(root: &Path, family: &Family) -> Self {
        let mut sources = Vec::new();
        let list = std::fs::read_to_string(root.join("etc/apt/sources.list")).unwrap_or_default();
        sources.extend(sources_list::parse_one_line(&list));
        for path in files_of(&root.join("etc/apt/sources.list.d")) {
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            match path.extension().and_then(|e| e.to_str()) {
                Some("list") => sources.extend(sources_list::parse_one_line(&text)),
                Some("sources") => {
                    sources.extend(sources_list::parse_deb822(&text).unwrap_or_default());
                }
                _ => {}
            }
        }
        let valid_until = valid_until(root);
        for source in &mut sources {
            source.check_valid_until = source.check_valid_until.or(valid_until);
            source.uris = source.uris.iter().flat_map(|uri| expand(root, uri)).collect();
        }
        let directories = KEYRING_DIRECTORIES.into_iter();
        let files = directories.flat_map(|directory| files_of(&root.join(directory)));
        let keyrings = files.filter(|path| is_keyring(path, family)).collect();
        Self { sources, keyrings }
    }
}

/// `mirror+file:PATH` is a list of mirrors, best first (apt-transport-mirror(1)).
fn expand(root: &Path, uri: &str) -> Vec<String> {
    let Some(path) = uri.strip_prefix("mirror+file:") else { return vec![uri.to_owned()] };
    let text = std::fs::read_to_string(root.join(path.trim_start_matches('/'))).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_whitespace().next()).map(String::from).collect()
}

/// Whether a file is called as one of a family's keyrings is.
pub(super) fn is_keyring(path: &Path, family: &Family) -> bool {
    let good = matches!(path.extension().and_then(|e| e.to_str()), Some("gpg" | "pgp" | "asc"));
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    good && stem.is_some_and(|stem| family.keyrings.iter().any(|name| name == stem))
}

/// Whether apt itself refuses an expired Release, where it was told.
fn valid_until(root: &Path) -> Option<bool> {
    let parts = files_of(&root.join("etc/apt/apt.conf.d")).into_iter();
    // apt.conf(5): other names are passed over, and the main file comes last.
    let parts = parts.filter(|path| path.extension().is_none_or(|e| e == "conf"));
    let texts = parts.chain([root.join("etc/apt/apt.conf")]).map(std::fs::read_to_string);
    texts.flatten().filter_map(|text| apt_conf::check_valid_until(&text)).next_back()
}

/// The files of a directory, sorted.
fn files_of(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
pub(super) mod tests {
    use distro::catalog::Catalog;

    use super::*;

    /// Debian's archives, as its installer writes them down.
    pub(crate) const DEBIAN: &str = "Types: deb\nURIs: http://deb.example.org/debian/\nSuites: bookworm bookworm-updates\n\
        Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
        Types: deb\nURIs: http://deb.example.org/debian-security\nSuites: bookworm-security\nComponents: main\n\
        Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n";

    #[test]
    fn a_host_is_read() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("etc/apt/sources.list", "deb mirror+file:/etc/apt/mirrors.txt noble main\n");
        put("etc/apt/mirrors.txt", "# best first\nhttp://near.example.org/ubuntu/\tpriority:1\n");
        put("etc/apt/sources.list.d/a.sources", DEBIAN);
        put("etc/apt/sources.list.d/b.sources", "not deb822");
        put("etc/apt/sources.list.d/c.save", "deb http://old.example.org/debian bookworm main");
        put("etc/apt/apt.conf.d/10no", "Acquire::Check-Valid-Until \"true\";");
        put("etc/apt/apt.conf.d/20no.conf", "Acquire { Check-Valid-Until \"false\"; };");
        put("etc/apt/apt.conf.d/30yes.dpkg-old", "Acquire::Check-Valid-Until \"true\";");
        put("usr/share/keyrings/debian-archive-keyring.gpg", "");
        put("usr/share/keyrings/debian-archive-keyring.txt", "");
        put("usr/share/keyrings/other.gpg", "");
        let (family, _) = Catalog::builtin().find_with_family("debian-12").unwrap();
        let host = Host::read(root.path(), family);
        assert_eq!(host.sources.len(), 3);
        assert!(host.sources.iter().all(|s| s.check_valid_until == Some(false)));
        assert_eq!(host.sources[0].uris, ["http://near.example.org/ubuntu/"]);
        assert_eq!(
            host.keyrings,
            [root.path().join("usr/share/keyrings/debian-archive-keyring.gpg")]
        );
        let nothing = Host::read(&root.path().join("nowhere"), family);
        assert_eq!(nothing, Host::default());
    }
}
