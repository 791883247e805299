//! User and group id ranges, and how a machine's ids map to the host's.

use serde::{Deserialize, Serialize};

/// `count` ids from `inside` on stand for the ids from `outside` on, as one
/// line of `/proc/PID/uid_map` (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First id inside the user namespace.
    pub inside: u32,
    /// First id in the parent user namespace.
    pub outside: u32,
    /// Length of the range; never 0.
    pub count: u32,
}

/// Whether a machine has a user namespace of its own, and with which map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum IdMapping {
    /// No user namespace: the machine's ids are the launcher's.
    Inherit,
    /// A private user namespace. Written directly where the launcher may (root, or
    /// a single range of its own id), else through newuidmap(1) and newgidmap(1).
    Private {
        /// At least one range.
        uids: Vec<IdRange>,
        /// At least one range.
        gids: Vec<IdRange>,
    },
}
