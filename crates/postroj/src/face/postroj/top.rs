//! `top`: the processes of a machine.

use anyhow::Result;
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
    if args.json {
        let list: Vec<serde_json::Value> = processes.iter().map(json).collect();
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
            clock(process.age / 100),
            clock(process.used / 100),
            process.command.clone(),
        ]
    }));
    print!("{}", table::render(&rows));
    Ok(0)
}

fn json(process: &ProcessStatus) -> serde_json::Value {
    serde_json::json!({
        "Uid": process.uid,
        "Pid": process.pid,
        "Ppid": process.ppid,
        "State": process.state,
        "ElapsedSeconds": process.age as f64 / 100.0,
        "ProcessorSeconds": process.used as f64 / 100.0,
        "ResidentBytes": process.resident,
        "Command": process.command,
    })
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
