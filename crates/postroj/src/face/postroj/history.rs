//! `history`: how an image came about.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use bakery::delivery::known_config;
use spec::oci::{ImageConfig, seconds};

use super::{Here, quantity, table, tag};

/// Show how an image came about, the latest step first
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name or id of an image
    image: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Do not shorten anything
    #[arg(long)]
    no_trunc: bool,
}

/// Characters of a command that fit in a line.
const WIDTH: usize = 60;

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let store = here.store()?;
    let image = tag::find(&store, &args.image)?;
    let config: ImageConfig = serde_json::from_value(known_config(&store, &image)?)
        .context("reading the configuration")?;
    let steps = config.history.iter().rev();
    if args.json {
        let list: Vec<serde_json::Value> = steps
            .map(|step| {
                serde_json::json!({
                    "created": step.created,
                    "CreatedBy": step.created_by,
                    "comment": step.comment,
                    "emptyLayer": step.empty_layer,
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(0);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mut rows = vec![["CREATED", "LAYER", "CREATED BY", "COMMENT"].map(String::from).to_vec()];
    for step in steps {
        let created = step.created.as_deref().and_then(seconds);
        let age = created.map(|at| quantity::show_age(now.saturating_sub(at))).unwrap_or_default();
        let text = |text: &Option<String>| {
            let plain: String = text
                .iter()
                .flat_map(|t| t.chars())
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
            match plain.char_indices().nth(WIDTH) {
                Some((end, _)) if !args.no_trunc => format!("{}…", &plain[..end]),
                _ => plain,
            }
        };
        let layer = if step.empty_layer { "" } else { "yes" }.to_owned();
        rows.push(vec![age, layer, text(&step.created_by), text(&step.comment)]);
    }
    print!("{}", table::render(&rows));
    Ok(0)
}
