//! Everything, for programs.

use super::{Report, Run};

pub(super) struct Json;

impl Report for Json {
    fn name(&self) -> &'static str {
        "json"
    }

    fn render(&self, run: &Run) -> String {
        let value = serde_json::json!({
            "started": run.started,
            "seconds": run.seconds,
            "evidence": run.directory,
            "cells": run.cells,
        });
        format!("{value:#}\n")
    }
}
