//! User namespaces: id maps, who may write them, and entering one.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::process::Pid;
use rustix::thread::UnshareFlags;

/// One line of an id map (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First id inside.
    pub inside: u32,
    /// First id in the parent namespace.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// What kind of ids a map is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Users.
    Uid,
    /// Groups.
    Gid,
}

impl Kind {
    fn map_file(self) -> &'static str {
        match self {
            Self::Uid => "uid_map",
            Self::Gid => "gid_map",
        }
    }

    /// The program that writes a map of subordinate ids for an ordinary user.
    pub fn helper(self) -> &'static str {
        match self {
            Self::Uid => "newuidmap",
            Self::Gid => "newgidmap",
        }
    }
}

/// Why a map could not be written.
#[derive(Debug)]
pub enum MapError {
    /// The kernel refused.
    Kernel(io::Error),
    /// The helper program is not installed.
    NoHelper(Kind),
    /// The helper refused; what it said.
    Helper(Kind, String),
}

/// Writes both maps of a process's new user namespace. Helpers are used where
/// the kernel would refuse: for more than one's own id, without privilege.
///
/// # Errors
/// See [`MapError`].
pub fn write_maps(pid: Pid, uids: &[Range], gids: &[Range]) -> Result<(), MapError> {
    if privileged() {
        write_map(pid, Kind::Uid, uids).map_err(MapError::Kernel)?;
        return write_map(pid, Kind::Gid, gids).map_err(MapError::Kernel);
    }
    if let ([uid], [gid]) = (uids, gids)
        && (uid.count, gid.count) == (1, 1)
    {
        // Without this a group map of one's own is refused (user_namespaces(7), CVE-2014-8989).
        std::fs::write(format!("/proc/{}/setgroups", pid.as_raw_nonzero()), "deny")
            .map_err(MapError::Kernel)?;
        write_map(pid, Kind::Uid, uids).map_err(MapError::Kernel)?;
        return write_map(pid, Kind::Gid, gids).map_err(MapError::Kernel);
    }
    // Both at once: each is a program start, and they need nothing of each other.
    let first = start_helper(pid, Kind::Uid, uids)?;
    let second = start_helper(pid, Kind::Gid, gids);
    finish_helper(Kind::Uid, first)?;
    finish_helper(Kind::Gid, second?)
}

/// Whether this process may map any id: root of its user namespace with the whole of it mapped.
fn privileged() -> bool {
    rustix::process::geteuid().is_root()
}

fn write_map(pid: Pid, kind: Kind, ranges: &[Range]) -> io::Result<()> {
    let mut text = String::new();
    for range in ranges {
        let _ = writeln!(text, "{} {} {}", range.inside, range.outside, range.count);
    }
    std::fs::write(format!("/proc/{}/{}", pid.as_raw_nonzero(), kind.map_file()), text)
}

fn start_helper(pid: Pid, kind: Kind, ranges: &[Range]) -> Result<std::process::Child, MapError> {
    let mut command = Command::new(kind.helper());
    command.arg(pid.as_raw_nonzero().to_string());
    for range in ranges {
        command.args([range.inside, range.outside, range.count].map(|n| n.to_string()));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => MapError::NoHelper(kind),
        _ => MapError::Helper(kind, error.to_string()),
    })
}

fn finish_helper(kind: Kind, mut child: std::process::Child) -> Result<(), MapError> {
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // What it said only explains a failure; that it cannot be read changes nothing.
        let _ = stderr.read_to_string(&mut said);
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) if said.trim().is_empty() => Err(MapError::Helper(kind, status.to_string())),
        Ok(_) => Err(MapError::Helper(kind, said.trim().replace('\n', "; "))),
        Err(error) => Err(MapError::Kernel(error)),
    }
}

/// Whether this process is in a user namespace that maps every id to itself: the initial one.
#[must_use]
pub fn is_initial() -> bool {
    crate::process::read_proc("/proc/self/uid_map")
        .is_ok_and(|map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]))
}

/// The user namespace of a process.
///
/// # Errors
/// open(2)'s.
pub fn of(pid: Pid) -> io::Result<OwnedFd> {
    let path = format!("/proc/{}/ns/user", pid.as_raw_nonzero());
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?)
}

/// Becomes id 0 of the current user namespace, with no supplementary groups. A namespace
/// whose map was written without privilege forbids to change groups; the launcher's then remain.
///
/// # Errors
/// setresuid(2)'s; `EINVAL` where 0 is not mapped.
pub fn become_root() -> io::Result<()> {
    match rustix::thread::set_thread_groups(&[]) {
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    become_id_0()
}

fn become_id_0() -> io::Result<()> {
    let (uid, gid) = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    Ok(rustix::thread::set_thread_res_uid(uid, uid, uid)?)
}

/// Moves this whole process into a new user namespace with these maps, and the new namespaces
/// of `with`, as id 0: what an ordinary user needs to own files of many ids. Supplementary groups
/// remain.
///
/// # Errors
/// See [`MapError`]; `Kernel(EINVAL)` where this process has more than one thread.
pub fn enter(uids: &[Range], gids: &[Range], with: UnshareFlags) -> Result<(), MapError> {
    // The helper must run outside of the namespace, and after it exists: a forked
    // child waits outside, told through one pipe and answering through another.
    let (told, tell) = rustix::pipe::pipe().map_err(|e| MapError::Kernel(e.into()))?;
    let (answer, answered) = rustix::pipe::pipe().map_err(|e| MapError::Kernel(e.into()))?;
    let me = rustix::process::getpid();
    let Some(helper) = crate::process::fork().map_err(MapError::Kernel)? else {
        drop((tell, answer));
        let mut byte = [0];
        let ready = rustix::io::read(told.as_fd(), &mut byte) == Ok(1);
        let said = match ready.then(|| write_maps(me, uids, gids)) {
            Some(Ok(())) => String::new(),
            Some(Err(MapError::NoHelper(Kind::Uid))) => "u".into(),
            Some(Err(MapError::NoHelper(Kind::Gid))) => "g".into(),
            Some(Err(MapError::Helper(_, text))) => format!("h{text}"),
            Some(Err(MapError::Kernel(error))) => format!("k{error}"),
            None => "kthe launcher is gone".into(),
        };
        let _ = std::fs::File::from(answered).write_all(said.as_bytes());
        crate::process::exit_now(0);
    };
    drop((told, answered));
    let unshared = crate::process::unshare(UnshareFlags::NEWUSER | with);
    if unshared.is_ok() {
        let _ = rustix::io::write(&tell, b"g");
    }
    drop(tell);
    let mut said = String::new();
    let _ = std::fs::File::from(answer).read_to_string(&mut said);
    let _ = rustix::process::waitpid(Some(helper), rustix::process::WaitOptions::empty());
    unshared.map_err(MapError::Kernel)?;
    match (said.chars().next(), said.get(1..)) {
        (None, _) => become_id_0().map_err(MapError::Kernel),
        (Some('u'), _) => Err(MapError::NoHelper(Kind::Uid)),
        (Some('g'), _) => Err(MapError::NoHelper(Kind::Gid)),
        (Some('h'), Some(text)) => Err(MapError::Helper(Kind::Uid, text.into())),
        (_, text) => Err(MapError::Kernel(io::Error::other(text.unwrap_or_default()))),
    }
}

/// The subordinate ids of a user: the lines of `/etc/subuid` or `/etc/subgid` that
/// are for this name or number (subuid(5)), as (first, count).
pub fn subordinate(text: &str, name: &str, id: u32) -> Vec<(u32, u32)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let (owner, first, count) = (fields.next()?, fields.next()?, fields.next()?);
            let ours = owner == name || owner.parse() == Ok(id);
            let (first, count): (u32, u32) = (first.parse().ok()?, count.parse().ok()?);
            (ours && count > 0 && first.checked_add(count).is_some()).then_some((first, count))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ids_by_name_and_number() {
        let text = "a:100000:65536\n1001:200000:10\nb:1:2\n# x\na:x:1\na:4294967295:10\n";
        assert_eq!(subordinate(text, "a", 1001), [(100_000, 65_536), (200_000, 10)]);
        assert_eq!(subordinate(text, "none", 7), []);
    }
}
