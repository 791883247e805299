//! The mount system calls that rustix lacks, on C strings and descriptors prepared beforehand.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::mount::{MoveMountFlags, OpenTreeFlags};

/// Mount attributes (mount_setattr(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// `MOUNT_ATTR_RDONLY`.
    pub read_only: bool,
    /// `MOUNT_ATTR_NOSUID`.
    pub nosuid: bool,
    /// `MOUNT_ATTR_NODEV`.
    pub nodev: bool,
    /// `MOUNT_ATTR_NOEXEC`.
    pub noexec: bool,
}

impl Attributes {
    /// Whether any is set.
    pub fn any(self) -> bool {
        self != Self::default()
    }

    fn set_bits(self) -> u64 {
        [
            (self.read_only, libc::MOUNT_ATTR_RDONLY),
            (self.nosuid, libc::MOUNT_ATTR_NOSUID),
            (self.nodev, libc::MOUNT_ATTR_NODEV),
            (self.noexec, libc::MOUNT_ATTR_NOEXEC),
        ]
        .iter()
        .filter(|(set, _)| *set)
        .fold(0, |bits, (_, bit)| bits | *bit)
    }

    /// As flags of mount(2).
    #[must_use]
    pub fn flags(self) -> libc::c_ulong {
        [
            (self.read_only, libc::MS_RDONLY),
            (self.nosuid, libc::MS_NOSUID),
            (self.nodev, libc::MS_NODEV),
            (self.noexec, libc::MS_NOEXEC),
        ]
        .iter()
        .filter(|(set, _)| *set)
        .fold(0, |bits, (_, bit)| bits | *bit)
    }
}

/// Numbers of mount(2) and mount_setattr(2) (linux/mount.h).
#[expect(missing_docs, reason = "mount(2) and mount_setattr(2) have them by these names")]
pub mod flag {
    pub const RDONLY: u64 = libc::MS_RDONLY;
    pub const NOSUID: u64 = libc::MS_NOSUID;
    pub const NODEV: u64 = libc::MS_NODEV;
    pub const NOEXEC: u64 = libc::MS_NOEXEC;
    pub const SYNCHRONOUS: u64 = libc::MS_SYNCHRONOUS;
    pub const REMOUNT: u64 = libc::MS_REMOUNT;
    pub const MANDLOCK: u64 = libc::MS_MANDLOCK;
    pub const DIRSYNC: u64 = libc::MS_DIRSYNC;
    pub const NOSYMFOLLOW: u64 = 256;
    pub const NOATIME: u64 = libc::MS_NOATIME;
    pub const NODIRATIME: u64 = libc::MS_NODIRATIME;
    pub const BIND: u64 = libc::MS_BIND;
    pub const MOVE: u64 = libc::MS_MOVE;
    pub const RECURSIVE: u64 = libc::MS_REC;
    pub const SILENT: u64 = libc::MS_SILENT;
    pub const UNBINDABLE: u64 = libc::MS_UNBINDABLE;
    pub const PRIVATE: u64 = libc::MS_PRIVATE;
    pub const SLAVE: u64 = libc::MS_SLAVE;
    pub const SHARED: u64 = libc::MS_SHARED;
    pub const RELATIME: u64 = libc::MS_RELATIME;
    pub const I_VERSION: u64 = libc::MS_I_VERSION;
    pub const STRICTATIME: u64 = libc::MS_STRICTATIME;
    pub const LAZYTIME: u64 = libc::MS_LAZYTIME;
    pub const ATTR_RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
    pub const ATTR_NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
    pub const ATTR_NODEV: u64 = libc::MOUNT_ATTR_NODEV;
    pub const ATTR_NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
    pub const ATTR_ATIME: u64 = libc::MOUNT_ATTR__ATIME;
    pub const ATTR_NOATIME: u64 = libc::MOUNT_ATTR_NOATIME;
    pub const ATTR_STRICTATIME: u64 = libc::MOUNT_ATTR_STRICTATIME;
    pub const ATTR_NODIRATIME: u64 = libc::MOUNT_ATTR_NODIRATIME;
    pub const ATTR_NOSYMFOLLOW: u64 = libc::MOUNT_ATTR_NOSYMFOLLOW;
}

/// Attributes of a mount that are set, and cleared before (mount_setattr(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// `MOUNT_ATTR_*`.
    pub set: u64,
    /// The same.
    pub clear: u64,
}

impl Change {
    /// Adds one that comes after those that there are.
    pub fn add(&mut self, set: u64, clear: u64) {
        self.set = (self.set & !clear) | set;
        // What is set is not cleared; the access times are one field, which is always cleared whole.
        self.clear = ((self.clear | clear) & !set) | (self.clear | clear) & flag::ATTR_ATIME;
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// Changes attributes of the mount behind a descriptor, or of all mounts in it.
///
/// # Errors
/// mount_setattr(2)'s.
pub fn change(tree: BorrowedFd<'_>, change: Change, recursive: bool) -> io::Result<()> {
    set_attr_all(
        tree,
        c"",
        recursive,
        libc::mount_attr {
            attr_set: change.set,
            attr_clr: change.clear,
            propagation: 0,
            userns_fd: 0,
        },
    )
}

/// Changes the propagation of the mount behind a descriptor, or of all mounts in it.
///
/// # Errors
/// mount_setattr(2)'s.
pub fn propagate(tree: BorrowedFd<'_>, propagation: u64, recursive: bool) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: 0, attr_clr: 0, propagation, userns_fd: 0 };
    set_attr_all(tree, c"", recursive, attr)
}

/// mount(2) as it is.
///
/// # Errors
/// The system call's.
pub fn plain(
    source: &CStr,
    target: &CStr,
    fstype: &CStr,
    flags: u64,
    data: &CStr,
) -> io::Result<()> {
    mount(source, target, fstype, flags, data)
}

/// Mounts a new file system on a path: one call where the newer interface needs four.
///
/// # Errors
/// mount(2)'s.
pub fn filesystem(
    fstype: &CStr,
    target: &CStr,
    attributes: Attributes,
    data: &CStr,
) -> io::Result<()> {
    mount(fstype, target, fstype, attributes.flags(), data)
}

/// Makes a path visible at another place: a bind mount without what is mounted below.
///
/// # Errors
/// mount(2)'s.
pub fn bind(source: &CStr, target: &CStr) -> io::Result<()> {
    mount(source, target, c"", libc::MS_BIND, c"")
}

/// Moves a mount, with all that is mounted below it, to another place.
///
/// # Errors
/// mount(2)'s (`MS_MOVE`).
pub fn relocate(from: &CStr, to: &CStr) -> io::Result<()> {
    mount(from, to, c"", libc::MS_MOVE, c"")
}

/// No mount or unmount from here on is seen outside of this namespace, nor the reverse.
///
/// # Errors
/// mount(2)'s.
pub fn make_private() -> io::Result<()> {
    mount(c"", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, c"")
}

/// Mounts from here on are seen in namespaces that are made from this one, and theirs here.
///
/// # Errors
/// mount(2)'s.
pub fn make_shared() -> io::Result<()> {
    mount(c"", c"/", c"", libc::MS_REC | libc::MS_SHARED, c"")
}

fn mount(
    source: &CStr,
    target: &CStr,
    fstype: &CStr,
    flags: libc::c_ulong,
    data: &CStr,
) -> io::Result<()> {
    // SAFETY: four NUL-terminated strings that outlive the call.
    let done = unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), fstype.as_ptr(), flags, data.as_ptr().cast())
    };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A detached copy of the mount at `path` (open_tree(2), Linux 5.2).
///
/// # Errors
/// The system call's; `EPERM` without CAP_SYS_ADMIN over the mount namespace.
pub fn copy_tree(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(dir, path, flags)?)
}

/// Attaches a detached tree at what `target` is open on.
///
/// # Errors
/// move_mount(2)'s.
pub fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, c"", target, c"", flags)?)
}

/// Attaches a detached tree at a path.
///
/// # Errors
/// move_mount(2)'s.
pub fn attach_at(tree: BorrowedFd<'_>, target: &CStr) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, c"", rustix::fs::CWD, target, flags)?)
}

/// Sets attributes of the mount behind a descriptor (mount_setattr(2), Linux 5.12).
///
/// # Errors
/// The system call's.
pub fn set_attributes(
    tree: BorrowedFd<'_>,
    attributes: Attributes,
    recursive: bool,
) -> io::Result<()> {
    set_attr(tree, c"", recursive, attributes.set_bits(), 0)
}

/// Sets attributes of the mount at a path.
///
/// # Errors
/// The system call's.
pub fn set_attributes_at(path: &CStr, attributes: Attributes) -> io::Result<()> {
    set_attr(rustix::fs::CWD, path, false, attributes.set_bits(), 0)
}

/// Shows the files of a detached tree with their ids mapped as `userns` does
/// (`MOUNT_ATTR_IDMAP`, mount_setattr(2)).
///
/// # Errors
/// `EINVAL` where the file system cannot (Linux has it for ext4, xfs, btrfs, tmpfs
/// and others, each from its own version on), `EPERM` for all but root of its namespace.
pub fn map_ids(tree: BorrowedFd<'_>, userns: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    set_attr(tree, c"", recursive, libc::MOUNT_ATTR_IDMAP, userns.as_raw_fd() as u64)
}

fn set_attr(
    dir: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
    set: u64,
    userns_fd: u64,
) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd };
    set_attr_all(dir, path, recursive, attr)
}

fn set_attr_all(
    dir: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
    attr: libc::mount_attr,
) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: a valid descriptor, a NUL-terminated string and a mount_attr of the given size.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_fd().as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attr,
            size_of_val(&attr),
        )
    };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
