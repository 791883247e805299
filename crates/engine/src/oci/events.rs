//! What a container uses, in the words of runc's `events --stats`.

use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use super::cgroups::Group;
use super::{Containers, Record};

/// Its use of memory, processor time, processes and block devices.
///
/// # Errors
/// Where there is no such container.
pub fn statistics(containers: &Containers<'_>, id: &str) -> Result<Event> {
    let record = containers.state(id)?;
    let data = json!({
        "cpu": cpu(&record),
        "memory": memory(&record),
        "pids": pids(&record),
        "blkio": {},
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
    });
    Ok(Event { kind: "stats", id: id.to_owned(), data })
}

/// What is printed of a container, with runc's keys in runc's order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// `stats`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The container's.
    pub id: String,
    /// By controller.
    pub data: Value,
}

fn number(group: &Group, file: &str) -> u64 {
    let text = fs::read_to_string(group.path.join(file)).unwrap_or_default();
    text.trim().parse().unwrap_or(if text.trim() == "max" { u64::MAX } else { 0 })
}

/// A line `NAME NUMBER` of a file.
fn named(group: &Group, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(group.path.join(file)).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

fn cpu(record: &Record) -> Value {
    let unified = record.cgroups.0.iter().find(|group| group.is_unified());
    let (total, kernel, user) = match record.cgroups.with("cpuacct") {
        Some(group) => (
            number(group, "cpuacct.usage"),
            number(group, "cpuacct.usage_sys"),
            number(group, "cpuacct.usage_user"),
        ),
        None => unified.map_or((0, 0, 0), |group| {
            let nanoseconds = |name| named(group, "cpu.stat", name) * 1000;
            (nanoseconds("usage_usec"), nanoseconds("system_usec"), nanoseconds("user_usec"))
        }),
    };
    json!({ "usage": { "total": total, "kernel": kernel, "user": user }, "throttling": {} })
}

fn memory(record: &Record) -> Value {
    let Some(group) = record.cgroups.with("memory") else { return json!({}) };
    let files = match group.is_unified() {
        true => ("memory.current", "memory.max", "memory.peak"),
        false => ("memory.usage_in_bytes", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
    };
    json!({
        "usage": {
            "usage": number(group, files.0),
            "limit": number(group, files.1),
            "max": number(group, files.2),
            "failcnt": if group.is_unified() { 0 } else { number(group, "memory.failcnt") },
        },
    })
}

fn pids(record: &Record) -> Value {
    let Some(group) = record.cgroups.with("pids") else { return json!({}) };
    let limit = number(group, "pids.max");
    let limit = if limit == u64::MAX { 0 } else { limit };
    json!({ "current": number(group, "pids.current"), "limit": limit })
}

/// The time, as RFC 3339 has it.
///
/// # Errors
/// Where the clock is before 1970.
pub fn now() -> Result<String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.context("the clock is before 1970")?;
    Ok(rfc3339(now.as_secs(), now.subsec_nanos()))
}

/// Days to a date: the algorithm of Howard Hinnant's `civil_from_days`.
fn rfc3339(seconds: u64, nanoseconds: u32) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanoseconds:09}Z")
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn dates() {
        assert_eq!(rfc3339(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(951_782_400, 5), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(rfc3339(1_785_542_399, 0), "2026-07-31T23:59:59.000000000Z");
    }
}
