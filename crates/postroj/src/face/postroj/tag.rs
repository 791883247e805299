//! `tag`: another name for an image.

use anyhow::{Context, Result, bail};
use spec::reference::Reference;

use super::{Here, reference};

/// Give an image another name
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name or id of an image
    image: String,
    /// The name to add, such as mine:1
    name: String,
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let store = here.store()?;
    let image = find(&store, &args.image)?;
    match reference::parse(&args.name)? {
        name @ Reference::Registry(_) => store.tag(&image, &name.to_string())?,
        Reference::Catalog(label) => bail!("{label} is a name of the catalog: choose another"),
        _ => bail!("{} is no name but a place", args.name),
    }
    Ok(0)
}

/// An image that is in the store, by any of its names or the start of its id.
pub(super) fn find(store: &store::Store, text: &str) -> Result<spec::image::Image> {
    if let Some(image) = store.find(text)? {
        return Ok(image);
    }
    let name = reference::parse(text)?.to_string();
    store.find(&name)?.with_context(|| {
        format!("there is no image {text} (`postroj images` lists what is there, `postroj pull` brings it)")
    })
}
