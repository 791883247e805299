//! Snapshots: copies of what was written in a machine, beside that, in the same memory.
//!
//! They are directories of the machine's own file system in memory, which nothing in it can see. They are
//! copied by a process in the machine's user namespace, who may make files of all its users.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read};
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail, ensure};
use engine::record::{Note, Record, Snapshot};
use engine::state::{self, RunDirectory};
use engine::{Errand, Streams, Work};
use rustix::fs::{Mode, mkdirat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use spec::plan::{MountKind, Plan, Root as RootPlan};
use store::pack::{self, pack};
use store::unpack::{Limits, Style, unpack};
use sys::rooted::{Root, remove_tree};

use crate::written;

/// Where snapshots are, by name.
const SNAPSHOTS: &str = "s";

/// What a machine shall have when it runs again, and from then on what it had before.
pub(crate) const PREPARED: &str = "n";

/// While it is being made.
const UNFINISHED: &str = "p";

/// Copies what is written in a machine now, while that stands still.
///
/// # Errors
/// Where it has such a snapshot already, has ended, writes to somebody else's files, or has no
/// memory left.
pub fn create(run: &RunDirectory, record: &Record, name: Option<&str>) -> Result<Snapshot> {
    let name = match name {
        Some(name) => name.to_owned(),
        None => free_name(record),
    };
    state::check_name(&name).map_err(|_| {
        anyhow::anyhow!("invalid name {name:?}: letters, digits, and _ . - after the first")
    })?;
    if record.snapshots.iter().any(|there| there.name == name) {
        bail!("the machine {} has a snapshot {name} already", record.name);
    }
    let parts = parts(record)?;
    let copied = copy(
        run,
        record,
        Copy {
            from: String::new(),
            parts,
            to: format!("{SNAPSHOTS}/{name}"),
            pauses: !record.paused,
        },
    );
    let size = copied.with_context(|| format!("cannot make a snapshot of {}", record.name))?;
    let snapshot = Snapshot { name, created: state::now(), size };
    run.note(&record.name, &Note::Snapshot(&snapshot))?;
    Ok(snapshot)
}

/// As Incus counts them.
fn free_name(record: &Record) -> String {
    let is_free = |name: &String| record.snapshots.iter().all(|there| there.name != *name);
    (0..).map(|n| format!("snap{n}")).find(is_free).unwrap_or_default()
}

/// The snapshot of that name, else the last one.
///
/// # Errors
/// Where there is none.
pub fn find<'a>(record: &'a Record, name: Option<&str>) -> Result<&'a Snapshot> {
    let found = match name {
        Some(name) => record.snapshots.iter().find(|snapshot| snapshot.name == name),
        None => record.snapshots.last(),
    };
    found.with_context(|| match name {
        Some(name) => format!(
            "the machine {0} has no snapshot {name} (`postroj snapshot ls {0}` lists them)",
            record.name
        ),
        None => format!(
            "the machine {0} has no snapshot (`postroj snapshot create {0}` makes one)",
            record.name
        ),
    })
}

/// Makes ready what the machine is to have when it runs again: a copy, so that the snapshot stays.
///
/// # Errors
/// As [`create`].
pub fn prepare(run: &RunDirectory, record: &Record, snapshot: &Snapshot) -> Result<()> {
    let from = format!("{SNAPSHOTS}/{}", snapshot.name);
    let copied = Copy { from, parts: parts(record)?, to: PREPARED.to_owned(), pauses: false };
    // Of a restore that was killed.
    remove_all(run, record, PREPARED)?;
    copy(run, record, copied)
        .map(drop)
        .with_context(|| format!("cannot restore the machine {}", record.name))
}

/// Removes what a machine had before it was restored.
///
/// # Errors
/// Where it cannot be removed.
pub fn clean(run: &RunDirectory, record: &Record) -> Result<()> {
    remove_all(run, record, PREPARED)
}

/// Removes a snapshot.
///
/// # Errors
/// Where there is none of that name, or it cannot be removed.
pub fn remove(run: &RunDirectory, record: &Record, name: &str) -> Result<()> {
    find(record, Some(name))?;
    run.note(&record.name, &Note::Forgotten(name))?;
    remove_all(run, record, &format!("{SNAPSHOTS}/{name}"))
}

/// Where the upper layer of a snapshot is, in the machine's scratch.
pub(crate) fn place_of(record: &Record, name: &str) -> Result<String> {
    find(record, Some(name)).map(|snapshot| format!("{SNAPSHOTS}/{}/u", snapshot.name))
}

/// The directories that hold what is written in a machine.
fn parts(record: &Record) -> Result<Vec<String>> {
    let plan: &Plan = record
        .plan
        .as_ref()
        .with_context(|| format!("the machine {} is not up yet", record.name))?;
    ensure!(
        matches!(plan.root, RootPlan::Overlay { .. }),
        "the machine {} writes to a directory of somebody else's",
        record.name
    );
    let mounts = plan.mounts.iter().enumerate();
    let overlays = mounts.filter(|(_, mount)| matches!(mount.kind, MountKind::Overlay { .. }));
    let mut parts = vec!["u".to_owned()];
    parts.extend(overlays.map(|(index, _)| format!("u{index}")));
    Ok(parts)
}

/// That `parts` of the scratch's directory `from` are copied into its directory `to`, which appears once it
/// is whole.
#[derive(Serialize, Deserialize)]
struct Copy {
    from: String,
    parts: Vec<String>,
    to: String,
    /// The machine stands still meanwhile.
    pauses: bool,
}

/// Gives the bytes of all files.
fn copy(run: &RunDirectory, record: &Record, what: Copy) -> Result<u64> {
    let said = if engine::of(record).has_own_kernel() {
        let argument = serde_json::to_string(&what)?;
        engine::of(record).errand(record, &COPY, &argument, Streams::default(), &[])?.join()?
    } else {
        written::still(run, record, what.pauses, || copy_here(run, record, &what))?
    };
    said.parse().context("whoever copied it made no sense")
}

/// Copies a part of what is written in a machine, beside that.
pub(crate) static COPY: Errand = Errand {
    name: "snapshot-copy",
    work: Work::Written(|argument, run, record| {
        let what: Copy = serde_json::from_str(argument)?;
        written::still(run, record, what.pauses, || copy_here(run, record, &what))
    }),
};

fn copy_here(run: &RunDirectory, record: &Record, what: &Copy) -> Result<String> {
    let Copy { from, parts, to, .. } = what;
    let scratch = run.upper(record, ".")?;
    let sources = parts
        .iter()
        .map(|part| Ok((&**part, run.upper(record, format!("{from}/{part}").trim_matches('/'))?)))
        .collect::<Result<Vec<_>>>()?;
    let visit = engine::of(record).visit(record, &mut |_| {
        let scratch = scratch.open_dir("/")?;
        let _ = remove_tree(scratch.as_fd(), UNFINISHED.as_ref());
        let bytes = copy_parts(&scratch, &sources);
        let bytes =
            bytes.inspect_err(|_| drop(remove_tree(scratch.as_fd(), UNFINISHED.as_ref())))?;
        make(&scratch, SNAPSHOTS)?;
        rustix::fs::renameat(&scratch, UNFINISHED, &scratch, &**to)?;
        Ok(bytes.to_string())
    })?;
    visit.join()
}

fn copy_parts(scratch: &impl AsFd, sources: &[(&str, Root)]) -> Result<u64> {
    make(scratch, UNFINISHED)?;
    let mut bytes = 0;
    for (part, source) in sources {
        let path = format!("{UNFINISHED}/{part}");
        make(scratch, &path)?;
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        let target = Root::from_fd(rustix::fs::openat(scratch, &path, flags, Mode::empty())?);
        bytes += copy_tree(source, &target)?;
    }
    Ok(bytes)
}

/// Through an archive: that knows every kind of file that a layer has.
fn copy_tree(from: &Root, to: &Root) -> Result<u64> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    std::thread::scope(|scope| {
        let packing = scope.spawn(move || {
            let writer = BufWriter::with_capacity(BUFFER, File::from(writer));
            pack(from, writer, &pack::Options { layer: true, ..pack::Options::default() })
        });
        let mut reader = BufReader::with_capacity(BUFFER, File::from(reader));
        let unpacked = unpack(&mut reader, to, Style::Overlay, &Limits::default(), &mut |_| {});
        // What follows the end mark; where it failed, the other side must not wait for ever.
        let _ = unpacked.is_ok().then(|| reader.read_to_end(&mut Vec::new()));
        drop(reader);
        let packed = packing.join().map_err(|_| anyhow::anyhow!("packing ended unexpectedly"))?;
        let summary = unpacked?;
        packed?;
        Ok(summary.bytes)
    })
}

const BUFFER: usize = 256 << 10;

fn make(scratch: &impl AsFd, path: &str) -> Result<()> {
    match mkdirat(scratch, path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot make the directory {path}")),
    }
}

fn remove_all(run: &RunDirectory, record: &Record, path: &str) -> Result<()> {
    if !engine::of(record).has_own_kernel() {
        return remove_here(run, record, path).map(drop);
    }
    engine::of(record).errand(record, &REMOVE, path, Streams::default(), &[])?.join().map(drop)
}

/// Removes a copy of what is written in a machine.
pub(crate) static REMOVE: Errand = Errand {
    name: "snapshot-remove",
    work: Work::Written(|path, run, record| remove_here(run, record, path)),
};

fn remove_here(run: &RunDirectory, record: &Record, path: &str) -> Result<String> {
    let scratch = run.upper(record, ".")?;
    let visit = engine::of(record).visit(record, &mut |_| match scratch.remove_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("cannot remove a copy of the machine's files")
        }
        _ => Ok(String::new()),
    })?;
    visit.join()
}
