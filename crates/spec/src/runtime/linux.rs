//! `linux` of a configuration, but for resources and the system call filter.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Resources, Seccomp};

/// What only Linux has.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Linux {
    /// Those that are new, or joined; of all others it has the runtime's.
    pub namespaces: Vec<Namespace>,
    /// Of a new user namespace.
    pub uid_mappings: Vec<IdMapping>,
    /// The same for groups.
    pub gid_mappings: Vec<IdMapping>,
    /// Of a new time namespace, by `monotonic` and `boottime`.
    pub time_offsets: BTreeMap<String, TimeOffset>,
    /// Nodes that are made.
    pub devices: Vec<Device>,
    /// The container's control group.
    pub cgroups_path: Option<String>,
    /// What it may use.
    pub resources: Option<Resources>,
    /// `/proc/sys`, with dots or slashes.
    pub sysctl: BTreeMap<String, String>,
    /// The system call filter.
    pub seccomp: Option<Seccomp>,
    /// `shared`, `slave`, `private` or `unbindable`, or the same with an `r` before.
    pub rootfs_propagation: Option<String>,
    /// Hidden.
    pub masked_paths: Vec<String>,
    /// Cannot be written.
    pub readonly_paths: Vec<String>,
    /// SELinux's label for mounts.
    pub mount_label: Option<String>,
    /// resctrl, which few processors have.
    pub intel_rdt: Option<serde_json::Value>,
    /// personality(2).
    pub personality: Option<Personality>,
}

/// A namespace that is new, or joined.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Namespace {
    /// Which.
    #[serde(rename = "type")]
    pub kind: NamespaceKind,
    /// Of the namespace that is joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "namespaces(7) has them by these names")]
pub enum NamespaceKind {
    Pid,
    Network,
    Mount,
    Ipc,
    Uts,
    User,
    Cgroup,
    Time,
}

/// One line of an id map.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IdMapping {
    /// First id inside.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// First id outside.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// time_namespaces(7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct TimeOffset {
    /// Seconds.
    pub secs: i64,
    /// And nanoseconds.
    pub nanosecs: u32,
}

/// A device node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    /// `c`, `b`, `u` or `p`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Absolute path inside.
    pub path: String,
    /// Device number.
    pub major: i64,
    /// Device number.
    pub minor: i64,
    /// Permission bits.
    pub file_mode: Option<u32>,
    /// Owner inside.
    pub uid: Option<u32>,
    /// Group inside.
    pub gid: Option<u32>,
}

/// personality(2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Personality {
    /// `LINUX` or `LINUX32`.
    pub domain: String,
    /// None are defined yet.
    pub flags: Vec<String>,
}
