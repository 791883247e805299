//! Pseudo-terminals, and the launcher's own terminal in raw mode.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::termios::{OptionalActions, Termios, Winsize};

/// A new terminal of the devpts instance whose `ptmx` this is: its two ends. The slave
/// is opened through the master (`TIOCGPTPEER`, Linux 4.13), never by a path that
/// somebody else could replace (CVE-2025-52565).
///
/// # Errors
/// The ioctls'.
pub fn open(ptmx: OwnedFd) -> io::Result<(OwnedFd, OwnedFd)> {
    rustix::pty::unlockpt(&ptmx)?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value and returns a new descriptor.
    let slave = unsafe { libc::ioctl(ptmx.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if slave == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours.
    Ok((ptmx, unsafe { OwnedFd::from_raw_fd(slave) }))
}

/// Makes it the controlling terminal of this session leader.
///
/// # Errors
/// `EPERM` where this process leads no session.
pub fn control(slave: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(slave)?)
}

/// Gives up this process's controlling terminal (tty_ioctl(4), `TIOCNOTTY`). Where it leads its
/// session, that has none any more, and its foreground group gets SIGHUP and SIGCONT.
///
/// # Errors
/// `ENOTTY` where `terminal` is not this process's controlling terminal.
pub fn give_up(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCNOTTY takes no argument.
    match unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCNOTTY) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Gives `to` the window size of `from`.
///
/// # Errors
/// `ENOTTY` where one is no terminal.
pub fn copy_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let size: Winsize = rustix::termios::tcgetwinsize(from)?;
    Ok(rustix::termios::tcsetwinsize(to, size)?)
}

/// A terminal in raw mode until this is dropped.
#[derive(Debug)]
pub struct Raw<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> Raw<'a> {
    /// Makes it raw.
    ///
    /// # Errors
    /// `ENOTTY` where it is no terminal.
    pub fn new(terminal: BorrowedFd<'a>) -> io::Result<Self> {
        let before = rustix::termios::tcgetattr(terminal)?;
        let raw = Self { terminal, before };
        raw.again()?;
        Ok(raw)
    }

    /// Makes it raw once more, after this process was stopped and continued.
    ///
    /// # Errors
    /// tcsetattr(3)'s.
    pub fn again(&self) -> io::Result<()> {
        let mut raw = self.before.clone();
        raw.make_raw();
        Ok(rustix::termios::tcsetattr(self.terminal, OptionalActions::Now, &raw)?)
    }

    /// Makes it what it was, for the time that this process is stopped.
    ///
    /// # Errors
    /// tcsetattr(3)'s.
    pub fn pause(&self) -> io::Result<()> {
        Ok(rustix::termios::tcsetattr(self.terminal, OptionalActions::Now, &self.before)?)
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        // Best effort: the terminal may be gone.
        let _ = self.pause();
    }
}

/// Whether this is a terminal.
pub fn is_terminal(fd: impl AsFd) -> bool {
    rustix::termios::isatty(fd)
}
