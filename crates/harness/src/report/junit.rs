//! JUnit's XML, as Jenkins's xUnit plugin publishes its schema (`junit-10.xsd`): a suite a cell, a case a
//! step. A cell that came to nothing has one case, which is in error.

use super::{Report, Run, diagnosis, escaped};
use crate::probe::{Cell, Step, Verdict};

pub(super) struct Junit;

impl Report for Junit {
    fn name(&self) -> &'static str {
        "junit"
    }

    fn render(&self, run: &Run) -> String {
        let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let suites: Vec<Vec<Case>> = run.cells.iter().map(cases).collect();
        let all = || suites.iter().flatten();
        text += &format!(
            "<testsuites name=\"postroj\" {} time=\"{:.3}\">\n",
            counts(all()),
            run.seconds
        );
        for (cell, cases) in run.cells.iter().zip(&suites) {
            text += &format!(
                "  <testsuite name=\"{}\" {} skipped=\"{}\" time=\"{:.3}\">\n",
                escaped(&cell.wish.title()),
                counts(cases.iter()),
                cases.iter().filter(|case| case.verdict == Verdict::Skipped).count(),
                cell.seconds
            );
            for case in cases {
                text += &case.xml(&cell.wish.title());
            }
            text += "  </testsuite>\n";
        }
        text + "</testsuites>\n"
    }
}

fn counts<'a>(cases: impl Iterator<Item = &'a Case> + Clone) -> String {
    let count = |verdict| cases.clone().filter(|case| case.verdict == verdict).count();
    format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{}\"",
        cases.clone().count(),
        count(Verdict::Fail),
        count(Verdict::Error)
    )
}

struct Case {
    name: String,
    verdict: Verdict,
    message: String,
    text: String,
    seconds: f64,
}

fn cases(cell: &Cell) -> Vec<Case> {
    let mut cases: Vec<Case> = cell.steps.iter().map(of_step).collect();
    let told = cases.iter().any(|case| case.verdict == cell.verdict);
    if !told && !matches!(cell.verdict, Verdict::Pass | Verdict::Flaky) {
        cases.push(Case {
            name: "cell".into(),
            verdict: cell.verdict,
            message: cell.reason.clone(),
            text: cell.reason.clone(),
            seconds: 0.0,
        });
    }
    cases
}

fn of_step(step: &Step) -> Case {
    Case {
        name: format!("{}: {}", step.phase, step.name),
        verdict: step.verdict,
        message: step.seen.clone(),
        text: diagnosis(step),
        seconds: step.seconds,
    }
}

impl Case {
    fn xml(&self, class: &str) -> String {
        let start = format!(
            "    <testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\"",
            escaped(class),
            escaped(&self.name),
            self.seconds
        );
        let (message, content) =
            (escaped(&self.message).replace('\n', "&#10;"), escaped(&self.text));
        let inner = match self.verdict {
            Verdict::Pass | Verdict::Flaky => return format!("{start}/>\n"),
            Verdict::Fail => {
                format!("<failure type=\"check\" message=\"{message}\">{content}</failure>")
            }
            Verdict::Error => {
                format!("<error type=\"probe\" message=\"{message}\">{content}</error>")
            }
            Verdict::Skipped => format!("<skipped message=\"{message}\"/>"),
        };
        format!("{start}>\n      {inner}\n    </testcase>\n")
    }
}
