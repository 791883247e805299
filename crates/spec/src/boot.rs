//! What an init system asks of the machine that it boots, and how it is spoken to: data
//! that `distro` knows of each init, and that plan and engine act upon without knowing any.

use serde::{Deserialize, Serialize};

/// What is needed to start an init, and afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Startup {
    /// Path of the program that becomes process 1, and its arguments.
    pub args: Vec<String>,
    /// `NAME=value`, besides what the image sets.
    pub env: Vec<(String, String)>,
    /// What it finds in its `/run`, parents first.
    pub files: Vec<RuntimeFile>,
    /// How it is spoken to.
    pub boot: Boot,
}

/// How a booted system is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Boot {
    /// The init's name, such as `systemd`.
    pub init: String,
    /// Names of variables that are for the init alone, not for what is run beside it.
    pub own_env: Vec<String>,
    /// It manages control groups, and needs a hierarchy (v2) that it may write.
    pub control_groups: bool,
    /// How it shows that it is up.
    pub ready: Ready,
    /// Signal by which process 1 powers off; a real-time signal as `34 + n`.
    pub power_off: i32,
    /// Signal by which process 1 restarts the system.
    pub reboot: Option<i32>,
    /// Command inside that powers off, where the signal alone does not.
    pub power_off_command: Option<Vec<String>>,
}

/// How a system shows that it is up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Ready {
    /// It does not: it counts as up once its process 1 runs.
    #[default]
    Started,
    /// It sends `READY=1` to a datagram socket (sd_notify(3)), and then tells its state over
    /// D-Bus on a socket of its own (org.freedesktop.systemd1(5), `SystemState`).
    Notify {
        /// Absolute path inside, where the engine binds the socket.
        socket: String,
        /// Absolute path inside of systemd's private D-Bus socket.
        bus: String,
    },
    /// One of these paths appears inside.
    Path(Vec<String>),
    /// One of these programs runs inside, by its `comm` (proc(5)).
    Process(Vec<String>),
}

/// Something in a machine's `/run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeFile {
    /// Absolute path inside.
    pub path: String,
    /// What it is.
    pub kind: RuntimeKind,
}

/// What a [`RuntimeFile`] is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuntimeKind {
    /// A directory with these permission bits.
    Directory(u32),
    /// A regular file.
    Text {
        /// Its content.
        content: String,
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link to this.
    Link(String),
}

impl RuntimeFile {
    /// A directory.
    pub fn directory(path: &str, mode: u32) -> Self {
        Self { path: path.to_owned(), kind: RuntimeKind::Directory(mode) }
    }

    /// A file that everybody may read.
    pub fn text(path: &str, content: impl Into<String>) -> Self {
        let kind = RuntimeKind::Text { content: content.into(), mode: 0o644 };
        Self { path: path.to_owned(), kind }
    }

    /// A symbolic link.
    pub fn link(path: impl Into<String>, target: &str) -> Self {
        Self { path: path.into(), kind: RuntimeKind::Link(target.to_owned()) }
    }
}

/// How a booted system is, as far as it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Not up yet.
    Starting,
    /// Up.
    Running,
    /// Up, but not all of it: what failed.
    Degraded(Vec<String>),
}
