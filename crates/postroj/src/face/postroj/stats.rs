//! `stats`: what machines use of processors, memory and network.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use engine::record::Record;

use super::images::short;
use super::quantity::show_bytes;
use super::{Here, table, top};

/// Show what machines use
///
/// Where a machine has a control group, the kernel's accounts of that are shown; elsewhere the sums
/// of its processes, of which memory that several share is counted for each.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Once, instead of every second; the processor's share is then that since the start
    #[arg(long)]
    no_stream: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Names or ids; all that run where there are none
    machines: Vec<String>,
}

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// What a machine has used until now.
#[derive(Debug, Clone, Default)]
struct Usage {
    /// Hundredths of a second of processor time.
    processor: u64,
    /// When the first process was started, and when this was read: hundredths of a second since the
    /// host's boot.
    since: u64,
    now: u64,
    memory: u64,
    processes: u64,
    /// Bytes in and out, where the network is the machine's own.
    network: Option<(u64, u64)>,
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let run = here.run_directory()?;
    run.reap();
    let mut before: Vec<(String, Usage)> = Vec::new();
    loop {
        let records = match args.machines.is_empty() {
            true => run.machines(),
            false => args.machines.iter().map(|name| run.find(name)).collect::<Result<_>>()?,
        };
        let mut seen = Vec::new();
        for record in records.into_iter().filter(|record| record.exited.is_none()) {
            // It may end at this very moment.
            match usage(&record) {
                Ok(usage) => seen.push((record, usage)),
                Err(error) if !args.machines.is_empty() => return Err(error),
                Err(_) => {}
            }
        }
        if seen.is_empty() && !args.machines.is_empty() {
            match before.is_empty() {
                true => bail!("the machine {} has ended", args.machines.join(", ")),
                false => return Ok(0),
            }
        }
        let earlier = |id: &str| before.iter().find(|(other, _)| other == id).map(|(_, u)| u);
        if args.json {
            let list: Vec<serde_json::Value> =
                seen.iter().map(|(r, u)| json(r, u, earlier(r.id()))).collect();
            match args.no_stream {
                true => println!("{}", serde_json::to_string_pretty(&list)?),
                // A line a look, to be read as they come.
                false => println!("{}", serde_json::to_string(&list)?),
            }
        } else {
            let heading = ["MACHINE ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "NET I/O", "PIDS"];
            let mut rows = vec![heading.map(String::from).to_vec()];
            rows.extend(
                seen.iter().map(|(record, usage)| row(record, usage, earlier(record.id()))),
            );
            if !args.no_stream && sys::pty::is_terminal(rustix::stdio::stdout()) {
                // Home, and clear to the end (ECMA-48, CUP and ED).
                print!("\x1b[H\x1b[J");
            }
            print!("{}", table::render(&rows));
        }
        if args.no_stream {
            return Ok(0);
        }
        before = seen.into_iter().map(|(record, usage)| (record.id().to_owned(), usage)).collect();
        std::thread::sleep(PAUSE);
    }
}

fn usage(record: &Record) -> Result<Usage> {
    let processes = harness::processes(record)?;
    let now = top::uptime()?;
    let mut usage = Usage {
        now,
        since: processes.iter().map(|process| process.started).min().unwrap_or(now),
        processor: processes.iter().map(|process| process.used).sum(),
        memory: processes.iter().map(|process| process.resident).sum(),
        processes: processes.len() as u64,
        network: None,
    };
    for group in &record.cgroups {
        account(group, &mut usage);
    }
    let own = record.plan.as_ref().is_some_and(|plan| plan.network.is_own());
    if let Some((pid, _)) = record.pid.filter(|_| own) {
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
        usage.network = Some(traffic(&table));
    }
    Ok(usage)
}

/// The kernel's accounts, of v2 and v1 (cgroups(7)), where their controllers are on.
fn account(group: &Path, usage: &mut Usage) {
    let read = |name: &str| std::fs::read_to_string(group.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    if let Some(text) = read("cpu.stat")
        && let Some(micros) = text.lines().find_map(|line| line.strip_prefix("usage_usec "))
        && let Ok(micros) = micros.parse::<u64>()
    {
        usage.processor = micros / 10_000;
    }
    if let Some(nanos) = number("cpuacct.usage") {
        usage.processor = nanos / 10_000_000;
    }
    if let Some(bytes) = number("memory.current").or_else(|| number("memory.usage_in_bytes")) {
        usage.memory = bytes;
    }
}

/// Bytes received and sent of all devices but the loopback one (proc_pid_net(5), `dev`).
fn traffic(table: &str) -> (u64, u64) {
    table.lines().filter_map(|line| line.split_once(':')).fold((0, 0), |sum, (device, counts)| {
        let counts: Vec<u64> =
            counts.split_ascii_whitespace().filter_map(|count| count.parse().ok()).collect();
        match (device.trim(), &counts[..]) {
            ("lo", _) => sum,
            (_, [received, _, _, _, _, _, _, _, sent, ..]) => (sum.0 + received, sum.1 + sent),
            _ => sum,
        }
    })
}

/// Of one processor, since `earlier` or the start.
fn share(usage: &Usage, earlier: Option<&Usage>) -> f64 {
    let (used, time) = match earlier {
        Some(earlier) => {
            (usage.processor.saturating_sub(earlier.processor), usage.now - earlier.now)
        }
        None => (usage.processor, usage.now.saturating_sub(usage.since)),
    };
    if time == 0 { 0.0 } else { 100.0 * used as f64 / time as f64 }
}

fn limit(record: &Record) -> Option<u64> {
    record.plan.as_ref().and_then(|plan| plan.limits.memory)
}

fn row(record: &Record, usage: &Usage, earlier: Option<&Usage>) -> Vec<String> {
    let limit = limit(record).map_or_else(|| "--".to_owned(), show_bytes);
    let network = usage.network.map(|(i, o)| format!("{} / {}", show_bytes(i), show_bytes(o)));
    vec![
        short(record.id()).to_owned(),
        record.name.clone(),
        format!("{:.2}%", share(usage, earlier)),
        format!("{} / {limit}", show_bytes(usage.memory)),
        network.unwrap_or_else(|| "--".to_owned()),
        usage.processes.to_string(),
    ]
}

fn json(record: &Record, usage: &Usage, earlier: Option<&Usage>) -> serde_json::Value {
    serde_json::json!({
        "Id": record.id(),
        "Name": record.name,
        "CPUPercent": share(usage, earlier),
        "CPUSeconds": usage.processor as f64 / 100.0,
        "MemoryBytes": usage.memory,
        "MemoryLimit": limit(record),
        "NetworkReceivedBytes": usage.network.map(|(received, _)| received),
        "NetworkSentBytes": usage.network.map(|(_, sent)| sent),
        "Pids": usage.processes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_of_devices() {
        let table = "Inter-|   Receive  |  Transmit\n face |bytes packets|bytes packets\n    \
            lo: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n  eth0: 100 1 0 0 0 0 0 0 200 1 0 0 0 0 0 0\n";
        assert_eq!(traffic(table), (100, 200));
    }

    #[test]
    fn shares() {
        let at = |processor, now| Usage { processor, now, since: 100, ..Usage::default() };
        assert!((share(&at(50, 200), None) - 50.0).abs() < 1e-9);
        assert!((share(&at(250, 200), Some(&at(50, 100))) - 200.0).abs() < 1e-9);
        assert!(share(&at(0, 100), None) < 1e-9);
    }
}
