//! Blocks of files on the disk, and files that share them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct file_dedupe_range` (linux/fs.h) with one destination.
#[repr(C)]
#[derive(Default)]
struct DedupeRange {
    src_offset: u64,
    src_length: u64,
    dest_count: u16,
    reserved1: u16,
    reserved2: u32,
    dest_fd: i64,
    dest_offset: u64,
    bytes_deduped: u64,
    status: i32,
    reserved: u32,
}

/// `_IOWR(0x94, 54, struct file_dedupe_range)`, whose size is that without destinations.
const FIDEDUPERANGE: libc::Ioctl = 0xc018_9436_u32 as libc::Ioctl;

/// The content differs (ioctl_fideduperange(2)).
const DIFFERS: i32 = 1;

/// Has `copy` share the blocks of `original` in a range of bytes, if they are the same: the kernel
/// compares them, and nothing of either is changed. Gives how many bytes are shared then, fewer than
/// asked for where the file system does it piecewise, and 0 where they differ.
///
/// # Errors
/// ioctl_fideduperange(2)'s: `EOPNOTSUPP` or `EINVAL` where the file system cannot, `EPERM` where the
/// caller may not write to `copy`.
pub fn share(
    original: BorrowedFd<'_>,
    copy: BorrowedFd<'_>,
    offset: u64,
    length: u64,
) -> io::Result<u64> {
    let mut range = DedupeRange {
        src_offset: offset,
        src_length: length,
        dest_count: 1,
        dest_fd: copy.as_raw_fd().into(),
        dest_offset: offset,
        ..DedupeRange::default()
    };
    // SAFETY: the structure has the one destination that it counts, and lives through the call; both
    // descriptors are borrowed for it.
    let done = unsafe { libc::ioctl(original.as_raw_fd(), FIDEDUPERANGE, &raw mut range) };
    match (done, range.status) {
        (-1, _) => Err(io::Error::last_os_error()),
        (_, DIFFERS) => Ok(0),
        (_, error) if error < 0 => Err(io::Error::from_raw_os_error(-error)),
        _ => Ok(range.bytes_deduped),
    }
}

/// `struct fiemap` (linux/fiemap.h) with room for one extent.
#[repr(C)]
#[derive(Default)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    logical: u64,
    physical: u64,
    extent_length: u64,
    extent_reserved64: [u64; 2],
    extent_flags: u32,
    extent_reserved: [u32; 3],
}

/// `_IOWR('f', 11, struct fiemap)`, whose size is that without extents.
const FS_IOC_FIEMAP: libc::Ioctl = 0xc020_660b_u32 as libc::Ioctl;
const FIEMAP_FLAG_SYNC: u32 = 1;

/// Where a file's first block is on the disk, in bytes; `None` where it has none.
///
/// # Errors
/// `EOPNOTSUPP` where the file system does not tell (Documentation/filesystems/fiemap.rst).
pub fn first_block(file: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let mut map =
        Fiemap { length: u64::MAX, flags: FIEMAP_FLAG_SYNC, extent_count: 1, ..Fiemap::default() };
    // SAFETY: the structure has room for the one extent that it counts, and lives through the call.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, &raw mut map) };
    match done {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok((map.mapped_extents > 0).then_some(map.physical)),
    }
}
