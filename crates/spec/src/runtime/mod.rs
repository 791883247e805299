//! `config.json` of a bundle, and the state that a runtime tells: the words of the OCI runtime
//! specification 1.2 (opencontainers/runtime-spec, `config.md`, `config-linux.md`, `runtime.md`).
//! What Linux has no use for is passed over, as the specification asks for unknown properties.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

mod linux;
mod resources;
mod seccomp;

pub use linux::*;
pub use resources::*;
pub use seccomp::*;

/// The version that is implemented.
pub const VERSION: &str = "1.2.0";

/// A container's configuration.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    /// SemVer of the specification it was written for.
    pub oci_version: String,
    /// What runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The root file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// UTS host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// UTS domain name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domainname: Option<String>,
    /// In this order.
    pub mounts: Vec<Mount>,
    /// Programs that are run at points of the container's life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    /// Told in the state.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What only Linux has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linux: Option<Linux>,
}

/// Why a configuration is none.
#[derive(Debug)]
pub struct Invalid(pub String);

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}

impl Config {
    /// Reads it. `null` is what programs in Go write for what is not there.
    ///
    /// # Errors
    /// Where it is no JSON, or a property has another type than the specification says.
    pub fn parse(text: &[u8]) -> Result<Self, Invalid> {
        // Serde would read the properties of a list, too, in the order in which they stand here.
        match text.trim_ascii_start().first() {
            Some(b'{') => parse(text),
            _ => Err(Invalid("it is no object".into())),
        }
    }
}

/// Reads any of these types, with `null` for what is not there.
///
/// # Errors
/// As [`Config::parse`].
pub fn parse<T: serde::de::DeserializeOwned>(text: &[u8]) -> Result<T, Invalid> {
    if let Ok(read) = serde_json::from_slice(text) {
        return Ok(read);
    }
    let mut value: serde_json::Value =
        serde_json::from_slice(text).map_err(|error| Invalid(error.to_string()))?;
    without_nulls(&mut value);
    serde_json::from_value(value).map_err(|error| Invalid(error.to_string()))
}

fn without_nulls(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(without_nulls);
        }
        serde_json::Value::Array(elements) => elements.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// The root file system.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Root {
    /// Relative to the bundle.
    pub path: String,
    /// Cannot be written.
    pub readonly: bool,
}

/// What runs.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    /// It has a terminal.
    pub terminal: bool,
    /// The terminal's size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<ConsoleSize>,
    /// Who it is.
    pub user: User,
    /// The command and its arguments.
    pub args: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// Absolute path inside.
    pub cwd: String,
    /// Each set by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// The no_new_privs attribute.
    pub no_new_privileges: bool,
    /// Of AppArmor, where the host has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apparmor_profile: Option<String>,
    /// Between -1000 and 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i64>,
    /// sched_setattr(2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// Of SELinux, where the host has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selinux_label: Option<String>,
    /// ioprio_set(2).
    #[serde(rename = "ioPriority", skip_serializing_if = "Option::is_none")]
    pub io_priority: Option<IoPriority>,
}

/// Characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct ConsoleSize {
    /// Rows.
    pub height: u16,
    /// Columns.
    pub width: u16,
}

/// Who a process is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// File mode creation mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// Supplementary group ids inside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
}

/// Names with `CAP_`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
#[expect(missing_docs, reason = "capabilities(7) has the five sets by these names")]
pub struct Capabilities {
    pub bounding: Vec<String>,
    pub effective: Vec<String>,
    pub inheritable: Vec<String>,
    pub permitted: Vec<String>,
    pub ambient: Vec<String>,
}

/// A resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Rlimit {
    /// With `RLIMIT_`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Hard limit; `u64::MAX` is unlimited.
    pub hard: u64,
    /// Soft limit.
    pub soft: u64,
}

/// sched_setattr(2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Scheduler {
    /// Such as `SCHED_OTHER`.
    pub policy: String,
    /// For `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// For `SCHED_FIFO` and `SCHED_RR`.
    pub priority: i32,
    /// With `SCHED_FLAG_`.
    pub flags: Vec<String>,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub runtime: u64,
    /// Nanoseconds.
    pub deadline: u64,
    /// Nanoseconds.
    pub period: u64,
}

/// ioprio_set(2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct IoPriority {
    /// With `IOPRIO_CLASS_`.
    pub class: String,
    /// 0 is the highest, 7 the lowest.
    pub priority: i32,
}

/// One mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    /// Absolute path inside.
    pub destination: String,
    /// As in `/proc/filesystems`; passed over for bind mounts.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// A device, a path relative to the bundle, or a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Of mount(8), and more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Ids as they are shown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    /// The same for groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdMapping>,
}

/// Programs, in the order in which their time comes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// After the namespaces were made, in the runtime's. Deprecated.
    pub prestart: Vec<Hook>,
    /// The same.
    pub create_runtime: Vec<Hook>,
    /// In the container's namespaces, before its root is entered.
    pub create_container: Vec<Hook>,
    /// In the container, before its process is executed.
    pub start_container: Vec<Hook>,
    /// After that, in the runtime's namespaces.
    pub poststart: Vec<Hook>,
    /// After the container was deleted.
    pub poststop: Vec<Hook>,
}

/// One program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Hook {
    /// Absolute path.
    pub path: String,
    /// With the program's name as the first.
    pub args: Vec<String>,
    /// All of its environment.
    pub env: Vec<String>,
    /// Seconds.
    pub timeout: Option<i64>,
}

/// What hooks read, and `state` prints.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The specification's version.
    pub oci_version: String,
    /// The container's.
    pub id: String,
    /// Where it is in its life.
    pub status: Status,
    /// Of its first process, in the runtime's namespace; 0 where there is none.
    pub pid: i32,
    /// Absolute path of the bundle.
    pub bundle: String,
    /// Those of the configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is being made.
    Creating,
    /// It waits to be started.
    Created,
    /// Its process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its process has ended.
    Stopped,
}

impl Status {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_what_is_not_there() {
        let text = br#"{"ociVersion":"1.0.2","mounts":null,"process":{"args":["a"],"env":null,"cwd":"/","user":{"uid":1,"gid":2,"additionalGids":null}},"linux":{"namespaces":[{"type":"time"}],"devices":null}}"#;
        let config = Config::parse(text).unwrap();
        assert_eq!(config.process.unwrap().user.uid, 1);
        assert_eq!(config.linux.unwrap().namespaces[0].kind, NamespaceKind::Time);
    }

    #[test]
    fn another_type_is_refused() {
        for text in ["", "[]", r#"{"mounts":{}}"#, r#"{"process":{"args":"a"}}"#] {
            assert!(Config::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Config::parse(br#"{"linux":{"namespaces":[{"type":"moon"}]}}"#).is_err());
    }
}
