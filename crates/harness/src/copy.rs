//! Copies files into machines and out of them.
//!
//! One side packs, the other unpacks. What is done in a machine is done by a process that sees
//! only its files: paths of the machine lead nowhere else, whatever links it has.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use engine::record::Record;
use engine::{Errand, Streams, Visit};
use rustix::pipe::PipeFlags;
use serde::{Deserialize, Serialize};
use store::pack::{self, Part, pack};
use store::unpack::{self, Ids, Limits, Style, unpack_with};
use sys::rooted::Root;

use path::{CopyPath, Plan};

mod path;

/// One end of a copy.
#[derive(Debug)]
pub enum End {
    /// A path of the host.
    Host(String),
    /// A path of a machine; one that is relative starts at its root.
    Machine(Box<Record>, String),
    /// A tar archive on standard input or output.
    Stream,
}

/// How to copy.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Manner {
    /// Owners are kept, and so are set-user-id bits, file capabilities and device nodes on
    /// the way out of a machine.
    pub archive: bool,
    /// A symbolic link that is named as the source stands for what it leads to.
    pub follow: bool,
}

/// Copies what is at `from` to `to`, by docker's rules.
///
/// # Errors
/// Names the path and what is wrong with it. What was copied before remains.
pub fn copy(from: &End, to: &End, manner: Manner) -> Result<()> {
    let source = match from {
        End::Stream => None,
        _ => Some(find(from, manner.follow)?),
    };
    let target = match to {
        End::Stream => None,
        // A link there is followed, as everywhere.
        _ => Some(find(to, true)?),
    };
    let plan = path::plan(source.as_ref(), target.as_ref())?;
    let harmless = !manner.archive && !matches!(to, End::Machine(..));
    let work = Work { plan, manner, harmless };
    match (from, to) {
        (End::Stream, End::Machine(record, _)) => {
            let visit = work.unpack_inside(record, None, &rustix::stdio::stdin())?;
            visit.join().map(drop)
        }
        (End::Machine(record, _), End::Stream) => {
            let visit = work.pack_inside(record, &rustix::stdio::stdout())?;
            visit.join().map(drop)
        }
        (End::Machine(record, _), End::Host(_)) => {
            let (reader, writer) = pipe()?;
            let visit = work.pack_inside_of(record, &reader, &writer)?;
            drop(writer);
            let unpacked = work.unpack(&host()?, reader);
            both(visit.join().map(drop), unpacked)
        }
        (End::Host(_), End::Machine(record, _)) => {
            let (reader, writer) = pipe()?;
            let visit = work.unpack_inside(record, Some(&writer), &reader)?;
            drop(reader);
            let packed = work.pack(&host()?, writer);
            both(visit.join().map(drop), packed)
        }
        (End::Machine(source, _), End::Machine(target, _)) => {
            let (reader, writer) = pipe()?;
            let packing = work.pack_inside_of(source, &reader, &writer)?;
            let unpacking = work.unpack_inside(target, Some(&writer), &reader)?;
            drop((reader, writer));
            both(unpacking.join().map(drop), packing.join().map(drop))
        }
        _ => bail!("one of the two must be in a machine: MACHINE:PATH"),
    }
}

/// Where one side fails, the other only hears that its pipe is broken.
fn both(inside: Result<()>, outside: Result<()>) -> Result<()> {
    match (inside, outside) {
        (Err(inside), Err(outside)) => Err(if is_broken_pipe(&inside) { outside } else { inside }),
        (inside, outside) => inside.and(outside),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    text.contains("Broken pipe") || text.contains("broken pipe") || text.contains("truncated")
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // Larger than the default where this user may: fewer changes between the two sides.
    let _ = rustix::pipe::fcntl_setpipe_size(&writer, 1 << 20);
    Ok((reader, writer))
}

fn host() -> Result<Root> {
    Root::open(Path::new("/")).context("cannot open the root directory")
}

/// Looks for an end where it is.
fn find(end: &End, follow: bool) -> Result<CopyPath> {
    match end {
        End::Host(path) => {
            let absolute = match path.starts_with('/') {
                true => path.clone(),
                false => {
                    let here = std::env::current_dir().context("cannot tell where we are")?;
                    let here = here.to_str().context("the working directory is not UTF-8")?;
                    format!("{here}/{path}")
                }
            };
            let mut found = CopyPath::new(path, &absolute);
            found.look(&host()?, follow)?;
            Ok(found)
        }
        End::Machine(record, path) => {
            let found = CopyPath::new(&format!("{}:{path}", record.name), &format!("/{path}"));
            let argument = serde_json::to_string(&(found, follow))?;
            let visit =
                engine::of(record).errand(record, &FIND, &argument, Streams::default(), &[]);
            let told = visit?.join()?;
            serde_json::from_str(&told).context("cannot hear from inside of the machine")
        }
        End::Stream => bail!("a stream has no path"),
    }
}

#[derive(Serialize, Deserialize)]
struct Work {
    plan: Plan,
    manner: Manner,
    harmless: bool,
}

impl Work {
    fn pack(&self, root: &Root, writer: OwnedFd) -> Result<()> {
        let options = pack::Options {
            part: Some(Part { path: self.plan.source.clone(), name: self.plan.name.clone() }),
            across: true,
            harmless: self.harmless,
            ..pack::Options::default()
        };
        let writer = io::BufWriter::with_capacity(256 << 10, File::from(writer));
        pack(root, writer, &options)
    }

    fn unpack(&self, root: &Root, reader: OwnedFd) -> Result<()> {
        let directory = Root::from_fd(
            root.open_dir(std::ffi::OsStr::from_bytes(&self.plan.into)).with_context(|| {
                format!("cannot open {}", String::from_utf8_lossy(&self.plan.into))
            })?,
        );
        // As dpkg does it: a directory that is there stays as it is, and nothing else takes its place.
        let options = unpack::Options {
            style: Style::Package,
            ids: if self.manner.archive { Ids::Exact } else { Ids::Mine },
            limits: Limits::default(),
        };
        let mut reader = File::from(reader);
        let summary = unpack_with(&mut reader, &directory, &options, &mut |_| {})?;
        ensure!(summary.entries > 0 || self.plan.name.is_empty(), "there was nothing to copy");
        // Whoever packs has not ended before its last byte is read.
        io::copy(&mut reader, &mut io::sink()).context("cannot read the archive to its end")?;
        Ok(())
    }

    fn pack_inside_of(&self, record: &Record, reader: &OwnedFd, writer: &OwnedFd) -> Result<Visit> {
        let streams = Streams { output: Some(writer.try_clone()?), ..Streams::default() };
        self.inside(record, &PACK, streams, &[reader.as_fd(), writer.as_fd()])
    }

    fn pack_inside(&self, record: &Record, writer: &impl AsFd) -> Result<Visit> {
        let output = Some(writer.as_fd().try_clone_to_owned()?);
        self.inside(record, &PACK, Streams { output, ..Streams::default() }, &[])
    }

    fn unpack_inside(
        &self,
        record: &Record,
        writer: Option<&OwnedFd>,
        reader: &impl AsFd,
    ) -> Result<Visit> {
        let input = Some(reader.as_fd().try_clone_to_owned()?);
        let unused: Vec<BorrowedFd<'_>> = writer.iter().map(|fd| fd.as_fd()).collect();
        self.inside(record, &UNPACK, Streams { input, ..Streams::default() }, &unused)
    }

    fn inside(
        &self,
        record: &Record,
        errand: &'static Errand,
        streams: Streams,
        unused: &[BorrowedFd<'_>],
    ) -> Result<Visit> {
        let argument = serde_json::to_string(self)?;
        engine::of(record).errand(record, errand, &argument, streams, unused)
    }
}

/// Looks what is at a path.
pub(crate) static FIND: Errand = Errand {
    name: "copy-find",
    work: engine::Work::Files(|argument, root| {
        let (mut found, follow): (CopyPath, bool) = serde_json::from_str(argument)?;
        found.look(root, follow)?;
        Ok(serde_json::to_string(&found)?)
    }),
};

/// Packs what is to be copied, to the standard output.
pub(crate) static PACK: Errand = Errand {
    name: "copy-pack",
    work: engine::Work::Files(|argument, root| {
        let work: Work = serde_json::from_str(argument)?;
        work.pack(root, rustix::stdio::stdout().try_clone_to_owned()?).map(|()| String::new())
    }),
};

/// Unpacks what comes over the standard input.
pub(crate) static UNPACK: Errand = Errand {
    name: "copy-unpack",
    work: engine::Work::Files(|argument, root| {
        let work: Work = serde_json::from_str(argument)?;
        work.unpack(root, rustix::stdio::stdin().try_clone_to_owned()?).map(|()| String::new())
    }),
};
