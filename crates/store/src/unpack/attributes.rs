//! Owners, times and extended attributes of what is unpacked, and which of them have to be left out.

use std::os::fd::OwnedFd;

use anyhow::{Result, anyhow};
use rustix::fs::{Gid, Timespec, Timestamps, UTIME_OMIT, Uid, fsetxattr};
use rustix::io::Errno;

use super::{Summary, failed};
use crate::archive::{Member, Time, show};

/// Whether an extended attribute belongs to an image, rather than to the host it was on.
///
/// `trusted.` and `user.overlay.` steer overlayfs and would let a layer hide, redirect or merge what
/// lies below it (kernel documentation, overlayfs.rst); `security.selinux` and its like are
/// labels of the host's policy.
pub fn is_portable_xattr(name: &[u8]) -> bool {
    let allowed: [&[u8]; 2] = [b"security.capability", b"security.ima"];
    allowed.contains(&name)
        || name.starts_with(b"system.posix_acl_")
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

/// Notes that a summary holds at most.
const MAX_NOTES: usize = 16;

pub(super) fn set_xattrs(
    fd: &OwnedFd,
    path: &[u8],
    xattrs: &[(Vec<u8>, Vec<u8>)],
    summary: &mut Summary,
) -> Result<()> {
    for (name, value) in xattrs {
        let refused = if is_portable_xattr(name) {
            match fsetxattr(fd, &name[..], value, rustix::fs::XattrFlags::empty()) {
                Ok(()) => continue,
                Err(error @ (Errno::PERM | Errno::OPNOTSUPP)) => error.to_string(),
                Err(error) => return Err(failed(&format!("setting {}", show(name)), error)),
            }
        } else {
            "it belongs to the host".to_owned()
        };
        summary.skipped_xattrs += 1;
        if name == b"security.capability" {
            summary.refused_capabilities += 1;
        }
        note(summary, path, &format!("attribute {} is left out: {refused}", show(name)));
    }
    Ok(())
}

pub(super) fn note(summary: &mut Summary, path: &[u8], text: &str) {
    if summary.notes.len() < MAX_NOTES {
        summary.notes.push(format!("{}: {text}", show(path)));
    }
}

pub(super) fn owner(uid: u32, gid: u32) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

pub(super) fn times(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() },
    }
}

pub(super) fn chown_failed(member: &Member, error: Errno) -> anyhow::Error {
    let (uid, gid) = (member.uid, member.gid);
    match error {
        Errno::INVAL => anyhow!(
            "owner {uid}:{gid} does not exist in this user namespace; give yourself a larger range in /etc/subuid and /etc/subgid"
        ),
        Errno::PERM => anyhow!("only root may make {uid}:{gid} its owner"),
        _ => failed(&format!("making {uid}:{gid} its owner"), error),
    }
}

/// The process's umask, which can be read without a change since Linux 4.7 (proc_pid_status(5)).
pub(super) fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    // Where it is not known, no mode comes out as wanted by itself.
    field.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0o777)
}
