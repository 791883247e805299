//! `stats`: what machines use of processors, memory and network.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use engine::record::Record;
use harness::ProcessStatus;

use super::images::short;
use super::quantity::show_bytes;
use super::{Here, table};

/// Show what machines use
///
/// Where a machine has a control group, the kernel's accounts of that are shown; elsewhere the sums
/// of its processes, of which memory that several share is counted for each. Of a virtual machine processor and memory
/// are what it takes of the host, and its guest tells the rest.
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

/// The last one is there where something has a guest.
const HEADING: [&str; 7] =
    ["MACHINE ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "NET I/O", "PIDS", "GUEST MEM / TOTAL"];

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// What a machine has used until now.
#[derive(Debug, Clone, Default)]
struct Usage {
    /// Hundredths of a second of processor time.
    processor: u64,
    /// Hundredths of a second since the first process was started.
    age: u64,
    memory: u64,
    processes: u64,
    /// Bytes in and out, where the network is the machine's own.
    network: Option<(u64, u64)>,
    /// Of a machine with a kernel of its own: what its guest uses of its memory, and how much it has.
    guest: Option<(u64, u64)>,
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
            let mut rows = vec![HEADING.map(String::from).to_vec()];
            rows.extend(
                seen.iter().map(|(record, usage)| row(record, usage, earlier(record.id()))),
            );
            if seen.iter().all(|(_, usage)| usage.guest.is_none()) {
                rows.iter_mut().for_each(|row| drop(row.pop()));
            }
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
    let carriers = harness::carriers(record);
    if !carriers.is_empty() {
        return Ok(of_virtual_machine(record, &carriers));
    }
    let processes = harness::processes(record)?;
    let mut usage = sum(&processes);
    for group in &record.cgroups {
        account(group, &mut usage);
    }
    let own = record.plan.as_ref().is_some_and(|plan| plan.network.is_own());
    if let Some((pid, _)) = record.pid.filter(|_| own) {
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
        usage.network = Some(harness::traffic(&table));
    }
    Ok(usage)
}

fn sum(processes: &[ProcessStatus]) -> Usage {
    Usage {
        age: processes.iter().map(|process| process.age).max().unwrap_or_default(),
        processor: processes.iter().map(|process| process.used).sum(),
        memory: processes.iter().map(|process| process.resident).sum(),
        processes: processes.len() as u64,
        ..Usage::default()
    }
}

/// One that stands still, or does not answer, tells nothing of its inside.
fn of_virtual_machine(record: &Record, carriers: &[ProcessStatus]) -> Usage {
    let guest = harness::guest(record).ok();
    Usage {
        processes: guest.map_or(0, |guest| guest.processes),
        network: guest.map(|guest| guest.network),
        guest: guest.map(|guest| (guest.memory, guest.has)),
        ..sum(carriers)
    }
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

/// Of one processor, since `earlier` or the start.
fn share(usage: &Usage, earlier: Option<&Usage>) -> f64 {
    let (used, time) = match earlier {
        Some(earlier) => {
            let time = usage.age.saturating_sub(earlier.age);
            (usage.processor.saturating_sub(earlier.processor), time)
        }
        None => (usage.processor, usage.age),
    };
    if time == 0 { 0.0 } else { 100.0 * used as f64 / time as f64 }
}

fn limit(record: &Record) -> Option<u64> {
    record.plan.as_ref().and_then(|plan| plan.limits.memory)
}

fn row(record: &Record, usage: &Usage, earlier: Option<&Usage>) -> Vec<String> {
    let limit = limit(record).map_or_else(|| "--".to_owned(), show_bytes);
    let network = usage.network.map(|(i, o)| format!("{} / {}", show_bytes(i), show_bytes(o)));
    let guest =
        usage.guest.map(|(used, has)| format!("{} / {}", show_bytes(used), show_bytes(has)));
    vec![
        short(record.id()).to_owned(),
        record.name.clone(),
        format!("{:.2}%", share(usage, earlier)),
        format!("{} / {limit}", show_bytes(usage.memory)),
        network.unwrap_or_else(|| "--".to_owned()),
        usage.processes.to_string(),
        guest.unwrap_or_else(|| "--".to_owned()),
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
        "GuestMemoryBytes": usage.guest.map(|(used, _)| used),
        "GuestMemoryTotalBytes": usage.guest.map(|(_, has)| has),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        let at = |processor, age| Usage { processor, age, ..Usage::default() };
        assert!((share(&at(50, 100), None) - 50.0).abs() < 1e-9);
        assert!((share(&at(250, 100), Some(&at(50, 0))) - 200.0).abs() < 1e-9);
        assert!(share(&at(0, 0), None) < 1e-9);
    }
}
