//! Access to devices where control groups are those of the second version: a program that the kernel
//! runs at each access (Linux, Documentation/admin-guide/cgroup-v2.rst, "Device controller").

use std::path::Path;

use anyhow::{Context, Result};
use sys::devices::{Rule, attach as attach_rules};

/// Attaches rules, each with whether it allows, of which the last one that fits decides.
pub(super) fn attach(group: &Path, rules: &[(bool, String)]) -> Result<()> {
    let rules: Vec<Rule> = rules.iter().filter_map(|(allow, text)| parse(*allow, text)).collect();
    attach_rules(group, &rules)
        .with_context(|| format!("cannot limit the devices of {}", group.display()))
}

/// The text of the first version's `devices.allow`.
fn parse(allow: bool, text: &str) -> Option<Rule> {
    let mut words = text.split(' ');
    let (kind, numbers, access) = (words.next()?, words.next()?, words.next()?);
    let (major, minor) = numbers.split_once(':')?;
    Some(Rule {
        allow,
        kind: kind.chars().next()?,
        major: major.parse().ok(),
        minor: minor.parse().ok(),
        read: access.contains('r'),
        write: access.contains('w'),
        make: access.contains('m'),
    })
}
