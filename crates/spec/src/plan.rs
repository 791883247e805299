//! What exactly to run: the second waist of the design. Pure data, in the words of
//! the OCI runtime-spec 1.2 where it has them.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::boot::{Boot, RuntimeFile};
use crate::bypass::Bypass;
use crate::ids::IdMapping;
use crate::network::Attachment;

/// Everything an engine needs to know. It holds no handle and no secret of the launcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// 64 lower-case hex digits, unique.
    pub id: String,
    /// The machine's name, unique among the running ones of this user.
    pub name: String,
    /// The engine that carries it out, by its name; empty for the default one.
    #[serde(default)]
    pub isolation: String,
    /// What a machine with a kernel of its own is made of.
    #[serde(default)]
    pub own_kernel: Option<OwnKernel>,
    /// The root file system.
    pub root: Root,
    /// User namespace.
    pub ids: IdMapping,
    /// Network namespace.
    pub network: Network,
    /// Sockets of the host's network are put in the place of the machine's own.
    #[serde(default)]
    pub bypass: Option<Bypass>,
    /// UTS host name.
    pub hostname: String,
    /// Files that the launcher supplies, such as `/etc/hosts`.
    pub files: Vec<File>,
    /// What runs programs that are for another processor than the host's.
    #[serde(default)]
    pub emulation: Option<Emulation>,
    /// Mounted in this order, after the root.
    pub mounts: Vec<Mount>,
    /// Device nodes in `/dev`.
    pub devices: Vec<String>,
    /// Paths hidden under `/dev/null` or an empty directory; those that do not exist are passed over.
    pub masked_paths: Vec<String>,
    /// Paths made read-only; those that do not exist are passed over.
    pub readonly_paths: Vec<String>,
    /// What is made after the mounts, parents first.
    pub runtime: Vec<RuntimeFile>,
    /// How the system that is booted is spoken to; `None` where only a command runs.
    pub boot: Option<Boot>,
    /// What runs.
    pub process: Process,
    /// Machines are made inside of it.
    #[serde(default)]
    pub nested: bool,
    /// Control group limits.
    pub limits: Limits,
    /// The record of the machine stays after its end, until it is removed.
    pub keep: bool,
    /// Seconds after which the machine is killed.
    pub timeout: Option<u64>,
}

impl Plan {
    /// Gives the machine another host name, wherever it is told of it.
    pub fn set_hostname(&mut self, hostname: &str) {
        for file in self.files.iter_mut().filter(|file| HOSTNAME_FILES.contains(&&*file.name)) {
            file.content = file.content.replace(&self.hostname, hostname);
        }
        let (old, new) = (format!("HOSTNAME={}", self.hostname), format!("HOSTNAME={hostname}"));
        self.process.env.iter_mut().filter(|entry| **entry == old).for_each(|e| *e = new.clone());
        self.hostname = hostname.to_owned();
    }
}

impl Plan {
    /// The same machine once more, beside this one: with other ids, names and address, and without
    /// what only one can have (published ports).
    #[must_use]
    pub fn another(&self, id: &str, ids: IdMapping, name: &str, hostname: &str) -> Self {
        let mut plan = Self { id: id.to_owned(), ids, name: name.to_owned(), ..self.clone() };
        for file in &mut plan.files {
            match &*file.name {
                "machine-id" => file.content = file.content.replace(&self.id[..32], &id[..32]),
                // The addresses that it had, which are added anew.
                "hosts" => {
                    let own = |line: &&str| {
                        let mut words = line.split_ascii_whitespace().skip(1);
                        words.next() != Some(&*self.hostname)
                    };
                    let lines = file.content.lines().filter(own);
                    file.content = lines.map(|line| format!("{line}\n")).collect();
                }
                _ => {}
            }
        }
        plan.set_hostname(hostname);
        if let Network::Attached(attachment) = &mut plan.network {
            attachment.ports.clear();
            (attachment.ip, attachment.mac) = (None, None);
        }
        plan.bypass.iter_mut().for_each(|bypass| bypass.ports.clear());
        plan
    }
}

/// What a machine with a kernel of its own is made of, as files of the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnKernel {
    /// Absolute path of the kernel.
    pub kernel: String,
    /// Absolute path of its first root, which holds this program.
    pub initramfs: String,
    /// Absolute path of a file system (EROFS) with the image's files.
    pub image: String,
    /// Which ids of the host those are that files of the host's have in the machine.
    pub ids: IdMapping,
}

/// Files of `/etc` that tell a machine's host name.
pub const HOSTNAME_FILES: [&str; 2] = ["hostname", "hosts"];

/// The root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Root {
    /// Layers under a throw-away upper layer in memory.
    Overlay {
        /// Absolute paths, lowest first; where there is none, it starts out empty.
        layers: Vec<String>,
        /// Symbolic links to be made in it: names, and where they lead.
        links: Vec<(String, String)>,
        /// Seen read-only.
        read_only: bool,
    },
    /// A directory that is changed in place: for baking.
    Directory {
        /// Absolute path.
        path: String,
    },
}

/// Network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The launcher's.
    Host,
    /// A new one with a loopback device that is up.
    Loopback,
    /// A new one that is also attached to something.
    Attached(Attachment),
    /// One that is there.
    Joined {
        /// Path of its file (namespaces(7)).
        path: String,
    },
}

impl Plan {
    /// Whether what runs makes control groups of its own, and needs a hierarchy (v2) that it may write.
    #[must_use]
    pub fn manages_control_groups(&self) -> bool {
        self.mounts.iter().any(|mount| matches!(mount.kind, MountKind::Cgroup { managed: true }))
    }
}

impl Network {
    /// Whether the machine gets a namespace of its own.
    #[must_use]
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Loopback | Self::Attached(_))
    }
}

/// An emulator that the kernel starts by itself, in this machine only (binfmt_misc in a user
/// namespace, Linux 6.7, commit 21ca59b365c0).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emulation {
    /// What is emulated, in OCI's words.
    pub architecture: String,
    /// What is written to binfmt_misc's `register`; it names a program of the host's.
    pub registration: String,
}

/// A file that the launcher supplies in a throw-away root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// File name in `/etc`.
    pub name: String,
    /// Content.
    pub content: String,
    /// Permission bits.
    pub mode: u32,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside; made where it is missing.
    pub target: String,
    /// What is mounted.
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A new instance of a kernel file system.
    Filesystem {
        /// As in `/proc/filesystems`.
        fstype: String,
        /// Options for the file system, comma-separated (mount(2)'s `data`).
        data: String,
        /// Attributes of the mount.
        attributes: Attributes,
    },
    /// A path of the launcher.
    Bind {
        /// Absolute path.
        source: String,
        /// With what is mounted below it.
        recursive: bool,
        /// Made as a directory where it is missing.
        create_source: bool,
        /// Attributes of the mount.
        attributes: Attributes,
    },
    /// A launcher's file system, or an image, under a throw-away layer of its own.
    Overlay {
        /// Absolute paths, lowest first.
        layers: Vec<String>,
        /// Cannot be written.
        #[serde(default)]
        read_only: bool,
    },
    /// The machine's own view of its control groups.
    Cgroup {
        /// A v2 hierarchy for the machine to manage, whatever the host's layout.
        managed: bool,
    },
}

/// Mount attributes (mount_setattr(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attributes {
    /// Cannot be written.
    pub read_only: bool,
    /// Set-user-id bits have no effect.
    pub nosuid: bool,
    /// Device nodes cannot be opened.
    pub nodev: bool,
    /// Nothing can be executed.
    pub noexec: bool,
}

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The command and its arguments; a command without a slash is looked up in `PATH` of `env`.
    pub args: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// Absolute path; made where it is missing.
    pub cwd: String,
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Supplementary group ids inside.
    pub groups: Vec<u32>,
    /// A pseudo-terminal of its own as standard streams and `/dev/console`.
    pub terminal: bool,
    /// Standard input is the launcher's; else `/dev/null` (where there is no terminal).
    pub stdin: bool,
    /// Capability names without `CAP_`, upper-case.
    pub capabilities: Vec<String>,
    /// Resource limits, by lower-case name without `RLIMIT_`.
    pub rlimits: Vec<Rlimit>,
    /// The no_new_privs attribute (prctl(2)).
    pub no_new_privileges: bool,
    /// System call filter.
    pub seccomp: Option<Seccomp>,
    /// A small init as process 1.
    pub init: bool,
}

/// A resource limit; `u64::MAX` is unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Such as `nofile`.
    pub name: String,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// A system call filter in the words of the runtime-spec's `linux.seccomp`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Seccomp {
    /// For a system call that no rule matches.
    pub default: SeccompAction,
    /// The first matching rule of a system call decides.
    pub rules: Vec<SeccompRule>,
}

/// What happens to a matching call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SeccompAction {
    /// It is made.
    Allow,
    /// It fails with this errno; 0 makes it succeed without effect.
    Errno(u16),
    /// The process is killed.
    Kill,
}

/// Some system calls and what happens to them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SeccompRule {
    /// Names; those that the architecture lacks are passed over.
    pub names: Vec<Cow<'static, str>>,
    /// What happens.
    pub action: SeccompAction,
    /// All must hold.
    pub conditions: Vec<SeccompCondition>,
}

/// `(argument & mask) == value`, or its opposite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SeccompCondition {
    /// Index, 0 to 5.
    pub argument: u8,
    /// Bits that are looked at.
    pub mask: u64,
    /// What they are compared with.
    pub value: u64,
    /// Holds where they differ.
    pub not: bool,
}

/// Control group limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory, without swap.
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    pub milli_cpus: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

impl Limits {
    /// Whether anything is limited.
    pub fn any(&self) -> bool {
        self.memory.is_some() || self.milli_cpus.is_some() || self.pids.is_some()
    }
}
