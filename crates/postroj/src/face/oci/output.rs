//! What is printed of containers: `state`, `list`, `ps` and `events`, as runc has it.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use engine::oci::{Containers, Record, statistics};
use serde_json::json;

use super::words::Words;

/// RFC 3339.
pub(super) fn now() -> String {
    engine::oci::now().unwrap_or_default()
}

fn as_json(record: &Record) -> serde_json::Value {
    json!({
        "ociVersion": record.state.oci_version,
        "id": record.state.id,
        "pid": record.state.pid,
        "status": record.state.status,
        "bundle": record.state.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "annotations": record.state.annotations,
        "owner": record.owner,
    })
}

pub(super) fn state(containers: &Containers<'_>, args: &mut VecDeque<String>) -> Result<u8> {
    let words = Words::read(args, &[], usize::MAX)?;
    let record = containers.state(words.id()?)?;
    println!("{}", serde_json::to_string_pretty(&as_json(&record))?);
    Ok(0)
}

pub(super) fn list(containers: &Containers<'_>, args: &mut VecDeque<String>) -> Result<u8> {
    let known = [("format", Some('f'), true), ("quiet", Some('q'), false)];
    let words = Words::read(args, &known, usize::MAX)?;
    let records = containers.list()?;
    if words.is_set("quiet") {
        records.iter().for_each(|record| println!("{}", record.state.id));
        return Ok(0);
    }
    match words.value("format") {
        Some("json") => {
            let all: Vec<_> = records.iter().map(as_json).collect();
            println!("{}", serde_json::to_string(&all)?);
        }
        None | Some("table" | "") => {
            let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
            let row = |record: &Record| {
                let state = &record.state;
                [
                    state.id.clone(),
                    state.pid.to_string(),
                    state.status.name().to_owned(),
                    state.bundle.clone(),
                    record.created.clone(),
                    record.owner.clone(),
                ]
            };
            table(std::iter::once(head).chain(records.iter().map(row)).collect());
        }
        Some(other) => bail!("unknown format {other:?}: json or table"),
    }
    Ok(0)
}

fn table<const N: usize>(rows: Vec<[String; N]>) {
    let width = |n: usize| rows.iter().map(|row| row[n].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        println!("{}", cells.collect::<Vec<_>>().join("   ").trim_end());
    }
}

pub(super) fn ps(containers: &Containers<'_>, args: &mut VecDeque<String>) -> Result<u8> {
    let words = Words::read(args, &[("format", Some('f'), true)], 2)?;
    let found = containers.processes(words.id()?)?;
    match words.value("format") {
        Some("json") => {
            println!("{}", serde_json::to_string(&found)?);
            return Ok(0);
        }
        None | Some("table" | "") => {}
        Some(other) => bail!("unknown format {other:?}: json or table"),
    }
    let options = match words.operands.get(1..) {
        Some(options) if !options.is_empty() => options.to_vec(),
        _ => vec!["-ef".to_owned()],
    };
    let listed =
        std::process::Command::new("ps").args(&options).output().context("cannot run ps")?;
    let listed = String::from_utf8_lossy(&listed.stdout);
    let mut lines = listed.lines();
    let head = lines.next().unwrap_or_default();
    let column = head.split_ascii_whitespace().position(|title| title == "PID");
    let column = column.context("ps does not tell process ids with these options")?;
    println!("{head}");
    for line in lines {
        let pid = line.split_ascii_whitespace().nth(column).and_then(|text| text.parse().ok());
        if pid.is_some_and(|pid: i32| found.contains(&pid)) {
            println!("{line}");
        }
    }
    Ok(0)
}

pub(super) fn events(containers: &Containers<'_>, args: &mut VecDeque<String>) -> Result<u8> {
    let words = Words::read(args, &[("stats", None, false), ("interval", None, true)], usize::MAX)?;
    let id = words.id()?;
    if words.is_set("stats") {
        println!("{}", statistics(containers, id)?);
        return Ok(0);
    }
    let interval = words.value("interval").unwrap_or("5s");
    let seconds: u64 =
        interval
            .trim_end_matches('s')
            .parse()
            .ok()
            .filter(|seconds| *seconds > 0)
            .with_context(|| format!("--interval {interval:?} is no number of seconds"))?;
    loop {
        println!("{}", statistics(containers, id)?);
        if containers.wait(id, Duration::from_secs(seconds))? {
            return Ok(0);
        }
    }
}
