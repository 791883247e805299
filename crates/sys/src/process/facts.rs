//! What the kernel tells of processes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::process::Pid;

/// Start time of a process in clock ticks since boot: field 22 of `/proc/PID/stat`
/// (proc(5)). With the id it names a process for ever.
///
/// # Errors
/// `ENOENT` or `ESRCH` where there is no such process, or it has ended and only waits for
/// its parent to hear of that.
pub fn start_time(pid: Pid) -> io::Result<u64> {
    // The kernel makes the whole line for the first read. The name before it, of any bytes, has at
    // most 64 (proc_pid_stat(5)), so that the 22nd field is in here.
    let mut buffer = [0; 1024];
    let length = File::open(format!("/proc/{}/stat", pid.as_raw_nonzero()))?.read(&mut buffer)?;
    let after_name = buffer[..length].rsplit(|byte| *byte == b')').next().unwrap_or_default();
    let numbers = str::from_utf8(after_name).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut fields = numbers.split_ascii_whitespace();
    if matches!(fields.next(), Some("Z" | "X")) {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    fields
        .nth(18)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// What a process id of another namespace is called in this one (ioctl_pidns(2),
/// `NS_GET_TGID_FROM_PIDNS`, Linux 6.11); before that, what `/proc` tells of all processes.
///
/// # Errors
/// `ESRCH` where there is no such process.
pub fn translate(namespace: BorrowedFd<'_>, pid: i32) -> io::Result<i32> {
    // linux/nsfs.h: `_IOR(0xb7, 0x7, int)`. Its argument is the number itself.
    const TGID_FROM_PIDNS: u64 = 0x8004_b707;
    // SAFETY: the argument is a scalar.
    let got = unsafe {
        libc::ioctl(namespace.as_raw_fd(), TGID_FROM_PIDNS as libc::Ioctl, libc::c_long::from(pid))
    };
    match got {
        -1 => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOTTY) => look_up(namespace, pid),
            error => Err(error),
        },
        got => Ok(got),
    }
}

/// By `NSpid` (proc_pid_status(5)): one number for each namespace, innermost last. Whose parents lie
/// deeper in this one is passed over.
fn look_up(namespace: BorrowedFd<'_>, pid: i32) -> io::Result<i32> {
    let wanted = rustix::fs::fstat(namespace)?;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(status) = std::fs::read_to_string(format!("/proc/{id}/status")) else { continue };
        let Some(line) = status.lines().find_map(|line| line.strip_prefix("NSpid:")) else {
            continue;
        };
        if line.split_ascii_whitespace().next_back() != Some(&pid.to_string()) {
            continue;
        }
        let theirs = rustix::fs::stat(format!("/proc/{id}/ns/pid"));
        if theirs.is_ok_and(|theirs| theirs.st_ino == wanted.st_ino) {
            return Ok(id);
        }
    }
    Err(io::Error::from_raw_os_error(libc::ESRCH))
}

/// A text of the kernel's, whose size nobody knows before: in as few reads as there are pages of it.
///
/// # Errors
/// open(2)'s and read(2)'s; `InvalidData` where it is not UTF-8.
pub fn read_proc(path: impl AsRef<std::path::Path>) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut text = vec![0; 1 << 14];
    let mut length = 0;
    loop {
        match file.read(&mut text[length..])? {
            0 => break,
            read => length += read,
        }
        if length == text.len() {
            text.resize(2 * length, 0);
        }
    }
    text.truncate(length);
    String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Children of a process that has one thread (proc_pid_task(5), `children`); none where it has ended.
#[must_use]
pub fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let text = text.unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|id| id.parse().ok()).collect()
}
