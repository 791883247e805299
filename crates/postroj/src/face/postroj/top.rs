//! `top`: the processes of a machine.

use anyhow::{Context, Result};
use harness::ProcessStatus;

use super::{Here, table};

/// List the processes of a machine
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Name or id
    machine: String,
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let record = here.run_directory()?.find(&args.machine)?;
    let processes = harness::processes(&record)?;
    let now = uptime()?;
    if args.json {
        let list: Vec<serde_json::Value> = processes.iter().map(|p| json(p, now)).collect();
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(0);
    }
    let heading = ["UID", "PID", "PPID", "STAT", "ELAPSED", "TIME", "COMMAND"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    rows.extend(processes.iter().map(|process| {
        vec![
            process.uid.to_string(),
            process.pid.to_string(),
            process.ppid.to_string(),
            process.state.to_string(),
            clock(now.saturating_sub(process.started) / 100),
            clock(process.used / 100),
            process.command.clone(),
        ]
    }));
    print!("{}", table::render(&rows));
    Ok(0)
}

fn json(process: &ProcessStatus, now: u64) -> serde_json::Value {
    serde_json::json!({
        "Uid": process.uid,
        "Pid": process.pid,
        "Ppid": process.ppid,
        "State": process.state,
        "ElapsedSeconds": now.saturating_sub(process.started) as f64 / 100.0,
        "ProcessorSeconds": process.used as f64 / 100.0,
        "ResidentBytes": process.resident,
        "Command": process.command,
    })
}

/// Hundredths of a second since the host's boot (proc_uptime(5)): what processes' starts are told in,
/// since `USER_HZ` is 100 everywhere.
pub(super) fn uptime() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/uptime").context("cannot read /proc/uptime")?;
    let seconds = text.split(' ').next().and_then(|text| text.parse::<f64>().ok());
    Ok((seconds.context("/proc/uptime makes no sense")? * 100.0) as u64)
}

/// `[DD-]hh:mm:ss`, as ps(1) prints it.
fn clock(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let text = format!("{:02}:{:02}:{:02}", hours % 24, minutes % 60, seconds % 60);
    if days > 0 { format!("{days}-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    #[test]
    fn clocks() {
        assert_eq!(super::clock(59), "00:00:59");
        assert_eq!(super::clock(90_061), "1-01:01:01");
    }
}
