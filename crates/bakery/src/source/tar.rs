//! Tar archives of a whole root file system, compressed or not.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::OFlags;
use spec::event::{Event, Tell};
use spec::image::{Config, Origin};
use spec::reference::Reference;
use store::NewLayer;
use store::unpack::{Limits, Style, Summary, unpack};

use super::bootstrap::fetch::Fetcher;
use super::{Content, Context, Draft, ImageSource, Pulled, disk, lxd};
use crate::compression::Compression;
use crate::digest::Hashing;

/// The source of `tar:PATH`.
pub(crate) struct Source;

impl ImageSource for Source {
    fn accepts(&self, reference: &Reference) -> bool {
        matches!(reference, Reference::Tar(_))
    }

    fn pull(&self, reference: &Reference, context: &Context<'_>) -> Result<Pulled> {
        let Reference::Tar(path) = reference else { bail!("{reference} is no tar archive") };
        pull_path(path, None, context)
    }
}

/// Unpacks a file, where it has changed; its digest must be `sha256` (hex), where that is given.
///
/// # Errors
/// It cannot be read, or is another file than it should be.
pub(crate) fn pull_path(
    path: &Path,
    sha256: Option<&str>,
    context: &Context<'_>,
) -> Result<Pulled> {
    let mut archive = open(path)?;
    let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    if let Some(known) = previous(context) {
        context.tell.tell(Event::Phase { name: "comparing".into() });
        let digest = Hashing::new(&archive).digest().with_context(|| reading(path))?;
        if known == format!("sha256:{digest}") && sha256.is_none_or(|wanted| wanted == digest) {
            return Ok(Pulled::UpToDate);
        }
        archive.rewind().with_context(|| reading(path))?;
    }
    let total = archive.metadata().with_context(|| reading(path))?.len();
    draft(archive, text, total, sha256, context).with_context(|| reading(path))
}

/// Unpacks what is at an address while it comes, where its digest is another than before.
///
/// # Errors
/// It cannot be fetched, or has another digest than `sha256` (hex), where that is known.
pub(crate) fn pull_address(
    address: &str,
    sha256: Option<&str>,
    fetcher: &Fetcher<'_>,
    context: &Context<'_>,
) -> Result<Pulled> {
    let stated = sha256.map(|hex| format!("sha256:{hex}"));
    if stated.is_some() && previous(context) == stated.as_deref() {
        return Ok(Pulled::UpToDate);
    }
    let unpacking = || format!("unpacking {address}");
    let mut stream = fetcher.stream(address)?;
    let mut start = Vec::new();
    stream.by_ref().take(disk::START).read_to_end(&mut start).with_context(unpacking)?;
    let is_disk = disk::begins(&start).with_context(unpacking)?;
    let whole = io::Cursor::new(start).chain(stream);
    if is_disk {
        return disk::pull_stream(whole, address, sha256, context).with_context(unpacking);
    }
    draft(whole, address, 0, sha256, context).with_context(unpacking)
}

fn draft(
    archive: impl Read + Send,
    text: &str,
    total: u64,
    sha256: Option<&str>,
    context: &Context<'_>,
) -> Result<Pulled> {
    context.tell.tell(Event::Phase { name: "unpacking".into() });
    let layer = context.store.new_layer()?;
    let digest = fill(&layer, archive, total, text, context.tell)?;
    if let Some(wanted) = sha256 {
        ensure!(digest == wanted, "its digest is sha256:{digest}, and should be sha256:{wanted}");
    }
    lxd::flatten(layer.root()).context("looking for a root in it")?;
    let shell = distro::facts::shell(layer.root());
    Ok(Pulled::Draft(Box::new(Draft {
        content: Content::Root(layer, Default::default()),
        config: Config { cmd: vec![shell.into()], ..Config::default() },
        origin: Origin::Tar { path: text.to_owned(), digest: format!("sha256:{digest}") },
        names: Vec::new(),
    })))
}

fn reading(path: &Path) -> String {
    format!("reading the archive {}", path.display())
}

/// A fifo would hang us, and could be read only once.
pub(super) fn open(path: &Path) -> Result<File> {
    let mut options = File::options();
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, OFlags::NONBLOCK.bits() as i32);
    let file = options.read(true).open(path).with_context(|| reading(path))?;
    ensure!(file.metadata()?.is_file(), "{} is no regular file", path.display());
    Ok(file)
}

/// The digest that the archive had when the reference was pulled before.
fn previous<'a>(context: &Context<'a>) -> Option<&'a str> {
    match &context.previous?.origin {
        Origin::Tar { digest, .. } if !context.options.force => Some(digest),
        // Of an address it is not known what is there.
        Origin::Disk { content, .. } if !context.options.force => Some(content),
        _ => None,
    }
}

/// Unpacks; returns the SHA-256 of the whole archive in hex. `total` is its size in bytes, 0 where
/// that is not known.
pub(super) fn fill(
    layer: &NewLayer,
    mut archive: impl Read + Send,
    total: u64,
    what: &str,
    tell: &dyn Tell,
) -> Result<String> {
    let mut start = Vec::new();
    archive.by_ref().take(6).read_to_end(&mut start)?;
    ensure!(
        !start.starts_with(b"hsqs"),
        "it is a squashfs: unpack it with unsquashfs, and give the directory as dir:PATH"
    );
    let compression = Compression::of_content(&start);
    let mut hashing = Hashing::new(io::Cursor::new(start).chain(archive));
    let progress = Progress { inner: &mut hashing, what, total, done: 0, told: 0, tell };
    let decoder = compression.decoder(progress)?;
    let summary = unpack(decoder, layer.root(), Style::Plain, &Limits::default(), &mut |_| {})?;
    ensure!(summary.entries > 0, "the archive is empty");
    warn(&summary, tell);
    hashing.digest()
}

pub(super) fn warn(summary: &Summary, tell: &dyn Tell) {
    for note in &summary.notes {
        tell.tell(Event::Warning { text: note.clone() });
    }
}

/// Tells how much of the file has been read.
pub(super) struct Progress<'a, R> {
    pub(super) inner: R,
    pub(super) what: &'a str,
    /// 0 where it is not known.
    pub(super) total: u64,
    pub(super) done: u64,
    pub(super) told: u64,
    pub(super) tell: &'a dyn Tell,
}

/// Bytes between two pieces of news.
const STEP: u64 = 1 << 20;

impl<R: Read> Read for Progress<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.done += count as u64;
        if self.done >= self.told + STEP {
            self.told = self.done;
            let (done, total) = (self.done >> 20, self.total.max(self.done).div_ceil(STEP));
            self.tell.tell(Event::Step { what: format!("MiB of {}", self.what), done, total });
        }
        Ok(count)
    }
}
