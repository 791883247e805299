//! Which capabilities a process has.

use std::collections::BTreeSet;

use spec::request::Request;
use spec::seccomp::{BOOT_CAPABILITIES, DEFAULT_CAPABILITIES};

use crate::{Launcher, PlanError};

/// The set for a request: the default one or all, less `--cap-drop`, plus `--cap-add`.
pub(crate) fn capabilities(
    request: &Request,
    launcher: &Launcher,
) -> Result<Vec<String>, PlanError> {
    let known: BTreeSet<&str> = launcher.capabilities.iter().map(String::as_str).collect();
    // A whole system's, as whoever makes containers needs them.
    let whole = request.boot.is_some() || request.nested.is_some();
    let usual: &[&str] = if whole { &BOOT_CAPABILITIES } else { &DEFAULT_CAPABILITIES };
    let mut set: BTreeSet<&str> = if request.privileged {
        known.clone()
    } else {
        usual.iter().copied().filter(|c| known.contains(c)).collect()
    };
    // A network of its own is the system's to set up.
    if whole && !request.network.shares() {
        set.insert("NET_ADMIN");
    }
    let has_all = |list: &[String]| list.iter().any(|c| c == "ALL");
    if has_all(&request.cap_drop) {
        set.clear();
    }
    for name in request.cap_drop.iter().filter(|c| *c != "ALL") {
        check(name)?;
        set.remove(name.as_str());
    }
    if has_all(&request.cap_add) {
        set.clone_from(&known);
        request.cap_drop.iter().for_each(|c| {
            set.remove(c.as_str());
        });
    }
    for name in request.cap_add.iter().filter(|c| *c != "ALL") {
        check(name)?;
        if !known.contains(name.as_str()) {
            return Err(PlanError::new(format!("the capability {name} cannot be given"))
                .hint("this host's root does not have it itself"));
        }
        set.insert(name);
    }
    Ok(set.into_iter().map(str::to_owned).collect())
}

fn check(name: &str) -> Result<(), PlanError> {
    if NAMES.contains(&name) {
        return Ok(());
    }
    Err(PlanError::new(format!("unknown capability {name:?}"))
        .hint("capabilities(7) lists them; write NET_ADMIN or CAP_NET_ADMIN"))
}

/// capabilities(7), as of Linux 5.9.
pub(crate) const NAMES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];
