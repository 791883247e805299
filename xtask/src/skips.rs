//! The list of tests that may be skipped: one that is not on it must not be.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::{cargo, output};
use crate::junit::Report;

/// Where the list is kept.
const PATH: &str = ".config/skipped-tests";

/// Compares what was skipped with the list. The list is for CI's machines; on others more
/// may be missing, so that there it is only said.
///
/// # Errors
/// On CI, where a test was skipped that is not on the list.
pub(crate) fn check(runs: &[(&str, Report)]) -> Result<()> {
    let listed = fs::read_to_string(PATH).with_context(|| format!("reading {PATH}"))?;
    let listed = parse(&listed);
    let mut skipped = Vec::new();
    for (who, report) in runs {
        for skip in &report.skipped {
            skipped.push((format!("{who} {}", skip.test), skip.reason.as_str()));
        }
    }
    let list = output(
        cargo()
            .args(["nextest", "list", "--workspace", "--locked"])
            .args(["--message-format", "json"]),
    )?;
    let list: Value = serde_json::from_str(&list).context("reading nextest's list of tests")?;
    for test in ignored(&list) {
        skipped.push((format!("ignored {test}"), "#[ignore]"));
    }
    let mut unlisted = 0;
    for (test, reason) in &skipped {
        let known = listed.contains(test.as_str());
        unlisted += usize::from(!known);
        eprintln!("{}: {test}: {reason}", if known { "skipped" } else { "skipped and not listed" });
    }
    for test in &listed {
        if !skipped.iter().any(|(skipped, _)| skipped == test) {
            eprintln!("warning: {PATH} lists a test that was not skipped: {test}");
        }
    }
    if unlisted > 0 && std::env::var_os("CI").is_some() {
        bail!("{unlisted} tests were skipped that {PATH} does not list");
    }
    Ok(())
}

/// `WHO BINARY TEST`, one a line, WHO being `root`, `user` or `ignored`; the rest of a
/// line is the reason, and lines that start with `#` are comments.
fn parse(text: &str) -> BTreeSet<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
        .collect()
}

/// `BINARY TEST` of every test that has an `#[ignore]`.
fn ignored(list: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (binary, suite) in list["rust-suites"].as_object().into_iter().flatten() {
        for (test, case) in suite["testcases"].as_object().into_iter().flatten() {
            if case["ignored"] == true {
                found.push(format!("{binary} {test}"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_three_words_and_a_reason() {
        let text = "# why\n\nuser postroj-store::pull a_full_disk   needs mount(2)\n  root x y\n";
        assert_eq!(
            parse(text).into_iter().collect::<Vec<_>>(),
            ["root x y", "user postroj-store::pull a_full_disk"]
        );
    }

    #[test]
    fn ignored_tests_of_a_list() {
        let list = serde_json::json!({"rust-suites": {
            "a": {"testcases": {"one": {"ignored": false}, "two": {"ignored": true}}},
            "b::c": {"testcases": {"m::three": {"ignored": true}}},
            "d": {},
        }});
        assert_eq!(ignored(&list), ["a two", "b::c m::three"]);
    }
}
