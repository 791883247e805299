//! Waiting for what is written down of a machine: woken by the file, not by a clock.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
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

impl RunDirectory {
    /// Waits until something holds of a machine's record, or it ends, or `patience` is over.
    ///
    /// # Errors
    /// Where there is no such machine, or its record cannot be watched.
    pub fn wait(
        &self,
        name: &str,
        patience: Option<Duration>,
        holds: impl Fn(&Record) -> bool,
    ) -> Result<Waited> {
        let path = self.path().join("machines").join(name);
        let what = || format!("cannot watch the machine {name}");
        // Held open: what is written last is read even if the file is removed right after it.
        let file = File::options().read(true).open(&path).with_context(what)?;
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&watch, &path, WatchFlags::MODIFY).with_context(what)?;
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
            let left = left.map(|left| Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            });
            let mut polled = vec![PollFd::new(&watch, PollFlags::IN)];
            polled.extend(monitor.iter().map(|monitor| PollFd::new(monitor, PollFlags::IN)));
            match rustix::event::poll(&mut polled, left.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => bail!("cannot wait for the machine {name}: {error}"),
            }
            gone = polled.get(1).is_none_or(|monitor| !monitor.revents().is_empty());
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(&watch, &mut buffer);
            while reader.next().is_ok() {}
        }
    }
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
