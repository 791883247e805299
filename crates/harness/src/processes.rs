//! The processes of a machine, as its own `/proc` tells of them: it is not to be trusted, and is only shown.

use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use engine::record::Record;
use engine::{Errand, Streams};
use rustix::fs::{Mode, OFlags, RawDir};
use serde::{Deserialize, Serialize};
use sys::rooted::Root;

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Its user's number inside.
    pub uid: u32,
    /// Its id inside.
    pub pid: u32,
    /// Its parent's id; 0 where that is outside.
    pub ppid: u32,
    /// As in ps(1), such as `S`.
    pub state: char,
    /// Hundredths of a second since it was started.
    pub age: u64,
    /// Hundredths of a second of processor time: its own, and that of children it has waited for.
    pub used: u64,
    /// Bytes of memory that are resident, shared ones too.
    pub resident: u64,
    /// Its command line, or its name in brackets.
    pub command: String,
}

/// Largest number of processes that are told of.
const MOST: usize = 512;

/// Longest command line: bytes.
const LONGEST: u64 = 4096;

/// Of the longest line that goes through a pipe with the others.
const SHOWN: usize = 1000;

/// All of them, by id.
///
/// # Errors
/// Where the machine has ended, or its `/proc` cannot be read.
pub fn processes(record: &Record) -> Result<Vec<ProcessStatus>> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let streams = Streams { output: Some(writer), ..Streams::default() };
    let visit = engine::of(record).errand(record, &PROCESSES, "", streams, &[reader.as_fd()])?;
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut std::fs::File::from(reader), &mut text)?;
    visit.join().with_context(|| format!("cannot list the processes of {}", record.name))?;
    serde_json::from_slice(&text).context("cannot hear of the machine's processes")
}

/// What runs a machine on this host, where the machine has a kernel of its own: QEMU, and what serves it. Nothing of a
/// container's.
#[must_use]
pub fn carriers(record: &Record) -> Vec<ProcessStatus> {
    let ids = engine::of(record).carriers(record);
    let Ok(root) = Root::open(std::path::Path::new("/")) else { return Vec::new() };
    let now = uptime(&root);
    // They may end at this very moment.
    ids.into_iter().filter_map(|pid| one(&root, pid.try_into().ok()?, now)).collect()
}

/// What a guest's kernel says of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Memory that its programs and its kernel need, in bytes: what they could not do without.
    pub memory: u64,
    /// All that it has, in bytes.
    pub has: u64,
    /// Processes.
    pub processes: u64,
    /// Bytes received and sent of all devices but the loopback one.
    pub network: (u64, u64),
}

/// Asks the guest of a machine that has a kernel of its own.
///
/// # Errors
/// Where the machine has ended or stands still, or its `/proc` cannot be read.
pub fn guest(record: &Record) -> Result<Guest> {
    let engine = engine::of(record);
    let visit = engine.errand(record, &GUEST, "", Streams::default(), &[])?;
    let text = visit.join().with_context(|| format!("cannot ask the guest of {}", record.name))?;
    serde_json::from_str(&text).context("cannot hear of the machine's guest")
}

/// Tells of the guest.
pub(crate) static GUEST: Errand = Errand {
    name: "guest",
    work: engine::Work::Files(|_, root| {
        let processes = read(root)?.len() as u64;
        let text = |path: &str| {
            let bytes = root.read(path, 64 << 10).with_context(|| format!("cannot read {path}"))?;
            anyhow::Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let (has, available) = memory(&text("/proc/meminfo")?).context("/proc/meminfo is odd")?;
        let memory = has.saturating_sub(available);
        let network = traffic(&text("/proc/1/net/dev")?);
        Ok(serde_json::to_string(&Guest { memory, has, processes, network })?)
    }),
};

/// All memory, and what programs could have of it without swapping: bytes (proc_meminfo(5)).
fn memory(text: &str) -> Option<(u64, u64)> {
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
    };
    Some((number("MemTotal:")?, number("MemAvailable:")?))
}

/// Bytes received and sent of all devices but the loopback one (proc_pid_net(5), `dev`).
#[must_use]
pub fn traffic(table: &str) -> (u64, u64) {
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

/// Tells of them on the standard output.
pub(crate) static PROCESSES: Errand = Errand {
    name: "processes",
    work: engine::Work::Files(|_, root| {
        let mut output = std::io::stdout().lock();
        serde_json::to_writer(&mut output, &read(root)?)?;
        std::io::Write::flush(&mut output)?;
        Ok(String::new())
    }),
};

fn read(root: &Root) -> Result<Vec<ProcessStatus>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let proc = root.open_in("/proc", flags, Mode::empty()).context("there is no /proc")?;
    let mut ids: Vec<u32> = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); 16 << 10];
    let mut entries = RawDir::new(proc, &mut buffer);
    while let Some(entry) = entries.next() {
        ids.extend(entry?.file_name().to_str().ok().and_then(|name| name.parse::<u32>().ok()));
    }
    ids.sort_unstable();
    let now = uptime(root);
    // Some end meanwhile.
    Ok(ids.into_iter().filter_map(|id| one(root, id, now)).take(MOST).collect())
}

/// Hundredths of a second since the boot (proc_uptime(5)), as processes' starts are told: `USER_HZ` is 100
/// everywhere.
fn uptime(root: &Root) -> u64 {
    let text = root.read("/proc/uptime", LONGEST).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let seconds = text.split(' ').next().and_then(|text| text.parse::<f64>().ok());
    (seconds.unwrap_or(0.0) * 100.0) as u64
}

fn one(root: &Root, pid: u32, now: u64) -> Option<ProcessStatus> {
    let read = |name: &str| {
        let bytes = root.read(format!("/proc/{pid}/{name}"), LONGEST).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let stat = read("stat")?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    // proc_pid_stat(5), from the third field on.
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let status = read("status")?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|text| text.trim().strip_suffix("kB")?.trim().parse().ok());
    let resident: Option<u64> = resident;
    // A command line that is too long is not read in part.
    let line = read("cmdline").unwrap_or_default();
    let command = match line.trim_end_matches('\0') {
        "" => format!("[{name}]"),
        line => line.replace('\0', " "),
    };
    Some(ProcessStatus {
        uid: uid.split_ascii_whitespace().next()?.parse().ok()?,
        pid,
        ppid: u32::try_from(number(4)?).ok()?,
        state: fields.first()?.chars().next()?,
        age: now.saturating_sub(number(22)?),
        used: number(14)? + number(15)? + number(16)? + number(17)?,
        // The kernel's own have none.
        resident: resident.unwrap_or(0) << 10,
        command: plain(&command),
    })
}

/// Without what a terminal would obey.
fn plain(text: &str) -> String {
    text.chars().take(SHOWN).map(|c| if c.is_control() { '?' } else { c }).collect()
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
    fn memory_of_a_guest() {
        let text = "MemTotal:        1000 kB\nMemFree:  1 kB\nMemAvailable:    400 kB\n";
        assert_eq!(memory(text), Some((1_024_000, 409_600)));
        assert_eq!(memory("MemTotal: 5 kB\n"), None);
    }
}
