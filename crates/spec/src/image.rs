//! An image as the store knows it: the first waist of the design.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where one image came from, what it consists of, and what is known of its system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Lower-case hex SHA-256 of the configuration that made it; names the record.
    pub id: String,
    /// Layer ids in the store, lowest first.
    pub layers: Vec<String>,
    /// The OCI image configuration's runtime half.
    pub config: Config,
    /// What was read from the root file system when it was unpacked.
    pub facts: Facts,
    /// Where it came from.
    pub origin: Origin,
    /// Seconds since the epoch.
    pub created: u64,
    /// Bytes of file content in all layers.
    pub size: u64,
}

/// The `config` object of an OCI image configuration (image-spec 1.1, config.md),
/// with its JSON names. Unknown members are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    /// `user[:group]`, by name or number; empty means root.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `NAME=value` each.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub env: Vec<String>,
    /// Put before the command.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub entrypoint: Vec<String>,
    /// The command where the user gives none.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub cmd: Vec<String>,
    /// Empty means `/`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Signal that stops it, by name or number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Everything else that was there, such as `ExposedPorts` and `Volumes`.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// Docker writes `null` for an empty list.
pub(crate) fn null_is_empty<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// What is known of the system in a root file system.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// The fields of os-release(5); empty where there is no such file.
    pub os_release: BTreeMap<String, String>,
    /// Path of the init program that would boot it, such as `/usr/lib/systemd/systemd`.
    pub init: Option<String>,
    /// What kind of init that is, such as `systemd`; `None` for one that is not known.
    #[serde(default)]
    pub init_kind: Option<String>,
    /// Name of its package manager, such as `apt`.
    pub package_manager: Option<String>,
    /// The architecture in OCI's (Go's) words, such as `amd64`.
    pub architecture: Option<String>,
    /// `/etc/passwd`, so that a user's name needs no look-up at launch.
    pub users: Vec<User>,
    /// `/etc/group`.
    pub groups: Vec<Group>,
}

/// A line of `/etc/passwd` (passwd(5)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Home directory.
    pub home: String,
}

/// A line of `/etc/group` (group(5)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Group name.
    pub name: String,
    /// Group id.
    pub gid: u32,
    /// Names of the users that have it as a supplementary group.
    pub members: Vec<String>,
}

/// Where an image came from, precisely enough to tell whether it is up to date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Origin {
    /// A Debian-like system made from its archive.
    Bootstrap(Bootstrap),
    /// A tar archive.
    Tar {
        /// Absolute path at the time.
        path: String,
        /// `sha256:…` of the file as it was read.
        digest: String,
    },
    /// What was on a disk.
    Disk {
        /// Where: absolute path or address at the time.
        path: String,
        /// What tells its files from what they were before: `sha256:…` of them, or `files:…` of their
        /// names, sizes and times.
        content: String,
        /// The partition that was asked for.
        partition: Option<String>,
    },
    /// A copy of a directory.
    Directory {
        /// Absolute path at the time.
        path: String,
        /// When: nanoseconds since the epoch.
        copied: u64,
    },
    /// What was written in a machine, over the image that it was made of.
    Commit {
        /// That image's id.
        parent: String,
        /// The machine's id.
        machine: String,
        /// When: seconds since the epoch.
        at: u64,
        /// Digest of the layer.
        layer: String,
    },
    /// Packages, installed in a machine of another image by its package manager.
    Provisioned {
        /// That image's id.
        parent: String,
        /// Their names, sorted.
        packages: Vec<String>,
        /// What was run.
        commands: Vec<Vec<String>>,
        /// The id of the image that they ran in, where that is another one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        helper: Option<String>,
    },
    /// An image with a manifest: of a registry, a layout or an archive.
    Oci(Oci),
}

impl Origin {
    /// Digests of the blobs that the store keeps for it.
    pub fn digests(&self) -> Vec<&str> {
        match self {
            Self::Oci(oci) => vec![&oci.manifest, &oci.resolved],
            _ => Vec::new(),
        }
    }
}

/// What an image's manifest said, and how it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Oci {
    /// The reference in full, the place where it was found included.
    pub reference: String,
    /// Digest that the reference stood for: an index's or the manifest's own.
    pub resolved: String,
    /// Digest of the manifest.
    pub manifest: String,
    /// The platform that was asked for, such as `linux/arm64`; `None` for the host's.
    pub platform: Option<String>,
    /// Digests of the unpacked layers, lowest first.
    pub diff_ids: Vec<String>,
}

/// The recorded result of a bootstrap: equal records mean equal package sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Distribution label, such as `debian-12`.
    pub label: String,
    /// Architecture in Debian's words, such as `amd64`.
    pub architecture: String,
    /// One line per suite that was used, as a one-line-style source (sources.list(5)).
    pub sources: Vec<String>,
    /// `sha256:…` of each suite's Release text as signed, in the order of `sources`.
    pub releases: Vec<String>,
    /// `Date` of the newest Release, seconds since the epoch.
    pub snapshot: u64,
    /// What the user asked to have besides the variant's own set.
    pub include: Vec<String>,
    /// `name=version:arch`, sorted.
    pub packages: Vec<String>,
}
