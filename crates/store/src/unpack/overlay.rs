//! Whiteouts in overlayfs's own words: a character device 0:0 for what is gone, and an attribute for a
//! directory that hides what the layers below have in it (Documentation/filesystems/overlayfs.rst,
//! "whiteouts and opaque directories").

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;

use anyhow::{Context, Result, anyhow};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, XattrFlags, fgetxattr, fsetxattr, makedev, mknodat,
    openat, statat,
};
use rustix::io::Errno;

use super::failed;

/// Root mounts with the first, user namespaces with the second (`userxattr`, Linux 5.11).
const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

/// Marks a name as gone. What the layer itself has there stays, and a directory hides what is below.
pub(super) fn make_whiteout(parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    // Needs no privilege since Linux 5.8.
    match mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)) {
        Ok(()) => return Ok(()),
        Err(Errno::EXIST) => {}
        Err(error) => return Err(failed("making the whiteout", error)),
    }
    let there = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| failed("looking at what is there", error))?;
    match FileType::from_raw_mode(there.st_mode) {
        FileType::Directory => make_opaque(parent, name),
        _ => Ok(()),
    }
}

/// Makes a directory hide what the layers below have in it.
pub(super) fn make_opaque(parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = openat(parent, name, flags, Mode::empty()).context("opening the directory")?;
    let set = OPAQUE.map(|attribute| fsetxattr(&dir, attribute, b"y", XattrFlags::empty()));
    match set {
        // In a user namespace nobody may set the first, and nobody looks for it.
        [_, Ok(())] | [Ok(()), Err(Errno::OPNOTSUPP)] => Ok(()),
        [_, Err(Errno::OPNOTSUPP)] => Err(anyhow!(
            "the store's file system has no extended attributes, which layers of images need"
        )),
        [_, Err(error)] => Err(failed("making the directory opaque", error)),
    }
}

/// Whether this marks a name as gone.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether a directory, open for reading, hides what is below.
pub(crate) fn is_opaque(dir: BorrowedFd<'_>) -> bool {
    let mut value = [0; 1];
    OPAQUE.iter().any(|name| fgetxattr(dir, *name, &mut value[..]) == Ok(1) && value == *b"y")
}
