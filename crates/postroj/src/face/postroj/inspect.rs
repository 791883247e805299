//! `inspect`: everything that is known of an image, as JSON.

use anyhow::Result;
use bakery::delivery::known_config;
use serde_json::json;
use spec::image::Origin;
use spec::oci::rfc3339;
use spec::reference::Reference;

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
        let config = known_config(&store, &image)?;
        let mut digests = Vec::new();
        if let Origin::Oci(oci) = &image.origin
            && let Ok(Reference::Registry(name)) = Reference::parse(&oci.reference, |_| false)
        {
            digests.push(format!("{}/{}@{}", name.registry, name.repository, oci.resolved));
        }
        found.push(json!({
            "Id": format!("sha256:{}", image.id),
            "RepoTags": names.unwrap_or_default(),
            "RepoDigests": digests,
            "Created": rfc3339(image.created),
            "Author": config["author"].as_str().unwrap_or_default(),
            "Architecture": config["architecture"],
            "Variant": config["variant"].as_str().unwrap_or_default(),
            "Os": config["os"],
            "Size": image.size,
            "Config": image.config,
            "RootFS": { "Type": "layers", "Layers": config["rootfs"]["diff_ids"] },
            "Facts": {
                "OsRelease": image.facts.os_release,
                "Init": image.facts.init,
                "PackageManager": image.facts.package_manager,
                "Architecture": image.facts.architecture,
                "Users": image.facts.users.iter().map(|u| &u.name).collect::<Vec<_>>(),
            },
            "Origin": image.origin,
        }));
    }
    println!("{}", serde_json::to_string_pretty(&found)?);
    Ok(0)
}
