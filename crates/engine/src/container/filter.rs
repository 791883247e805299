//! A plan's system call profile as a filter.

use std::hash::{DefaultHasher, Hash, Hasher};

use spec::plan::{Seccomp, SeccompAction, SeccompCondition};
use sys::seccomp::{Action, Condition, Filter, Relation, Rule};

/// Translates and compiles a profile.
pub(crate) fn compile(profile: &Seccomp) -> Filter {
    let action = |action: SeccompAction| match action {
        SeccompAction::Allow => Action::Allow,
        SeccompAction::Errno(errno) => Action::Errno(errno),
        SeccompAction::Kill => Action::Kill,
    };
    let condition = |c: &SeccompCondition| Condition {
        argument: c.argument,
        mask: c.mask,
        value: c.value,
        relation: if c.not { Relation::NotEqual } else { Relation::Equal },
    };
    let conditions: Vec<Vec<Condition>> =
        profile.rules.iter().map(|rule| rule.conditions.iter().map(condition).collect()).collect();
    let rules: Vec<Rule<'_, _>> = profile
        .rules
        .iter()
        .zip(&conditions)
        .map(|(rule, conditions)| Rule {
            names: &rule.names,
            action: action(rule.action),
            conditions,
        })
        .collect();
    sys::seccomp::compile(action(profile.default), &rules)
}

/// Tells profiles apart. The build script and the program are made by one compiler, whose
/// hash function is the same in both.
pub(crate) fn key(profile: &Seccomp) -> u64 {
    let mut hasher = DefaultHasher::new();
    profile.hash(&mut hasher);
    hasher.finish()
}
