//! What was written in a machine: told, made an image, or written to an archive with the rest.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use engine::Visit;
use engine::record::Record;
use engine::state::{self, RunDirectory};
use sha2::{Digest, Sha256};
use spec::image::{Config, Image, Origin};
use spec::plan::{MountKind, Plan, Root as RootPlan};
use store::Store;
use store::difference::{Change, difference};
use store::pack::{self, pack};
use store::unpack::{Limits, Style, unpack};
use sys::process::close_copy;
use sys::rooted::Root;

/// Writes the machine's root, without what is mounted in it, to `to` as a tar archive.
///
/// # Errors
/// Names the file that cannot be read.
pub fn export(record: &Record, to: &impl AsFd) -> Result<()> {
    let visit = engine::of(record).visit(record, &mut |root| {
        let writer = File::from(to.as_fd().try_clone_to_owned()?);
        pack(root, BufWriter::with_capacity(BUFFER, writer), &pack::Options::default())?;
        Ok(String::new())
    })?;
    visit.join().map(drop)
}

const BUFFER: usize = 256 << 10;

/// Tells of every path that was changed since the machine was made: with a leading slash, sorted.
///
/// # Errors
/// Where the machine has ended, or writes to somebody else's files.
pub fn changes(run: &RunDirectory, record: &Record) -> Result<Vec<(Vec<u8>, Change)>> {
    let plan = plan_of(record)?;
    let RootPlan::Overlay { layers, .. } = &plan.root else {
        bail!("the machine {} writes to a directory of somebody else's", record.name);
    };
    let mut parts = vec![("", run.upper(record, "u")?, open_all(layers)?)];
    for (index, mount) in plan.mounts.iter().enumerate() {
        if let MountKind::Overlay { layers, .. } = &mount.kind {
            let upper = run.upper(record, &format!("u{index}"))?;
            parts.push((&mount.target[1..], upper, open_all(layers)?));
        }
    }
    let supplied = supplied(plan, &parts);
    let mut all = Vec::new();
    let tell = |to: &mut dyn Write| -> Result<()> {
        for (prefix, upper, below) in &parts {
            difference(upper, below, &mut |path, change| {
                let slash: &[u8] = if prefix.is_empty() { b"" } else { b"/" };
                let path = [b"/", prefix.as_bytes(), slash, path].concat();
                if supplied.contains(&path) {
                    return Ok(());
                }
                let letter = match change {
                    Change::Changed => b'C',
                    Change::Added => b'A',
                    Change::Deleted => b'D',
                };
                Ok(to.write_all(&[&[letter], &path[..], b"\0"].concat())?)
            })?;
        }
        Ok(to.flush()?)
    };
    let text = if rustix::process::geteuid().is_root() {
        let mut text = Vec::new();
        tell(&mut text)?;
        text
    } else {
        // Files of the machine's other users are read as its root.
        let (reader, writer) = pipe()?;
        let visit = engine::of(record).visit(record, &mut |_| {
            close_copy(reader.as_fd());
            tell(&mut BufWriter::new(File::from(writer.try_clone()?)))?;
            Ok(String::new())
        })?;
        drop(writer);
        let mut text = Vec::new();
        File::from(reader).read_to_end(&mut text)?;
        visit.join()?;
        text
    };
    for entry in text.split(|&b| b == 0).filter(|entry| !entry.is_empty()) {
        let change = match entry[0] {
            b'C' => Change::Changed,
            b'D' => Change::Deleted,
            _ => Change::Added,
        };
        all.push((entry[1..].to_vec(), change));
    }
    all.sort();
    Ok(all)
}

fn plan_of(record: &Record) -> Result<&Plan> {
    let plan = record.plan.as_ref();
    plan.with_context(|| format!("the machine {} is not up yet", record.name))
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// The highest first.
fn open_all(layers: &[String]) -> Result<Vec<Root>> {
    let open = |path: &String| {
        Root::open(Path::new(path)).with_context(|| format!("cannot open the layer {path}"))
    };
    layers.iter().rev().map(open).collect()
}

/// The files of `/etc` that the launcher supplied, as far as they are still what it wrote: they are the
/// machine's, not the image's.
fn supplied(plan: &Plan, parts: &[(&str, Root, Vec<Root>)]) -> Vec<Vec<u8>> {
    let is_same = |file: &spec::plan::File| {
        parts.iter().any(|(prefix, upper, _)| {
            let path = match *prefix {
                "" => format!("/etc/{}", file.name),
                "etc" => format!("/{}", file.name),
                _ => return false,
            };
            upper.read(path, 1 << 20).is_ok_and(|content| content == file.content.as_bytes())
        })
    };
    let same = plan.files.iter().filter(|file| is_same(file));
    same.map(|file| format!("/etc/{}", file.name).into_bytes()).collect()
}

/// A layer on its way into a store: what was written in a machine.
pub struct Written {
    archive: File,
    digest: String,
    parents: Vec<String>,
    machine: String,
}

/// A part of what was written in a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// In its root.
    Root,
    /// In its root, as it was at the snapshot of that name.
    Snapshot(&'a str),
    /// In the image that is mounted at that path.
    Mounted(&'a str),
}

/// Takes what was written in a machine out of it, into a file without a name in `directory`.
///
/// # Errors
/// Where the machine is not made of an image in the store, or a file cannot be read.
pub fn take(
    run: &RunDirectory,
    record: &Record,
    part: Part<'_>,
    directory: &Path,
) -> Result<Written> {
    let plan = plan_of(record)?;
    let (layers, place) = place_of(record, plan, part)?;
    let id = |path: &String| Path::new(path).parent()?.file_name()?.to_str().map(str::to_owned);
    let parents: Vec<String> = layers.iter().filter_map(id).collect();
    ensure!(
        !parents.is_empty() && layers.iter().all(|path| path.ends_with("/root")),
        "the machine {} is made of no image in the store: `postroj export` it instead",
        record.name
    );
    let upper = run.upper(record, &place)?;
    let except = match part {
        Part::Mounted(_) => Vec::new(),
        _ => supplied(plan, &[("", upper.try_clone()?, Vec::new())]),
    };
    let except = except.into_iter().map(|path| path[1..].to_vec()).collect();
    let options = pack::Options { layer: true, except, ..pack::Options::default() };
    let (reader, writer) = pipe()?;
    let visit: Visit = engine::of(record).visit(record, &mut |_| {
        close_copy(reader.as_fd());
        let writer = BufWriter::with_capacity(BUFFER, File::from(writer.try_clone()?));
        pack(&upper, writer, &options).map(|()| String::new())
    })?;
    drop(writer);
    let archive = nameless(directory)?;
    let mut hashing = Hashing { reader: File::from(reader), hasher: Sha256::new() };
    let copied = io::copy(&mut hashing, &mut &archive).context("cannot write the layer");
    visit.join()?;
    copied?;
    let digest = hashing.hasher.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok(Written { archive, digest, parents, machine: record.id().to_owned() })
}

/// The layers below a part, and where it is in the machine's scratch.
fn place_of<'a>(record: &Record, plan: &'a Plan, part: Part<'_>) -> Result<(&'a [String], String)> {
    if let Part::Mounted(target) = part {
        let found = plan.mounts.iter().enumerate().find_map(|(index, mount)| match &mount.kind {
            MountKind::Overlay { layers, .. } if mount.target == target => Some((index, layers)),
            _ => None,
        });
        let (index, layers) = found.with_context(|| format!("no image is mounted at {target}"))?;
        return Ok((layers, format!("u{index}")));
    }
    let layers = match &plan.root {
        RootPlan::Overlay { layers, .. } => &layers[..],
        RootPlan::Directory { .. } => &[],
    };
    let place = match part {
        Part::Snapshot(name) => crate::snapshot::place_of(record, name)?,
        _ => "u".to_owned(),
    };
    Ok((layers, place))
}

/// Gone with this process, however that ends (open(2), `O_TMPFILE`).
fn nameless(directory: &Path) -> Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let fd = rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)
        .with_context(|| format!("cannot make a file in {}", directory.display()))?;
    Ok(fd.into())
}

struct Hashing {
    reader: File,
    hasher: Sha256,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

impl Written {
    /// Makes it an image, over the one that the machine was made of.
    ///
    /// # Errors
    /// Where that is no longer there, or the store cannot be written.
    pub fn commit(
        self,
        store: &Store,
        names: &[String],
        change: impl FnOnce(Config) -> Result<Config>,
    ) -> Result<Image> {
        let images = store.images()?;
        let parent = images.into_iter().map(|named| named.image);
        let parent = parent
            .into_iter()
            .find(|image| image.layers == self.parents)
            .context("the image that the machine was made of is no longer there")?;
        let (at, layer) = (state::now(), self.digest.clone());
        let machine = self.machine.clone();
        let origin = Origin::Commit { parent: parent.id.clone(), machine, at, layer };
        let config = change(parent.config.clone())?;
        let digest = Sha256::digest(serde_json::to_vec(&(&origin, &config))?);
        let id = digest.iter().map(|b| format!("{b:02x}")).collect();
        self.record(store, &parent, origin, config, id, names)
    }

    /// Records it as a layer over `parent`, as the image of that id.
    pub(crate) fn record(
        mut self,
        store: &Store,
        parent: &Image,
        origin: Origin,
        config: Config,
        id: String,
        names: &[String],
    ) -> Result<Image> {
        if !store.hold_layer(&self.digest)? {
            let layer = store.new_layer()?;
            io::Seek::rewind(&mut self.archive)?;
            unpack(&self.archive, layer.root(), Style::Overlay, &Limits::default(), &mut |_| {})
                .context("cannot unpack the layer")?;
            layer.commit(&self.digest)?;
        }
        let layers = [&parent.layers[..], std::slice::from_ref(&self.digest)].concat();
        let paths: Vec<_> = layers.iter().map(|id| store.layer_path(id)).collect();
        let (facts, size) = crate::pull::known_of(&paths, "the machine", store)?;
        let image = Image { id, layers, config, facts, origin, created: state::now(), size };
        store.record(&image, names)?;
        Ok(image)
    }
}
