//! The root file system and what is mounted in it.

use spec::ids::IdMapping;
use spec::plan::{Attributes, File, Mount, MountKind, Root};
use spec::request::{MountRequest, Request};

use crate::{HostTree, Launcher, PlanError, RootSource, nested, network, without_userns};

/// Device nodes that every program may expect (runtime-spec 1.2, config-linux.md, "Default Devices").
pub(crate) const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Docker's (moby, `oci/defaults.go`): what would tell of the host, or let it be changed.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Docker's, likewise.
const READONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What programs write to even where the root is read-only; podman's `--read-only-tmpfs`.
const SCRATCH: [(&str, &str); 3] =
    [("/run", "mode=0755"), ("/tmp", "mode=1777"), ("/var/tmp", "mode=1777")];

pub(crate) fn root(request: &Request, source: &RootSource) -> Root {
    match source {
        RootSource::InPlace(path) => Root::Directory { path: path.clone() },
        RootSource::Layers(layers) => {
            let (layers, links) = (layers.clone(), Vec::new());
            Root::Overlay { layers, links, read_only: request.read_only }
        }
        RootSource::Host { mounts } => {
            let (layers, links) = match mounts {
                HostTree::Whole { .. } => (vec!["/".into()], Vec::new()),
                HostTree::Parts { links, .. } => (Vec::new(), links.clone()),
            };
            Root::Overlay { layers, links, read_only: request.read_only }
        }
    }
}

/// The files of `/etc` that are the launcher's to write.
pub(crate) fn files(
    request: &Request,
    source: &RootSource,
    launcher: &Launcher,
    hostname: &str,
) -> Vec<File> {
    let file = |name: &str, content: String, mode| File { name: name.into(), content, mode };
    let hosts = network::hosts(request, launcher, hostname);
    let resolv_conf = network::resolv_conf(request, launcher);
    match source {
        RootSource::InPlace(_) => Vec::new(),
        _ => vec![
            file("hostname", format!("{hostname}\n"), 0o644),
            file("hosts", hosts, 0o644),
            file("resolv.conf", resolv_conf, 0o644),
            file("machine-id", format!("{}\n", &launcher.id[..32]), 0o444),
        ],
    }
}

pub(crate) fn mounts(
    request: &Request,
    source: &RootSource,
    launcher: &Launcher,
    ids: &IdMapping,
) -> Result<Vec<Mount>, PlanError> {
    let mut mounts = Vec::new();
    if let RootSource::Host { mounts: tree } = source {
        let (HostTree::Whole { below: further } | HostTree::Parts { directories: further, .. }) =
            tree;
        mounts.extend(further.iter().map(|path| mount(path, overlay(path))));
    }
    mounts.extend(system(request, launcher, ids));
    let in_place = matches!(source, RootSource::InPlace(_));
    if request.boot.is_some() {
        // What the container interface asks for (systemd.io, "The Container Interface").
        for (path, data) in [("/run", "mode=0755"), ("/tmp", "mode=1777")] {
            mounts.push(mount(path, tmpfs(data, SCRATCH_ATTRIBUTES)));
        }
    } else if request.read_only || in_place || matches!(source, RootSource::Host { .. }) {
        let scratch =
            SCRATCH.iter().filter(|(path, _)| !in_place || *path == "/run" || *path == "/tmp");
        mounts.extend(scratch.map(|(path, data)| mount(path, tmpfs(data, SCRATCH_ATTRIBUTES))));
    }
    mounts.extend(nested::mounts(request, source));
    for wanted in &request.mounts {
        let (target, kind) = requested(wanted);
        // The last one for a target is meant; docker says "duplicate mount point".
        if request.mounts.iter().filter(|m| requested(m).0 == target).count() > 1 {
            return Err(PlanError::new(format!("duplicate mount point {target}")));
        }
        check_target(&target)?;
        mounts.push(mount(&target, kind));
    }
    Ok(mounts)
}

pub(crate) const SCRATCH_ATTRIBUTES: Attributes =
    Attributes { read_only: false, nosuid: true, nodev: true, noexec: false };
const INERT: Attributes = Attributes { read_only: false, nosuid: true, nodev: true, noexec: true };

/// What the kernel itself offers (runtime-spec 1.2, config-linux.md, "Default Filesystems").
fn system(request: &Request, launcher: &Launcher, ids: &IdMapping) -> Vec<Mount> {
    let filesystem = |fstype: &str, data: &str, attributes| MountKind::Filesystem {
        fstype: fstype.into(),
        data: data.into(),
        attributes,
    };
    let mut mounts = vec![mount("/proc", filesystem("proc", "", INERT))];
    let sys = Attributes { read_only: !request.privileged, ..INERT };
    // A user namespace may mount sysfs only together with a network of its own.
    let shares_network = request.network.shares();
    mounts.push(
        if shares_network
            && !(launcher.uid == 0 && launcher.initial_userns && without_userns(request, launcher))
        {
            mount(
                "/sys",
                MountKind::Bind {
                    source: "/sys".into(),
                    recursive: true,
                    create_source: false,
                    attributes: sys,
                },
            )
        } else {
            mount("/sys", filesystem("sysfs", "", sys))
        },
    );
    let dev = Attributes { noexec: false, nodev: false, ..INERT };
    mounts.push(mount("/dev", filesystem("tmpfs", "mode=0755,size=64m", dev)));
    let pts = Attributes { nodev: false, ..INERT };
    let mut options = "newinstance,ptmxmode=0666,mode=0620".to_owned();
    if maps_group(ids, TTY_GROUP) {
        options += &format!(",gid={TTY_GROUP}");
    }
    mounts.push(mount("/dev/pts", filesystem("devpts", &options, pts)));
    mounts.push(mount("/dev/shm", tmpfs("mode=1777,size=64m", INERT)));
    mounts.push(mount("/dev/mqueue", filesystem("mqueue", "", INERT)));
    let managed = request.nested.is_some()
        || request.boot.as_ref().is_some_and(|startup| startup.boot.control_groups);
    let limited =
        request.memory.is_some() || request.milli_cpus.is_some() || request.pids.is_some();
    if managed || limited {
        mounts.push(mount("/sys/fs/cgroup", MountKind::Cgroup { managed }));
    }
    mounts
}

/// The group of terminals: 5 in every distribution (systemd's `TTY_GID`).
const TTY_GROUP: u32 = 5;

fn maps_group(ids: &IdMapping, group: u32) -> bool {
    match ids {
        IdMapping::Inherit => true,
        IdMapping::Private { gids, .. } => {
            gids.iter().any(|r| group >= r.inside && group - r.inside < r.count)
        }
    }
}

pub(crate) fn requested(wanted: &MountRequest) -> (String, MountKind) {
    match wanted {
        MountRequest::Bind { source, target, read_only, recursive, create_source } => (
            normal(target),
            MountKind::Bind {
                source: source.clone(),
                recursive: *recursive,
                create_source: *create_source,
                attributes: Attributes { read_only: *read_only, ..Attributes::default() },
            },
        ),
        MountRequest::Image { layers, target, read_only, .. } => {
            (normal(target), MountKind::Overlay { layers: layers.clone(), read_only: *read_only })
        }
        MountRequest::Tmpfs { target, size, mode, options } => {
            let has = |option: &str| options.iter().any(|o| o == option);
            let mut data = format!("mode={:04o}", mode.unwrap_or(0o1777));
            if let Some(size) = size {
                data += &format!(",size={size}");
            }
            let attributes = Attributes {
                read_only: has("ro"),
                nosuid: !has("suid"),
                nodev: !has("dev"),
                noexec: !has("exec"),
            };
            (normal(target), tmpfs(&data, attributes))
        }
    }
}

/// Without repeated or trailing slashes, so that equal targets are equal texts.
fn normal(target: &str) -> String {
    let parts: Vec<&str> = target.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    format!("/{}", parts.join("/"))
}

fn check_target(target: &str) -> Result<(), PlanError> {
    if target == "/" {
        return Err(PlanError::new("nothing can be mounted on /").hint("give a directory below it"));
    }
    // What a launcher writes to /proc must not be led elsewhere (CVE-2025-52881).
    if target == "/proc" || target.starts_with("/proc/") {
        return Err(PlanError::new(format!(
            "nothing can be mounted on {target}: it is the kernel's"
        ))
        .hint("mount it at another place"));
    }
    if target.split('/').any(|p| p == "..") {
        return Err(PlanError::new(format!("the mount point {target:?} contains ..")));
    }
    if target.contains('\0') {
        return Err(PlanError::new(format!("the mount point {target:?} contains a NUL byte")));
    }
    Ok(())
}

pub(crate) fn devices(request: &Request) -> Vec<String> {
    let further = request.nested.iter().flat_map(|nested| nested.devices.clone());
    DEVICES.iter().map(|d| (*d).to_owned()).chain(further).collect()
}

pub(crate) fn masked(request: &Request) -> Vec<String> {
    paths(request, &MASKED)
}

pub(crate) fn readonly(request: &Request) -> Vec<String> {
    paths(request, &READONLY)
}

fn paths(request: &Request, paths: &[&str]) -> Vec<String> {
    // A new /proc can be mounted only by who sees all of one (Linux, fs/namespace.c,
    // `mount_too_revealing`).
    if request.privileged || request.unmask || request.nested.is_some() {
        return Vec::new();
    }
    paths.iter().map(|p| (*p).to_owned()).collect()
}

pub(crate) fn mount(target: &str, kind: MountKind) -> Mount {
    Mount { target: target.to_owned(), kind }
}

fn overlay(source: &str) -> MountKind {
    MountKind::Overlay { layers: vec![source.to_owned()], read_only: false }
}

pub(crate) fn tmpfs(data: &str, attributes: Attributes) -> MountKind {
    MountKind::Filesystem { fstype: "tmpfs".into(), data: data.to_owned(), attributes }
}
