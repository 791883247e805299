//! nextest's JUnit report, as far as it is needed here.

/// The outcome of one run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Report {
    /// Tests that ran, those that skipped themselves included.
    pub(crate) run: u64,
    /// Tests that failed.
    pub(crate) failed: u64,
    /// Tests that passed only because they could do nothing here.
    pub(crate) skipped: Vec<Skip>,
    /// Tests that passed the second time only.
    pub(crate) flaky: Vec<String>,
}

/// A test that printed a line `skipped: REASON`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Skip {
    /// Such as `postroj-store::pull a_full_disk`.
    pub(crate) test: String,
    /// What it printed.
    pub(crate) reason: String,
}

/// What a passing test that could do nothing prints, followed by its reason.
const SKIPPED: &str = "skipped: ";

/// Reads a report.
pub(crate) fn parse(text: &str) -> Report {
    let mut report = Report::default();
    let mut test = String::new();
    for line in text.lines() {
        let line = line.trim_start();
        if line.starts_with("<testsuites ") {
            let count = |key| attribute(line, key).and_then(|n| n.parse().ok()).unwrap_or(0);
            report.run = count("tests");
            report.failed = count("failures") + count("errors");
        } else if line.starts_with("<testcase ") {
            let [class, name] =
                ["classname", "name"].map(|key| attribute(line, key).unwrap_or_default());
            test = format!("{} {}", unescape(class), unescape(name));
        } else if line.starts_with("<flakyFailure ") {
            report.flaky.push(test.clone());
        } else if let Some(reason) = skip_reason(line) {
            report.skipped.push(Skip { test: test.clone(), reason: unescape(reason) });
        }
    }
    report.skipped.sort();
    report.skipped.dedup();
    report
}

/// The line may come right after the tag, or after libtest's `test NAME ... `, to which a
/// test's own first line is glued.
fn skip_reason(line: &str) -> Option<&str> {
    let tags = ["<system-out>", "<system-err>"];
    let line = tags.iter().find_map(|tag| line.strip_prefix(tag)).unwrap_or(line);
    let line = match line.strip_prefix("test ") {
        Some(rest) => rest.split_once(" ... ")?.1,
        None => line,
    };
    let reason = line.strip_prefix(SKIPPED)?;
    Some(reason.split("</system-").next().unwrap_or(reason).trim_end())
}

fn attribute<'a>(tag: &'a str, key: &str) -> Option<&'a str> {
    let start = tag.find(&format!(" {key}=\""))? + key.len() + 3;
    tag[start..].split('"').next()
}

fn unescape(text: &str) -> String {
    let pairs = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="4" skipped="0" failures="1" errors="1" uuid="x" time="0.864">
    <testsuite name="postroj-distro" tests="4" skipped="0" errors="1" failures="1">
        <testcase name="a::b" classname="postroj-distro" timestamp="x" time="0.009">
            <system-out>
running 1 test
test a::b ... skipped: no loop devices &lt;here&gt;
ok
</system-out>
            <system-err>skipped: no loop devices &lt;here&gt;</system-err>
        </testcase>
        <testcase name="c" classname="postroj-distro::facts" timestamp="x" time="0.009">
            <flakyFailure timestamp="x" time="0.1" type="test failure">thread panicked</flakyFailure>
            <system-err>
some words
skipped: needs root &amp; more
</system-err>
        </testcase>
        <testcase name="d" classname="x" timestamp="x" time="0.009">
            <failure type="test failure">nothing was skipped: it failed</failure>
        </testcase>
    </testsuite>
</testsuites>
"#;

    #[test]
    fn counts_and_skips() {
        let skip =
            |test: &str, reason: &str| Skip { test: test.to_owned(), reason: reason.to_owned() };
        assert_eq!(
            parse(REPORT),
            Report {
                run: 4,
                failed: 2,
                skipped: vec![
                    skip("postroj-distro a::b", "no loop devices <here>"),
                    skip("postroj-distro::facts c", "needs root & more"),
                ],
                flaky: vec!["postroj-distro::facts c".to_owned()],
            }
        );
    }

    #[test]
    fn garbage_is_an_empty_report() {
        for text in ["", "<testsuites", "<testsuites tests=\"x\">", "<testcase >"] {
            assert_eq!(parse(text), Report::default(), "{text:?}");
        }
    }
}
