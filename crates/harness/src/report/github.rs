//! Annotations of GitHub's workflows ("Workflow commands for GitHub Actions").

use super::{Report, Run, bad, diagnosis};
use crate::probe::Verdict;

pub(super) struct Github;

impl Report for Github {
    fn name(&self) -> &'static str {
        "github"
    }

    fn render(&self, run: &Run) -> String {
        let mut text = String::new();
        for cell in &run.cells {
            let title = cell.wish.title();
            let mut line = |title: &str, message: &str| {
                text += &format!("::error title={}::{}\n", property(title), data(message));
            };
            for step in bad(cell) {
                line(&format!("{title}: {}", step.name), &diagnosis(step));
            }
            if cell.verdict == Verdict::Error && bad(cell).next().is_none() {
                line(&title, &cell.reason);
            }
        }
        text
    }

    fn is_wanted_here(&self) -> bool {
        std::env::var("GITHUB_ACTIONS").is_ok_and(|value| value == "true")
    }
}

fn data(text: &str) -> String {
    text.trim_end().replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
