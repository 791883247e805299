//! Changes of files, for what gives no other sign of what it does: inotify(7).

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// What is being watched.
pub(super) struct Changes(OwnedFd);

impl Changes {
    /// Watches files and directories; those that are not there are passed over.
    pub(super) fn of(paths: &[String]) -> Result<Self> {
        let what = "cannot watch files of the machine";
        let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).context(what)?;
        let events = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_TO
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE;
        for path in paths {
            let _ = inotify::add_watch(&queue, path, events);
        }
        Ok(Self(queue))
    }

    /// Waits until something changes, or that long.
    pub(super) fn wait(&self, time: Duration) -> Result<()> {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).context("that is too long")?;
            let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
            match rustix::event::poll(&mut polled, Some(&left)) {
                Ok(0) => return Ok(()),
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.0, &mut buffer);
        // Until there are no more.
        while events.next().is_ok() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_at_once() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().to_str().unwrap().to_owned();
        let changes = Changes::of(&["/nowhere/at/all".into(), path]).unwrap();
        std::fs::write(temp.path().join("pid"), "1").unwrap();
        let begun = Instant::now();
        changes.wait(Duration::from_secs(100)).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(50), "it did not wait in vain");
        changes.wait(Duration::from_millis(1)).unwrap();
    }
}
