//! One file that shows it all in a browser, without a server: what it needs is in it.

use std::path::Path;

use super::{Report, Run, escaped};

pub(super) struct Html;

/// The page around the data; its script makes everything that is seen.
const PAGE: &str = include_str!("page.html");

/// What the page has in place of the data.
const DATA: &str = "/*DATA*/";

impl Report for Html {
    fn name(&self) -> &'static str {
        "html"
    }

    fn render(&self, run: &Run) -> String {
        let logs: Vec<serde_json::Value> = run
            .cells
            .iter()
            .map(|cell| {
                let mut logs = serde_json::Map::new();
                for name in logs_of(&cell.wish.evidence) {
                    if let Some(text) = tail(&cell.wish.evidence.join(&name)) {
                        logs.insert(name, text.into());
                    }
                }
                let command = crate::probe::cell::quoted(&cell.wish.command());
                serde_json::json!({ "logs": logs, "command": command })
            })
            .collect();
        let data = serde_json::json!({
            "started": run.started,
            "seconds": run.seconds,
            "cells": run.cells,
            "more": logs,
        });
        // Within a script only `</` ends it, and `<!--` confuses (HTML, "Restrictions for contents of script elements").
        let data = data.to_string().replace('<', "\\u003c");
        let title = format!("postroj: {} cells", run.cells.len());
        PAGE.replace("<!--TITLE-->", &escaped(&title)).replacen(DATA, &data, 1)
    }
}

/// Names of the texts of a cell's evidence. What is told elsewhere on the page is left out.
fn logs_of(evidence: &Path) -> Vec<String> {
    const TOLD: [&str; 3] = ["command.txt", "packages-before.txt", "packages-after.txt"];
    let names = std::fs::read_dir(evidence).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let is_log = |name: &String| name.ends_with(".txt") && !TOLD.contains(&name.as_str());
    let mut names: Vec<String> = names.filter(is_log).collect();
    names.sort();
    names
}

/// Of each log: bytes.
const SHOWN: usize = 64 << 10;

fn tail(path: &Path) -> Option<String> {
    let bytes = std::fs::read(path).ok().filter(|bytes| !bytes.is_empty())?;
    let cut = bytes.len().saturating_sub(SHOWN);
    let text = String::from_utf8_lossy(&bytes[cut..]).into_owned();
    Some(if cut == 0 { text } else { format!("… ({cut} bytes before)\n{text}") })
}
