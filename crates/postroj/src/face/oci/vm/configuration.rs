//! From `config.json` to a plan for a guest. What only the host's kernel could do is refused, or has no
//! meaning: namespaces, control groups and system call filters keep a container from a kernel that it shares.

use std::path::Path;

use anyhow::{Context, Result, bail};
use engine::oci::Place;
use engine::state::RunDirectory;
use harness::host::Host;
use plan::RootSource;
use spec::image::{self, Facts};
use spec::network::{Attachment, Link, Mode};
use spec::plan::{Network, Plan, Rlimit};
use spec::request::{NetworkRequest, Request};
use spec::runtime::{Config, NamespaceKind, Process, Resources};

use super::mounts;
use crate::face::postroj::own_kernel::{self, Held};

/// A plan, and what its files are held by.
pub(super) struct Prepared {
    pub(super) plan: Plan,
    pub(super) held: Held,
    _host: Host,
}

/// # Errors
/// Names what a virtual machine cannot have.
pub(super) fn check(config: &Config) -> Result<()> {
    network(config)?;
    if config.linux.iter().any(|linux| !linux.uid_mappings.is_empty()) {
        bail!(
            "a virtual machine's ids are under a kernel of its own, and cannot be mapped (podman: leave --userns out)"
        );
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
    Ok(())
}

/// The namespace whose place in a network the guest takes; nothing where it is to have none.
fn network(config: &Config) -> Result<Option<&str>> {
    let mut namespaces = config.linux.iter().flat_map(|linux| &linux.namespaces);
    let network = namespaces.find(|namespace| namespace.kind == NamespaceKind::Network);
    let network = network.context(
        "a virtual machine has a kernel of its own, and cannot share the host's network (podman: leave --network \
         host out)",
    )?;
    Ok(network.path.as_deref())
}

/// By which a guest takes that place.
fn attachment(path: &str) -> Attachment {
    Attachment {
        link: Link::Namespace(path.to_owned()),
        ports: Vec::new(),
        dns: Vec::new(),
        hosts: Vec::new(),
        ip: None,
        mac: None,
        aliases: Vec::new(),
    }
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
    let file = place.directory.join("root.erofs");
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
    if let Some(path) = network(config)? {
        plan.network = Network::Attached(attachment(path));
    }
    plan.files = mounts::files(config)?;
    plan.mounts.extend(mounts::of(config, bundle)?);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: serde_json::Value) -> Config {
        Config::parse(text.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_a_guest_cannot_have_is_refused() {
        let network = serde_json::json!({"namespaces": [{"type": "network"}]});
        let whole =
            serde_json::json!({"process": {"args": ["true"], "cwd": "/"}, "linux": network});
        check(&config(whole.clone())).unwrap();
        for (name, value, part) in [
            ("linux", serde_json::json!({"namespaces": []}), "the host's network"),
            (
                "linux",
                serde_json::json!({
                    "namespaces": [{"type": "network"}],
                    "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}],
                }),
                "cannot be mapped",
            ),
            (
                "hooks",
                serde_json::json!({"prestart": [{"path": "/h"}]}),
                "the hook /h cannot be run",
            ),
        ] {
            let mut all = whole.clone();
            all[name] = value;
            let error = check(&config(all)).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn sizes() {
        let text = serde_json::json!({
            "process": {"args": ["true"]},
            "linux": {"resources": {
                "memory": {"limit": 1024}, "pids": {"limit": -1},
                "cpu": {"quota": 150_000, "period": 100_000},
            }},
        });
        let resources = config(text).linux.unwrap().resources.unwrap();
        assert_eq!(super::sizes(&resources), (Some(1024), Some(1500), None));
    }
}
