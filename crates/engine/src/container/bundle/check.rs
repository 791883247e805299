//! What a configuration must not say: because it contradicts itself, or because this host cannot do
//! it. Nothing of that is passed over in silence.

use std::path::Path;

use anyhow::{Result, bail};
use spec::runtime::{Config, Linux, NamespaceKind, Process};

use super::mounts;

pub(super) fn check(config: &Config) -> Result<()> {
    version(&config.oci_version)?;
    if let Some(process) = &config.process {
        self::process(process)?;
    }
    if config.root.as_ref().is_none_or(|root| root.path.is_empty()) {
        bail!("config.json has no root.path");
    }
    if let Some(mount) = config.mounts.iter().find(|mount| mount.destination.is_empty()) {
        bail!("a mount of {:?} has no destination", mount.source.as_deref().unwrap_or_default());
    }
    let empty = Linux::default();
    let linux = config.linux.as_ref().unwrap_or(&empty);
    namespaces(config, linux)?;
    for (name, hooks) in config.hooks.iter().flat_map(|hooks| {
        [
            ("prestart", &hooks.prestart),
            ("createRuntime", &hooks.create_runtime),
            ("createContainer", &hooks.create_container),
            ("startContainer", &hooks.start_container),
            ("poststart", &hooks.poststart),
            ("poststop", &hooks.poststop),
        ]
    }) {
        if let Some(hook) = hooks.iter().find(|hook| !hook.path.starts_with('/')) {
            bail!("the {name} hook {:?} has no absolute path", hook.path);
        }
        if hooks.iter().any(|hook| hook.timeout.is_some_and(|seconds| seconds <= 0)) {
            bail!("a {name} hook's timeout is not greater than 0");
        }
    }
    this_linux(linux)
}

fn version(version: &str) -> Result<()> {
    let mut numbers = version.split(['.', '-', '+']);
    match (numbers.next(), numbers.next().map(str::parse::<u32>)) {
        (Some("1"), Some(Ok(_))) => Ok(()),
        _ => bail!("config.json is for version {version:?} of the specification, not for 1.x"),
    }
}

pub(super) fn process(process: &Process) -> Result<()> {
    if process.args.first().is_none_or(String::is_empty) {
        bail!("process.args is empty");
    }
    if !process.cwd.starts_with('/') {
        bail!("process.cwd {:?} is no absolute path", process.cwd);
    }
    if process.oom_score_adj.is_some_and(|adj| !(-1000..=1000).contains(&adj)) {
        bail!("process.oomScoreAdj is not between -1000 and 1000");
    }
    let mut seen = std::collections::BTreeSet::new();
    for limit in &process.rlimits {
        if !seen.insert(&limit.kind) {
            bail!("process.rlimits has {} twice", limit.kind);
        }
    }
    let profile = process.apparmor_profile.as_deref().unwrap_or_default();
    if !profile.is_empty()
        && profile != "unconfined"
        && !std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.starts_with('Y'))
    {
        bail!("process.apparmorProfile is {profile:?}, but this host has no AppArmor");
    }
    let label = process.selinux_label.as_deref().unwrap_or_default();
    if !label.is_empty() && !has_selinux() {
        bail!("process.selinuxLabel is {label:?}, but this host has no SELinux");
    }
    Ok(())
}

pub(super) fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

fn namespaces(config: &Config, linux: &Linux) -> Result<()> {
    use NamespaceKind::{Ipc, Network, Time, User, Uts};
    let mut seen = Vec::new();
    for namespace in &linux.namespaces {
        if seen.contains(&namespace.kind) {
            bail!("linux.namespaces has {:?} twice", namespace.kind);
        }
        if namespace.path.as_ref().is_some_and(|p| !p.is_empty() && !p.starts_with('/')) {
            bail!("the path of the namespace {:?} is not absolute", namespace.kind);
        }
        let name = match namespace.kind {
            NamespaceKind::Pid => "pid",
            Network => "net",
            NamespaceKind::Mount => "mnt",
            Ipc => "ipc",
            Uts => "uts",
            User => "user",
            NamespaceKind::Cgroup => "cgroup",
            Time => "time",
        };
        if !Path::new("/proc/self/ns").join(name).exists() {
            bail!("this kernel has no {name} namespaces");
        }
        seen.push(namespace.kind);
    }
    let joins = |kind| {
        let find = linux.namespaces.iter().find(|n| n.kind == kind);
        find.is_some_and(|n| n.path.as_deref().is_some_and(|path| !path.is_empty()))
    };
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if given(&config.hostname) && !seen.contains(&Uts) {
        bail!("config.json has a hostname, but no uts namespace for it");
    }
    if given(&config.domainname) && !seen.contains(&Uts) {
        bail!("config.json has a domainname, but no uts namespace for it");
    }
    let mapped = !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty();
    if mapped && !seen.contains(&User) {
        bail!("config.json maps ids, but has no user namespace for that");
    }
    let unmapped = linux.uid_mappings.is_empty() || linux.gid_mappings.is_empty();
    if seen.contains(&User) && !joins(User) && unmapped {
        bail!("config.json has a new user namespace, but no uidMappings or no gidMappings");
    }
    if !linux.time_offsets.is_empty() && (!seen.contains(&Time) || joins(Time)) {
        bail!("config.json has timeOffsets, but no new time namespace for them");
    }
    for name in linux.sysctl.keys() {
        let path = sysctl_path(name);
        let needed = match path.split('/').next() {
            Some("net") => Network,
            Some("fs") if path.starts_with("fs/mqueue/") => Ipc,
            Some("kernel") if is_ipc(&path) => Ipc,
            Some("kernel") if matches!(path.as_str(), "kernel/domainname" | "kernel/hostname") => {
                Uts
            }
            _ => bail!("the sysctl {name} is the host's: no namespace has its own"),
        };
        if !seen.contains(&needed) {
            bail!("the sysctl {name} would be the host's: there is no {needed:?} namespace");
        }
    }
    Ok(())
}

/// ipc_namespaces(7).
fn is_ipc(path: &str) -> bool {
    let name = path.strip_prefix("kernel/").unwrap_or_default();
    matches!(name, "sem" | "sem_next_id" | "msg_next_id" | "shm_next_id" | "auto_msgmni")
        || (name.starts_with("msgm") || name.starts_with("shm"))
}

/// With slashes: where the first separator is a dot, dots separate (sysctl(8)).
pub(super) fn sysctl_path(name: &str) -> String {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'.') => name.chars().map(swap).collect(),
        _ => name.to_owned(),
    }
}

fn this_linux(linux: &Linux) -> Result<()> {
    if let Some(propagation) = &linux.rootfs_propagation
        && !propagation.is_empty()
        && mounts::propagation(propagation).is_none()
    {
        bail!(
            "linux.rootfsPropagation {propagation:?} is none of shared, slave, private, unbindable"
        );
    }
    for path in linux.masked_paths.iter().chain(&linux.readonly_paths) {
        if !path.starts_with('/') {
            bail!("the masked or read-only path {path:?} is not absolute");
        }
    }
    if linux.intel_rdt.is_some() && !Path::new("/sys/fs/resctrl/schemata").exists() {
        bail!("linux.intelRdt is set, but this host has no resctrl file system");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls_with_dots_and_slashes() {
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.x"), "net/ipv4/conf/eth0.1/x");
        assert_eq!(sysctl_path("net/ipv4/conf/eth0.1/x"), "net/ipv4/conf/eth0.1/x");
    }

    #[test]
    fn only_version_1_is_read() {
        for good in ["1.0.0", "1.0.2-dev", "1.2.0", "1.0.0-rc5"] {
            version(good).unwrap();
        }
        for bad in ["", "2.0.0", "0.9", "1", "one"] {
            assert!(version(bad).is_err(), "{bad}");
        }
    }
}
