//! Resource limits by name (setrlimit(2)).

use std::io;

/// Names as in `--ulimit`, with the kernel's numbers.
const RESOURCES: [(&str, libc::__rlimit_resource_t); 16] = [
    ("core", libc::RLIMIT_CORE),
    ("cpu", libc::RLIMIT_CPU),
    ("data", libc::RLIMIT_DATA),
    ("fsize", libc::RLIMIT_FSIZE),
    ("locks", libc::RLIMIT_LOCKS),
    ("memlock", libc::RLIMIT_MEMLOCK),
    ("msgqueue", libc::RLIMIT_MSGQUEUE),
    ("nice", libc::RLIMIT_NICE),
    ("nofile", libc::RLIMIT_NOFILE),
    ("nproc", libc::RLIMIT_NPROC),
    ("rss", libc::RLIMIT_RSS),
    ("rtprio", libc::RLIMIT_RTPRIO),
    ("rttime", libc::RLIMIT_RTTIME),
    ("sigpending", libc::RLIMIT_SIGPENDING),
    ("stack", libc::RLIMIT_STACK),
    ("as", libc::RLIMIT_AS),
];

/// A resource that can be limited.
#[derive(Debug, Clone, Copy)]
pub struct Resource(libc::__rlimit_resource_t);

impl Resource {
    pub(crate) fn number(self) -> libc::__rlimit_resource_t {
        self.0
    }
}

/// The resource of this lower-case name.
pub fn resource(name: &str) -> Option<Resource> {
    RESOURCES.iter().find(|(n, _)| *n == name).map(|(_, number)| Resource(*number))
}

/// Limits this process; `u64::MAX` is no limit.
///
/// # Errors
/// `EPERM` where the hard limit would rise without CAP_SYS_RESOURCE in the initial user namespace.
pub fn set(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: a valid rlimit that outlives the call.
    if unsafe { libc::setrlimit(resource.0, &raw const limit) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
