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
    /// Hundredths of a second since the boot of the host at which it was started.
    pub started: u64,
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
    // Some end meanwhile.
    Ok(ids.into_iter().filter_map(|id| one(root, id)).take(MOST).collect())
}

fn one(root: &Root, pid: u32) -> Option<ProcessStatus> {
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
        started: number(22)?,
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
