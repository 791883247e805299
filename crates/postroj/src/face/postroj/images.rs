//! `images`: what is in the store.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;

use super::{Here, catalog, quantity, table};

/// List images
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The systems that can be asked for by name, instead of what is in the store
    #[arg(long)]
    catalog: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print ids only; of the catalog, names
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    if args.catalog {
        return catalog::list(args.json, args.quiet);
    }
    let images = here.store()?.images()?;
    if args.json {
        let list: Vec<serde_json::Value> = images
            .iter()
            .map(|named| {
                serde_json::json!({
                    "Id": named.image.id,
                    "Names": named.names,
                    "Created": named.image.created,
                    "Size": named.image.size,
                    "Architecture": named.image.facts.architecture,
                    "System": named.image.facts.os_release.get("PRETTY_NAME"),
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(0);
    }
    if args.quiet {
        images.iter().for_each(|named| println!("{}", short(&named.image.id)));
        return Ok(0);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mut rows =
        vec![["NAME", "IMAGE ID", "SYSTEM", "CREATED", "SIZE"].map(String::from).to_vec()];
    for named in &images {
        let image = &named.image;
        let unnamed = ["<none>".to_owned()];
        let names: &[String] = if named.names.is_empty() { &unnamed } else { &named.names };
        for name in names {
            rows.push(vec![
                name.clone(),
                short(&image.id).to_owned(),
                image.facts.os_release.get("PRETTY_NAME").cloned().unwrap_or_default(),
                quantity::show_age(now.saturating_sub(image.created)),
                quantity::show_bytes(image.size),
            ]);
        }
    }
    print!("{}", table::render(&rows));
    Ok(0)
}

/// As many digits of an id as docker shows.
pub(super) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
