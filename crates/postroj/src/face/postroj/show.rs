//! A probe as it goes: a row a cell on a terminal, a line a cell in a pipe, and what was wrong.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use harness::matrix::Happening;
use harness::probe::{Cell, News, Step, Verdict, Wish};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows cells.
pub(super) struct Show {
    titles: Vec<String>,
    allowed: Vec<String>,
    /// One row a cell, while there is a terminal to show them on.
    rows: Option<(MultiProgress, Vec<ProgressBar>)>,
    /// Standard output is a report's.
    on_stderr: bool,
    colours: bool,
}

impl Show {
    pub(super) fn new(wishes: &[Wish], allowed: &[String], on_stderr: bool) -> Self {
        let titles: Vec<String> = wishes.iter().map(title).collect();
        let width = titles.iter().map(|title| title.chars().count()).max().unwrap_or(0);
        let rows = std::io::stderr().is_terminal().then(|| {
            let lines = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(15));
            let template =
                format!("{{spinner:.cyan}} {{prefix:{width}}}  {{elapsed:>4.dim}}  {{wide_msg}}");
            let style = ProgressStyle::with_template(&template)
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            let row = |title: &String| {
                let row = lines.add(ProgressBar::new_spinner());
                row.set_style(style.clone());
                row.set_prefix(title.clone());
                row.set_message("waits");
                row
            };
            let rows = titles.iter().map(row).collect();
            (lines, rows)
        });
        let output = if on_stderr {
            std::io::stderr().is_terminal()
        } else {
            std::io::stdout().is_terminal()
        };
        let colours = output && std::env::var_os("NO_COLOR").is_none();
        Self { titles, allowed: allowed.to_vec(), rows, on_stderr, colours }
    }

    pub(super) fn happens(&mut self, happening: Happening) {
        let row = |at: usize| self.rows.as_ref().and_then(|(_, rows)| rows.get(at));
        match happening {
            Happening::Began(at) => {
                if let Some(row) = row(at) {
                    row.reset_elapsed();
                    row.set_message("starts");
                }
            }
            Happening::News(at, News::Doing(what)) => {
                if let Some(row) = row(at) {
                    row.set_message(what);
                }
            }
            Happening::News(..) => {}
            Happening::Done(at, cell) => {
                if let Some(row) = row(at) {
                    row.finish_and_clear();
                }
                // A single cell is told of in full at the end.
                if self.titles.len() > 1 {
                    let line = self.line(&cell);
                    match &self.rows {
                        Some((lines, _)) => lines.suspend(|| self.print(&line)),
                        None => self.print(&line),
                    }
                }
            }
            Happening::Tick => {
                for row in self.rows.iter().flat_map(|(_, rows)| rows).filter(|r| !r.is_finished())
                {
                    row.tick();
                }
            }
        }
    }

    /// What is to be said when all is done.
    pub(super) fn over(&mut self, cells: &[Cell], seconds: f64, directory: &Path) {
        if let Some((lines, _)) = self.rows.take() {
            let _ = lines.clear();
        }
        let mut text = String::new();
        let alone = cells.len() == 1;
        for cell in cells.iter().filter(|cell| alone || !cell.verdict.is_good()) {
            text += &self.details(cell, alone);
        }
        if !alone {
            let count = |verdict| cells.iter().filter(|cell| cell.verdict == verdict).count();
            let all =
                [Verdict::Pass, Verdict::Flaky, Verdict::Fail, Verdict::Error, Verdict::Skipped];
            let parts: Vec<String> = all
                .into_iter()
                .filter(|verdict| count(*verdict) > 0)
                .map(|verdict| format!("{} {}", count(verdict), verdict.word()))
                .collect();
            let _ = writeln!(text, "{} in {}", parts.join(", "), time(seconds));
        }
        if cells.iter().any(|cell| cell.wish.evidence.exists()) {
            let _ = writeln!(text, "evidence: {}", directory.display());
        }
        self.print(text.trim_end_matches('\n'));
    }

    fn print(&self, text: &str) {
        // Who reads it may have gone.
        let _ = if self.on_stderr {
            writeln!(std::io::stderr(), "{text}")
        } else {
            writeln!(std::io::stdout(), "{text}")
        };
    }

    /// A cell on one line.
    fn line(&self, cell: &Cell) -> String {
        let reason =
            if cell.reason.is_empty() { String::new() } else { format!("  {}", cell.reason) };
        let allowed = match super::probe::is_allowed(&cell.wish, &self.allowed) {
            true if !cell.verdict.is_good() => " (allowed)",
            _ => "",
        };
        let width = self.titles.iter().map(|title| title.chars().count()).max().unwrap_or(0);
        let verdict =
            self.verdict(cell.verdict, &format!("{:7}", cell.verdict.word().to_uppercase()));
        format!(
            "{verdict} {:width$}  {:>6}{reason}{allowed}",
            title(&cell.wish),
            time(cell.seconds)
        )
    }

    fn details(&self, cell: &Cell, all: bool) -> String {
        let mut text = format!("{}\n", self.bold(&title(&cell.wish)));
        let (mut phase, names) = (String::new(), cell.steps.iter().map(|s| s.name.chars().count()));
        let width = names.max().unwrap_or(0).min(40);
        let phases = cell.steps.iter().map(|s| s.phase.len()).max().unwrap_or(0);
        for step in cell.steps.iter().filter(|step| all || !step.verdict.is_good()) {
            let shown = if step.phase == phase { "" } else { &step.phase };
            let mark = self.verdict(step.verdict, mark(step.verdict));
            let seen = match step.verdict {
                Verdict::Pass => shorten(&step.seen),
                _ => step.seen.clone(),
            };
            let _ = writeln!(
                text,
                "  {shown:phases$}  {mark} {:width$}  {}  {seen}",
                step.name,
                self.dim(&format!("{:>6}", time(step.seconds))),
            );
            text += &self.diagnosis(step, phases + 6);
            phase.clone_from(&step.phase);
        }
        let word = cell.verdict.word().to_uppercase();
        let reason = match cell.verdict {
            Verdict::Error | Verdict::Skipped | Verdict::Flaky => format!(": {}", cell.reason),
            _ => String::new(),
        };
        let verdict = self.verdict(cell.verdict, &word);
        let _ = writeln!(text, "{verdict} in {}{reason}", time(cell.seconds));
        if !cell.verdict.is_good() {
            let _ = writeln!(text, "again: {}", harness::probe::cell::quoted(&cell.wish.command()));
        }
        if let Some(name) = &cell.machine {
            let _ = writeln!(
                text,
                "kept: postroj shell {}; postroj rm -f {name}",
                name.split(' ').next().unwrap_or_default()
            );
        }
        text
    }

    fn diagnosis(&self, step: &Step, indent: usize) -> String {
        let mut text = String::new();
        if step.verdict.is_good() {
            return text;
        }
        if !step.expected.is_empty() {
            let _ = writeln!(text, "{:indent$}expected: {}", "", step.expected);
        }
        for line in step.cause.iter().flat_map(|cause| cause.lines()) {
            let _ = writeln!(text, "{:indent$}{}", "", self.dim(line));
        }
        text
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    fn verdict(&self, verdict: Verdict, text: &str) -> String {
        let code = match verdict {
            Verdict::Pass => "32",
            Verdict::Fail => "31",
            Verdict::Error => "35",
            Verdict::Skipped => "2",
            Verdict::Flaky => "33",
        };
        self.paint(code, text)
    }
}

/// An image and what is installed on it; of a path the last part.
fn title(wish: &Wish) -> String {
    if wish.test.is_some() {
        return wish.title();
    }
    let short = |package: &String| package.rsplit('/').next().unwrap_or(package).to_owned();
    let packages: Vec<String> = wish.packages.iter().map(short).collect();
    format!("{} {}", wish.system(), packages.join("+")).trim_end().to_owned()
}

fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "✓",
        Verdict::Fail => "✗",
        Verdict::Error => "!",
        Verdict::Skipped => "-",
        Verdict::Flaky => "~",
    }
}

fn time(seconds: f64) -> String {
    let time = Duration::from_secs_f64(seconds.max(0.0));
    match time.as_secs() {
        0..10 => format!("{:.2} s", time.as_secs_f64()),
        10..600 => format!("{:.1} s", time.as_secs_f64()),
        long => format!("{} min", long / 60),
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
