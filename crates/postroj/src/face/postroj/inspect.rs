//! `inspect`: everything that is known of an image, as JSON.

use anyhow::Result;
use serde_json::json;

use super::{Here, tag};

/// Print all that is known of images, as JSON
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names or ids
    #[arg(required = true)]
    images: Vec<String>,
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let store = here.store()?;
    let named = store.images()?;
    let mut found = Vec::new();
    for text in &args.images {
        let image = tag::find(&store, text)?;
        let names = named.iter().find(|n| n.image.id == image.id).map(|n| n.names.clone());
        found.push(json!({
            "Id": format!("sha256:{}", image.id),
            "RepoTags": names.unwrap_or_default(),
            "Created": image.created,
            "Architecture": image.facts.architecture,
            "Os": "linux",
            "Size": image.size,
            "Config": image.config,
            "RootFS": { "Type": "layers", "Layers": image.layers },
            "Facts": {
                "OsRelease": image.facts.os_release,
                "Init": image.facts.init,
                "PackageManager": image.facts.package_manager,
                "Users": image.facts.users.iter().map(|u| &u.name).collect::<Vec<_>>(),
            },
            "Origin": image.origin,
        }));
    }
    println!("{}", serde_json::to_string_pretty(&found)?);
    Ok(0)
}
