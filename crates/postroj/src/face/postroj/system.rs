//! `system`: the store's use of the disk, its care, and where things are.

use anyhow::Result;
use serde_json::json;

use super::{Here, quantity, table};

/// Disk usage, clean-up and information
#[derive(Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// What takes how much of the disk
    Df(Json),
    /// Remove what nothing needs: remains of interrupted work, and the download cache
    Prune(Prune),
    /// Let equal files of different layers share their blocks (btrfs, xfs)
    Dedup(Json),
    /// Where things are, and what this host is
    Info(Json),
    /// Look for damage in the store
    Check(Json),
}

#[derive(Debug, clap::Args)]
pub(super) struct Json {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Prune {
    /// Also every image that no machine is running from
    #[arg(short, long)]
    all: bool,
}

pub(super) fn run(verb: &Verb, here: &Here) -> Result<u8> {
    match verb {
        Verb::Df(args) => df(args, here),
        Verb::Prune(args) => prune(args, here),
        Verb::Dedup(args) => dedup(args, here),
        Verb::Info(args) => info(args, here),
        Verb::Check(args) => check(args, here),
    }
}

fn df(args: &Json, here: &Here) -> Result<u8> {
    let (store, _) = here.store_for_change()?;
    let usage = store.usage()?;
    let kinds = [
        ("Images", &usage.images),
        ("Layers", &usage.layers),
        ("Download cache", &usage.cache),
        ("Unfinished", &usage.temporary),
    ];
    if args.json {
        let list: Vec<_> = kinds
            .iter()
            .map(|(kind, u)| {
                json!({ "Type": kind, "TotalCount": u.count, "Size": u.bytes, "Reclaimable": u.reclaimable })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(0);
    }
    let mut rows = vec![["TYPE", "TOTAL", "SIZE", "RECLAIMABLE"].map(String::from).to_vec()];
    for (kind, usage) in kinds {
        rows.push(vec![
            kind.to_owned(),
            usage.count.to_string(),
            quantity::show_bytes(usage.bytes),
            quantity::show_bytes(usage.reclaimable),
        ]);
    }
    print!("{}", table::render(&rows));
    Ok(0)
}

fn prune(args: &Prune, here: &Here) -> Result<u8> {
    let (store, run) = here.store_for_change()?;
    let machines = run.reap();
    net::reap(run.path());
    let swept = store.prune(args.all)?;
    if machines > 0 {
        println!("Ended {machines} machines whose monitor was killed");
    }
    println!("Total reclaimed space: {}", quantity::show_bytes(swept.bytes));
    Ok(0)
}

fn dedup(args: &Json, here: &Here) -> Result<u8> {
    let (store, _) = here.store_for_change()?;
    let done = store.deduplicate()?;
    if args.json {
        let json = json!({
            "Files": done.files,
            "EqualFiles": done.equal,
            "EqualBytes": done.equal_bytes,
            "SharedBefore": done.shared_before,
            "FreedFiles": done.freed,
            "FreedBytes": done.freed_bytes,
            "PassedOver": done.passed_over,
            "Supported": !done.cannot,
        });
        println!("{}", serde_json::to_string_pretty(&json)?);
        return Ok(0);
    }
    let equal = quantity::show_bytes(done.equal_bytes);
    if done.cannot {
        println!(
            "{equal} of equal files are there more than once, and this file system cannot have files share \
             blocks: a store on btrfs or xfs could"
        );
        return Ok(0);
    }
    println!(
        "Freed {} in {} files; {} shared their blocks before, {} were in use or could not be opened",
        quantity::show_bytes(done.freed_bytes),
        done.freed,
        done.shared_before,
        done.passed_over
    );
    Ok(0)
}

fn info(args: &Json, here: &Here) -> Result<u8> {
    let places = here.places()?;
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let cgroups = match sys::cgroups::Layout::read() {
        Ok(layout) => match (layout.unified.is_some(), layout.legacy.is_empty()) {
            (true, true) => "v2",
            (true, false) => "hybrid",
            (false, false) => "v1",
            (false, true) => "none",
        },
        Err(_) => "unknown",
    };
    let rows = [
        ("Version", env!("CARGO_PKG_VERSION").to_owned()),
        ("Store", places.store.display().to_string()),
        ("RunDirectory", places.run.display().to_string()),
        ("Kernel", kernel),
        ("Architecture", std::env::consts::ARCH.to_owned()),
        ("Cgroups", cgroups.to_owned()),
        ("Rootless", (!rustix::process::geteuid().is_root()).to_string()),
        ("Engines", engine::ENGINES.iter().map(|e| e.name()).collect::<Vec<_>>().join(", ")),
    ];
    if args.json {
        let map: serde_json::Map<_, _> =
            rows.into_iter().map(|(k, v)| (k.to_owned(), v.into())).collect();
        println!("{}", serde_json::to_string_pretty(&map)?);
    } else {
        let rows: Vec<Vec<String>> =
            rows.into_iter().map(|(k, v)| vec![format!("{k}:"), v]).collect();
        print!("{}", table::render(&rows));
    }
    Ok(0)
}

fn check(args: &Json, here: &Here) -> Result<u8> {
    let (store, _) = here.store_for_change()?;
    let problems = store.check()?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&problems)?);
    } else if problems.is_empty() {
        println!("The store is sound");
    } else {
        problems.iter().for_each(|problem| println!("{problem}"));
    }
    Ok(u8::from(!problems.is_empty()))
}
