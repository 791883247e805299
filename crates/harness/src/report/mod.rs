//! What came of a run, for people and for programs: each format in a file of its own.

use std::path::PathBuf;

use crate::probe::{Cell, Step, Verdict};

mod github;
mod gitlab;
mod html;
mod json;
mod junit;
mod markdown;
mod tap;

/// What came of it all.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// In the order in which they were asked for.
    pub cells: Vec<Cell>,
    /// Seconds since the epoch.
    pub started: u64,
    /// How long it took: seconds.
    pub seconds: f64,
    /// Where evidence is.
    pub directory: PathBuf,
}

/// A format.
pub trait Report: Sync {
    /// As `--report` takes it.
    fn name(&self) -> &'static str;

    /// All of it, with a line end.
    fn render(&self, run: &Run) -> String;

    /// Whether it is to be printed without being asked for, as where a forge reads it.
    fn is_wanted_here(&self) -> bool {
        false
    }
}

/// Every format there is.
pub const REPORTS: &[&dyn Report] = &[
    &junit::Junit,
    &tap::Tap,
    &json::Json,
    &markdown::Markdown,
    &html::Html,
    &github::Github,
    &gitlab::Gitlab,
];

/// The format of that name.
pub fn find(name: &str) -> Option<&'static dyn Report> {
    REPORTS.iter().copied().find(|report| report.name() == name)
}

/// Everything that is known of a step that is not well, but for its name.
fn diagnosis(step: &Step) -> String {
    let mut text = String::new();
    if !step.expected.is_empty() {
        text += &format!("expected: {}\n", step.expected);
    }
    text += &format!("seen: {}\n", step.seen);
    if let Some(cause) = &step.cause {
        text += &format!("{cause}\n");
    }
    text
}

/// Steps that are not well.
fn bad(cell: &Cell) -> impl Iterator<Item = &Step> {
    cell.steps.iter().filter(|step| matches!(step.verdict, Verdict::Fail | Verdict::Error))
}

/// Text for XML and HTML; what neither may hold becomes a sign for it (XML 1.0, "Characters").
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => {
                out.push('\u{fffd}')
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_out_of_a_text() {
        assert_eq!(
            escaped("<a b=\"c\">&'\u{1b}\u{0}"),
            "&lt;a b=&quot;c&quot;&gt;&amp;&#39;\u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn names_are_found() {
        for report in REPORTS {
            assert_eq!(find(report.name()).map(Report::name), Some(report.name()));
        }
        assert!(find("xml").is_none());
    }
}
