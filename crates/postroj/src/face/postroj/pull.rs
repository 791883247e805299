//! `pull`: bring an image into the store.

use std::path::PathBuf;

use anyhow::{Error, Result, bail};
use bakery::source::Options;
use clap::ValueEnum;
use harness::{Pull, Status};
use spec::event::{Event, Tell};
use spec::image::{Image, Origin};
use spec::platform::Platform;
use spec::reference::Reference;

use super::progress::Progress;
use super::{Here, image, reference};

/// Bring an image into the store, or bring it up to date
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Such as debian-12, debian:12, quay.io/a/b@sha256:…, ./rootfs.tar.xz, ./disk.qcow2 or oci:DIR:TAG
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
    /// Of a disk: which one is the root: its number, or a logical volume's GROUP/NAME, or a label or UUID
    #[arg(long, value_name = "PARTITION")]
    partition: Option<String>,
    /// Leave the plain name as it is
    #[arg(long, hide = true, requires = "platform")]
    beside: bool,
    /// Packages that the image's own package manager adds, beside the image as it is
    #[arg(long, value_name = "PACKAGE", value_delimiter = ',')]
    install: Vec<String>,
    /// The image whose package manager adds them, where the image has none [default: the catalog's of its kind]
    #[arg(long, value_name = "IMAGE")]
    install_with: Option<String>,
    /// Add an init, where the image has none
    #[arg(long)]
    bootable: bool,
    /// Make it anew even if nothing changed
    #[arg(long)]
    force: bool,
    /// always asks whether there is a newer one, newer too but does with what is there if nobody
    /// answers, missing and never do not ask
    #[arg(long, value_enum, default_value = "always")]
    policy: PullPolicy,
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
    let platform = args.platform.as_deref().map(Platform::parse).transpose();
    let platform = platform.map_err(Error::msg)?;
    let name = match platform.as_ref().filter(|_| args.beside) {
        Some(platform) => harness::name_for(&reference.to_string(), platform),
        None => reference.to_string(),
    };
    if args.bootable || !args.install.is_empty() {
        return with_packages(args, here, &name);
    }
    let (store, run) = here.store_for_change()?;
    let options = Options {
        mirror: args.mirror.clone(),
        keyring: args.keyring.clone(),
        include: args.include.clone(),
        platform: platform.as_ref().map(Platform::to_string),
        force: args.force,
        partition: args.partition.clone(),
        deadline: None,
    };
    let there = store.find(&name)?;
    let (image, status) = match (args.policy, there) {
        (PullPolicy::Missing | PullPolicy::Never, Some(image)) => (image, Status::UpToDate),
        (PullPolicy::Never, None) => bail!("the image {reference} is not here"),
        (policy, there) => {
            let progress = Progress::new();
            let tell = &progress;
            let pull = Pull {
                reference: &reference,
                store: &store,
                run: &run,
                options: &options,
                beside: args.beside,
                tell,
            };
            match (harness::pull(&pull), there) {
                (Err(error), Some(image)) if policy == PullPolicy::Newer => {
                    let text = format!("{error:#}; what is here already will do");
                    progress.tell(Event::Warning { text });
                    (image, Status::UpToDate)
                }
                (result, _) => result?,
            }
        }
    };
    if !args.quiet {
        let what = match status {
            Status::UpToDate => "Image is up to date",
            Status::Downloaded => "Downloaded image",
            Status::DownloadedNewer => "Downloaded newer image",
        };
        println!("Digest: {}", digest(&image));
        println!("Status: {what} for {reference}");
    }
    Ok(0)
}

/// The pull in a process of its own: what adds the packages must not be in its user namespace.
fn with_packages(args: &Args, here: &Here, name: &str) -> Result<u8> {
    let mut command = here.again();
    command.args(["pull", "--policy", args.policy.word()]);
    for (option, value) in [
        ("--mirror", &args.mirror),
        ("--platform", &args.platform),
        ("--partition", &args.partition),
    ] {
        if let Some(value) = value {
            command.args([option, value]);
        }
    }
    if let Some(keyring) = &args.keyring {
        command.arg("--keyring").arg(keyring);
    }
    for (option, given) in
        [("--beside", args.beside), ("--force", args.force), ("--quiet", args.quiet)]
    {
        if given {
            command.arg(option);
        }
    }
    for package in &args.include {
        command.args(["--include", package]);
    }
    image::succeeds(command.args(["--", &args.image]), "the pull")?;
    let ready = image::open(name, PullPolicy::Never, None, here)?;
    let with = args.install_with.as_deref();
    let wants = image::Wants { install: &args.install, init: args.bootable, with };
    let made = image::provisioned(ready, name, &wants, here)?;
    if args.bootable && made.facts.init.is_none() {
        bail!(
            "{name} has no init, and it is not known by which packages it would get one: name them by --install"
        );
    }
    Ok(0)
}

/// What names an image wherever it is: its manifest's digest, or the index's, or our own id.
fn digest(image: &Image) -> String {
    match &image.origin {
        Origin::Oci(oci) => oci.resolved.clone(),
        _ => format!("sha256:{}", image.id),
    }
}

/// When to ask where an image comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum PullPolicy {
    Always,
    Missing,
    Newer,
    Never,
}

impl PullPolicy {
    /// As it is spelled.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Missing => "missing",
            Self::Newer => "newer",
            Self::Never => "never",
        }
    }
}
