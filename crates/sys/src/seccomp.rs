//! System call filters: rules compiled to BPF and installed (seccomp(2)).
//!
//! A filter runs at every system call, so it is a search tree over ranges of
//! numbers with equal verdicts: some eight comparisons instead of a chain of hundreds.

mod abi;
mod compile;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

pub use compile::{compile, compile_for};

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is made.
    Allow,
    /// It fails with this errno; 0 makes it succeed without effect.
    Errno(u16),
    /// The process is killed by SIGSYS.
    Kill,
    /// The thread is.
    KillThread,
    /// The thread gets SIGSYS, which it may handle.
    Trap,
    /// A tracer decides, and is told this number; without one the call fails with `ENOSYS`.
    Trace(u16),
    /// It is made, and written down by the kernel.
    Log,
    /// Whoever listens decides (see [`Filter::listen`]).
    Notify,
}

/// How an argument and a value relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each says it")]
pub enum Relation {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// `(argument & mask) == value`, or another relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Index, 0 to 5.
    pub argument: u8,
    /// Bits that are looked at; all of them, where it is about greater and less.
    pub mask: u64,
    /// What they are compared with.
    pub value: u64,
    /// Holds where they relate so.
    pub relation: Relation,
}

/// Some system calls by name and what happens to them where all conditions hold.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a, Name> {
    /// Names; those that an architecture lacks are passed over.
    pub names: &'a [Name],
    /// The verdict.
    pub action: Action,
    /// All must hold.
    pub conditions: &'a [Condition],
}

/// A compiled filter.
#[derive(Debug, Clone)]
pub struct Filter(Vec<libc::sock_filter>);

/// Code, jump if true, jump if false, and operand (linux/filter.h, `struct sock_filter`).
pub type Instruction = (u16, u8, u8, u32);

impl Filter {
    /// Installs it in this thread, for good. Without no_new_privs this needs CAP_SYS_ADMIN
    /// over the user namespace.
    ///
    /// # Errors
    /// seccomp(2)'s.
    pub fn install(&self) -> io::Result<()> {
        self.set(0).map(drop)
    }

    /// The same by prctl(2): a filter that is installed already may allow that, and not seccomp(2).
    ///
    /// # Errors
    /// prctl(2)'s for `PR_SET_SECCOMP`.
    pub fn install_by_prctl(&self) -> io::Result<()> {
        let program = self.program();
        // SAFETY: the program outlives the call, and the kernel only reads it.
        let done = unsafe {
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
        };
        if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn program(&self) -> libc::sock_fprog {
        libc::sock_fprog { len: self.0.len() as u16, filter: self.0.as_ptr().cast_mut() }
    }

    /// The same with flags of seccomp(2) (`SECCOMP_FILTER_FLAG_*`), and gives the listener where one is
    /// among them.
    ///
    /// # Errors
    /// As [`Filter::install`]; `EINVAL` for a flag that the kernel does not know.
    pub fn install_with(&self, flags: Flags) -> io::Result<Option<OwnedFd>> {
        let fd = self.set(flags.bits())?;
        // SAFETY: with this flag the kernel made a new descriptor for us, close-on-exec.
        let listener = || unsafe { OwnedFd::from_raw_fd(fd as std::os::fd::RawFd) };
        Ok(flags.contains(Flags::LISTENER).then(listener))
    }

    /// The same, and gives the descriptor where calls arrive that it hands over
    /// (`SECCOMP_FILTER_FLAG_NEW_LISTENER`, Linux 5.0). A process can have one.
    ///
    /// # Errors
    /// As [`Filter::install`]; `EBUSY` where there is one.
    pub fn listen(&self) -> io::Result<OwnedFd> {
        let fd = self.set(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
        // SAFETY: the kernel made a new descriptor for us, close-on-exec.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as std::os::fd::RawFd) })
    }

    fn set(&self, flags: libc::c_ulong) -> io::Result<libc::c_long> {
        let program = self.program();
        // SAFETY: the program outlives the call, and the kernel only reads it.
        let done = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags,
                &raw const program,
            )
        };
        if done == -1 { Err(io::Error::last_os_error()) } else { Ok(done) }
    }

    /// Its instructions, of which the kernel takes 4096.
    #[must_use]
    pub fn instructions(&self) -> Vec<Instruction> {
        self.0.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect()
    }

    /// A filter from instructions that [`Filter::instructions`] gave.
    #[must_use]
    pub fn from_instructions(instructions: &[Instruction]) -> Self {
        Self(
            instructions
                .iter()
                .map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k })
                .collect(),
        )
    }
}

crate::bitflags::bitflags! {
    /// How a filter is installed (seccomp(2)).
    Flags: libc::c_ulong {
        /// In all threads.
        ALL_THREADS = libc::SECCOMP_FILTER_FLAG_TSYNC;
        /// All but allowed calls are written down by the kernel.
        LOG = libc::SECCOMP_FILTER_FLAG_LOG;
        /// Speculative execution is as it was.
        SPECULATION = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        /// A descriptor comes of it.
        LISTENER = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        /// Who waits for the listener can be killed only (Linux 5.19).
        WAIT_KILLABLE = 1 << 5;
    }
}
