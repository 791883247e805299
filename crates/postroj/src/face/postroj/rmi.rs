//! `rmi`: remove images.

use anyhow::{Result, bail};

use super::{Here, reference};

/// Remove images: a name, and with the last one what it named
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names or ids
    #[arg(required = true)]
    images: Vec<String>,
    /// Pass over what does not exist
    #[arg(short, long)]
    force: bool,
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let (store, _) = here.store_for_change()?;
    for text in &args.images {
        let name = match (store.find(text)?, reference::parse(text)) {
            (Some(_), _) => text.clone(),
            (None, Ok(reference)) if store.find(&reference.to_string())?.is_some() => {
                reference.to_string()
            }
            (None, _) if args.force => continue,
            (None, Ok(_)) => {
                bail!("there is no image {text} (`postroj images` lists what is there)")
            }
            (None, Err(error)) => return Err(error),
        };
        let removed = store.untag(&name)?;
        for name in &removed.names {
            println!("Untagged: {name}");
        }
        if removed.deleted {
            println!("Deleted: {}", removed.id);
        }
    }
    Ok(0)
}
