//! Images of disks, packed or not, and what holds some: boxes of Vagrant, `.ova`.

mod boxes;
mod fill;
mod spool;
pub(super) mod vagrant;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use ::disk::Blocks;
use ::disk::image;
use ::disk::tree::Wishes;
use anyhow::{Context as _, Result, bail, ensure};
use spec::event::Event;
use spec::image::{Config, Origin};
use spec::reference::{DiskReference, Reference};
use store::NewLayer;

use super::tar::{self, Progress};
use super::{Content, Context, Draft, ImageSource, Pulled};
use crate::compression::Compression;
use crate::digest::{self, Hashing};

/// The source of `disk:PATH`.
pub(crate) struct Source;

impl ImageSource for Source {
    fn accepts(&self, reference: &Reference) -> bool {
        matches!(reference, Reference::Disk(_))
    }

    fn pull(&self, reference: &Reference, context: &Context<'_>) -> Result<Pulled> {
        let Reference::Disk(disk) = reference else { bail!("{reference} is no disk") };
        let options = context.options;
        ensure!(
            options.mirror.is_none() && options.include.is_empty() && options.keyring.is_none(),
            "--mirror, --keyring and --include mean nothing for a disk: leave them out"
        );
        pull(disk, context).with_context(|| format!("reading the disk {}", disk.path.display()))
    }
}

/// Bytes by which all is recognised that can be.
pub(super) const START: u64 = 128 << 10;

/// What a file holds.
enum What {
    /// A disk in some format.
    Disk,
    /// A raw one, packed.
    Packed(Compression),
    /// An archive of some, packed or not.
    Box(Compression),
}

/// Whether a path is an image of a disk, or holds some.
///
/// # Errors
/// It cannot be read.
pub(super) fn sniff(path: &Path) -> Result<bool> {
    let file = tar::open(path)?;
    let blocks = ::disk::span::Whole::new(file.try_clone()?)?;
    // Of one kind, only the end tells.
    let known = image::format_of(&blocks)?.is_some();
    Ok(known || what(&start_of(&file)?).is_some())
}

/// As [`sniff`], of the first [`START`] bytes of something, or all where it is shorter.
///
/// # Errors
/// It is packed, and cannot be unpacked.
pub(super) fn begins(start: &[u8]) -> Result<bool> {
    Ok(what(start).is_some())
}

fn start_of(file: &File) -> Result<Vec<u8>> {
    let mut start = vec![0; START.min(file.metadata()?.len()) as usize];
    file.read_exact_at(&mut start, 0)?;
    Ok(start)
}

fn what(start: &[u8]) -> Option<What> {
    let compression = Compression::of_content(start);
    if boxes::begins(compression, start) {
        return Some(What::Box(compression));
    }
    if compression == Compression::None {
        let is_archive = start.get(257..262) == Some(b"ustar");
        return (!is_archive && ::disk::table::begins_a_disk(start)).then_some(What::Disk);
    }
    // The packed bytes end in the middle of something.
    let (mut plain, mut block) = (Vec::new(), vec![0; 4096]);
    let mut decoder = compression.decoder(io::Cursor::new(start.to_vec())).ok()?;
    while let Ok(count @ 1..) = decoder.read(&mut block)
        && plain.len() < START as usize
    {
        plain.extend_from_slice(&block[..count]);
    }
    let is_archive = plain.get(257..262) == Some(b"ustar");
    (!is_archive && ::disk::table::begins_a_disk(&plain)).then_some(What::Packed(compression))
}

fn pull(disk: &DiskReference, context: &Context<'_>) -> Result<Pulled> {
    let path = &disk.path;
    let text = path.to_str().context("its path is not UTF-8")?;
    let file = tar::open(path)?;
    let options = image::Options { snapshot: disk.snapshot.clone(), anywhere: disk.anywhere };
    let partition = disk.partition.clone().or_else(|| wanted(context));
    let what = what(&start_of(&file)?);
    let opened = image::open_file(file.try_clone()?, Some(path), &options)?;
    let known = format!("{:?} {:?}", opened.files, disk.snapshot);
    let content = format!("files:{}", digest::of(known.as_bytes()));
    let origin = Origin::Disk { path: text.to_owned(), content, partition };
    if !context.options.force && context.previous.is_some_and(|image| image.origin == origin) {
        return Ok(Pulled::UpToDate);
    }
    match what {
        Some(What::Packed(_) | What::Box(_)) => {
            ensure!(disk.snapshot.is_none(), "what is packed has no snapshots");
            unpack(file, what, origin, context)
        }
        _ => draft(&[opened.blocks], origin, context),
    }
}

/// Reads what comes from an address, where its digest is another than before.
///
/// # Errors
/// It is no disk that can be read, or has another digest than `sha256` (hex).
pub(super) fn pull_stream(
    stream: impl Read + Send,
    address: &str,
    sha256: Option<&str>,
    context: &Context<'_>,
) -> Result<Pulled> {
    context.tell.tell(Event::Phase { name: "fetching".into() });
    let mut hashing = Hashing::new(stream);
    let progress = Progress {
        inner: &mut hashing,
        what: address,
        total: 0,
        done: 0,
        told: 0,
        tell: context.tell,
    };
    let file = spool::spool(progress, context.store)?;
    let digest = hashing.digest()?;
    if let Some(wanted) = sha256 {
        ensure!(digest == wanted, "its digest is sha256:{digest}, and should be sha256:{wanted}");
    }
    let origin = Origin::Disk {
        path: address.to_owned(),
        content: format!("sha256:{digest}"),
        partition: wanted(context),
    };
    let what = what(&start_of(&file)?);
    unpack(file, what, origin, context)
}

/// The partition that was asked for, now or when the reference was pulled before.
fn wanted(context: &Context<'_>) -> Option<String> {
    let before = context.previous.and_then(|image| match &image.origin {
        Origin::Disk { partition, .. } => partition.clone(),
        _ => None,
    });
    context.options.partition.clone().or(before)
}

fn unpack(file: File, what: Option<What>, origin: Origin, context: &Context<'_>) -> Result<Pulled> {
    match what {
        Some(What::Box(compression)) => boxes::pull(file, compression, origin, context),
        Some(What::Packed(compression)) => {
            context.tell.tell(Event::Phase { name: format!("unpacking {compression}") });
            let plain = spool::spool(compression.decoder(file)?, context.store)?;
            let opened = image::open_file(plain, None, &image::Options::default())?;
            draft(&[opened.blocks], origin, context)
        }
        _ => {
            let opened = image::open_file(file, None, &image::Options::default())?;
            draft(&[opened.blocks], origin, context)
        }
    }
}

/// The root that is on some disks.
fn draft(disks: &[Arc<dyn Blocks>], origin: Origin, context: &Context<'_>) -> Result<Pulled> {
    let Origin::Disk { path, partition, .. } = &origin else { bail!("it comes from no disk") };
    let layer = context.store.new_layer()?;
    let wishes = Wishes { partition: partition.clone() };
    fill::fill(&layer, disks, &wishes, path, context.tell)?;
    Ok(finished(layer, origin))
}

fn finished(layer: NewLayer, origin: Origin) -> Pulled {
    let shell = distro::facts::shell(layer.root());
    Pulled::Draft(Box::new(Draft {
        content: Content::Root(layer, Default::default()),
        config: Config { cmd: vec![shell.into()], ..Config::default() },
        origin,
        names: Vec::new(),
    }))
}
