//! `update`: limits as options, or as a file in the words of the specification.

use std::collections::VecDeque;
use std::io::Read;

use anyhow::{Context, Result};
use engine::oci::Containers;
use spec::runtime::{BlockIo, Cpu, Memory, Pids, Resources};

use super::words::{Known, Words};

const UPDATE: [Known; 18] = [
    ("resources", Some('r'), true),
    ("blkio-weight", None, true),
    ("cpu-period", None, true),
    ("cpu-quota", None, true),
    ("cpu-burst", None, true),
    ("cpu-share", None, true),
    ("cpu-shares", None, true),
    ("cpu-rt-period", None, true),
    ("cpu-rt-runtime", None, true),
    ("cpuset-cpus", None, true),
    ("cpuset-mems", None, true),
    ("cpu-idle", None, true),
    ("kernel-memory", None, true),
    ("kernel-memory-tcp", None, true),
    ("memory", Some('m'), true),
    ("memory-reservation", None, true),
    ("memory-swap", None, true),
    ("pids-limit", None, true),
];

pub(super) fn run(containers: &Containers<'_>, args: &mut VecDeque<String>) -> Result<u8> {
    let words = Words::read(args, &UPDATE, usize::MAX)?;
    let resources = match words.value("resources") {
        Some(file) => read(file)?,
        None => of(&words)?,
    };
    containers.update(words.id()?, &resources)?;
    Ok(0)
}

fn read(file: &str) -> Result<Resources> {
    let mut text = Vec::new();
    let read = match file {
        "-" => std::io::stdin().read_to_end(&mut text),
        _ => std::fs::File::open(file).and_then(|mut file| file.read_to_end(&mut text)),
    };
    read.with_context(|| format!("cannot read {file}"))?;
    spec::runtime::parse(&text).with_context(|| format!("{file} is not valid"))
}

fn of(words: &Words) -> Result<Resources> {
    let text = |name| words.value(name).map(str::to_owned);
    let bytes = |name| words.value(name).map(|text| self::bytes(name, text)).transpose();
    let shares = match words.number("cpu-shares")? {
        None => words.number("cpu-share")?,
        some => some,
    };
    let cpu = Cpu {
        shares,
        quota: words.number("cpu-quota")?,
        burst: words.number("cpu-burst")?,
        period: words.number("cpu-period")?,
        realtime_runtime: words.number("cpu-rt-runtime")?,
        realtime_period: words.number("cpu-rt-period")?,
        cpus: text("cpuset-cpus"),
        mems: text("cpuset-mems"),
        idle: words.number("cpu-idle")?,
    };
    let memory = Memory {
        limit: bytes("memory")?,
        reservation: bytes("memory-reservation")?,
        swap: bytes("memory-swap")?,
        kernel: bytes("kernel-memory")?,
        kernel_tcp: bytes("kernel-memory-tcp")?,
        ..Memory::default()
    };
    Ok(Resources {
        memory: Some(memory),
        cpu: Some(cpu),
        pids: Some(Pids { limit: words.number("pids-limit")? }),
        block_io: Some(BlockIo { weight: words.number("blkio-weight")?, ..BlockIo::default() }),
        ..Resources::default()
    })
}

/// A number with a unit, or -1.
fn bytes(name: &str, text: &str) -> Result<i64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(['b', 'i']).trim_end_matches(['k', 'm', 'g', 't']);
    let shift = match lower[digits.len()..].chars().next() {
        Some('k') => 10,
        Some('m') => 20,
        Some('g') => 30,
        Some('t') => 40,
        _ => 0,
    };
    let number: Option<i64> = digits.parse().ok().and_then(|n: i64| n.checked_mul(1 << shift));
    number.with_context(|| format!("--{name} {text:?} is no number of bytes"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_with_units() {
        for (text, wanted) in
            [("-1", -1), ("7", 7), ("64m", 64 << 20), ("1GiB", 1 << 30), ("2kb", 2048)]
        {
            assert_eq!(super::bytes("memory", text).unwrap(), wanted, "{text}");
        }
        assert!(super::bytes("memory", "x").is_err() && super::bytes("memory", "").is_err());
    }
}
