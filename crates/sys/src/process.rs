//! Making processes with clone3(2), executing, and waiting for them by pidfd.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::{Pid, WaitId, WaitIdOptions};

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

/// A small set of named bits.
macro_rules! bitflags {
    ($(#[$doc:meta])* $name:ident: $type:ty { $($(#[$bit_doc:meta])* $bit:ident = $value:expr;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name($type);
        #[allow(dead_code, reason = "not each is asked for its bits")]
        impl $name {
            $($(#[$bit_doc])* pub const $bit: Self = Self($value);)*
            /// None of them.
            pub const NONE: Self = Self(0);
            /// Whether all bits of `other` are set.
            pub fn contains(self, other: Self) -> bool { self.0 & other.0 == other.0 }
            /// Its bits as the kernel has them.
            pub fn bits(self) -> $type { self.0 }
        }
        impl std::ops::BitOr for $name {
            type Output = Self;
            fn bitor(self, other: Self) -> Self { Self(self.0 | other.0) }
        }
        impl std::ops::BitOrAssign for $name {
            fn bitor_assign(&mut self, other: Self) { self.0 |= other.0 }
        }
    };
}
pub(crate) use bitflags;

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

/// What a process id of another namespace is called in this one (ioctl_pidns(2),
/// `NS_GET_TGID_FROM_PIDNS`, Linux 6.11); before that, what `/proc` tells of all processes.
///
/// # Errors
/// `ESRCH` where there is no such process.
pub fn translate(namespace: BorrowedFd<'_>, pid: i32) -> io::Result<i32> {
    // linux/nsfs.h: `_IOR(0xb7, 0x7, int)`. Its argument is the number itself.
    const TGID_FROM_PIDNS: u64 = 0x8004_b707;
    // SAFETY: the argument is a scalar.
    let got = unsafe {
        libc::ioctl(namespace.as_raw_fd(), TGID_FROM_PIDNS as libc::Ioctl, libc::c_long::from(pid))
    };
    match got {
        -1 => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOTTY) => look_up(namespace, pid),
            error => Err(error),
        },
        got => Ok(got),
    }
}

/// By `NSpid` (proc_pid_status(5)): one number for each namespace, innermost last. Whose parents lie
/// deeper in this one is passed over.
fn look_up(namespace: BorrowedFd<'_>, pid: i32) -> io::Result<i32> {
    let wanted = rustix::fs::fstat(namespace)?;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(status) = std::fs::read_to_string(format!("/proc/{id}/status")) else { continue };
        let Some(line) = status.lines().find_map(|line| line.strip_prefix("NSpid:")) else {
            continue;
        };
        if line.split_ascii_whitespace().next_back() != Some(&pid.to_string()) {
            continue;
        }
        let theirs = rustix::fs::stat(format!("/proc/{id}/ns/pid"));
        if theirs.is_ok_and(|theirs| theirs.st_ino == wanted.st_ino) {
            return Ok(id);
        }
    }
    Err(io::Error::from_raw_os_error(libc::ESRCH))
}

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

/// Readable when the child has ended.
impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Strings for [`execve`], made before a clone.
#[derive(Debug)]
pub struct Strings {
    owned: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Strings {
    /// # Errors
    /// Gives back the string that contains a NUL byte.
    pub fn new<'a>(strings: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let owned = strings
            .into_iter()
            .map(|s| CString::new(s).map_err(|_| s.to_owned()))
            .collect::<Result<Vec<_>, _>>()?;
        let pointers =
            owned.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect();
        Ok(Self { owned, pointers })
    }

    /// The first string.
    pub fn first(&self) -> Option<&CStr> {
        self.owned.first().map(CString::as_c_str)
    }
}

/// Replaces this process by the program at `path`. Returns only on failure.
pub fn execve(path: &CStr, args: &Strings, env: &Strings) -> io::Error {
    // SAFETY: both arrays end with a null pointer and point to strings that `Strings` owns.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Replaces this process by the program behind a descriptor, which stays open in
/// it unless it is close-on-exec. Returns only on failure.
pub fn fexecve(program: BorrowedFd<'_>, args: &Strings, env: &Strings) -> io::Error {
    // SAFETY: as in `execve`; the empty path with AT_EMPTY_PATH means the descriptor itself.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            args.pointers.as_ptr(),
            env.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Replaces this process by a program that is looked for along `PATH`, with the environment as it
/// is (execvp(3)). Returns only on failure.
pub fn execvp(program: &OsStr, args: &[OsString]) -> io::Error {
    use std::os::unix::ffi::OsStrExt;
    let owned: Result<Vec<CString>, _> = args.iter().map(|a| CString::new(a.as_bytes())).collect();
    let (Ok(owned), Ok(program)) = (owned, CString::new(program.as_bytes())) else {
        return io::ErrorKind::InvalidInput.into();
    };
    let pointers: Vec<_> =
        owned.iter().map(|a| a.as_ptr()).chain(std::iter::once(std::ptr::null())).collect();
    // SAFETY: the array ends with a null pointer and points to strings that live until here.
    unsafe { libc::execvp(program.as_ptr(), pointers.as_ptr()) };
    io::Error::last_os_error()
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

/// Lets what the command starts inherit these descriptors, under the numbers that they have here. They
/// are closed here with the command.
pub fn hand_over(command: &mut std::process::Command, descriptors: Vec<OwnedFd>) {
    use std::os::unix::process::CommandExt;
    let keep = move || descriptors.iter().try_for_each(|one| inherit(one.as_raw_fd()));
    // SAFETY: in the forked child it makes system calls only, and allocates nothing.
    unsafe { command.pre_exec(keep) };
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

/// Children of a process that has one thread (proc_pid_task(5), `children`); none where it has ended.
#[must_use]
pub fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let text = text.unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|id| id.parse().ok()).collect()
}

/// Ends this process without running any exit handler.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(i32::from(code)) }
}

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

/// Changes a variable of this process's environment, and of what it executes; `None` removes it.
///
/// # Errors
/// `EDEADLK` where another thread is alive, which could be reading it; `EINVAL` for a name or value that
/// cannot be (setenv(3)).
pub fn set_environment(
    name: impl AsRef<OsStr>,
    value: Option<impl AsRef<OsStr>>,
) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    alone()?;
    let (name, value) = (name.as_ref(), value.as_ref().map(AsRef::as_ref));
    let holds_nul = |text: &OsStr| text.as_bytes().contains(&0);
    let bad = name.is_empty() || name.as_bytes().contains(&b'=') || holds_nul(name);
    if bad || value.is_some_and(holds_nul) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: there is no other thread.
    unsafe {
        match value {
            Some(value) => std::env::set_var(name, value),
            None => std::env::remove_var(name),
        }
    }
    Ok(())
}

/// Removes every variable of this process's environment.
///
/// # Errors
/// `EDEADLK` where another thread is alive, which could be reading it.
pub fn clear_environment() -> io::Result<()> {
    alone()?;
    // SAFETY: there is no other thread.
    match unsafe { libc::clearenv() } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives the memory of this program's code back to the page cache. What is executed from here
/// on comes back as it is needed: for a process that has little left to do.
///
/// # Errors
/// Where `/proc` cannot be read, and madvise(2)'s.
pub fn release_code() -> io::Result<()> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    for (start, end) in maps.lines().filter_map(code) {
        let length = end.saturating_sub(start);
        // SAFETY: a private mapping of a file that is never writable holds nothing but the
        // file's content, and that is what its pages come back with (MADV_DONTNEED).
        let done = unsafe {
            libc::madvise(std::ptr::without_provenance_mut(start), length, libc::MADV_DONTNEED)
        };
        if done == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The addresses of a line of `/proc/PID/maps` (proc(5)), where that is code from a file.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, mode, inode) = (fields.next()?, fields.next()?, fields.nth(2)?);
    let (start, end) = range.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    if mode != "r-xp" || inode == "0" {
        return None;
    }
    Some((number(start)?, number(end)?))
}

/// A text of the kernel's, whose size nobody knows before: in as few reads as there are pages of it.
///
/// # Errors
/// open(2)'s and read(2)'s; `InvalidData` where it is not UTF-8.
pub fn read_proc(path: impl AsRef<std::path::Path>) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut text = vec![0; 1 << 14];
    let mut length = 0;
    loop {
        match file.read(&mut text[length..])? {
            0 => break,
            read => length += read,
        }
        if length == text.len() {
            text.resize(2 * length, 0);
        }
    }
    text.truncate(length);
    String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Start time of a process in clock ticks since boot: field 22 of `/proc/PID/stat`
/// (proc(5)). With the id it names a process for ever.
///
/// # Errors
/// `ENOENT` or `ESRCH` where there is no such process, or it has ended and only waits for
/// its parent to hear of that.
pub fn start_time(pid: Pid) -> io::Result<u64> {
    // The kernel makes the whole line for the first read. The name before it, of any bytes, has at
    // most 64 (proc_pid_stat(5)), so that the 22nd field is in here.
    let mut buffer = [0; 1024];
    let length = File::open(format!("/proc/{}/stat", pid.as_raw_nonzero()))?.read(&mut buffer)?;
    let after_name = buffer[..length].rsplit(|byte| *byte == b')').next().unwrap_or_default();
    let numbers = str::from_utf8(after_name).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut fields = numbers.split_ascii_whitespace();
    if matches!(fields.next(), Some("Z" | "X")) {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    fields
        .nth(18)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_given_back() {
        let of_file = "7f00-7fa0 r-xp 00001000 fe:00 77 /usr/bin/postroj";
        assert_eq!(code(of_file), Some((0x7f00, 0x7fa0)));
        for line in [
            "7f00-7fa0 r--p 00001000 fe:00 77 /usr/bin/postroj",
            "7f00-7fa0 rw-p 00001000 fe:00 77 /usr/bin/postroj",
            "7f00-7fa0 rwxp 00001000 fe:00 77 /usr/bin/postroj",
            "7ffd-7fff r-xp 00000000 00:00 0 [vdso]",
            "",
        ] {
            assert_eq!(code(line), None, "{line}");
        }
        release_code().unwrap();
        assert_eq!(code(of_file), Some((0x7f00, 0x7fa0)), "and runs on");
    }
}
