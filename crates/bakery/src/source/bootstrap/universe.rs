//! The packages that a system can be made of: of every name the newest version that any
//! suite has, as apt chooses among archives of equal priority (apt_preferences(5)).

use std::collections::HashMap;

use super::packages::Entry;
use super::relation::{self, Relation};
use super::version;

/// Position of a candidate.
pub(crate) type Index = usize;

/// One package that can be chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    /// Its stanza.
    pub(crate) entry: Entry<'a>,
    /// Number of the suite that has it.
    pub(crate) suite: usize,
}

/// All candidates of an architecture.
#[derive(Debug)]
pub(crate) struct Universe<'a> {
    candidates: Vec<Candidate<'a>>,
    by_name: HashMap<&'a str, Index>,
    /// Those that provide a name, and the version they provide it in.
    providers: HashMap<&'a str, Vec<(Index, Option<&'a str>)>>,
    architecture: String,
}

impl<'a> Universe<'a> {
    /// Gathers the indices' entries; each comes with the number of its suite. Of equal
    /// versions the one that comes first stays.
    pub(crate) fn new(
        architecture: &str,
        entries: impl Iterator<Item = (usize, &'a [Entry<'a>])>,
    ) -> Self {
        let mut candidates: Vec<Candidate<'a>> = Vec::new();
        let mut by_name: HashMap<&'a str, Index> = HashMap::new();
        for (suite, entries) in entries {
            by_name.reserve(entries.len());
            for &entry in entries {
                if entry.architecture != architecture && entry.architecture != "all" {
                    continue;
                }
                let new = Candidate { entry, suite };
                match by_name.get(entry.name) {
                    None => {
                        by_name.insert(entry.name, candidates.len());
                        candidates.push(new);
                    }
                    Some(&at) => {
                        let known = &mut candidates[at];
                        if version::compare(entry.version, known.entry.version).is_gt() {
                            *known = new;
                        }
                    }
                }
            }
        }
        let providers = providers(&candidates);
        Self { candidates, by_name, providers, architecture: architecture.to_owned() }
    }

    pub(crate) fn len(&self) -> usize {
        self.candidates.len()
    }

    pub(crate) fn candidate(&self, index: Index) -> &Candidate<'a> {
        &self.candidates[index]
    }

    pub(crate) fn find(&self, name: &str) -> Option<Index> {
        self.by_name.get(name).copied()
    }

    /// The packages of `Essential: yes`.
    pub(crate) fn essential(&self) -> impl Iterator<Item = Index> {
        (0..self.len()).filter(|&index| self.candidates[index].entry.essential)
    }

    /// The candidates that satisfy a relation, best first: the package of that name, then
    /// those that provide it, the more important first, as apt has it.
    pub(crate) fn matching(&self, relation: &Relation<'_>) -> Vec<Index> {
        if !matches!(relation.qualifier, None | Some("any" | "native"))
            && relation.qualifier != Some(&self.architecture)
        {
            return Vec::new();
        }
        let allows = |version: Option<&str>| match (&relation.constraint, version) {
            (None, _) => true,
            (Some(constraint), Some(version)) => constraint.allows(version),
            (Some(_), None) => false,
        };
        let real = self.find(relation.name);
        let real = real.filter(|&index| allows(Some(self.candidates[index].entry.version)));
        let providers = self.providers.get(relation.name).map_or(&[][..], Vec::as_slice);
        let providers =
            providers.iter().filter(|(_, version)| allows(*version)).map(|(index, _)| *index);
        real.into_iter().chain(providers.filter(|index| Some(*index) != real)).collect()
    }
}

fn providers<'a>(candidates: &[Candidate<'a>]) -> HashMap<&'a str, Vec<(Index, Option<&'a str>)>> {
    let mut providers: HashMap<&'a str, Vec<(Index, Option<&'a str>)>> = HashMap::new();
    for (index, candidate) in candidates.iter().enumerate() {
        // A provision that cannot be read is none; the package may be of use without it.
        let clauses = candidate.entry.provides.and_then(|field| relation::parse(field).ok());
        for relation in clauses.into_iter().flatten().flatten() {
            let version = relation.constraint.map(|constraint| constraint.version);
            providers.entry(relation.name).or_default().push((index, version));
        }
    }
    for list in providers.values_mut() {
        list.sort_by_key(|(index, _)| {
            let entry = &candidates[*index].entry;
            (!entry.essential, entry.priority, entry.name)
        });
    }
    providers
}

#[cfg(test)]
mod tests {
    use super::super::packages;
    use super::*;

    fn names(universe: &Universe<'_>, field: &str) -> Vec<String> {
        let clauses = relation::parse(field).unwrap();
        let matching = universe.matching(&clauses[0][0]);
        matching.iter().map(|&index| universe.candidate(index).entry.name.to_owned()).collect()
    }

    #[test]
    fn the_newest_of_every_name_counts() {
        let main = "Package: aa\nVersion: 1.9\nArchitecture: amd64\n\nPackage: bb\nVersion: 1\nArchitecture: all\n\n\
            Package: cc\nVersion: 9\nArchitecture: arm64\n";
        let security = "Package: aa\nVersion: 1.10\nArchitecture: amd64\n\nPackage: bb\nVersion: 1\nArchitecture: all\n";
        let (main, security) = (
            packages::parse(main.as_bytes()).unwrap(),
            packages::parse(security.as_bytes()).unwrap(),
        );
        let universe = Universe::new("amd64", [(0, &main[..]), (1, &security[..])].into_iter());
        assert_eq!(universe.len(), 2);
        let aa = universe.candidate(universe.find("aa").unwrap());
        assert_eq!((aa.entry.version, aa.suite), ("1.10", 1));
        assert_eq!(universe.candidate(universe.find("bb").unwrap()).suite, 0);
        assert_eq!(universe.find("cc"), None);
    }

    #[test]
    fn providers_come_after_the_real_package_and_by_importance() {
        let text = "Package: exim\nVersion: 1\nArchitecture: all\nProvides: mta, mail-agent (= 2)\n\n\
            Package: postfix\nVersion: 1\nArchitecture: all\nPriority: important\nProvides: mta\n\n\
            Package: mta\nVersion: 3\nArchitecture: all\n";
        let entries = packages::parse(text.as_bytes()).unwrap();
        let universe = Universe::new("amd64", [(0, &entries[..])].into_iter());
        for (field, expected) in [
            ("mta", vec!["mta", "postfix", "exim"]),
            ("mta (>= 3)", vec!["mta"]),
            ("mta (>> 3)", vec![]),
            ("mail-agent", vec!["exim"]),
            ("mail-agent (>= 2)", vec!["exim"]),
            ("mail-agent (>> 2)", vec![]),
            ("mta:any", vec!["mta", "postfix", "exim"]),
            ("mta:amd64", vec!["mta", "postfix", "exim"]),
            ("mta:arm64", vec![]),
            ("nothing", vec![]),
        ] {
            assert_eq!(names(&universe, field), expected, "{field}");
        }
    }
}
