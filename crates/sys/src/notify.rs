//! System calls that a filter hands over to somebody else (seccomp_unotify(2)).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// Where the calls of all processes under one filter arrive.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// A system call whose caller waits. Its arguments are the caller's, and what they point to may
/// change at any time.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    id: u64,
    /// The calling thread, in the listener's process ids.
    pub pid: u32,
    /// Its number, of this program's own architecture.
    pub number: i64,
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
        Self(fd)
    }

    /// Takes the next call; `None` where it was taken back, or where it is one of another
    /// architecture, which the kernel then makes.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn receive(&self) -> io::Result<Option<Call>> {
        // SAFETY: plain data, which the kernel wants to be all zero.
        let mut request: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        match ioctl(&self.0, RECEIVE, (&raw mut request).cast()) {
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
            args: request.data.args,
        };
        if request.data.arch != ARCHITECTURE {
            self.answer(&call, Verdict::Continue)?;
            return Ok(None);
        }
        Ok(Some(call))
    }

    /// Whether the caller still waits: only then its id means that process.
    pub fn is_waiting(&self, call: &Call) -> bool {
        let mut id = call.id;
        ioctl(&self.0, ID_VALID, (&raw mut id).cast()).is_ok()
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
        match ioctl(&self.0, SEND, (&raw mut response).cast()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }
}

/// Readable when a call arrived; hung up when nobody is left who could make one.
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Call {
    /// Its name; empty for one that is not known.
    pub fn name(&self) -> &'static str {
        let number = usize::try_from(self.number).ok();
        number.and_then(syscalls::Sysno::new).map_or("", |call| call.name())
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

    /// Writes to an address of the caller's memory.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, address: u64, bytes: &[u8]) -> io::Result<()> {
        let memory = File::options().write(true).open(format!("/proc/{}/mem", self.pid))?;
        memory.write_all_at(bytes, address)
    }
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
