//! Copies of directories that hold a root file system.

use std::io;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use spec::event::Event;
use spec::image::{Config, Origin};
use spec::reference::Reference;
use store::NewLayer;
use store::pack::{self, pack};
use store::unpack::{Limits, Style, unpack};
use sys::rooted::Root;

use super::{Content, Context, Draft, ImageSource, Pulled};

/// The source of `dir:PATH`.
pub(crate) struct Source;

impl ImageSource for Source {
    fn accepts(&self, reference: &Reference) -> bool {
        matches!(reference, Reference::Directory(_))
    }

    fn pull(&self, reference: &Reference, context: &Context<'_>) -> Result<Pulled> {
        let Reference::Directory(path) = reference else { bail!("{reference} is no directory") };
        let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
        context.tell.tell(Event::Phase { name: "copying".into() });
        let layer = context.store.new_layer()?;
        copy(path, &layer, context).with_context(|| format!("copying {}", path.display()))?;
        let shell = distro::facts::shell(layer.root());
        Ok(Pulled::Draft(Box::new(Draft {
            content: Content::Root(layer, Default::default()),
            config: Config { cmd: vec![shell.into()], ..Config::default() },
            origin: Origin::Directory { path: text.to_owned(), copied: now() },
            names: Vec::new(),
        })))
    }
}

/// Nanoseconds since the epoch: no two copies of a directory need be the same.
fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_nanos() as u64)
}

/// Packs on one side of a pipe and unpacks on the other: so a copy has just the manners of
/// an archive, and there is one code for both.
fn copy(path: &Path, layer: &NewLayer, context: &Context<'_>) -> Result<()> {
    let root = Root::open(path)?;
    // A store below the directory would be copied into itself.
    let store = Root::open(context.store.path())?.metadata("/")?;
    let without = vec![(store.st_dev, store.st_ino)];
    let options = pack::Options { without, ..pack::Options::default() };
    let (reader, writer) = io::pipe()?;
    std::thread::scope(|scope| {
        let packer =
            scope.spawn(|| pack(&root, io::BufWriter::with_capacity(BUFFER, writer), &options));
        let unpacked = unpack(reader, layer.root(), Style::Plain, &Limits::default(), &mut |_| {});
        let packed = packer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (packed, unpacked) {
            (Ok(()), Ok(summary)) => {
                for text in summary.notes {
                    context.tell.tell(Event::Warning { text });
                }
                Ok(())
            }
            // That its pipe broke says nothing of why.
            (Err(error), Ok(_)) => Err(error),
            (Err(error), Err(_)) if !is_broken_pipe(&error) => Err(error),
            (_, Err(error)) => Err(anyhow!(error)),
        }
    })
}

const BUFFER: usize = 256 << 10;

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(io)
}
