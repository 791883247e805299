//! Files that more than one package holds: Debian Policy 7.6.1.

use std::collections::HashMap;

use anyhow::{Result, anyhow};
use store::unpack::Kind;

use super::relation::{self, Relation};
use super::unpacking::Unpacked;

/// The outcome of all overlaps.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Overlaps {
    /// Packages that have to be unpacked once more, in this order, since they replace others' files.
    pub(crate) again: Vec<usize>,
    /// Files that belong to a package no more: its number, and the path.
    pub(crate) lost: Vec<(usize, Vec<u8>)>,
}

/// Finds overlaps among packages that are in the order of their installation. Paths below
/// `links` are those below `/usr` too.
///
/// # Errors
/// Two packages hold a file and neither replaces the other.
pub(crate) fn find(packages: &[Unpacked], links: &[String]) -> Result<Overlaps> {
    let mut owners: HashMap<Vec<u8>, (usize, &[u8])> = HashMap::new();
    let mut overlaps = Overlaps::default();
    for (index, package) in packages.iter().enumerate() {
        for item in package.items.iter().filter(|item| item.kind != Kind::Directory) {
            let Some(earlier) = owners.insert(merged(&item.path, links), (index, &item.path))
            else {
                continue;
            };
            if earlier.0 == index {
                continue;
            }
            let (winner, loser) = if replaces(package, &packages[earlier.0]) {
                ((index, &item.path[..]), earlier)
            } else if replaces(&packages[earlier.0], package) {
                (earlier, (index, &item.path[..]))
            } else if earlier.1 != item.path {
                // dpkg does not know that both paths are one; the later package's file stays.
                ((index, &item.path[..]), earlier)
            } else {
                return Err(anyhow!(
                    "both {} and {} have the file /{}, and neither replaces the other",
                    packages[earlier.0].control.name,
                    package.control.name,
                    String::from_utf8_lossy(&item.path)
                ));
            };
            owners.insert(merged(&item.path, links), winner);
            if winner.1 == loser.1 {
                overlaps.lost.push((loser.0, loser.1.to_vec()));
            }
            overlaps.again.push(winner.0);
        }
    }
    overlaps.again.sort_unstable();
    overlaps.again.dedup();
    Ok(overlaps)
}

/// The path that a path means where top directories are links into `/usr`.
fn merged(path: &[u8], links: &[String]) -> Vec<u8> {
    let first = path.split(|b| *b == b'/').next().unwrap_or_default();
    if path.len() > first.len() && links.iter().any(|link| link.as_bytes() == first) {
        [b"usr/", path].concat()
    } else {
        path.to_vec()
    }
}

fn replaces(package: &Unpacked, other: &Unpacked) -> bool {
    let field = package.control.field("Replaces").unwrap_or_default();
    let provides = other.control.field("Provides").unwrap_or_default();
    let is_other = |relation: &Relation<'_>| {
        let version = &other.control.version;
        let own = relation.name == other.control.name
            && relation.constraint.is_none_or(|constraint| constraint.allows(version));
        let provided = || {
            let clauses = relation::parse(provides).unwrap_or_default();
            clauses
                .into_iter()
                .flatten()
                .any(|p| p.name == relation.name && relation.constraint.is_none())
        };
        own || provided()
    };
    relation::parse(field).unwrap_or_default().iter().flatten().any(is_other)
}

#[cfg(test)]
mod tests {
    use super::super::deb::Control;
    use super::super::unpacking::Item;
    use super::*;

    fn package(name: &str, more: &str, paths: &[&str]) -> Unpacked {
        let text = format!("Package: {name}\nVersion: 1.0\nArchitecture: all\n{more}");
        let control =
            Control { text, name: name.into(), version: "1.0".into(), ..Control::default() };
        let item = |path: &&str| match path.strip_suffix('/') {
            Some(path) => Item { path: path.as_bytes().to_vec(), kind: Kind::Directory },
            None => Item { path: path.as_bytes().to_vec(), kind: Kind::File },
        };
        Unpacked { control, items: paths.iter().map(item).collect(), digests: HashMap::new() }
    }

    fn links() -> Vec<String> {
        ["bin", "lib"].map(String::from).to_vec()
    }

    #[test]
    fn directories_are_shared_and_files_are_not() {
        let aa = package("aa", "", &["usr/", "usr/bin/x"]);
        let bb = package("bb", "", &["usr/", "usr/bin/x"]);
        let cc = package("cc", "", &["usr/", "usr/bin/y", "libx"]);
        assert_eq!(find(&[aa, cc], &links()).unwrap(), Overlaps::default());
        let aa = package("aa", "", &["usr/bin/x"]);
        let error = find(&[aa, bb], &links()).unwrap_err().to_string();
        assert!(error.contains("both aa and bb have the file /usr/bin/x"), "{error}");
    }

    #[test]
    fn who_replaces_wins_whatever_the_order() {
        let aa = || package("aa", "", &["usr/bin/x", "usr/bin/z"]);
        let bb = |field: &str| package("bb", field, &["usr/bin/x"]);
        let lost = |loser| vec![(loser, b"usr/bin/x".to_vec())];
        let found = find(&[aa(), bb("Replaces: aa (<< 2)\n")], &[]).unwrap();
        assert_eq!(found, Overlaps { again: vec![1], lost: lost(0) });
        let found = find(&[bb("Replaces: cc, aa\n"), aa()], &[]).unwrap();
        assert_eq!(found, Overlaps { again: vec![0], lost: lost(1) });
        assert!(find(&[aa(), bb("Replaces: aa (<< 1.0)\n")], &[]).is_err());
        let virtual_name = package("aa", "Provides: awk\n", &["usr/bin/x"]);
        find(&[virtual_name, bb("Replaces: awk\n")], &[]).unwrap();
    }

    #[test]
    fn a_merged_usr_makes_paths_one() {
        let aa = || package("aa", "", &["bin/x"]);
        let bb = || package("bb", "", &["usr/bin/x"]);
        assert_eq!(find(&[aa(), bb()], &[]).unwrap(), Overlaps::default());
        let found = find(&[aa(), bb()], &links()).unwrap();
        assert_eq!(found, Overlaps { again: vec![1], lost: Vec::new() });
    }
}
