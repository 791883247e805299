//! From `config.json` to a plan for a guest. What only the host's kernel could do is refused, or has no
//! meaning: namespaces, control groups and system call filters keep a container from a kernel that it shares.

use std::path::Path;

use anyhow::{Context, Result, bail};
use engine::state::RunDirectory;
use harness::host::Host;
use plan::RootSource;
use spec::image::{self, Facts};
use spec::network::Mode;
use spec::plan::{Attributes, File, Mount, MountKind, Plan, Rlimit};
use spec::request::{NetworkRequest, Request};
use spec::runtime::{Config, NamespaceKind, Process, Resources};

use super::place::Place;
use crate::face::postroj::own_kernel::{self, Held};

/// A plan, and what its files are held by.
pub(super) struct Prepared {
    pub(super) plan: Plan,
    pub(super) held: Held,
    _host: Host,
}

/// Files of podman's and docker's that tell of the host's side, which a guest has no use for.
const PASSED_OVER: [&str; 3] = ["/dev/shm", "/run/.containerenv", "/run/secrets"];

/// Files that a guest gets a copy of: who mounts them changes them no more.
const COPIED: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// # Errors
/// Names what a virtual machine cannot have.
pub(super) fn check(config: &Config) -> Result<()> {
    let namespaces = config.linux.iter().flat_map(|linux| &linux.namespaces);
    for namespace in namespaces.filter(|namespace| namespace.path.is_some()) {
        if namespace.kind == NamespaceKind::Network {
            bail!(
                "a virtual machine cannot be on the container's network yet: give it none \
                 (podman: --network none)"
            );
        }
    }
    if config.process.is_none() {
        bail!("the bundle names no process");
    }
    let hooks = config.hooks.iter().flat_map(|hooks| {
        [&hooks.prestart, &hooks.create_runtime, &hooks.create_container, &hooks.start_container]
    });
    if let Some(hook) = hooks.flatten().next() {
        bail!("the hook {} cannot be run for a virtual machine", hook.path);
    }
    for mount in config.mounts.iter().filter(|mount| is_bind(mount)) {
        if !is_passed_over(mount) && copied(mount).is_none() {
            bail!(
                "{} cannot be mounted at {} in a virtual machine yet (leave the volume out)",
                mount.source.as_deref().unwrap_or("nothing"),
                mount.destination
            );
        }
    }
    Ok(())
}

fn is_bind(mount: &spec::runtime::Mount) -> bool {
    let is_option = |option: &String| option == "bind" || option == "rbind";
    mount.kind.as_deref() == Some("bind") || mount.options.iter().any(is_option)
}

fn is_passed_over(mount: &spec::runtime::Mount) -> bool {
    PASSED_OVER.contains(&mount.destination.as_str())
}

/// The file's name in `/etc`.
fn copied(mount: &spec::runtime::Mount) -> Option<&str> {
    mount.destination.strip_prefix("/etc/").filter(|name| COPIED.contains(name))
}

/// Makes the root's file system, and decides what is to run over it.
///
/// # Errors
/// Where the bundle's root cannot be read, or there is no kernel.
pub(super) fn prepare(
    place: &Place,
    bundle: &Path,
    config: &Config,
    run: &RunDirectory,
) -> Result<Prepared> {
    let root = config.root.as_ref().context("the bundle names no root")?;
    let directory = bundle
        .join(&root.path)
        .canonicalize()
        .with_context(|| format!("cannot find the root {}", root.path))?;
    let file = place.image();
    store::roots::write_directory(&directory, &file)
        .with_context(|| format!("cannot make a file system of {}", directory.display()))?;
    let host = Host::new(run.path())?;
    let id = place.id();
    let (request, launcher) = own_kernel::request(request(&id, config)?, &host.launcher);
    let path = directory.to_str().context("the root's path is not UTF-8")?.to_owned();
    let none = (image::Config::default(), Facts::default());
    let mut plan =
        plan::plan(&request, &none.0, &none.1, &RootSource::Layers(vec![path]), &launcher)?;
    plan.process = process(config.process.as_ref().context("the bundle names no process")?)?;
    plan.files = files(config)?;
    plan.mounts.extend(mounts(config));
    let (parts, held) = own_kernel::of_root(&store()?, None, &file, &plan)?;
    plan.own_kernel = Some(parts);
    Ok(Prepared { plan, held, _host: host })
}

/// Where kernels are kept. In a user namespace of podman's, its root is the user.
fn store() -> Result<store::Store> {
    let variable = |name: &str| std::env::var(name).ok();
    let path = match variable("POSTROJ_STORE") {
        Some(path) => path.into(),
        None if engine::oci::is_rootless() => harness::places::Places::of_home(variable)?.store,
        None => harness::places::Places::of_user(variable)?.store,
    };
    store::Store::open(&path)
}

fn request(id: &str, config: &Config) -> Result<Request> {
    let process = config.process.clone().unwrap_or_default();
    let resources = config.linux.as_ref().and_then(|linux| linux.resources.clone());
    let (memory, milli_cpus, pids) = sizes(&resources.unwrap_or_default());
    Ok(Request {
        isolation: "vm".into(),
        name: Some(id.to_owned()),
        command: process.args.clone(),
        hostname: config.hostname.clone().filter(|name| !name.is_empty()),
        read_only: config.root.as_ref().is_some_and(|root| root.readonly),
        network: NetworkRequest::of(Mode::None),
        as_pid_1: true,
        interactive: true,
        terminal: process.terminal,
        memory,
        milli_cpus,
        pids,
        ..Request::default()
    })
}

/// Memory in bytes, thousandths of a processor, processes; as far as they are limited.
fn sizes(resources: &Resources) -> (Option<u64>, Option<u64>, Option<u64>) {
    let positive = |number: i64| u64::try_from(number).ok().filter(|number| *number > 0);
    let memory = resources.memory.as_ref().and_then(|memory| positive(memory.limit?));
    let cpus = resources.cpu.as_ref().and_then(|cpu| {
        let (quota, period) = (positive(cpu.quota?)?, cpu.period?);
        (quota * 1000).checked_div(period)
    });
    let pids = resources.pids.as_ref().and_then(|pids| positive(pids.limit?));
    (memory, cpus, pids)
}

/// A process in a guest.
///
/// # Errors
/// Where it has no command.
pub(super) fn process(process: &Process) -> Result<spec::plan::Process> {
    if process.args.is_empty() {
        bail!("process.args is empty");
    }
    let capabilities = process.capabilities.clone().unwrap_or_default();
    let plain = |name: &String| name.strip_prefix("CAP_").unwrap_or(name).to_owned();
    let limits = process.rlimits.iter().map(|limit| Rlimit {
        name: limit.kind.strip_prefix("RLIMIT_").unwrap_or(&limit.kind).to_ascii_lowercase(),
        soft: limit.soft,
        hard: limit.hard,
    });
    Ok(spec::plan::Process {
        args: process.args.clone(),
        env: process.env.clone(),
        cwd: process.cwd.clone(),
        uid: process.user.uid,
        gid: process.user.gid,
        groups: process.user.additional_gids.clone(),
        terminal: process.terminal,
        stdin: true,
        capabilities: capabilities.bounding.iter().map(plain).collect(),
        rlimits: limits.collect(),
        no_new_privileges: process.no_new_privileges,
        seccomp: None,
        init: false,
    })
}

fn files(config: &Config) -> Result<Vec<File>> {
    let binds = config.mounts.iter().filter(|mount| is_bind(mount));
    binds
        .filter_map(|mount| Some((copied(mount)?, mount.source.as_deref()?)))
        .map(|(name, source)| {
            let content =
                std::fs::read_to_string(source).with_context(|| format!("cannot read {source}"))?;
            Ok(File { name: name.to_owned(), content, mode: 0o644 })
        })
        .collect()
}

/// What is in memory; whatever else a container has below `/proc`, `/sys` and `/dev`, a guest has anyway.
fn mounts(config: &Config) -> Vec<Mount> {
    let own = |mount: &&spec::runtime::Mount| {
        mount.kind.as_deref() == Some("tmpfs")
            && !is_bind(mount)
            && !mount.destination.starts_with("/dev")
            && !mount.destination.starts_with("/sys")
    };
    let is_data = |option: &&String| {
        let name = option.split('=').next().unwrap_or_default();
        option.contains('=') && ["size", "mode", "uid", "gid", "nr_inodes"].contains(&name)
    };
    let tmpfs = config.mounts.iter().filter(own).map(|mount| {
        let has = |name: &str| mount.options.iter().any(|option| option == name);
        let data: Vec<&str> = mount.options.iter().filter(is_data).map(String::as_str).collect();
        Mount {
            target: mount.destination.clone(),
            kind: MountKind::Filesystem {
                fstype: "tmpfs".into(),
                data: data.join(","),
                attributes: Attributes {
                    read_only: has("ro"),
                    nosuid: has("nosuid"),
                    nodev: has("nodev"),
                    noexec: has("noexec"),
                },
            },
        }
    });
    tmpfs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: serde_json::Value) -> Config {
        Config::parse(text.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_a_guest_cannot_have_is_refused() {
        let process = serde_json::json!({"args": ["true"], "cwd": "/"});
        check(&config(serde_json::json!({"process": process}))).unwrap();
        for (more, part) in [
            (
                serde_json::json!({"linux": {"namespaces": [{"type": "network", "path": "/n"}]}}),
                "network yet",
            ),
            (
                serde_json::json!({"mounts": [{"destination": "/v", "type": "bind", "source": "/s"}]}),
                "/s cannot be mounted at /v",
            ),
            (
                serde_json::json!({"hooks": {"prestart": [{"path": "/h"}]}}),
                "the hook /h cannot be run",
            ),
        ] {
            let mut all = more;
            all["process"] = process.clone();
            let error = check(&config(all)).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let file = serde_json::json!({"destination": "/etc/hosts", "options": ["rbind"]});
        check(&config(serde_json::json!({"process": process, "mounts": [file]}))).unwrap();
    }

    #[test]
    fn sizes_and_mounts_in_memory() {
        let text = serde_json::json!({
            "process": {"args": ["true"]},
            "mounts": [
                {"destination": "/t", "type": "tmpfs", "options": ["nosuid", "size=64k", "rprivate"]},
                {"destination": "/dev/shm", "type": "tmpfs"},
            ],
            "linux": {"resources": {
                "memory": {"limit": 1024}, "pids": {"limit": -1},
                "cpu": {"quota": 150_000, "period": 100_000},
            }},
        });
        let config = config(text);
        let [mount] = &mounts(&config)[..] else { panic!("there is one") };
        let MountKind::Filesystem { data, attributes, .. } = &mount.kind else { panic!() };
        assert_eq!((&*mount.target, &**data), ("/t", "size=64k"));
        assert!(attributes.nosuid && !attributes.noexec);
        let resources = config.linux.unwrap().resources.unwrap();
        assert_eq!(sizes(&resources), (Some(1024), Some(1500), None));
    }
}
