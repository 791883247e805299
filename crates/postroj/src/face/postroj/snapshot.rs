//! `snapshot`, `restore` and `clone`: what was written in a machine, at some time and elsewhere.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use engine::record::{About, Note, Record};
use engine::state;
use engine::{Waited, pause};
use harness::host::Host;
use harness::snapshot;
use serde_json::json;
use spec::ids::IdMapping;
use spec::plan::{Plan, Root};
use spec::request::Request;

use super::pull::PullPolicy;
use super::start::{self, MONITOR};
use super::wait::is_ready;
use super::{Here, image, own_kernel, quantity, table};

/// Keep what is written in a machine as it is now
///
/// A snapshot has the files that were written, not the processes, and is in memory with them: it
/// goes with its machine. `restore` goes back to it, `clone MACHINE/NAME` makes another machine of it, and
/// `commit --snapshot NAME` an image, which stays.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a snapshot, while the machine stands still, and print its name
    Create {
        /// Name or id of the machine
        machine: String,
        /// Name of the snapshot [default: snap0, snap1 …]
        name: Option<String>,
    },
    /// List snapshots
    #[command(visible_alias = "list")]
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Name or id of the machine [default: all]
        machine: Option<String>,
    },
    /// Remove snapshots
    #[command(visible_alias = "remove")]
    Rm {
        /// Name or id of the machine
        machine: String,
        /// Names of snapshots
        #[arg(required = true)]
        names: Vec<String>,
    },
}

pub(super) fn run(verb: &Verb, here: &Here) -> Result<u8> {
    let run = here.run_directory()?;
    run.reap();
    match verb {
        Verb::Create { machine, name } => {
            let made = snapshot::create(&run, &run.find(machine)?, name.as_deref())?;
            println!("{}", made.name);
        }
        Verb::Ls { json, machine } => {
            let machines = match machine {
                Some(machine) => vec![run.find(machine)?],
                None => run.machines(),
            };
            list(&machines, *json)?;
        }
        Verb::Rm { machine, names } => {
            let record = run.find(machine)?;
            return super::stop::each(names, |name| {
                snapshot::remove(&run, &record, name)?;
                println!("{name}");
                Ok(())
            });
        }
    }
    Ok(0)
}

fn list(machines: &[Record], json: bool) -> Result<()> {
    let there = machines.iter().filter(|record| record.exited.is_none());
    let all = there.flat_map(|record| record.snapshots.iter().map(move |made| (record, made)));
    if json {
        let list: Vec<serde_json::Value> = all
            .map(|(record, made)| {
                json!({
                    "Machine": record.name,
                    "Name": made.name,
                    "Created": made.created,
                    "Size": made.size,
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(());
    }
    let mut rows = vec![["MACHINE", "NAME", "CREATED", "SIZE"].map(String::from).to_vec()];
    rows.extend(all.map(|(record, made)| {
        vec![
            record.name.clone(),
            made.name.clone(),
            quantity::show_age(state::now().saturating_sub(made.created)),
            quantity::show_bytes(made.size),
        ]
    }));
    print!("{}", table::render(&rows));
    Ok(())
}

/// Start a machine again with what was written in it at a snapshot
///
/// What it does is ended at once, and what it wrote since is lost.
#[derive(Debug, clap::Args)]
pub(super) struct Restore {
    /// Name or id of the machine
    machine: String,
    /// Name of the snapshot [default: the last one]
    name: Option<String>,
}

pub(super) fn restore(args: &Restore, here: &Here) -> Result<u8> {
    let run = here.run_directory()?;
    let mut record = run.find(&args.machine)?;
    if record.paused && engine::of(&record).has_own_kernel() {
        // Its own kernel is to do it.
        pause::unpause(&run, &record)?;
        record = run.find(record.id())?;
    }
    let name = &record.name;
    if record.exited.is_some() {
        bail!("the machine {name} has ended, and its snapshots with it");
    }
    let made = snapshot::find(&record, args.name.as_deref())?;
    snapshot::prepare(&run, &record, made)?;
    run.note(name, &Note::Paused(false))?;
    run.note(name, &Note::Spares(false))?;
    run.note(name, &Note::Restores)?;
    engine::of(&record).end_command(&run, &record)?;
    let boots = record.plan.as_ref().is_some_and(|plan| plan.boot.is_some());
    let anew = |now: &Record| {
        let has_scratch = now.scratch.is_some() || engine::of(now).has_own_kernel();
        now.runs_anew(&record) && has_scratch
    };
    let is_up = |now: &Record| anew(now) && (!boots || is_ready(now));
    match run.wait(name, Some(PATIENCE), is_up)? {
        Waited::Holds(_) => snapshot::clean(&run, &run.find(record.id())?)?,
        Waited::Ended(_) => bail!("the machine {name} ended instead of starting again"),
        Waited::Late => bail!("the machine {name} does not start again"),
    }
    println!("{name}");
    Ok(0)
}

/// As long as a boot may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Make another machine of a machine, or of a snapshot of it: its image, options and files
///
/// It has its own ids, machine id and address, and no published ports. Processes are not copied: it
/// starts as the first one did. It runs in the background; its id is printed.
#[derive(Debug, clap::Args)]
pub(super) struct Clone {
    /// Forget it, and its output, when it ends
    #[arg(long)]
    rm: bool,
    /// Host name inside
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Name or id of the machine; with /NAME, one of its snapshots
    machine: String,
    /// Name of the new machine
    name: Option<String>,
}

pub(super) fn clone(args: &Clone, here: &Here) -> Result<u8> {
    if std::env::var_os(MONITOR).is_none() {
        let silent = "the machine ended before it was up (`postroj logs` may tell why)";
        return start::in_background(MONITOR, silent);
    }
    let run = here.run_directory()?;
    let (machine, snapshot) = match args.machine.split_once('/') {
        Some((machine, snapshot)) => (machine, Some(snapshot)),
        None => (&*args.machine, None),
    };
    let record = run.find(machine)?;
    let what = || format!("cannot clone the machine {}", record.name);
    if let Some(name) = &args.name {
        state::check_name(name)?;
        if run.machines().iter().any(|there| there.name == *name) {
            bail!("the name {name:?} is in use: choose another, or remove that machine");
        }
    }
    let host = Host::new(run.path())?;
    let plan = record.plan.as_ref().with_context(what)?;
    if !engine::of(&record).has_own_kernel() {
        sys::exe::protect(|owner| harness::host::within_reach(&plan.ids, owner))
            .context("cannot keep postroj's own file out of the machine's reach")?;
    }
    let image = commit(here, &record, snapshot).with_context(what)?;
    let mut plan = another(args, plan, &host, here, &image)?;
    let _held = engine::of(&record)
        .has_own_kernel()
        .then(|| -> Result<own_kernel::Held> {
            let ready = image::open(&image, PullPolicy::Never, None, here)?;
            let (parts, held) = own_kernel::parts(here, &ready)?;
            plan.own_kernel = Some(parts);
            Ok(held)
        })
        .transpose()?;
    let about = About {
        image: record.about.as_ref().map(|about| about.image.clone()).unwrap_or_default(),
        created: state::now(),
        detached: true,
        member: None,
    };
    let store = here.store()?;
    let found = store.find(&image)?.context("the copy was removed meanwhile")?;
    let lease = store.lease(&found)?;
    let ended = start::carry_out(&run, &plan, &about, false, plan.boot.is_some(), None);
    drop(lease);
    // Nobody else knows of it. Where this fails, `system prune` finds it.
    let _ = quietly(here, &["rmi", "--force", &image]);
    ended
}

fn quietly(here: &Here, words: &[&str]) -> Result<std::process::Output> {
    let mut command = here.again();
    command.args(words).env_remove(MONITOR).stdin(Stdio::null());
    command.output().context("cannot start a process")
}

/// What was written becomes a layer; gives the id of the image that has it.
fn commit(here: &Here, record: &Record, snapshot: Option<&str>) -> Result<String> {
    let mut words = vec!["commit"];
    words.extend(snapshot.iter().flat_map(|name| ["--snapshot", name]));
    words.push(record.id());
    let output = quietly(here, &words)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("{}", said.trim_start_matches("postroj: "));
    }
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    text.strip_prefix("sha256:").map(str::to_owned).context("the copy has no id")
}

fn another(args: &Clone, plan: &Plan, host: &Host, here: &Here, image: &str) -> Result<Plan> {
    let id = &host.launcher.id;
    // Of root's machines each has ids of its own.
    let is_private = matches!(plan.ids, IdMapping::Private { .. });
    let ids = match is_private && rustix::process::geteuid().is_root() {
        true => plan::id_mapping(&Request::default(), &host.launcher)?,
        false => plan.ids.clone(),
    };
    // A name that somebody chose is theirs to keep.
    let hostname = match &args.hostname {
        Some(name) => plan::checked_hostname(name)?,
        None if plan.hostname == plan.id[..12] => id[..12].to_owned(),
        None => plan.hostname.clone(),
    };
    let name = args.name.as_deref().unwrap_or(&id[..12]);
    let mut plan = plan.another(id, ids, name, &hostname);
    plan.keep = !args.rm;
    let store = here.store()?;
    let image = store.find(image)?.context("the copy was removed meanwhile")?;
    if let Root::Overlay { layers, .. } = &mut plan.root {
        let paths = image.layers.iter().map(|layer| {
            let path = store.layer_path(layer);
            path.to_str().map(str::to_owned).context("the store's path is no text")
        });
        *layers = paths.collect::<Result<_>>()?;
    }
    Ok(plan)
}
