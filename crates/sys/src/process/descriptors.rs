//! Descriptors that processes hand to each other, and those that are not to go further.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// A copy of a descriptor of the process that a pidfd refers to (pidfd_getfd(2), Linux 5.6).
///
/// # Errors
/// `EBADF` where it has none of that number; `EPERM` where it may not be looked into.
pub fn descriptor(pidfd: BorrowedFd<'_>, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain system call with scalars.
    let got = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) };
    if got == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made a new descriptor for us, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(got as RawFd) })
}

/// Takes a descriptor that this process was started with, and that its caller named by number.
/// Each may be taken once.
///
/// # Errors
/// `EBADF` where there is none.
pub fn take_inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain system call with scalars, which fails for what is no descriptor.
    if fd < 0 || unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, and by this function's contract nothing else here owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets a descriptor of this number be inherited by what is executed.
///
/// # Errors
/// `EBADF` where there is none.
pub fn inherit(fd: RawFd) -> io::Result<()> {
    // SAFETY: plain system call with scalars, which fails for what is no descriptor.
    match unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Lets what the command starts inherit these descriptors, under the numbers that they have here. They
/// are closed here with the command.
pub fn hand_over(command: &mut std::process::Command, descriptors: Vec<OwnedFd>) {
    use std::os::unix::process::CommandExt;
    let keep = move || descriptors.iter().try_for_each(|one| inherit(one.as_raw_fd()));
    // SAFETY: in the forked child it makes system calls only, and allocates nothing.
    unsafe { command.pre_exec(keep) };
}

/// Closes this process's copy of a descriptor whose owner only its parent still uses. For a
/// forked child: a lock, for one, is held as long as any copy is open (flock(2)).
pub fn close_copy(copy: BorrowedFd<'_>) {
    // SAFETY: the child never uses or drops the owner: it executes or exits.
    unsafe { libc::close(copy.as_raw_fd()) };
}

/// Closes every descriptor but the standard streams and `keep`, which it moves
/// (close_range(2), Linux 5.9). For a child about to execute: a directory of the host
/// that is still open would be within reach as `/proc/self/fd/N` (CVE-2024-21626).
///
/// # Errors
/// The system call's.
pub fn close_all_but(keep: crate::socket::Channel) -> io::Result<crate::socket::Channel> {
    const FIRST: RawFd = 3;
    let keep: OwnedFd = keep.into();
    let kept = if keep.as_raw_fd() == FIRST {
        keep
    } else {
        // SAFETY: plain dup3(2); whatever was open at FIRST is given up, as all the others are.
        if unsafe { libc::dup3(keep.as_raw_fd(), FIRST, libc::O_CLOEXEC) } == -1 {
            return Err(io::Error::last_os_error());
        }
        std::mem::forget(keep);
        // SAFETY: FIRST is a new descriptor that nobody else owns.
        unsafe { OwnedFd::from_raw_fd(FIRST) }
    };
    // SAFETY: this process only executes or exits from here on, so none of these
    // descriptors is used again, whoever owned it.
    match unsafe { libc::syscall(libc::SYS_close_range, FIRST + 1, u32::MAX, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(kept.into()),
    }
}

/// Closes every descriptor but the standard streams and these. For a forked child that will
/// not return to what its parent did.
///
/// # Errors
/// close_range(2)'s (Linux 5.9).
pub fn close_all_except(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut numbers: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
    numbers.sort_unstable();
    let mut first = 3;
    for last in numbers.into_iter().chain([u32::MAX]) {
        if first < last {
            let end = if last == u32::MAX { last } else { last - 1 };
            // SAFETY: this process uses none of these descriptors again, whoever owned them.
            if unsafe { libc::syscall(libc::SYS_close_range, first, end, 0) } == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        first = first.max(last.saturating_add(1));
    }
    Ok(())
}

/// Closes every descriptor from `first` on (close_range(2), Linux 5.9). For a process that uses no
/// such descriptor again.
///
/// # Errors
/// The system call's.
pub fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: by its contract this process has no use for them, so no owner is misled.
    match unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Closes every descriptor but the standard streams and these (close_range(2), Linux 5.9). For a
/// process that uses no other one again, and does not drop its owner.
///
/// # Errors
/// The system call's.
pub fn close_others(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<RawFd> = keep.iter().copied().filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep {
        if fd > first {
            // SAFETY: as in `close_from`.
            let done = unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) };
            if done == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        first = fd + 1;
    }
    close_from(first)
}
