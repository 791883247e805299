//! System calls that a filter hands over to somebody else (seccomp_unotify(2)).

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

/// Where the calls of all processes under one filter arrive.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    /// Whoever called last, by thread: mostly it calls again.
    last: RefCell<Option<(u32, OwnedFd)>>,
}

/// A system call whose caller waits. Its arguments are the caller's, and what they point to may
/// change at any time.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    id: u64,
    /// The calling thread, in the listener's process ids.
    pub pid: u32,
    /// Its number in the caller's architecture.
    pub number: i64,
    /// The caller uses the calls of the 32-bit architecture, whose structures have other layouts.
    pub foreign: bool,
    /// Its arguments.
    pub args: [u64; 6],
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel makes it, as if nothing had been.
    Continue,
    /// It is done already, with this result.
    Done(i64),
    /// It fails.
    Fail(rustix::io::Errno),
}

// linux/seccomp.h: `_IOWR('!', 0, struct seccomp_notif)` and its like.
const RECEIVE: u64 = 0xc050_2100;
const SEND: u64 = 0xc018_2101;
const ID_VALID: u64 = 0x4008_2102;
const ADD: u64 = 0x4018_2103;
const SET_FLAGS: u64 = 0x4008_2104;
/// Linux 6.6: caller and listener take turns on one processor, without a wake-up between two.
const SYNC_WAKE_UP: u64 = 1;
const CONTINUE: u32 = 1;

/// Of this program (linux/audit.h, `AUDIT_ARCH_X86_64`, `AUDIT_ARCH_AARCH64`).
const ARCHITECTURE: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };

impl Listener {
    /// Of a descriptor that [`crate::seccomp::Filter::listen`] gave.
    pub fn new(fd: OwnedFd) -> Self {
        // Older kernels lack it; then it is only slower.
        let _ = ioctl(&fd, SET_FLAGS, SYNC_WAKE_UP as usize as *mut libc::c_void);
        Self { fd, last: RefCell::new(None) }
    }

    /// Takes the next call; `None` where it was taken back.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn receive(&self) -> io::Result<Option<Call>> {
        // SAFETY: plain data, which the kernel wants to be all zero.
        let mut request: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        match ioctl(&self.fd, RECEIVE, (&raw mut request).cast()) {
            Ok(()) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::ENOENT)) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let call = Call {
            id: request.id,
            pid: request.pid,
            number: request.data.nr.into(),
            foreign: request.data.arch != ARCHITECTURE,
            args: request.data.args,
        };
        Ok(Some(call))
    }

    /// Puts a copy of a descriptor into the caller's table at this number, in the place of what is
    /// there (`SECCOMP_ADDFD_FLAG_SETFD`, Linux 5.9). The caller still waits after that.
    ///
    /// # Errors
    /// `ENOENT` where the caller waits no more.
    pub fn put(
        &self,
        call: &Call,
        fd: BorrowedFd<'_>,
        at: RawFd,
        close_on_exec: bool,
    ) -> io::Result<()> {
        let mut request = libc::seccomp_notif_addfd {
            id: call.id,
            flags: libc::SECCOMP_ADDFD_FLAG_SETFD as u32,
            srcfd: fd.as_raw_fd() as u32,
            newfd: at as u32,
            newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
        };
        ioctl(&self.fd, ADD, (&raw mut request).cast())
    }

    /// Gives the caller a copy of a descriptor, at a number of the kernel's choice: what its call shall
    /// return. It still waits after that.
    ///
    /// # Errors
    /// `ENOENT` where the caller waits no more.
    pub fn give(&self, call: &Call, fd: BorrowedFd<'_>, close_on_exec: bool) -> io::Result<i64> {
        let mut request = libc::seccomp_notif_addfd {
            id: call.id,
            flags: 0,
            srcfd: fd.as_raw_fd() as u32,
            newfd: 0,
            newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
        };
        let request = (&raw mut request).cast::<libc::c_void>();
        // SAFETY: ADD takes a pointer to this structure.
        match unsafe { libc::ioctl(self.fd.as_raw_fd(), ADD as libc::Ioctl, request) } {
            -1 => Err(io::Error::last_os_error()),
            number => Ok(number.into()),
        }
    }

    /// Whether the caller still waits: only then its id means that process.
    pub fn is_waiting(&self, call: &Call) -> bool {
        let mut id = call.id;
        ioctl(&self.fd, ID_VALID, (&raw mut id).cast()).is_ok()
    }

    /// A copy of one of the caller's descriptors (pidfd_getfd(2)). It means the caller's only if
    /// [`Self::is_waiting`] after this.
    ///
    /// # Errors
    /// `EBADF` where it has none of that number; `EPERM` where the caller may not be looked into.
    pub fn descriptor(&self, call: &Call, fd: RawFd) -> io::Result<OwnedFd> {
        let mut last = self.last.borrow_mut();
        // What refers to a thread that is gone never refers to another of the same number.
        if let Some((_, of)) = last.as_ref().filter(|(pid, _)| *pid == call.pid) {
            match crate::process::descriptor(of.as_fd(), fd) {
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                other => return other,
            }
        }
        let (_, of) = last.insert((call.pid, call.thread()?));
        crate::process::descriptor(of.as_fd(), fd)
    }

    /// Lets the caller go on.
    ///
    /// # Errors
    /// The ioctl's; a caller that was killed meanwhile is none.
    pub fn answer(&self, call: &Call, verdict: Verdict) -> io::Result<()> {
        let (val, error, flags) = match verdict {
            Verdict::Continue => (0, 0, CONTINUE),
            Verdict::Done(value) => (value, 0, 0),
            Verdict::Fail(errno) => (0, -errno.raw_os_error(), 0),
        };
        let mut response = libc::seccomp_notif_resp { id: call.id, val, error, flags };
        match ioctl(&self.fd, SEND, (&raw mut response).cast()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }
}

/// Readable when a call arrived; hung up when nobody is left who could make one.
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Call {
    /// Its name; empty for one that is not known.
    pub fn name(&self) -> &'static str {
        let Ok(number) = usize::try_from(self.number) else { return "" };
        if self.foreign {
            return Foreign::new(number).map_or("", |call| call.name());
        }
        syscalls::Sysno::new(number).map_or("", |call| call.name())
    }

    fn thread(&self) -> io::Result<OwnedFd> {
        match pidfd_open(self.pid, libc::PIDFD_THREAD) {
            // Before Linux 6.9 only the first thread of a process has one.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                pidfd_open(self.process()?, 0)
            }
            other => other,
        }
    }

    /// The process that the calling thread is one of.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn process(&self) -> io::Result<u32> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
        line.and_then(|id| id.trim().parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Bytes of the caller's memory (process_vm_readv(2)): they may change afterwards, this copy not.
    ///
    /// # Errors
    /// `EFAULT` where not all of them can be read.
    pub fn read(&self, address: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; length];
        if length == 0 {
            return Ok(buffer);
        }
        let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: length };
        let remote = libc::iovec { iov_base: address as usize as *mut _, iov_len: length };
        // SAFETY: the local part is the buffer; the remote one is checked by the kernel.
        let got = unsafe {
            libc::process_vm_readv(self.pid as i32, &raw const local, 1, &raw const remote, 1, 0)
        };
        match got {
            -1 => Err(io::Error::last_os_error()),
            got if got as usize == length => Ok(buffer),
            _ => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        }
    }

    /// The text at an address of the caller's memory, up to its NUL; at most `PATH_MAX` bytes.
    ///
    /// # Errors
    /// Where it cannot be read, or does not end.
    pub fn text(&self, address: u64) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; 4096];
        let memory = File::open(format!("/proc/{}/mem", self.pid))?;
        // A short read is one up to the end of what is mapped.
        let length = memory.read_at(&mut buffer, address)?;
        let end =
            buffer[..length].iter().position(|&b| b == 0).ok_or(io::ErrorKind::InvalidData)?;
        buffer.truncate(end);
        Ok(buffer)
    }

    /// Writes to an address of the caller's memory (process_vm_writev(2): unlike `/proc/PID/mem`, it
    /// does not ask for the caller's own user).
    ///
    /// # Errors
    /// `EFAULT` where not all of it can be written.
    pub fn write(&self, address: u64, bytes: &[u8]) -> io::Result<()> {
        let local =
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let remote = libc::iovec { iov_base: address as usize as *mut _, iov_len: bytes.len() };
        // SAFETY: the local part is only read; the remote one is checked by the kernel.
        let done = unsafe {
            libc::process_vm_writev(self.pid as i32, &raw const local, 1, &raw const remote, 1, 0)
        };
        match done {
            -1 => Err(io::Error::last_os_error()),
            done if done as usize == bytes.len() => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        }
    }
}

#[cfg(target_arch = "x86_64")]
use syscalls::x86::Sysno as Foreign;

fn pidfd_open(pid: u32, flags: libc::c_uint) -> io::Result<OwnedFd> {
    // SAFETY: plain system call with scalars.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made a new descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn ioctl(fd: &OwnedFd, request: u64, argument: *mut libc::c_void) -> io::Result<()> {
    // SAFETY: each request here takes a pointer to a structure of the size that its number
    // holds, or (SET_FLAGS) a number.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl, argument) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// `struct statfs` of a v2 control group hierarchy (statfs(2), linux/magic.h).
#[must_use]
pub fn statfs_of_cgroup2() -> Vec<u8> {
    // SAFETY: plain data.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    stat.f_type = libc::CGROUP2_SUPER_MAGIC;
    stat.f_bsize = 4096;
    stat.f_namelen = 255;
    // SAFETY: a plain structure without padding that could be uninitialised: it was zeroed.
    unsafe { std::slice::from_raw_parts((&raw const stat).cast::<u8>(), size_of_val(&stat)) }
        .to_vec()
}
