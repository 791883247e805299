//! Downloads packages and unpacks them as they arrive, all cores at work.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, Error, Result, ensure};
use md5::{Digest as _, Md5};
use rustix::fs::{Mode, OFlags};
use spec::event::{Event, Tell};
use store::unpack::{Kind, Limits, Style, unpack};
use sys::rooted::Root;

use super::deb::{Control, Deb};
use super::fetch::{CONNECTIONS, Fetcher, Wanted};
use crate::digest::{Hashing, hex};

/// A package to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Its file.
    pub(crate) wanted: Wanted,
    /// As its index has it.
    pub(crate) name: String,
    /// As its index has it.
    pub(crate) version: String,
}

/// A package whose files are in place.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// Its control part.
    pub(crate) control: Control,
    /// What it holds, in its order.
    pub(crate) items: Vec<Item>,
    /// MD5 digests by path: of its conffiles, and where it brings no list of its own, of
    /// all its regular files.
    pub(crate) digests: HashMap<Vec<u8>, String>,
}

/// Something that a package holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// Relative, without a dot; empty for the root.
    pub(crate) path: Vec<u8>,
    /// Its kind.
    pub(crate) kind: Kind,
}

/// Packages that are held open while they wait to be unpacked.
const MAX_WAITING: usize = 64;

/// Fetches and unpacks packages. The first is unpacked before all others, alone, since
/// it brings the directories that the others only add to.
///
/// # Errors
/// One cannot be had, is not what its index says, or cannot be unpacked; it is named.
pub(crate) fn unpack_all(
    fetcher: &Fetcher<'_>,
    root: &Root,
    plan: &[Planned],
    tell: &dyn Tell,
) -> Result<Vec<Unpacked>> {
    let (sender, receiver) = sync_channel(MAX_WAITING);
    let work = Work {
        fetcher,
        root,
        plan,
        tell,
        next: AtomicUsize::new(1),
        arrived: Mutex::new(receiver),
        results: plan.iter().map(|_| OnceLock::new()).collect(),
        done: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
        error: Mutex::new(None),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS.min(plan.len()) {
            let sender = sender.clone();
            scope.spawn(|| work.download(sender));
        }
        drop(sender);
        work.unpack_first();
        for _ in 0..cores.min(plan.len()) {
            scope.spawn(|| work.unpack());
        }
    });
    if let Some(error) = work.error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let missing = "a package was neither unpacked nor told why";
    work.results.into_iter().map(|cell| cell.into_inner().context(missing)).collect()
}

/// Unpacks one package again, so that its files are the ones that stay.
///
/// # Errors
/// As [`unpack_all`].
pub(crate) fn unpack_again(
    fetcher: &Fetcher<'_>,
    root: &Root,
    planned: &Planned,
) -> Result<Unpacked> {
    let file = fetcher.file(&planned.wanted)?;
    unpack_one(root, planned, file)
}

struct Work<'a> {
    fetcher: &'a Fetcher<'a>,
    root: &'a Root,
    plan: &'a [Planned],
    tell: &'a dyn Tell,
    next: AtomicUsize,
    arrived: Mutex<Receiver<(usize, File)>>,
    results: Vec<OnceLock<Unpacked>>,
    done: AtomicUsize,
    failed: AtomicBool,
    error: Mutex<Option<Error>>,
}

impl Work<'_> {
    fn download(&self, sender: SyncSender<(usize, File)>) {
        while !self.failed.load(Ordering::Relaxed) {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(planned) = self.plan.get(index) else { return };
            match self.fetcher.file(&planned.wanted) {
                Ok(file) => {
                    if sender.send((index, file)).is_err() {
                        return;
                    }
                }
                Err(error) => return self.fail(error),
            }
        }
    }

    fn unpack_first(&self) {
        let Some(planned) = self.plan.first() else { return };
        if let Err(error) =
            self.fetcher.file(&planned.wanted).and_then(|file| self.unpack_one(0, file))
        {
            self.fail(error);
        }
    }

    fn unpack(&self) {
        loop {
            let arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((index, file)) = arrived else { return };
            // After a failure what still arrives is taken and dropped, lest its sender wait for ever.
            if !self.failed.load(Ordering::Relaxed)
                && let Err(error) = self.unpack_one(index, file)
            {
                self.fail(error);
            }
        }
    }

    fn unpack_one(&self, index: usize, file: File) -> Result<()> {
        let planned = &self.plan[index];
        let unpacked = unpack_one(self.root, planned, file)?;
        let _ = self.results[index].set(unpacked);
        let done = self.done.fetch_add(1, Ordering::Relaxed) as u64 + 1;
        let total = self.plan.len() as u64;
        self.tell.tell(Event::Step { what: "unpacked".into(), done, total });
        Ok(())
    }

    fn fail(&self, error: Error) {
        self.failed.store(true, Ordering::Relaxed);
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

fn unpack_one(root: &Root, planned: &Planned, file: File) -> Result<Unpacked> {
    let unpacked = read_deb(root, planned, file);
    unpacked.with_context(|| format!("unpacking package {} {}", planned.name, planned.version))
}

fn read_deb(root: &Root, planned: &Planned, file: File) -> Result<Unpacked> {
    // Read anew from its beginning, and verified as it is read: the cache may be shared.
    let reader = BufReader::with_capacity(256 << 10, Hashing::new(file));
    let deb = Deb::open(reader)?;
    let control = deb.control.clone();
    ensure!(
        control.name == planned.name && control.version == planned.version,
        "the package says that it is {} {}",
        control.name,
        control.version
    );
    let mut items = Vec::new();
    let (_, reader) = deb.read_data(|data| {
        unpack(data, root, Style::Package, &Limits::default(), &mut |entry| {
            items.push(Item { path: entry.path.as_os_str().as_bytes().to_vec(), kind: entry.kind });
        })
    })?;
    reader.into_inner().finish(&planned.wanted.sha256)?;
    let digests = digests(root, &control, &items)?;
    Ok(Unpacked { control, items, digests })
}

fn digests(root: &Root, control: &Control, items: &[Item]) -> Result<HashMap<Vec<u8>, String>> {
    let conffiles: Vec<&[u8]> = control.conffiles().collect();
    let has_list = control.files.contains_key("md5sums");
    let wanted =
        |item: &&Item| conffiles.contains(&&item.path[..]) || (!has_list && is_file(item.kind));
    let mut digests = HashMap::new();
    for item in items.iter().filter(wanted) {
        match digest(root, &item.path) {
            Ok(digest) => drop(digests.insert(item.path.clone(), digest)),
            // Another package has it as well, and is putting its own there at this moment:
            // whichever shall stay is unpacked again, with nobody beside it.
            Err(error) if is_missing(&error) => {}
            Err(error) => {
                let name = String::from_utf8_lossy(&item.path);
                return Err(error).with_context(|| format!("computing the digest of {name}"));
            }
        }
    }
    Ok(digests)
}

fn is_missing(error: &Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

fn is_file(kind: Kind) -> bool {
    matches!(kind, Kind::File | Kind::HardLink)
}

/// The MD5 digest of a file, as lower-case hex.
fn digest(root: &Root, path: &[u8]) -> Result<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let mut file = File::from(root.open_in(OsStr::from_bytes(path), flags, Mode::empty())?);
    ensure!(file.metadata()?.is_file(), "it is no regular file");
    let mut hasher = Md5::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}
