//! Waiting for what is written down of a machine: woken by the file, not by a clock.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::record::Record;
use crate::state::RunDirectory;

/// What came of waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waited {
    /// What was waited for.
    Holds(Record),
    /// The machine ended, and that was not it.
    Ended(Record),
    /// The time is over.
    Late,
}

/// What else may wake whoever waits for a machine.
#[derive(Debug, Default)]
pub struct Sources<'a> {
    /// A file that is written to.
    pub file: Option<&'a Path>,
    /// Something that becomes readable.
    pub descriptor: Option<BorrowedFd<'a>>,
}

impl RunDirectory {
    /// Waits until something holds of a machine's record, or it ends, or `patience` is over.
    ///
    /// # Errors
    /// Where there is no such machine, or its record cannot be watched.
    pub fn wait(
        &self,
        name: &str,
        patience: Option<Duration>,
        holds: impl FnMut(&Record) -> bool,
    ) -> Result<Waited> {
        self.wait_and_hear(name, patience, &Sources::default(), holds)
    }

    /// As [`RunDirectory::wait`], for something that is told elsewhere too.
    ///
    /// # Errors
    /// As there.
    pub fn wait_and_hear(
        &self,
        name: &str,
        patience: Option<Duration>,
        sources: &Sources<'_>,
        mut holds: impl FnMut(&Record) -> bool,
    ) -> Result<Waited> {
        let path = self.path().join("machines").join(name);
        let what = || format!("cannot watch the machine {name}");
        // Held open: what is written last is read even if the file is removed right after it.
        let file = match File::options().read(true).open(&path) {
            Ok(file) => file,
            // It forgot itself at its end.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Waited::Ended(Record::parse(name, "")));
            }
            Err(error) => return Err(error).with_context(what),
        };
        let files: Vec<&Path> = [&*path].into_iter().chain(sources.file).collect();
        let watch = watch(&files);
        // A monitor that is killed writes nothing; its end is seen by itself.
        let monitor = crate::state::monitor(&read(name, &file)?);
        let mut gone = monitor.is_none();
        let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
        loop {
            let record = read(name, &file)?;
            if holds(&record) {
                return Ok(Waited::Holds(record));
            }
            if record.exited.is_some() || gone {
                // Written between the two looks, perhaps.
                let record = read(name, &file)?;
                let held = holds(&record);
                return Ok(if held { Waited::Holds(record) } else { Waited::Ended(record) });
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(Waited::Late);
            }
            // Without a watch the file must be looked at.
            let look = watch.is_none().then_some(LOOK);
            let left = left.into_iter().chain(look).min();
            let left = left.map(|left| Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            });
            let watched = monitor.iter().chain(&watch).map(AsFd::as_fd);
            let watched: Vec<BorrowedFd<'_>> = watched.chain(sources.descriptor).collect();
            let mut polled: Vec<PollFd<'_>> =
                watched.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            match rustix::event::poll(&mut polled, left.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => bail!("cannot wait for the machine {name}: {error}"),
            }
            gone = monitor.is_none() || !polled[0].revents().is_empty();
            if let Some(watch) = &watch {
                let mut buffer = [MaybeUninit::uninit(); 4096];
                let mut reader = inotify::Reader::new(watch, &mut buffer);
                while reader.next().is_ok() {}
            }
        }
    }
}

impl RunDirectory {
    /// Waits until a machine's monitor has ended, and with it whatever it still had to clean
    /// up: its name is free then, if it is one that forgets itself.
    pub fn wait_for_monitor(&self, record: &Record, patience: Duration) {
        let Some(monitor) = crate::state::monitor(record) else { return };
        let limit =
            Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
        // Where it takes longer, or cannot be waited for, its name stays taken: that is all.
        let _ = rustix::event::poll(&mut [PollFd::new(&monitor, PollFlags::IN)], Some(&limit));
    }
}

/// Between two looks at a file that cannot be watched.
const LOOK: Duration = Duration::from_millis(20);

/// `None` where this user has used up its instances (inotify(7), `max_user_instances`): every
/// systemd in a machine of an ordinary user counts among them.
fn watch(files: &[&Path]) -> Option<OwnedFd> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
    for file in files {
        inotify::add_watch(&watch, *file, WatchFlags::MODIFY).ok()?;
    }
    Some(watch)
}

fn read(name: &str, file: &File) -> Result<Record> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 << 10];
    loop {
        match file.read_at(&mut chunk, bytes.len() as u64).context("cannot read the record")? {
            0 => return Ok(Record::parse(name, &String::from_utf8_lossy(&bytes))),
            count => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}
