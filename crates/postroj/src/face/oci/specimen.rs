//! `spec`: a `config.json` to begin with, as runc writes it.

use std::collections::VecDeque;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::words::Words;

pub(super) fn run(args: &mut VecDeque<String>) -> Result<u8> {
    let known = [("bundle", Some('b'), true), ("rootless", None, false)];
    let words = Words::read(args, &known, usize::MAX)?;
    let path = PathBuf::from(words.value("bundle").unwrap_or(".")).join("config.json");
    if path.exists() {
        bail!("{} exists already: remove it first", path.display());
    }
    let text = serde_json::to_string_pretty(&specimen(words.is_set("rootless")))?;
    std::fs::write(&path, text + "\n")
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(0)
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

/// Whether this host has the second version of control groups alone.
fn is_unified() -> bool {
    sys::cgroups::Layout::read().is_ok_and(|layout| layout.legacy.is_empty())
}

fn specimen(rootless: bool) -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    // As runc has it: what is under the first version may be asked for where its groups are.
    let own_groups = ["cgroup"].into_iter().filter(|_| is_unified());
    let kinds = ["pid", "ipc", "uts", "mount"].into_iter().chain(own_groups);
    let mut namespaces: Vec<Value> = kinds.map(|kind| json!({ "type": kind })).collect();
    let ids = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
    let mut linux = json!({
        "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
        "maskedPaths": [
            "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
            "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
        ],
        "readonlyPaths": [
            "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
        ],
    });
    let (pts, sys) = match rootless {
        false => {
            namespaces.push(json!({ "type": "network" }));
            let options =
                ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
            let sys = mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]);
            (mount("/dev/pts", "devpts", "devpts", &options), sys)
        }
        true => {
            namespaces.push(json!({ "type": "user" }));
            linux["uidMappings"] = ids(rustix::process::geteuid().as_raw());
            linux["gidMappings"] = ids(rustix::process::getegid().as_raw());
            linux["resources"] = json!({});
            let options = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
            let sys = ["rbind", "nosuid", "noexec", "nodev", "ro"];
            (mount("/dev/pts", "devpts", "devpts", &options), mount("/sys", "none", "/sys", &sys))
        }
    };
    linux["namespaces"] = Value::Array(namespaces);
    json!({
        "ociVersion": spec::runtime::VERSION,
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "container",
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            pts,
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            sys,
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": linux,
    })
}
