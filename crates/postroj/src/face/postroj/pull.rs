//! `pull`: bring an image into the store.

use std::path::PathBuf;

use anyhow::{Result, bail};
use bakery::source::Options;
use harness::{Pull, Status};
use spec::reference::Reference;

use super::progress::Progress;
use super::{Here, reference};

/// Bring an image into the store, or bring it up to date
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Such as debian-12, ./rootfs.tar.xz or dir:/srv/root
    image: String,
    /// Archive to make a Debian-like system from [default: configuration, else the host's apt sources]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// OpenPGP keys that the archive must be signed with [default: those of the host]
    #[arg(long, value_name = "FILE")]
    keyring: Option<PathBuf>,
    /// Packages to add
    #[arg(long, value_name = "PACKAGE", value_delimiter = ',')]
    include: Vec<String>,
    /// Such as linux/arm64
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Make it anew even if nothing changed
    #[arg(long)]
    force: bool,
    /// Print nothing on standard output
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let reference = reference::parse(&args.image)?;
    if reference == Reference::Host {
        bail!(
            "host is the running system: there is nothing to pull, `postroj run host` uses it as it is"
        );
    }
    let (store, run) = here.store_for_change()?;
    let options = Options {
        mirror: args.mirror.clone(),
        keyring: args.keyring.clone(),
        include: args.include.clone(),
        platform: args.platform.clone(),
        force: args.force,
    };
    let progress = Progress::new();
    let pull = Pull {
        reference: &reference,
        store: &store,
        run: &run,
        options: &options,
        tell: &progress,
    };
    let (image, status) = harness::pull(&pull)?;
    drop(progress);
    if !args.quiet {
        let what = match status {
            Status::UpToDate => "Image is up to date",
            Status::Downloaded => "Downloaded image",
            Status::DownloadedNewer => "Downloaded newer image",
        };
        println!("Digest: sha256:{}", image.id);
        println!("Status: {what} for {reference}");
    }
    Ok(0)
}
