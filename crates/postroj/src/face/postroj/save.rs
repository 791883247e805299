//! `save`, `load` and `import`: images to files and back.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use bakery::delivery::{self, Format};
use bakery::source::{Options, layout};
use clap::ValueEnum;
use harness::Pull;
use spec::image::Image;
use spec::reference::{LayoutReference, Reference};
use store::Store;

use super::progress::Progress;
use super::{Here, reference, tag};

/// Write an image to a file
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name or id of an image
    image: String,
    /// File, or directory for oci [default: standard output]
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// docker's archive, OCI's archive or directory, or the root file system alone
    #[arg(long = "as", value_enum, default_value = "docker-archive")]
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    DockerArchive,
    OciArchive,
    Oci,
    Tar,
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let to = args.output.as_ref().map(std::path::absolute).transpose().context("no path")?;
    ensure!(
        to.is_some() || !std::io::stdout().is_terminal(),
        "an archive is nothing for a terminal: give -o PATH"
    );
    let (store, _) = here.store_for_change()?;
    let image = tag::find(&store, &args.image)?;
    let _lease = store.lease(&image)?;
    let format = match args.form {
        Form::DockerArchive => Format::DockerArchive,
        Form::OciArchive => Format::OciArchive,
        Form::Oci => Format::Oci,
        Form::Tar => {
            delivery::save_root(&store, &image, to.as_deref())?;
            return Ok(0);
        }
    };
    let names = names(&store, &image, &args.image)?;
    let progress = Progress::new();
    delivery::save(&store, &image, &names, format, to.as_deref(), &progress)?;
    Ok(0)
}

/// The name that was given, if it is one that a registry could have; as docker.
fn names(store: &Store, image: &Image, given: &str) -> Result<Vec<String>> {
    let name = reference::parse(given).map(|reference| match reference {
        Reference::Registry(name) if name.digest.is_none() => Some(name.to_string()),
        _ => None,
    });
    let named =
        |name: &String| store.find(name).map(|found| found.is_some_and(|i| i.id == image.id));
    Ok(match name.ok().flatten() {
        Some(name) if named(&name)? => vec![name],
        _ => Vec::new(),
    })
}

/// Bring all images of an archive into the store, with their names
#[derive(Debug, clap::Args)]
pub(super) struct LoadArgs {
    /// docker's archive, or OCI's archive or directory [default: standard input]
    #[arg(short, long, value_name = "PATH")]
    input: Option<PathBuf>,
    /// Print nothing on standard output
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn load(args: &LoadArgs, here: &Here) -> Result<u8> {
    let (store, run) = here.store_for_change()?;
    let (path, shown, _kept) = match &args.input {
        Some(path) => {
            let path = std::path::absolute(path).context("no path")?;
            let shown = path.display().to_string();
            (path, shown, None)
        }
        None => {
            let kept = standard_input(&store)?;
            let path = format!("/proc/self/fd/{}", kept.as_raw_fd());
            (path.into(), "standard input".to_owned(), Some(kept))
        }
    };
    let sniffed = layout::sniff(&path).with_context(|| format!("opening {shown}"))?;
    let Reference::Layout(place) = sniffed else {
        bail!("{shown} is no archive of images: `postroj import` takes a root file system");
    };
    let options = Options::default();
    let progress = Progress::new();
    let bring = |layout: LayoutReference| {
        let reference = &Reference::Layout(layout);
        let pull = Pull { reference, store: &store, run: &run, options: &options, tell: &progress };
        harness::pull(&pull).map(|(image, _)| image)
    };
    let mut loaded = Vec::new();
    let all = layout::names(&place, &store).with_context(|| format!("reading {shown}"))?;
    for (layout, name) in all {
        let own = layout.to_string();
        let image = bring(layout)?;
        let full = full_name(&name)?;
        store.tag(&image, &full)?;
        // It was the way here, and is no name of anything that will stay where it is.
        store.untag(&own)?;
        loaded.push(full);
    }
    if loaded.is_empty() {
        let own = place.to_string();
        loaded.push(format!("sha256:{}", bring(place)?.id));
        if args.input.is_none() {
            store.untag(&own)?;
        }
    }
    drop(progress);
    if !args.quiet {
        loaded.iter().for_each(|name| println!("Loaded image: {name}"));
    }
    Ok(0)
}

/// Keeps what standard input holds in a file without a name: archives are read in any order.
fn standard_input(store: &Store) -> Result<File> {
    let mut input = std::io::stdin().lock();
    ensure!(!input.is_terminal(), "an archive does not come from a terminal: give -i PATH");
    let mut kept = layout::scratch(store)?;
    std::io::copy(&mut input, &mut kept).context("reading standard input")?;
    Ok(kept)
}

pub(super) fn full_name(name: &str) -> Result<String> {
    match Reference::parse(&format!("docker://{name}"), |_| false)? {
        Reference::Registry(name) => Ok(name.to_string()),
        other => bail!("{other} is no name of an image"),
    }
}

/// Make an image of a root file system in an archive or a directory
#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// A tar archive, compressed or not, or a directory
    source: PathBuf,
    /// Name of the image, such as mine:1
    name: Option<String>,
}

pub(super) fn import(args: &ImportArgs, here: &Here) -> Result<u8> {
    let path = std::path::absolute(&args.source).context("no path")?;
    let kind = std::fs::metadata(&path).with_context(|| format!("opening {}", path.display()))?;
    let reference = if kind.is_dir() { Reference::Directory(path) } else { Reference::Tar(path) };
    let name = args.name.as_deref().map(full_name).transpose()?;
    let (store, run) = here.store_for_change()?;
    let options = Options::default();
    let progress = Progress::new();
    let pull = Pull {
        reference: &reference,
        store: &store,
        run: &run,
        options: &options,
        tell: &progress,
    };
    let (image, _) = harness::pull(&pull)?;
    drop(progress);
    if let Some(name) = name {
        store.tag(&image, &name)?;
        store.untag(&reference.to_string())?;
    }
    println!("sha256:{}", image.id);
    Ok(0)
}
