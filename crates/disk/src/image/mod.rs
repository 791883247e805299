//! Files that hold a disk: what each format is recognised by, and how it is opened.

mod mapped;
mod neighbours;
mod qcow2;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{Mode, OFlags, open as open_file_at};

pub use neighbours::{Neighbours, Stamp};

use crate::Blocks;
use crate::span::Whole;

/// What the user wants of an image.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// One of its snapshots, by name or number, instead of what it holds now.
    pub snapshot: Option<String>,
    /// Whether the image may name files that are not beside it.
    pub anywhere: bool,
}

/// An opened image.
pub struct Disk {
    /// Its bytes.
    pub blocks: Arc<dyn Blocks>,
    /// What it is, in the words of `qemu-img -f`.
    pub format: &'static str,
    /// The files that it is made of, itself first.
    pub files: Vec<Stamp>,
}

/// What an opening may use.
pub(crate) struct Context<'a> {
    neighbours: &'a Neighbours,
    snapshot: Option<&'a str>,
    /// How many images this one stands on already.
    depth: usize,
}

/// Images on top of each other.
const MAX_DEPTH: usize = 32;

/// A format of disk images.
trait Format: Sync {
    /// In the words of `qemu-img -f`.
    fn name(&self) -> &'static str;

    /// Whether that is one, by its first bytes and its last; both are [`EDGE`] long, or as long as the file.
    fn recognises(&self, start: &[u8], end: &[u8]) -> bool;

    fn open(&self, file: Arc<dyn Blocks>, context: &Context<'_>) -> Result<Arc<dyn Blocks>>;
}

/// Bytes by which an image is recognised at most.
const EDGE: u64 = 1024;

const FORMATS: &[&dyn Format] =
    &[&qcow2::Format, &vmdk::Format, &vhdx::Format, &vdi::Format, &vhd::Format];

/// The format of an image by its content, and `None` for what may be a raw one.
///
/// # Errors
/// It cannot be read.
pub fn format_of(file: &dyn Blocks) -> Result<Option<&'static str>> {
    Ok(recognise(file)?.map(Format::name))
}

fn recognise(file: &dyn Blocks) -> Result<Option<&'static dyn Format>> {
    let length = file.size().min(EDGE);
    let (mut start, mut end) = (vec![0; length as usize], vec![0; length as usize]);
    file.read_at(0, &mut start)?;
    file.read_at(file.size() - length, &mut end)?;
    Ok(FORMATS.iter().copied().find(|format| format.recognises(&start, &end)))
}

/// Opens an image by its path.
///
/// # Errors
/// It cannot be read, is broken, or has a feature that cannot be read; that is named.
pub fn open(path: &Path, options: &Options) -> Result<Disk> {
    // A fifo or a device could hang us.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(open_file_at(path, flags, Mode::empty())?);
    open_file(file, Some(path), options)
}

/// Opens an image in a file; `path` is where other files are beside it.
///
/// # Errors
/// As [`open`].
pub fn open_file(file: File, path: Option<&Path>, options: &Options) -> Result<Disk> {
    let neighbours = Neighbours::of(path, options.anywhere);
    neighbours.note(&file, path.and_then(Path::file_name).unwrap_or_default())?;
    let context =
        Context { neighbours: &neighbours, snapshot: options.snapshot.as_deref(), depth: 0 };
    let (blocks, format) = open_blocks(Arc::new(Whole::new(file)?), None, &context)?;
    Ok(Disk { blocks, format, files: neighbours.stamps() })
}

/// Opens what is in these bytes alone, without other files.
///
/// # Errors
/// As [`open`].
pub fn open_bytes(file: Arc<dyn Blocks>) -> Result<Arc<dyn Blocks>> {
    let neighbours = Neighbours::of(None, false);
    let context = Context { neighbours: &neighbours, snapshot: None, depth: 0 };
    Ok(open_blocks(file, None, &context)?.0)
}

/// `format` is what somebody says that it is.
fn open_blocks(
    file: Arc<dyn Blocks>,
    format: Option<&str>,
    context: &Context<'_>,
) -> Result<(Arc<dyn Blocks>, &'static str)> {
    ensure!(context.depth < MAX_DEPTH, "more than {MAX_DEPTH} images stand on each other");
    let found = match format {
        Some("raw") => None,
        Some(name) => Some(
            FORMATS
                .iter()
                .copied()
                .find(|known| known.name() == name)
                .with_context(|| format!("it is said to be {name:?}, which cannot be read"))?,
        ),
        None => recognise(&*file)?,
    };
    match found {
        Some(format) => {
            let blocks = format.open(file, context);
            Ok((blocks.with_context(|| format!("reading it as {}", format.name()))?, format.name()))
        }
        None if context.snapshot.is_some() => bail!("a raw image has no snapshots"),
        None => Ok((file, "raw")),
    }
}

impl Context<'_> {
    /// Opens an image that this one names.
    fn below(&self, name: &[u8], format: Option<&str>) -> Result<Arc<dyn Blocks>> {
        let shown = || format!("opening the image below, {:?}", String::from_utf8_lossy(name));
        let inner = Context { neighbours: self.neighbours, snapshot: None, depth: self.depth + 1 };
        let file = self.neighbours.open(name).with_context(shown)?;
        Ok(open_blocks(Arc::new(Whole::new(file)?), format, &inner).with_context(shown)?.0)
    }

    /// Opens a file that holds a part of this image, as it is.
    fn part(&self, name: &[u8]) -> Result<Arc<dyn Blocks>> {
        Ok(Arc::new(Whole::new(self.neighbours.open(name)?)?))
    }
}

/// Bytes of a table that is kept in memory whole: as many as qemu takes.
const MAX_TABLE: u64 = 32 << 20;

/// Reads a table of so many entries of a size.
fn table(file: &dyn Blocks, offset: u64, entries: u64, size: u64, what: &str) -> Result<Vec<u8>> {
    let length = entries.checked_mul(size).filter(|length| *length <= MAX_TABLE);
    let length = length.with_context(|| format!("its {what} has {entries} entries"))?;
    crate::span::inside(offset, length, file.size()).with_context(|| format!("its {what}"))?;
    let mut bytes = vec![0; length as usize];
    file.read_at(offset, &mut bytes).with_context(|| format!("reading its {what}"))?;
    Ok(bytes)
}
