//! Making processes with clone3(2), and waiting for them by pidfd.

mod descriptors;
mod execution;
mod facts;
mod memory;

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::{Pid, WaitId, WaitIdOptions};

use crate::bitflags::bitflags;

pub use descriptors::{
    close_all_but, close_all_except, close_copy, close_from, close_others, descriptor, hand_over,
    inherit, take_inherited,
};
pub use execution::{Strings, clear_environment, execve, execvp, fexecve, set_environment};
pub use facts::{children, read_proc, start_time, translate};
pub use memory::release_code;

bitflags! {
    /// Which namespaces a new process gets (clone(2)).
    Namespaces: u64 {
        /// Mounts.
        MOUNT = libc::CLONE_NEWNS as u64;
        /// Process ids.
        PID = libc::CLONE_NEWPID as u64;
        /// Host name.
        UTS = libc::CLONE_NEWUTS as u64;
        /// System V and POSIX message queues.
        IPC = libc::CLONE_NEWIPC as u64;
        /// Network.
        NET = libc::CLONE_NEWNET as u64;
        /// User and group ids.
        USER = libc::CLONE_NEWUSER as u64;
        /// Root of the control group view.
        CGROUP = libc::CLONE_NEWCGROUP as u64;
        /// Clocks that tell the time since boot (linux/sched.h).
        TIME = 0x80;
    }
}

/// A child process that is waited for through its pidfd.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// By itself, with this status.
    Exited(u8),
    /// By this signal's number.
    Signalled(u8),
}

/// Makes a child in new namespaces, and in `cgroup` where one is given
/// (CLONE_INTO_CGROUP, Linux 5.7); `run` is all that it does, with exit status 125 after it.
///
/// # Errors
/// clone3(2)'s, and `EDEADLK` where another thread is alive: the child would
/// have a copy of its locks and nobody to release them.
pub fn spawn(
    namespaces: Namespaces,
    cgroup: Option<BorrowedFd<'_>>,
    run: impl FnOnce(),
) -> io::Result<Child> {
    clone(namespaces.bits(), libc::SIGCHLD, cgroup, run)
}

/// The same for a child of this process's parent (`CLONE_PARENT`): for who only enters namespaces
/// in the parent's place.
///
/// # Errors
/// As [`spawn`]'s.
pub fn spawn_sibling(namespaces: Namespaces, run: impl FnOnce()) -> io::Result<Child> {
    // clone(2): the signal at its end is that of this process.
    clone(namespaces.bits() | libc::CLONE_PARENT as u64, 0, None, run)
}

fn clone(
    flags: u64,
    exit_signal: libc::c_int,
    cgroup: Option<BorrowedFd<'_>>,
    run: impl FnOnce(),
) -> io::Result<Child> {
    alone()?;
    let mut pidfd: RawFd = -1;
    let mut flags = flags | libc::CLONE_PIDFD as u64;
    if cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    // SAFETY: all-zero is a valid clone_args: no stack, no tls, no tid pointers.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = exit_signal as u64;
    args.cgroup = cgroup.map_or(0, |fd| fd.as_raw_fd() as u64);
    // SAFETY: without CLONE_VM this is fork(2): the child has a copy of this, the only
    // thread, and exits after `run`, so it never returns into the parent's code.
    let mut pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
    if pid == -1 && is_filtered() && cgroup.is_none() && flags & CSIGNAL == 0 {
        // SAFETY: as above.
        pid = unsafe { older_clone(flags | exit_signal as u64, &raw mut pidfd) };
    }
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            run();
            exit_now(125)
        }
        pid => {
            // SAFETY: the kernel stored a new descriptor of ours there (CLONE_PIDFD).
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = Pid::from_raw(pid as i32).ok_or(io::ErrorKind::InvalidData)?;
            Ok(Child { pid, pidfd })
        }
    }
}

/// Filters of system calls cannot look at what clone3(2) is asked for, so that those of container engines (and of machines
/// of ours whose control groups are emulated) make as if the kernel had none.
fn is_filtered() -> bool {
    io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS)
}

/// clone(2), which has the signal in the flags' lowest byte, and the pidfd where the parent would get the thread's id.
///
/// # Safety
/// As clone3(2) without CLONE_VM; `pidfd` is written to.
unsafe fn older_clone(flags: u64, pidfd: *mut RawFd) -> libc::c_long {
    let (flags, stack) = (flags as usize, 0_usize);
    // clone(2), "C library/kernel differences".
    let (first, second) = if cfg!(target_arch = "s390x") { (stack, flags) } else { (flags, stack) };
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_clone, first, second, pidfd, 0_usize, 0_usize) }
}

/// linux/sched.h: the flags' part that is the signal for clone(2); CLONE_NEWTIME is in it.
const CSIGNAL: u64 = 0xff;

/// linux/sched.h; the libc crate's constant is too narrow.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Makes a child of this process that goes on here with `Ok(None)`; the parent gets its id.
/// For a process 1 that becomes an init.
///
/// # Errors
/// fork(2)'s, and `EDEADLK` where another thread is alive.
pub fn fork() -> io::Result<Option<Pid>> {
    alone()?;
    // SAFETY: there is no other thread, so the child's copy of every lock is free.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// Makes a child that does this, and ends unless it executes something first. Until either, it uses this
/// process's memory, and this process stands still (clone(2), `CLONE_VM` and `CLONE_VFORK`): no page is copied.
/// What it changes there stays changed. Descriptors, signals and the directory are its own.
///
/// # Errors
/// clone(2)'s, and `EDEADLK` where another thread is alive.
pub fn lend(run: impl FnOnce()) -> io::Result<Pid> {
    extern "C" fn start<F: FnOnce()>(run: *mut libc::c_void) -> libc::c_int {
        // SAFETY: it points to `run` below, whose function stands still, and nobody else takes it.
        if let Some(run) = unsafe { (*run.cast::<Option<F>>()).take() } {
            run();
        }
        exit_now(125)
    }
    fn pass<F: FnOnce()>(run: &mut Option<F>) -> io::Result<Pid> {
        alone()?;
        let (prot, kind) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let stack = unsafe { libc::mmap(std::ptr::null_mut(), STACK, prot, kind, -1, 0) };
        if stack == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: the child has a stack of its own, whose end is aligned as a page is. It is the only one
        // that runs in this memory until it ends or executes something, and it never returns from `start`,
        // across which no panic goes (an `extern "C"` function aborts).
        let pid = unsafe {
            let top = stack.cast::<u8>().add(STACK).cast();
            libc::clone(start::<F>, top, flags, (&raw mut *run).cast())
        };
        let result = Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(io::Error::last_os_error);
        // SAFETY: the child is gone from this memory.
        unsafe { libc::munmap(stack, STACK) };
        result
    }
    pass(&mut Some(run))
}

/// Bytes; of those only what is used is ever there.
const STACK: usize = 256 << 10;

/// Ends this process without running any exit handler.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Makes sure that this process has one thread only: else unshare(2) refuses this flag, which
/// changes nothing. A thread that was joined is still there for a moment: what wakes its
/// joiner comes before its end (clone(2), CLONE_CHILD_CLEARTID).
fn alone() -> io::Result<()> {
    for _ in 0..1000 {
        // SAFETY: of a process with one thread it changes nothing, and of others it fails.
        if unsafe { libc::unshare(libc::CLONE_THREAD) } == 0 {
            return Ok(());
        }
        // A filter may forbid all of unshare(2): then the task directory has one link besides
        // `.` and `..` (proc(5)).
        if io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
            && rustix::fs::stat("/proc/self/task")?.st_nlink == 3
        {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Err(io::Error::from_raw_os_error(libc::EDEADLK))
}

impl Child {
    /// A child of this process by its id.
    ///
    /// # Errors
    /// pidfd_open(2)'s.
    pub fn of(pid: Pid) -> io::Result<Self> {
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        Ok(Self { pid, pidfd })
    }

    /// Its process id in this process's namespace.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// `ESRCH` when it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        self::signal(self.pidfd.as_fd(), signal)
    }

    /// Waits for its end, and takes it.
    ///
    /// # Errors
    /// waitid(2)'s.
    pub fn wait(&self) -> io::Result<Status> {
        loop {
            match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED)
            {
                Ok(Some(status)) => {
                    return Ok(match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => Status::Exited(code as u8),
                        (None, signal) => Status::Signalled(signal.unwrap_or(0) as u8),
                    });
                }
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Readable when the child has ended.
impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Sends a signal, real-time ones too, to the process that a pidfd refers to
/// (pidfd_send_signal(2), Linux 5.1).
///
/// # Errors
/// `ESRCH` when it has ended.
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: plain system call with scalars and a null siginfo.
    let sent =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, 0, 0) };
    if sent == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Moves this process into new namespaces.
///
/// # Errors
/// unshare(2)'s.
pub fn unshare(flags: rustix::thread::UnshareFlags) -> io::Result<()> {
    if flags.contains(rustix::thread::UnshareFlags::FILES) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the descriptor table stays shared, so no descriptor's owner is misled.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Moves this process into these namespaces of the process that a pidfd refers to, all or none
/// (setns(2), Linux 5.8).
///
/// # Errors
/// The system call's; `ESRCH` where that process has ended.
pub fn enter(pidfd: BorrowedFd<'_>, namespaces: Namespaces) -> io::Result<()> {
    // SAFETY: plain system call with scalars.
    match unsafe { libc::setns(pidfd.as_raw_fd(), namespaces.bits() as libc::c_int) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Makes what the command starts be killed when this process dies (prctl(2), PR_SET_PDEATHSIG).
pub fn die_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let parent = rustix::process::getpid();
    let tie = move || {
        let kill = Some(rustix::process::Signal::KILL);
        rustix::process::set_parent_process_death_signal(kill)?;
        // It may have died before.
        match rustix::process::getppid() == Some(parent) {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    };
    // SAFETY: in the forked child it makes two system calls, and allocates nothing.
    unsafe { command.pre_exec(tie) };
}

/// Lets what the command starts hear every signal: one that this process blocks it would block, too
/// (execve(2)).
pub fn unblock(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let unblock = || {
        crate::signals::reset();
        Ok(())
    };
    // SAFETY: in the forked child it makes system calls only, and allocates nothing.
    unsafe { command.pre_exec(unblock) };
}

/// Gives this process a session keyring of this name (keyctl(2), `KEYCTL_JOIN_SESSION_KEYRING`).
///
/// # Errors
/// keyctl(2)'s.
pub fn join_session_keyring(name: &CStr) -> io::Result<()> {
    // SAFETY: a NUL-terminated string that outlives the call.
    let done = unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr())
    };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
