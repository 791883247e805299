//! How a process is scheduled, and what it takes itself to run on.

use std::io;

/// `struct sched_attr` (sched_setattr(2)).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Scheduler {
    size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// -20 to 19.
    pub nice: i32,
    /// 1 to 99.
    pub priority: u32,
    /// Nanoseconds.
    pub runtime: u64,
    /// Nanoseconds.
    pub deadline: u64,
    /// Nanoseconds.
    pub period: u64,
}

/// Schedules this thread so.
///
/// # Errors
/// sched_setattr(2)'s.
pub fn set(mut scheduler: Scheduler) -> io::Result<()> {
    scheduler.size = size_of::<Scheduler>() as u32;
    // SAFETY: a sched_attr of the size that it says, which outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const scheduler, 0) };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The I/O priority of this process: the class in the upper three bits (ioprio_set(2)).
///
/// # Errors
/// The system call's.
pub fn set_io_priority(priority: u16) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: plain system call with scalars.
    let done = unsafe {
        libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, libc::c_int::from(priority))
    };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The execution domain (personality(2)).
///
/// # Errors
/// The system call's.
pub fn set_personality(persona: u32) -> io::Result<()> {
    // SAFETY: plain system call with a scalar.
    match unsafe { libc::personality(persona.into()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Limits another process; `u64::MAX` is no limit (prlimit(2)).
///
/// # Errors
/// `EPERM` where the hard limit would rise without CAP_SYS_RESOURCE in the initial user namespace.
pub fn limit(
    pid: rustix::process::Pid,
    resource: crate::rlimits::Resource,
    soft: u64,
    hard: u64,
) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    let (pid, resource) = (pid.as_raw_nonzero().get(), resource.number());
    // SAFETY: a valid rlimit that outlives the call; the old one is not asked for.
    let done = unsafe { libc::prlimit(pid, resource, &raw const limit, std::ptr::null_mut()) };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
