//! The system call interfaces that a program on this processor can use, and their numbers.

use std::str::FromStr;

/// One system call ABI that a program on this processor can use.
pub(super) struct Abi {
    /// As seccomp profiles name it (libseccomp, `SCMP_ARCH_*`), in upper case.
    pub(super) name: &'static str,
    /// `AUDIT_ARCH_*` (linux/audit.h).
    pub(super) audit: u32,
    pub(super) number: fn(&str) -> Option<u32>,
    /// First number beyond those that this program knows.
    pub(super) end: u32,
}

#[cfg(target_arch = "x86_64")]
pub(super) const ABIS: [Abi; 2] = [
    Abi {
        name: "X86_64",
        audit: 0xC000_003E,
        number: |name| syscalls::x86_64::Sysno::from_str(name).ok().map(|n| n.id() as u32),
        end: syscalls::x86_64::Sysno::last().id() as u32 + 1,
    },
    Abi {
        name: "X86",
        audit: 0x4000_0003,
        number: |name| syscalls::x86::Sysno::from_str(name).ok().map(|n| n.id() as u32),
        end: syscalls::x86::Sysno::last().id() as u32 + 1,
    },
];
#[cfg(target_arch = "aarch64")]
pub(super) const ABIS: [Abi; 2] = [
    Abi {
        name: "AARCH64",
        audit: 0xC000_00B7,
        number: |name| syscalls::aarch64::Sysno::from_str(name).ok().map(|n| n.id() as u32),
        end: syscalls::aarch64::Sysno::last().id() as u32 + 1,
    },
    Abi {
        name: "ARM",
        audit: 0x4000_0028,
        number: |name| syscalls::arm::Sysno::from_str(name).ok().map(|n| n.id() as u32),
        end: syscalls::arm::Sysno::last().id() as u32 + 1,
    },
];
