//! The Test Anything Protocol, version 13: a test a step, with what is known of a failure as YAML.

use super::{Report, Run, diagnosis};
use crate::probe::{Cell, Verdict};

pub(super) struct Tap;

impl Report for Tap {
    fn name(&self) -> &'static str {
        "tap"
    }

    fn render(&self, run: &Run) -> String {
        let mut lines = Vec::new();
        run.cells.iter().for_each(|cell| of_cell(cell, &mut lines));
        let mut text = format!("TAP version 13\n1..{}\n", lines.len());
        for (number, (good, rest)) in lines.iter().enumerate() {
            text += &format!("{} {} - {rest}", if *good { "ok" } else { "not ok" }, number + 1);
        }
        text
    }
}

/// Whether each is well, and what stands after its number.
fn of_cell(cell: &Cell, lines: &mut Vec<(bool, String)>) {
    let title = cell.wish.title();
    for step in &cell.steps {
        let mut text = format!("{}\n", plain(&format!("{title}: {}: {}", step.phase, step.name)));
        if !step.verdict.is_good() {
            text += "  ---\n  message: |\n";
            for line in diagnosis(step).lines() {
                text += &format!("    {line}\n");
            }
            text += "  ...\n";
        }
        lines.push((step.verdict.is_good(), text));
    }
    let told = cell.steps.iter().any(|step| step.verdict == cell.verdict);
    if !told && !matches!(cell.verdict, Verdict::Pass | Verdict::Flaky) {
        let directive = if cell.verdict == Verdict::Skipped { " # SKIP" } else { ":" };
        let text = format!("{}{directive} {}\n", plain(&title), plain(&cell.reason));
        lines.push((cell.verdict == Verdict::Skipped, text));
    }
}

/// On one line, and without what would be taken for a directive.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .replace('#', "\\#")
}
