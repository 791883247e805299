//! What a test needs, in words that a binary package's `Depends` may have: of this architecture, without
//! build profiles, and with `@` and its kin replaced.

use std::path::Path;

use anyhow::{Context, Result};
use bakery::source::bootstrap::deb822;

/// The dependencies of a test, with commas between.
///
/// # Errors
/// Where the source package's control file cannot be read.
pub(super) fn concrete(depends: &str, tree: &Path, architecture: &str) -> Result<String> {
    let path = tree.join("debian/control");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let stanzas = deb822::parse(&text).with_context(|| format!("{} is wrong", path.display()))?;
    let field = |names: &[&str]| -> String {
        let values = stanzas.iter().flat_map(|s| names.iter().filter_map(|name| s.get(name)));
        values.map(super::unfolded).collect::<Vec<_>>().join(", ")
    };
    let mut clauses = Vec::new();
    for clause in depends.split(',').map(str::trim) {
        match clause {
            "@" => {
                // What is no ordinary package is for the installer.
                let ordinary = |stanza: &&deb822::Stanza<'_>| {
                    let kind = stanza.get("XC-Package-Type").or_else(|| stanza.get("Package-Type"));
                    kind.is_none_or(|kind| kind == "deb")
                };
                for stanza in stanzas.iter().filter(ordinary) {
                    let Some(name) = stanza.get("Package") else { continue };
                    let own = stanza.get("Architecture").unwrap_or("any");
                    if own == "all" || is_for(own, architecture) {
                        clauses.push(name.to_owned());
                    }
                }
            }
            "@builddeps@" => {
                let needs = ["Build-Depends", "Build-Depends-Indep", "Build-Depends-Arch"];
                clauses.extend(reduced(&field(&needs), architecture));
                clauses.push("build-essential".into());
            }
            "@recommends@" => clauses.extend(reduced(&field(&["Recommends"]), architecture)),
            other => clauses.extend(reduced(other, architecture)),
        }
    }
    Ok(clauses.join(", "))
}

/// Clauses without what is for other architectures or for build profiles.
fn reduced(field: &str, architecture: &str) -> Vec<String> {
    let clause = |clause: &str| {
        let alternatives = clause.split('|').filter_map(|one| alternative(one, architecture));
        let alternatives: Vec<String> = alternatives.collect();
        (!alternatives.is_empty()).then(|| alternatives.join(" | "))
    };
    field.split(',').filter_map(clause).collect()
}

/// `name:native (>= 1) [amd64 !i386] <!nocheck>` (Debian Policy 7.1).
fn alternative(text: &str, architecture: &str) -> Option<String> {
    let mut rest = text.trim();
    // A variable is for a package that is being built.
    if rest.is_empty() || rest.starts_with("${") {
        return None;
    }
    let end = rest.find(['(', '[', '<', ' ']).unwrap_or(rest.len());
    let mut out = rest[..end].trim_end_matches(":native").to_owned();
    rest = rest[end..].trim_start();
    if let Some((version, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        if !version.contains("${") {
            out += &format!(" ({})", version.trim());
        }
        rest = after.trim_start();
    }
    if let Some((list, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        if !is_for(list, architecture) {
            return None;
        }
        rest = after.trim_start();
    }
    let mut profiles = Vec::new();
    while let Some((list, after)) = rest.strip_prefix('<').and_then(|rest| rest.split_once('>')) {
        profiles.push(list);
        rest = after.trim_start();
    }
    // Without any profile a list holds where it only excludes.
    let holds = |list: &&str| list.split_whitespace().all(|word| word.starts_with('!'));
    (profiles.is_empty() || profiles.iter().any(holds)).then_some(out)
}

/// Whether a list of architectures or wildcards has that one (Debian Policy 11.1).
pub(super) fn is_for(list: &str, architecture: &str) -> bool {
    let is = |word: &str| {
        word == architecture
            || word == "any"
            || word == "linux-any"
            || word.strip_prefix("any-") == Some(architecture)
            || word.strip_prefix("linux-") == Some(architecture)
    };
    let words: Vec<&str> = list.split_whitespace().collect();
    match words.iter().all(|word| word.starts_with('!')) {
        true => !words.iter().any(|word| is(&word[1..])),
        false => words.iter().any(|word| is(word)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_concrete() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("debian")).unwrap();
        let control = "Source: x\nBuild-Depends: debhelper-compat (= 13),\n dh-python <!nocheck>, foo <cross>,\n\
                       \x20bar [i386], baz:native [linux-any]\n\nPackage: x\nArchitecture: any\n\
                       Recommends: y (>= 2), ${misc:Recommends}, x-data (= ${source:Version})\n\n\
                       Package: x-i386\nArchitecture: i386\n\nPackage: x-udeb\nXC-Package-Type: udeb\nArchitecture: any\n\n\
                       Package: x-data\nArchitecture: all\n";
        std::fs::write(temp.path().join("debian/control"), control).unwrap();
        let told = |depends: &str| concrete(depends, temp.path(), "amd64").unwrap();
        assert_eq!(told("@"), "x, x-data");
        assert_eq!(told("@builddeps@"), "debhelper-compat (= 13), dh-python, baz, build-essential");
        assert_eq!(told("@recommends@"), "y (>= 2), x-data");
        assert_eq!(told("@, a (>= 1)|b [!amd64], c [!i386]"), "x, x-data, a (>= 1), c");
        assert_eq!(told(""), "");
    }
}
