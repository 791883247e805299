//! Progress of a pull on a terminal: a line for the phase, and one for all downloads.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Mutex;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use spec::event::{Event, Tell};

/// Shows events on standard error; on anything but a terminal only warnings.
pub(super) struct Progress {
    shown: Option<Shown>,
}

struct Shown {
    lines: MultiProgress,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: Option<ProgressBar>,
    downloads: Option<ProgressBar>,
    /// Bytes of each download that was heard of: done and total.
    files: BTreeMap<String, (u64, u64)>,
    finished: usize,
    steps: BTreeMap<String, ProgressBar>,
}

/// Times a second; no thread redraws in between, since a machine is made by a process without threads.
const REDRAWS: u8 = 15;

impl Progress {
    pub(super) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let shown = terminal.then(|| Shown {
            lines: MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(REDRAWS)),
            state: Mutex::default(),
        });
        Self { shown }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(shown) = &self.shown {
            // A line that stays is only untidy.
            let _ = shown.lines.clear();
        }
    }
}

impl Tell for Progress {
    fn tell(&self, event: Event) {
        match &self.shown {
            Some(shown) => shown.tell(event),
            None => {
                if let Event::Warning { text } = event {
                    eprintln!("postroj: warning: {text}");
                }
            }
        }
    }
}

impl Shown {
    fn tell(&self, event: Event) {
        let Ok(mut state) = self.state.lock() else { return };
        match event {
            Event::Phase { name } => self.phase(&mut state, &name),
            Event::DownloadStarted { what, total } => {
                state.files.insert(what, (0, total.unwrap_or(0)));
                self.show_downloads(&mut state);
            }
            Event::DownloadProgress { what, done } => {
                if let Some(file) = state.files.get_mut(&what) {
                    file.0 = done;
                }
                self.show_downloads(&mut state);
            }
            Event::DownloadFinished { what } => {
                if let Some(file) = state.files.get_mut(&what) {
                    file.0 = file.1.max(file.0);
                }
                state.finished += 1;
                self.show_downloads(&mut state);
            }
            Event::Step { what, done, total } => self.step(&mut state, &what, done, total),
            Event::Output { line } => {
                if let Some(phase) = &state.phase {
                    phase.set_message(shorten(&line));
                    phase.tick();
                }
            }
            Event::Warning { text } => {
                let _ = self.lines.println(format!("postroj: warning: {text}"));
            }
            _ => {}
        }
    }

    fn phase(&self, state: &mut State, name: &str) {
        if let Some(before) = state.phase.take() {
            before.finish_and_clear();
        }
        for (_, bar) in std::mem::take(&mut state.steps) {
            bar.finish_and_clear();
        }
        let bar = self.lines.add(ProgressBar::new_spinner());
        bar.set_style(style("{spinner} {prefix} {elapsed:.dim} {wide_msg:.dim}"));
        bar.set_prefix(name.to_owned());
        bar.tick();
        state.phase = Some(bar);
    }

    fn show_downloads(&self, state: &mut State) {
        let (done, total) =
            state.files.values().fold((0, 0), |(d, t), (done, total)| (d + done, t + total));
        let (finished, all) = (state.finished, state.files.len());
        let bar = state.downloads.get_or_insert_with(|| {
            let bar = self.lines.insert(0, ProgressBar::new(0));
            bar.set_style(style(
                "  {prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec:.dim}",
            ));
            bar
        });
        bar.set_prefix(format!("downloaded {finished}/{all}"));
        bar.set_length(total);
        bar.set_position(done);
    }

    fn step(&self, state: &mut State, what: &str, done: u64, total: u64) {
        let bar = state.steps.entry(what.to_owned()).or_insert_with(|| {
            let bar = self.lines.add(ProgressBar::new(total));
            bar.set_style(style("  {prefix} [{bar:30}] {pos}/{len}"));
            bar.set_prefix(what.to_owned());
            bar
        });
        bar.set_length(total);
        bar.set_position(done);
    }
}

/// indicatif and console leave colours out where NO_COLOR asks for it.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn shorten(line: &str) -> String {
    line.chars().filter(|c| !c.is_control()).take(120).collect()
}
