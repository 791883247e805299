//! For comments and summaries on forges.

use super::{Report, Run, bad, diagnosis};
use crate::probe::Verdict;

pub(super) struct Markdown;

impl Report for Markdown {
    fn name(&self) -> &'static str {
        "markdown"
    }

    fn render(&self, run: &Run) -> String {
        let mut text = String::from("| | image | package | time | |\n|---|---|---|---|---|\n");
        for cell in &run.cells {
            text += &format!(
                "| {} | {} | {} | {:.1} s | {} |\n",
                sign(cell.verdict),
                plain(&cell.wish.system()),
                plain(&short(&cell.wish.packages)),
                cell.seconds,
                plain(&cell.reason)
            );
        }
        for cell in &run.cells {
            for step in bad(cell) {
                let what = format!("{}: {}: {}", cell.wish.title(), step.phase, step.name);
                // A fence that is longer than any in the text.
                let fence = "`".repeat(longest_fence(&diagnosis(step)).max(2) + 1);
                text += &format!(
                    "\n<details><summary>{}</summary>\n\n{fence}\n{}{fence}\n\n</details>\n",
                    super::escaped(&what),
                    diagnosis(step)
                );
            }
        }
        text
    }
}

fn sign(verdict: Verdict) -> String {
    let sign = match verdict {
        Verdict::Pass => "✅",
        Verdict::Fail => "❌",
        Verdict::Error => "⚠️",
        Verdict::Skipped => "⏭️",
        Verdict::Flaky => "🔁",
    };
    format!("{sign} {}", verdict.word())
}

fn short(packages: &[String]) -> String {
    let short = |package: &String| package.rsplit('/').next().unwrap_or_default().to_owned();
    packages.iter().map(short).collect::<Vec<_>>().join(" ")
}

/// For a cell of a table.
fn plain(text: &str) -> String {
    super::escaped(text).replace('|', "\\|").replace('\n', " ")
}

fn longest_fence(text: &str) -> usize {
    let mut longest = 0;
    let mut now = 0;
    for c in text.chars() {
        now = if c == '`' { now + 1 } else { 0 };
        longest = longest.max(now);
    }
    longest
}
