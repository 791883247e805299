//! `linux.seccomp`.

use serde::{Deserialize, Serialize};

/// A system call filter.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Seccomp {
    /// For a call that no rule matches, with `SCMP_ACT_`.
    pub default_action: String,
    /// Of `SCMP_ACT_ERRNO` and `SCMP_ACT_TRACE`.
    pub default_errno_ret: Option<u32>,
    /// With `SCMP_ARCH_`, besides the native one.
    pub architectures: Vec<String>,
    /// With `SECCOMP_FILTER_FLAG_`.
    pub flags: Vec<String>,
    /// A socket that is sent the descriptor of `SCMP_ACT_NOTIFY`.
    pub listener_path: Option<String>,
    /// Sent along.
    pub listener_metadata: Option<String>,
    /// Rules.
    pub syscalls: Vec<Syscall>,
}

/// Some system calls and what happens to them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Syscall {
    /// Those that an architecture lacks are passed over.
    pub names: Vec<String>,
    /// With `SCMP_ACT_`.
    pub action: String,
    /// Of `SCMP_ACT_ERRNO` and `SCMP_ACT_TRACE`.
    pub errno_ret: Option<u32>,
    /// All must hold.
    pub args: Vec<Argument>,
}

/// A condition on one argument.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Argument {
    /// 0 to 5.
    pub index: u32,
    /// What it is compared with; a mask for `SCMP_CMP_MASKED_EQ`.
    pub value: u64,
    /// For `SCMP_CMP_MASKED_EQ`.
    pub value_two: u64,
    /// With `SCMP_CMP_`.
    pub op: String,
}
