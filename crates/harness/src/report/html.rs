//! One file that shows it all in a browser, without a server: what it needs is in it.

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
                for name in LOGS {
                    if let Some(text) = tail(&cell.wish.evidence.join(name)) {
                        logs.insert(name.to_owned(), text.into());
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

const LOGS: [&str; 7] = [
    "journal.txt",
    "failed-units.txt",
    "console.txt",
    "install.txt",
    "upgrade.txt",
    "remove.txt",
    "purge.txt",
];

/// Of each log: bytes.
const SHOWN: usize = 64 << 10;

fn tail(path: &std::path::Path) -> Option<String> {
    let bytes = std::fs::read(path).ok().filter(|bytes| !bytes.is_empty())?;
    let cut = bytes.len().saturating_sub(SHOWN);
    let text = String::from_utf8_lossy(&bytes[cut..]).into_owned();
    Some(if cut == 0 { text } else { format!("… ({cut} bytes before)\n{text}") })
}
