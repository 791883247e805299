//! Signals as events: blocked, and read from a descriptor (signalfd(2)).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

pub use libc::{
    SIGABRT, SIGBUS, SIGCHLD, SIGCONT, SIGFPE, SIGHUP, SIGILL, SIGINT, SIGKILL, SIGPIPE, SIGQUIT,
    SIGSEGV, SIGSTOP, SIGSYS, SIGTERM, SIGTRAP, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2,
    SIGWINCH,
};

/// Some signals, blocked in this process and readable here.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks these signals and opens them for reading.
    ///
    /// # Errors
    /// signalfd(2)'s.
    pub fn block(signals: &[i32]) -> io::Result<Self> {
        let set = set_of(signals);
        // SAFETY: `set` is initialised; a null old set is allowed.
        unsafe {
            if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) == -1 {
                return Err(io::Error::last_os_error());
            }
            match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(Self(OwnedFd::from_raw_fd(fd))),
            }
        }
    }

    /// The next pending signal's number.
    ///
    /// # Errors
    /// read(2)'s.
    pub fn next(&self) -> io::Result<Option<i32>> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        // SAFETY: the buffer is as large as stated.
        let read =
            unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size_of_val(&info)) };
        match read {
            -1 => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
                e => Err(e),
            },
            // SAFETY: the kernel fills whole records only, and 0 is not returned.
            _ => Ok(Some(unsafe { info.assume_init() }.ssi_signo as i32)),
        }
    }
}

/// Readable when a signal is pending.
impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Some signals, to be blocked or waited for.
#[derive(Clone, Copy)]
pub struct Set(libc::sigset_t);

impl Set {
    /// Every signal but these.
    #[must_use]
    pub fn all_but(signals: &[i32]) -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigfillset initialises the set before anything is taken out.
        unsafe {
            libc::sigfillset(set.as_mut_ptr());
            for signal in signals {
                libc::sigdelset(set.as_mut_ptr(), *signal);
            }
            Self(set.assume_init())
        }
    }

    /// None.
    #[must_use]
    pub fn none() -> Self {
        Self(set_of(&[]))
    }

    /// With these as well.
    #[must_use]
    pub fn and(mut self, signals: &[i32]) -> Self {
        for signal in signals {
            // SAFETY: the set is initialised.
            unsafe { libc::sigaddset(&raw mut self.0, *signal) };
        }
        self
    }

    /// Blocks these and no other, and gives those that were blocked before.
    pub fn block(&self) -> Self {
        let mut before = set_of(&[]);
        // SAFETY: both sets are initialised. It fails only for a wrong first argument.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const self.0, &raw mut before) };
        Self(before)
    }

    /// Waits for one of these, which must be blocked, and takes it.
    ///
    /// # Errors
    /// `EINTR`, which the caller may ignore.
    pub fn wait(&self) -> io::Result<i32> {
        // SAFETY: the set is initialised; a null siginfo is allowed.
        match unsafe { libc::sigwaitinfo(&raw const self.0, std::ptr::null_mut()) } {
            -1 => Err(io::Error::last_os_error()),
            signal => Ok(signal),
        }
    }
}

/// What a signal did before this process said otherwise. Every program that it executes inherits
/// whether a signal is ignored (execve(2)).
pub struct Disposition {
    signal: i32,
    action: libc::sigaction,
}

impl Disposition {
    /// Ignores a signal from here on, or takes its default action.
    ///
    /// # Errors
    /// sigaction(2)'s: there is no such signal.
    pub fn change(signal: i32, ignore: bool) -> io::Result<Self> {
        let handler = if ignore { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: all-zero is a valid sigaction, and neither handler runs code of ours.
        unsafe {
            let mut new: libc::sigaction = std::mem::zeroed();
            new.sa_sigaction = handler;
            let mut before: libc::sigaction = std::mem::zeroed();
            match libc::sigaction(signal, &raw const new, &raw mut before) {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(Self { signal, action: before }),
            }
        }
    }

    /// As it was.
    pub fn restore(&self) {
        // SAFETY: the kernel gave this action for this signal.
        unsafe { libc::sigaction(self.signal, &raw const self.action, std::ptr::null_mut()) };
    }
}

/// Whether SIGPIPE was ignored when this program was started.
static IGNORED_PIPE: AtomicBool = AtomicBool::new(false);

/// Runs before Rust's runtime, which ignores SIGPIPE and forgets what was before.
// SAFETY: the section holds pointers to functions that are called with no condition before
// `main` (System V ABI, "Initialization and Termination Functions").
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE_PIPE: extern "C" fn() = {
    extern "C" fn note() {
        // SAFETY: a null new action changes nothing, and the old one is written whole.
        unsafe {
            let mut now: libc::sigaction = std::mem::zeroed();
            libc::sigaction(libc::SIGPIPE, std::ptr::null(), &raw mut now);
            IGNORED_PIPE.store(now.sa_sigaction == libc::SIG_IGN, Ordering::Relaxed);
        }
    }
    note
};

/// Gives SIGPIPE back the disposition that this program was started with.
pub fn inherit_pipe() {
    let _ = Disposition::change(libc::SIGPIPE, IGNORED_PIPE.load(Ordering::Relaxed));
}

/// Every signal's default action from here on.
pub fn forget_dispositions() {
    for signal in (1..32).filter(|s| *s != libc::SIGKILL && *s != libc::SIGSTOP) {
        // It cannot fail for these.
        let _ = Disposition::change(signal, false);
    }
}

/// A signal in words, as a shell reports it (strsignal(3)).
#[must_use]
pub fn describe(signal: i32) -> String {
    // SAFETY: strsignal gives a string that is valid until its next call, or null.
    unsafe {
        let text = libc::strsignal(signal);
        if text.is_null() {
            return signal.to_string();
        }
        std::ffi::CStr::from_ptr(text).to_string_lossy().into_owned()
    }
}

/// Restores what a program may expect at its start: no signal blocked, every
/// disposition the default (Rust's runtime ignores SIGPIPE, and execve(2) keeps that).
pub fn reset() {
    let none = set_of(&[]);
    // SAFETY: plain system calls; the default disposition runs no code of ours.
    unsafe {
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Sends a signal to a process, or to a group where `pid` is negative.
///
/// # Errors
/// kill(2)'s.
pub fn send(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: plain system call with scalars.
    if unsafe { libc::kill(pid, signal) } == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The number of a signal by its name without `SIG`; `RTMIN+n` too, as glibc counts them.
#[must_use]
pub fn by_name(name: &str) -> Option<i32> {
    const NAMES: [(&str, i32); 30] = [
        ("HUP", libc::SIGHUP),
        ("INT", libc::SIGINT),
        ("QUIT", libc::SIGQUIT),
        ("ILL", libc::SIGILL),
        ("TRAP", libc::SIGTRAP),
        ("ABRT", libc::SIGABRT),
        ("BUS", libc::SIGBUS),
        ("FPE", libc::SIGFPE),
        ("KILL", libc::SIGKILL),
        ("USR1", libc::SIGUSR1),
        ("SEGV", libc::SIGSEGV),
        ("USR2", libc::SIGUSR2),
        ("PIPE", libc::SIGPIPE),
        ("ALRM", libc::SIGALRM),
        ("TERM", libc::SIGTERM),
        ("CHLD", libc::SIGCHLD),
        ("CONT", libc::SIGCONT),
        ("STOP", libc::SIGSTOP),
        ("TSTP", libc::SIGTSTP),
        ("TTIN", libc::SIGTTIN),
        ("TTOU", libc::SIGTTOU),
        ("URG", libc::SIGURG),
        ("XCPU", libc::SIGXCPU),
        ("XFSZ", libc::SIGXFSZ),
        ("VTALRM", libc::SIGVTALRM),
        ("PROF", libc::SIGPROF),
        ("WINCH", libc::SIGWINCH),
        ("IO", libc::SIGIO),
        ("PWR", libc::SIGPWR),
        ("SYS", libc::SIGSYS),
    ];
    if let Some(offset) = name.strip_prefix("RTMIN+") {
        let number = libc::SIGRTMIN() + offset.parse::<i32>().ok()?;
        return (number <= libc::SIGRTMAX()).then_some(number);
    }
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// Whether a signal's default action ends a process (signal(7)).
#[must_use]
pub fn ends_by_default(signal: i32) -> bool {
    !matches!(
        signal,
        libc::SIGCHLD
            | libc::SIGCONT
            | libc::SIGSTOP
            | libc::SIGTSTP
            | libc::SIGTTIN
            | libc::SIGTTOU
            | libc::SIGURG
            | libc::SIGWINCH
    )
}

/// A signal that was sent to this process while it was blocked, and that would end it by
/// default: a process 1 that unblocks it is spared, and the signal lost (pid_namespaces(7)).
pub fn pending_end() -> Option<i32> {
    // SAFETY: sigpending initialises the set, which is only read then.
    let pending = unsafe {
        let mut set = MaybeUninit::uninit();
        if libc::sigpending(set.as_mut_ptr()) == -1 {
            return None;
        }
        set.assume_init()
    };
    // SAFETY: an initialised set and numbers of signals.
    let is_pending = |signal: &i32| unsafe { libc::sigismember(&raw const pending, *signal) } == 1;
    (1..32).find(|signal| ends_by_default(*signal) && is_pending(signal))
}

/// Whether a process neither blocks, ignores nor handles a signal (proc(5), `SigBlk`,
/// `SigIgn`, `SigCgt`). The kernel spares a process 1 such a signal (pid_namespaces(7)).
///
/// # Errors
/// Where its status cannot be read.
pub fn left_to_default(pid: rustix::process::Pid, signal: i32) -> io::Result<bool> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))?;
    let taken = status
        .lines()
        .filter_map(|line| line.split_once(":\t"))
        .filter(|(key, _)| matches!(*key, "SigBlk" | "SigIgn" | "SigCgt"))
        .filter_map(|(_, mask)| u64::from_str_radix(mask, 16).ok())
        .fold(0, |all, mask| all | mask);
    Ok(taken & (1 << (signal - 1)) == 0)
}

/// Stops this process as `signal`'s default action would, and returns when it is continued.
///
/// # Errors
/// The system calls'.
pub fn stop_self() -> io::Result<()> {
    send(std::process::id() as i32, libc::SIGSTOP)
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set before anything is added.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}
