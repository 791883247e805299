//! The files of `/etc` that the launcher supplies.

use std::ffi::CStr;
use std::io;

use rustix::fs::{Mode, OFlags};

use super::{cstring, directory, open_directory};
use crate::container::step::EtcFile;

/// Writes to the upper layer before it is used: no mount and no copy-up is needed, and
/// nothing of the image is in the way. The layer's own `/etc` keeps its owner and mode.
pub(super) fn etc_files(files: &[EtcFile]) -> io::Result<()> {
    match uppermost_etc()? {
        Some(etc) if rustix::fs::FileType::from_raw_mode(etc.st_mode).is_dir() => {
            directory(c"u/etc", etc.st_mode & 0o7777)?;
            if (etc.st_uid, etc.st_gid) != (0, 0) {
                let (uid, gid) =
                    (rustix::fs::Uid::from_raw(etc.st_uid), rustix::fs::Gid::from_raw(etc.st_gid));
                // An id that this namespace does not map cannot be given; root's stays.
                let _ = rustix::fs::chown(c"u/etc", Some(uid), Some(gid));
            }
        }
        // A link there is the image's own business: nothing is supplied.
        Some(_) => return Ok(()),
        None => directory(c"u/etc", 0o755)?,
    }
    write_files(c"u/etc", files)
}

pub(super) fn write_files(directory: &CStr, files: &[EtcFile]) -> io::Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let etc = open_directory(directory)?;
    for file in files {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(file.mode);
        let fd = rustix::fs::openat(&etc, &file.name, flags, mode)?;
        let mut left = file.content.as_slice();
        while !left.is_empty() {
            left = &left[rustix::io::write(&fd, left)?..];
        }
    }
    Ok(())
}

fn uppermost_etc() -> io::Result<Option<rustix::fs::Stat>> {
    for index in 0.. {
        match rustix::fs::lstat(cstring(format!("l{index}/etc"))?) {
            Ok(stat) => return Ok(Some(stat)),
            Err(rustix::io::Errno::NOENT) => {
                if rustix::fs::lstat(cstring(format!("l{}", index + 1))?).is_err() {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}
