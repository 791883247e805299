//! Capability sets by name (capabilities(7)).

use std::io;

/// Every capability, at the index that is its number (`linux/capability.h`, Linux 5.9).
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A set of capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Set(u64);

impl Set {
    /// The set of these names, without `CAP_` and upper-case.
    ///
    /// # Errors
    /// Gives back the name that is no capability.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        names.into_iter().try_fold(Self(0), |set, name| {
            let number = NAMES.iter().position(|n| *n == name).ok_or(name)?;
            Ok(Self(set.0 | 1 << number))
        })
    }

    /// The set of these bits, one for each number.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Its bits, one for each number.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// What both sets have.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether the capability of this number is in it.
    pub fn has(self, number: usize) -> bool {
        number < 64 && self.0 & (1 << number) != 0
    }
}

/// What this process may use now: its permitted set.
///
/// # Errors
/// capget(2)'s.
pub fn permitted() -> io::Result<Set> {
    let sets = rustix::thread::capabilities(None)?;
    Ok(Set(sets.permitted.bits()))
}

/// Removes from the bounding set what is not in `keep`, so that no program gains it.
///
/// # Errors
/// prctl(2)'s; a capability that the kernel does not know is passed over (`EINVAL`).
pub fn bound(keep: Set) -> io::Result<()> {
    for number in (0..NAMES.len()).filter(|n| !keep.has(*n)) {
        // SAFETY: PR_CAPBSET_DROP takes one scalar.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } == -1 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EINVAL) {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Makes this the effective and permitted set, and the inheritable one empty: an
/// inheritable capability would survive in a program that ought to lose it (CVE-2022-29162).
///
/// # Errors
/// capset(2)'s.
pub fn set(set: Set) -> io::Result<()> {
    let bits = rustix::thread::CapabilitySet::from_bits_retain(set.0);
    Ok(rustix::thread::set_capabilities(
        None,
        rustix::thread::CapabilitySets {
            effective: bits,
            permitted: bits,
            inheritable: rustix::thread::CapabilitySet::empty(),
        },
    )?)
}

/// The sets of a process, each by itself (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "capabilities(7) has them by these names")]
pub struct Sets {
    pub effective: Set,
    pub permitted: Set,
    pub inheritable: Set,
    pub ambient: Set,
}

/// Makes these the process's sets. What is not permitted now is left out.
///
/// # Errors
/// capset(2)'s and prctl(2)'s.
pub fn set_all(sets: Sets) -> io::Result<()> {
    let bits = |set: Set| rustix::thread::CapabilitySet::from_bits_retain(set.0);
    let permitted = sets.permitted.and(permitted()?);
    let beyond = sets.inheritable.0 & !permitted.0;
    // The question costs a system call for each.
    let gained = if beyond == 0 { 0 } else { beyond & bounding().0 };
    let inheritable = Set(sets.inheritable.0 & permitted.0 | gained);
    rustix::thread::set_capabilities(
        None,
        rustix::thread::CapabilitySets {
            effective: bits(sets.effective.and(permitted)),
            permitted: bits(permitted),
            inheritable: bits(inheritable),
        },
    )?;
    // SAFETY: it takes scalars.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    raise_ambient(sets.ambient)
}

/// Whether a program could gain it.
fn is_bounded(number: usize) -> bool {
    // SAFETY: it takes scalars.
    unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) == 1 }
}

/// The bounding set of this process.
#[must_use]
pub fn bounding() -> Set {
    Set((0..NAMES.len()).filter(|n| is_bounded(*n)).fold(0, |set, n| set | 1 << n))
}

/// The same with an inheritable set that is equal.
///
/// # Errors
/// capset(2)'s.
pub fn set_inheritable(set: Set) -> io::Result<()> {
    let bits = rustix::thread::CapabilitySet::from_bits_retain(set.0);
    Ok(rustix::thread::set_capabilities(
        None,
        rustix::thread::CapabilitySets { effective: bits, permitted: bits, inheritable: bits },
    )?)
}

/// Puts these into the ambient set, by which programs that are executed keep them (prctl(2),
/// `PR_CAP_AMBIENT`). What is not both permitted and inheritable is passed over.
///
/// # Errors
/// prctl(2)'s, but for `EPERM` and `EINVAL`.
pub fn raise_ambient(set: Set) -> io::Result<()> {
    for number in (0..NAMES.len()).filter(|n| set.has(*n)) {
        let raise = libc::PR_CAP_AMBIENT_RAISE;
        // SAFETY: it takes scalars.
        if unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, number, 0, 0) } == -1 {
            let error = io::Error::last_os_error();
            if !matches!(error.raw_os_error(), Some(libc::EPERM | libc::EINVAL)) {
                return Err(error);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_numbers() {
        let set = Set::of(["CHOWN", "SYS_ADMIN", "CHECKPOINT_RESTORE"]).unwrap();
        assert!(set.has(0) && set.has(21) && set.has(40));
        assert!(!set.has(1));
        assert_eq!(Set::of(["NO_SUCH"]), Err("NO_SUCH"));
    }
}
