//! What is printed of containers: `state`, `list`, `ps` and `events`, as runc has it.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use engine::oci::{Containers, Record, statistics};
use serde::Serialize;

use super::words::Words;

/// RFC 3339.
pub(super) fn now() -> String {
    engine::oci::now().unwrap_or_default()
}

/// A container in runc's order: there are those who look for `{"ociVersion":…,"id":…` in the text.
fn as_json(record: &Record) -> impl Serialize {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Shown<'a, A, S> {
        oci_version: &'a str,
        id: &'a str,
        pid: i32,
        status: S,
        bundle: &'a str,
        rootfs: &'a str,
        created: &'a str,
        annotations: &'a A,
        owner: &'a str,
    }
    let state = &record.state;
    Shown {
        oci_version: &state.oci_version,
        id: &state.id,
        pid: state.pid,
        status: &state.status,
        bundle: &state.bundle,
        rootfs: &record.rootfs,
        created: &record.created,
        annotations: &state.annotations,
        owner: &record.owner,
    }
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
    let words = Words::read(args, &[("format", Some('f'), true)], 1)?;
    let found = containers.processes(words.id()?)?;
    match words.value("format") {
        Some("json") => {
            println!("{}", serde_json::to_string(&found)?);
            return Ok(0);
        }
        None | Some("table" | "") => {}
        Some(other) => bail!("unknown format {other:?}: json or table"),
    }
    // What follows the id is ps's.
    let options: Vec<String> = match args.is_empty() {
        true => vec!["-ef".to_owned()],
        false => args.drain(..).collect(),
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
        println!("{}", serde_json::to_string(&statistics(containers, id)?)?);
        return Ok(0);
    }
    let interval = words.value("interval").unwrap_or("5s");
    let interval = duration(interval)
        .with_context(|| format!("--interval {interval:?} is no duration such as 5s or 100ms"))?;
    loop {
        println!("{}", serde_json::to_string(&statistics(containers, id)?)?);
        if containers.wait(id, interval)? {
            return Ok(0);
        }
    }
}

/// As runc's callers write it (Go, `time.ParseDuration`): `1m30s`, `100ms`; without a unit, seconds.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(rest.len());
        let (value, after) = rest.split_at(number);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" | "" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        sum += value.parse::<f64>().ok()? * seconds;
        rest = after;
    }
    Duration::try_from_secs_f64(sum).ok().filter(|duration| !duration.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go_s() {
        for (text, milliseconds) in
            [("5s", 5000), ("100ms", 100), ("1m30s", 90_000), ("1.5h", 5_400_000), ("2", 2000)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "0s", "s", "1d", "-1s", "1s-", "1..2s", "99999999999999999999999h"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
