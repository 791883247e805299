//! Which packages a system consists of: a choice that satisfies every Depends and
//! Pre-Depends and violates no Conflicts or Breaks (Debian Policy 7), found by resolvo.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Display;

use anyhow::{Result, anyhow, bail};
use resolvo::{
    Candidates, Condition, ConditionId, ConditionalRequirement, Dependencies, DependencyProvider,
    HintDependenciesAvailable, Interner, KnownDependencies, NameId, Problem, Requirement,
    SolvableId, Solver, SolverCache, StringId, UnsolvableOrCancelled, VersionSetId,
    VersionSetUnionId,
};

use super::relation::{self, Relation};
use super::universe::{Index, Universe};

/// A package that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// In the universe.
    pub(crate) index: Index,
    /// Nobody asked for it: another one depends on it. Everything of the first stage
    /// counts as asked for.
    pub(crate) automatic: bool,
}

/// Chooses in two stages, as a bootstrap with apt does: first the base with all it needs,
/// then what else is wanted, with the base as it is. The result is in an order in which
/// every package comes after those that it depends on, cycles aside.
///
/// # Errors
/// Tells which packages cannot be had together and why.
pub(crate) fn resolve(
    universe: &Universe<'_>,
    base: &[&str],
    wanted: &[&str],
) -> Result<Vec<Chosen>> {
    let first = solve(universe, &[], base)?;
    let all = solve(universe, &first, wanted)?;
    let asked: Vec<Index> = wanted.iter().filter_map(|name| universe.find(name)).collect();
    let chosen =
        |index| Chosen { index, automatic: !first.contains(&index) && !asked.contains(&index) };
    Ok(order(universe, &[&first, &asked], &all).into_iter().map(chosen).collect())
}

/// Solves for packages that are there already and names that are wanted. Sorted by index.
fn solve(universe: &Universe<'_>, present: &[Index], wanted: &[&str]) -> Result<Vec<Index>> {
    let provider = Provider { universe, interned: RefCell::default() };
    let mut requirements: Vec<ConditionalRequirement> = Vec::new();
    for &index in present {
        let name = universe.candidate(index).entry.name;
        let set = provider.set(name_id(index), true, String::new());
        debug_assert!(!name.is_empty());
        requirements.push(Requirement::Single(set).into());
    }
    for name in wanted {
        if !relation::is_package_name(name) {
            bail!("{name:?} is no name of a package");
        }
        let relation = Relation { name, qualifier: None, constraint: None };
        if universe.matching(&relation).is_empty() {
            bail!("no suite that is used has a package {name}");
        }
        requirements.push(provider.requirement(&[relation]).into());
    }
    let mut solver = Solver::new(provider);
    match solver.solve(Problem::new().requirements(requirements)) {
        Ok(solution) => {
            let mut indices: Vec<Index> =
                solution.into_iter().map(|id| id.into_raw() as Index).collect();
            indices.sort_unstable();
            Ok(indices)
        }
        Err(UnsolvableOrCancelled::Unsolvable(conflict)) => {
            let explained = conflict.display_user_friendly(&solver).to_string();
            Err(anyhow!("the packages cannot be installed together: {}", explained.trim_end()))
        }
        Err(UnsolvableOrCancelled::Cancelled(_)) => Err(anyhow!("resolving was cancelled")),
    }
}

/// Some before the rest, and always dependencies first; where they go in a circle,
/// Pre-Depends are heeded before Depends.
fn order(universe: &Universe<'_>, before: &[&[Index]], chosen: &[Index]) -> Vec<Index> {
    let needs = |index: Index| -> Vec<Index> {
        let entry = &universe.candidate(index).entry;
        let fields = ["Pre-Depends", "Depends"].into_iter().filter_map(|name| entry.field(name));
        let clauses = fields.filter_map(|field| relation::parse(field).ok()).flatten();
        let alternatives = clauses.flatten().flat_map(|relation| universe.matching(&relation));
        alternatives.filter(|index| chosen.binary_search(index).is_ok()).collect()
    };
    let mut seen = vec![false; universe.len()];
    let mut ordered = Vec::with_capacity(chosen.len());
    for &start in before.iter().copied().flatten().chain(chosen) {
        // Not recursive: a hostile index could hold a chain of any length.
        let mut stack = vec![(start, None::<std::vec::IntoIter<Index>>)];
        while let Some((index, pending)) = stack.last_mut() {
            let index = *index;
            let pending = match pending {
                Some(pending) => pending,
                None if seen[index] => {
                    stack.pop();
                    continue;
                }
                None => {
                    seen[index] = true;
                    pending.insert(needs(index).into_iter())
                }
            };
            match pending.next() {
                Some(next) => stack.push((next, None)),
                None => {
                    ordered.push(index);
                    stack.pop();
                }
            }
        }
    }
    ordered
}

/// What resolvo asks about the universe. Every package is one name with one candidate, whose
/// index is the id of both; a relation on a virtual package is a union over its providers.
struct Provider<'u, 'a> {
    universe: &'u Universe<'a>,
    interned: RefCell<Interned>,
}

#[derive(Default)]
struct Interned {
    sets: Vec<Set>,
    set_ids: HashMap<Set, VersionSetId>,
    unions: Vec<Vec<VersionSetId>>,
    /// Names that no candidate has; their ids follow those of the candidates.
    missing: Vec<String>,
    strings: Vec<String>,
}

/// Either all candidates of a name, which is one at most, or none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Set {
    name: u32,
    all: bool,
    /// As it is shown.
    text: String,
}

impl Provider<'_, '_> {
    fn set(&self, name: NameId, all: bool, text: String) -> VersionSetId {
        let interned = &mut *self.interned.borrow_mut();
        let set = Set { name: name.into_raw(), all, text };
        let next = VersionSetId(interned.sets.len() as u32);
        let id = *interned.set_ids.entry(set.clone()).or_insert(next);
        if id == next {
            interned.sets.push(set);
        }
        id
    }

    fn string(&self, text: String) -> StringId {
        let interned = &mut *self.interned.borrow_mut();
        interned.strings.push(text);
        StringId(interned.strings.len() as u32 - 1)
    }

    fn missing(&self, name: &str) -> NameId {
        let interned = &mut *self.interned.borrow_mut();
        let known = interned.missing.iter().position(|known| known == name);
        let at = known.unwrap_or_else(|| {
            interned.missing.push(name.to_owned());
            interned.missing.len() - 1
        });
        name_id(self.universe.len() + at)
    }

    fn requirement(&self, alternatives: &[Relation<'_>]) -> Requirement {
        let mut sets = Vec::new();
        for relation in alternatives {
            let text = relation.constraint.map_or(String::new(), |c| c.to_string());
            let matching = self.universe.matching(relation);
            if matching.is_empty() {
                let name = match self.universe.find(relation.name) {
                    Some(index) => name_id(index),
                    None => self.missing(relation.name),
                };
                sets.push(self.set(name, false, text));
                continue;
            }
            for index in matching {
                let own = self.universe.candidate(index).entry.name == relation.name;
                let text = if own { text.clone() } else { format!("[for {relation}]") };
                sets.push(self.set(name_id(index), true, text));
            }
        }
        if let [single] = sets[..] {
            return Requirement::Single(single);
        }
        let interned = &mut *self.interned.borrow_mut();
        interned.unions.push(sets);
        Requirement::Union(VersionSetUnionId(interned.unions.len() as u32 - 1))
    }

    fn known(&self, index: Index) -> Result<KnownDependencies, String> {
        let entry = &self.universe.candidate(index).entry;
        let read = |name: &str| match entry.field(name) {
            Some(field) => relation::parse(field).map_err(|error| format!("its {name}: {error}")),
            None => Ok(Vec::new()),
        };
        let mut known = KnownDependencies::default();
        for name in ["Pre-Depends", "Depends"] {
            let requirements = read(name)?;
            known.requirements.extend(
                requirements.iter().map(|c| ConditionalRequirement::from(self.requirement(c))),
            );
        }
        for name in ["Conflicts", "Breaks"] {
            for relation in read(name)?.iter().flatten() {
                // A package may conflict with a name that it provides itself (Policy 7.6.2).
                for other in self.universe.matching(relation).into_iter().filter(|&i| i != index) {
                    let text = format!("(not {relation})");
                    known.constrains.push(self.set(name_id(other), false, text));
                }
            }
        }
        Ok(known)
    }
}

fn name_id(index: Index) -> NameId {
    NameId::from_raw(index as u32)
}

impl Interner for Provider<'_, '_> {
    type NameId = NameId;
    type SolvableId = SolvableId;

    fn display_solvable(&self, solvable: SolvableId) -> impl Display + '_ {
        let entry = &self.universe.candidate(solvable.into_raw() as Index).entry;
        format!("{} {}", entry.name, entry.version)
    }

    fn display_merged_solvables(&self, solvables: &[SolvableId]) -> impl Display + '_ {
        let shown = solvables.iter().map(|&id| self.display_solvable(id).to_string());
        shown.collect::<Vec<_>>().join(" | ")
    }

    fn display_name(&self, name: NameId) -> impl Display + '_ {
        let index = name.into_raw() as Index;
        match index.checked_sub(self.universe.len()) {
            None => self.universe.candidate(index).entry.name.to_owned(),
            Some(at) => self.interned.borrow().missing[at].clone(),
        }
    }

    fn display_version_set(&self, version_set: VersionSetId) -> impl Display + '_ {
        self.interned.borrow().sets[version_set.0 as usize].text.clone()
    }

    fn display_string(&self, string_id: StringId) -> impl Display + '_ {
        self.interned.borrow().strings[string_id.0 as usize].clone()
    }

    fn version_set_name(&self, version_set: VersionSetId) -> NameId {
        NameId::from_raw(self.interned.borrow().sets[version_set.0 as usize].name)
    }

    fn solvable_name(&self, solvable: SolvableId) -> NameId {
        NameId::from_raw(solvable.into_raw())
    }

    fn version_sets_in_union(
        &self,
        union: VersionSetUnionId,
    ) -> impl Iterator<Item = VersionSetId> {
        self.interned.borrow().unions[union.0 as usize].clone().into_iter()
    }

    fn resolve_condition(&self, _: ConditionId) -> Condition {
        unreachable!("no requirement here has a condition")
    }
}

impl DependencyProvider for Provider<'_, '_> {
    async fn filter_candidates(
        &self,
        candidates: &[SolvableId],
        version_set: VersionSetId,
        inverse: bool,
    ) -> Vec<SolvableId> {
        let all = self.interned.borrow().sets[version_set.0 as usize].all;
        if all != inverse { candidates.to_vec() } else { Vec::new() }
    }

    async fn get_candidates(&self, name: NameId) -> Option<Candidates> {
        if name.into_raw() as Index >= self.universe.len() {
            return None;
        }
        Some(Candidates {
            candidates: vec![SolvableId::from_raw(name.into_raw())],
            hint_dependencies_available: HintDependenciesAvailable::None,
            ..Candidates::default()
        })
    }

    async fn sort_candidates(&self, _: &SolverCache<Self>, _: &mut [SolvableId]) {}

    async fn get_dependencies(&self, solvable: SolvableId) -> Dependencies {
        match self.known(solvable.into_raw() as Index) {
            Ok(known) => Dependencies::Known(known),
            Err(why) => Dependencies::Unknown(self.string(why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::packages;
    use super::*;

    /// Packages as `name version; field: value; …`, one a line.
    fn resolve_in(text: &str, base: &[&str], wanted: &[&str]) -> Result<Vec<String>> {
        let stanza = |line: &str| {
            let mut parts = line.split(';').map(str::trim);
            let (name, version) = parts.next().unwrap().split_once(' ').unwrap();
            let fields: String = parts.map(|field| format!("{field}\n")).collect();
            format!("Package: {name}\nVersion: {version}\nArchitecture: all\n{fields}\n")
        };
        let index: String =
            text.lines().map(str::trim).filter(|l| !l.is_empty()).map(stanza).collect();
        let entries = packages::parse(index.as_bytes()).unwrap();
        let universe = Universe::new("amd64", [(0, &entries[..])].into_iter());
        let shown = |chosen: &Chosen| {
            let name = universe.candidate(chosen.index).entry.name;
            if chosen.automatic { format!("{name}*") } else { name.to_owned() }
        };
        Ok(resolve(&universe, base, wanted)?.iter().map(shown).collect())
    }

    #[track_caller]
    fn gives(text: &str, base: &[&str], wanted: &[&str], expected: &[&str]) {
        assert_eq!(resolve_in(text, base, wanted).unwrap(), expected);
    }

    #[track_caller]
    fn fails(text: &str, wanted: &[&str], parts: &[&str]) {
        let error = resolve_in(text, &[], wanted).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }

    #[test]
    fn dependencies_come_first() {
        let text = "app 1; Depends: lib (>= 2), tool; Pre-Depends: pre\nlib 2; Depends: libc\nlibc 1\ntool 1; Depends: libc\npre 1\nother 1";
        gives(text, &[], &["app"], &["pre*", "libc*", "lib*", "tool*", "app"]);
        gives(text, &["tool"], &["app"], &["libc", "tool", "pre*", "lib*", "app"]);
    }

    #[test]
    fn circles_are_no_obstacle() {
        let text = "aa 1; Depends: bb\nbb 1; Depends: cc\ncc 1; Depends: aa";
        gives(text, &[], &["aa"], &["cc*", "bb*", "aa"]);
    }

    #[test]
    fn the_first_alternative_is_preferred_and_what_is_there_is_taken() {
        let text = "aa 1; Depends: xx | yy\nxx 1\nyy 1\nbb 1; Depends: yy";
        gives(text, &[], &["aa"], &["xx*", "aa"]);
        gives(text, &["yy"], &["aa"], &["yy", "aa"]);
        gives(text, &[], &["aa", "bb"], &["yy*", "aa", "bb"]);
        gives("aa 1; Depends: gone | yy\nyy 1", &[], &["aa"], &["yy*", "aa"]);
        gives("aa 1; Depends: xx (>= 2) | yy\nxx 1\nyy 1", &[], &["aa"], &["yy*", "aa"]);
    }

    #[test]
    fn provisions_count() {
        let text =
            "aa 1; Depends: awk\nmawk 1; Provides: awk; Priority: required\ngawk 1; Provides: awk";
        gives(text, &[], &["aa"], &["mawk*", "aa"]);
        gives(text, &["gawk"], &["aa"], &["gawk", "aa"]);
        let versioned = "aa 1; Depends: api (>= 2)\nold 1; Provides: api (= 1)\nbare 1; Provides: api\nnew 1; Provides: api (= 2)";
        gives(versioned, &[], &["aa"], &["new*", "aa"]);
        gives(text, &[], &["awk"], &["mawk*"]);
    }

    #[test]
    fn conflicts_are_avoided_where_there_is_a_choice() {
        let text = "aa 1; Depends: xx | yy\nxx 1\nyy 1\nbb 1; Conflicts: xx";
        gives(text, &[], &["aa", "bb"], &["yy*", "aa", "bb"]);
        let breaks = "aa 1; Depends: xx | yy\nxx 1\nyy 1\nbb 1; Breaks: xx (<< 1)";
        gives(breaks, &[], &["aa", "bb"], &["xx*", "aa", "bb"]);
        let own = "aa 1; Provides: mta; Conflicts: mta\nbb 1; Provides: mta; Conflicts: mta\ncc 1; Depends: mta";
        gives(own, &[], &["cc", "bb"], &["bb", "cc"]);
    }

    #[test]
    fn what_cannot_be_is_explained() {
        fails("aa 1", &["zz"], &["no suite that is used has a package zz"]);
        fails("aa 1", &["Zz/../x"], &["no name of a package"]);
        fails("aa 1; Depends: gone", &["aa"], &["cannot be installed together", "aa", "gone"]);
        fails("aa 1; Depends: lib (>= 2)\nlib 1", &["aa"], &["aa", "lib (>= 2)"]);
        fails("aa 1; Conflicts: bb\nbb 1", &["aa", "bb"], &["aa", "bb"]);
        fails("aa 1; Depends: bb\nbb 1; Breaks: cc\ncc 1", &["aa", "cc"], &["bb", "cc"]);
        fails("aa 1; Depends: b@b", &["aa"], &["Depends", "b@b"]);
    }

    #[test]
    fn a_long_chain_needs_no_deep_stack() {
        let stanza =
            |n| format!("Package: p{n}\nVersion: 1\nArchitecture: all\nDepends: p{}\n\n", n + 1);
        let text: String = (0..100_000).map(stanza).collect();
        let entries = packages::parse(text.as_bytes()).unwrap();
        let universe = Universe::new("amd64", [(0, &entries[..])].into_iter());
        let all: Vec<Index> = (0..universe.len()).collect();
        let ordered = order(&universe, &[], &all);
        assert!(ordered.iter().rev().copied().eq(all));
    }
}
