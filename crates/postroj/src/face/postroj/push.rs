//! `push`: an image to a registry.

use anyhow::{Context, Result, bail};
use bakery::delivery::{self, Compress};
use clap::ValueEnum;
use spec::reference::{Reference, RegistryReference};

use super::progress::Progress;
use super::{Here, reference, tag};

/// Send an image to a registry
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name or id of an image
    image: String,
    /// Where to, such as quay.io/me/app:1 [default: the image's name]
    destination: Option<String>,
    /// How layers are compressed that the registry does not have yet
    #[arg(long, value_enum, default_value = "gzip")]
    compression: Compression,
    /// Print nothing on standard output
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Compression {
    Gzip,
    Zstd,
    None,
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let to = args.destination.as_deref().unwrap_or(&args.image);
    let to = match reference::parse(to)? {
        Reference::Registry(to) => to,
        other => bail!("{other} is no name in a registry: say where to push it to"),
    };
    let (store, _) = here.store_for_change()?;
    let image = tag::find(&store, &args.image)?;
    let _lease = store.lease(&image)?;
    let compress = match args.compression {
        Compression::Gzip => Compress::Gzip,
        Compression::Zstd => Compress::Zstd,
        Compression::None => Compress::No,
    };
    let progress = Progress::new();
    let digest = delivery::push(&store, &image, &to, compress, &progress)?;
    drop(progress);
    if !args.quiet {
        println!("{}: digest: {digest}", shown(&to).context("the destination's name")?);
    }
    Ok(0)
}

fn shown(to: &RegistryReference) -> Option<&str> {
    to.tag.as_deref().or(to.digest.as_deref())
}
