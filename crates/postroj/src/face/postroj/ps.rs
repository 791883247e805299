//! `ps`: machines.

use anyhow::Result;
use engine::record::Record;
use engine::state::now;
use spec::boot::Condition;

use super::images::short;
use super::{Here, quantity, table};

/// List machines
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also those that have ended, and those that wait in pools
    #[arg(short, long)]
    all: bool,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let run = here.run_directory()?;
    run.reap();
    net::reap(run.path());
    let mut machines = run.machines();
    let is_there = |record: &Record| record.exited.is_none() && record.member.is_none();
    machines.retain(|record| record.plan.is_some() && (args.all || is_there(record)));
    if args.json {
        let list: Vec<serde_json::Value> = machines.iter().map(json).collect();
        println!("{}", serde_json::to_string_pretty(&list)?);
    } else if args.quiet {
        machines.iter().for_each(|record| println!("{}", short(record.id())));
    } else {
        let heading = ["MACHINE ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAME"];
        let mut rows = vec![heading.map(String::from).to_vec()];
        rows.extend(machines.iter().map(row));
        print!("{}", table::render(&rows));
    }
    Ok(0)
}

fn row(record: &Record) -> Vec<String> {
    let created = record.about.as_ref().map_or(0, |about| about.created);
    vec![
        short(record.id()).to_owned(),
        record.about.as_ref().map(|about| about.image.clone()).unwrap_or_default(),
        command(record),
        quantity::show_age(now().saturating_sub(created)),
        status(record),
        record.name.clone(),
    ]
}

fn command(record: &Record) -> String {
    let args = record.plan.as_ref().map(|plan| plan.process.args.join(" ")).unwrap_or_default();
    match args.char_indices().nth(30) {
        Some((end, _)) => format!("{}…", &args[..end]),
        None => args,
    }
}

fn status(record: &Record) -> String {
    if let Some(exited) = record.exited {
        let age = quantity::show_age(now().saturating_sub(exited.at));
        return format!("Exited ({}) {age}", exited.code);
    }
    if let Some(member) = &record.member {
        return format!("In the pool {}", member.pool);
    }
    if record.paused {
        return "Up (Paused)".into();
    }
    let word = word(record);
    if word.is_empty() { "Up".into() } else { format!("Up ({word})") }
}

/// How a booted system is, in systemd's words; empty for what is not booted.
fn word(record: &Record) -> &'static str {
    let boots = record.plan.as_ref().is_some_and(|plan| plan.boot.is_some());
    match &record.condition {
        _ if !boots => "",
        None | Some(Condition::Starting) => "starting",
        Some(Condition::Running) => "running",
        Some(Condition::Degraded(_)) => "degraded",
    }
}

/// docker's word for it.
pub(super) fn state(record: &Record) -> &'static str {
    match record {
        Record { exited: Some(_), .. } => "exited",
        Record { paused: true, .. } => "paused",
        _ => "running",
    }
}

fn json(record: &Record) -> serde_json::Value {
    let about = record.about.as_ref();
    let failed = match &record.condition {
        Some(Condition::Degraded(units)) => units.clone(),
        _ => Vec::new(),
    };
    serde_json::json!({
        "Id": record.id(),
        "Name": record.name,
        "Image": about.map(|about| &about.image),
        "Command": record.plan.as_ref().map(|plan| &plan.process.args),
        "Created": about.map(|about| about.created),
        "Detached": about.is_some_and(|about| about.detached),
        "State": state(record),
        "System": word(record),
        "Pool": record.member.as_ref().map(|member| &member.pool),
        "FailedUnits": failed,
        "Pid": record.pid.map(|(pid, _)| pid),
        "ExitCode": record.exited.map(|exited| exited.code),
        "FinishedAt": record.exited.map(|exited| exited.at),
    })
}
