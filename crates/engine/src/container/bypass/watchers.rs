//! Registrations of epoll(7), which are of files, not of descriptors: what takes a socket's
//! place has to take its registrations over as well.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use sys::notify::{Call, Listener};

/// The epolls of each thread's process, as far as they were looked for.
pub(super) struct Watchers {
    /// What every epoll has in common: the file system that they are of.
    like: String,
    /// By thread: when they were looked for, and their descriptors.
    known: HashMap<u32, (u64, Vec<RawFd>)>,
    /// Counts the epolls that were made in the machine.
    made: u64,
}

/// More threads than this are not remembered.
const MANY: usize = 1024;

impl Watchers {
    pub(super) fn new() -> io::Result<Self> {
        let flags = rustix::event::epoll::CreateFlags::CLOEXEC;
        let epoll = rustix::event::epoll::create(flags)?;
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", epoll.as_raw_fd()))?;
        Ok(Self { like: info, known: HashMap::new(), made: 0 })
    }

    /// Someone makes an epoll.
    pub(super) fn one_more(&mut self) {
        self.made += 1;
    }

    /// Moves the registrations of a descriptor of the caller's from one file to another, which
    /// is under that number now. Of a process's own epolls; one that belongs to another process
    /// only, or came over a socket, is not found.
    pub(super) fn follow(
        &mut self,
        listener: &Listener,
        call: &Call,
        number: RawFd,
        old: BorrowedFd<'_>,
        new: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let inode = rustix::fs::fstat(old)?.st_ino;
        for epoll in self.of(call)? {
            let path = format!("/proc/{}/fdinfo/{epoll}", call.pid);
            let Ok(info) = std::fs::read_to_string(path) else { continue };
            let found = info.lines().filter_map(registration);
            for (_, registered) in found.filter(|(key, _)| *key == (number, inode)) {
                let epoll = listener.descriptor(call, epoll)?;
                sys::inet::move_registration(epoll.as_fd(), number, old, new, registered)?;
            }
        }
        Ok(())
    }

    fn of(&mut self, call: &Call) -> io::Result<Vec<RawFd>> {
        let made = self.made;
        // Of the same file system as every epoll, as is little else: their descriptors cannot be
        // looked at but by their own user, this can be by whoever may trace them (proc(5)).
        let own = anonymous(&self.like);
        let is_epoll = |fd: RawFd| {
            let info = std::fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", call.pid));
            info.is_ok_and(|info| anonymous(&info) == own)
        };
        let remembered = |known: &HashMap<u32, (u64, Vec<RawFd>)>, of: u32| {
            let (when, list) = known.get(&of)?;
            (*when == made && list.iter().all(|fd| is_epoll(*fd))).then(|| list.clone())
        };
        if let Some(list) = remembered(&self.known, call.pid) {
            return Ok(list);
        }
        if self.known.len() >= MANY {
            self.known.clear();
        }
        // All threads of a process have the same.
        let process = call.process()?;
        if let Some(list) = remembered(&self.known, process) {
            self.known.insert(call.pid, (made, list.clone()));
            return Ok(list);
        }
        let list: Vec<RawFd> = std::fs::read_dir(format!("/proc/{}/fdinfo", call.pid))?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|fd| is_epoll(*fd))
            .collect();
        self.known.insert(process, (made, list.clone()));
        self.known.insert(call.pid, (made, list.clone()));
        Ok(list)
    }
}

/// The inode and the mount that a descriptor's `fdinfo` tells (proc(5); `ino` since Linux 5.14).
fn anonymous(info: &str) -> (Option<&str>, Option<&str>) {
    let field = |name| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    (field("ino:"), field("mnt_id:"))
}

type Registration = ((RawFd, u64), (u32, u64));

/// Descriptor and inode, events and data of a line (proc(5); fs/eventpoll.c, `ep_show_fdinfo`).
fn registration(line: &str) -> Option<Registration> {
    let mut words = line.strip_prefix("tfd:")?.split_ascii_whitespace();
    let number = words.next()?.parse().ok()?;
    let mut after = |name: &str| loop {
        let word = words.next()?;
        if let Some(rest) = word.strip_prefix(name) {
            let rest = if rest.is_empty() { words.next()? } else { rest };
            return u64::from_str_radix(rest, 16).ok();
        }
    };
    let (events, data, inode) = (after("events:")?, after("data:")?, after("ino:")?);
    Some(((number, inode), (events as u32, data)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel() {
        let line = "tfd:        5 events: 80000019 data:     7fff00000005  pos:0 ino:2a sdev:8";
        assert_eq!(registration(line), Some(((5, 42), (0x8000_0019, 0x7fff_0000_0005))));
        assert_eq!(registration("pos:\t0"), None);
    }
}
