//! `inspect`: everything that is known of a machine or an image, as JSON.

use anyhow::Result;
use bakery::delivery::known_config;
use engine::record::Record;
use serde_json::json;
use spec::image::Origin;
use spec::oci::rfc3339;
use spec::plan::{MountKind, Plan, Root};
use spec::reference::Reference;

use super::{Here, ps, tag};

/// Print all that is known of machines and images, as JSON
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names or ids
    #[arg(required = true)]
    images: Vec<String>,
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let store = here.store()?;
    let named = store.images()?;
    let mut found = Vec::new();
    let machines = here.run_directory();
    for text in &args.images {
        // As docker has it, a machine goes before an image of that name.
        if let Ok(record) = machines.as_ref().map_err(drop).and_then(|r| r.find(text).map_err(drop))
        {
            found.push(machine(&record));
            continue;
        }
        let image = tag::find(&store, text)?;
        let names = named.iter().find(|n| n.image.id == image.id).map(|n| n.names.clone());
        let config = known_config(&store, &image)?;
        let mut digests = Vec::new();
        if let Origin::Oci(oci) = &image.origin
            && let Ok(Reference::Registry(name)) = Reference::parse(&oci.reference, |_| false)
        {
            digests.push(format!("{}/{}@{}", name.registry, name.repository, oci.resolved));
        }
        found.push(json!({
            "Id": format!("sha256:{}", image.id),
            "RepoTags": names.unwrap_or_default(),
            "RepoDigests": digests,
            "Created": rfc3339(image.created),
            "Author": config["author"].as_str().unwrap_or_default(),
            "Architecture": config["architecture"],
            "Variant": config["variant"].as_str().unwrap_or_default(),
            "Os": config["os"],
            "Size": image.size,
            "Config": image.config,
            "RootFS": { "Type": "layers", "Layers": config["rootfs"]["diff_ids"] },
            "Facts": {
                "OsRelease": image.facts.os_release,
                "Init": image.facts.init,
                "PackageManager": image.facts.package_manager,
                "Architecture": image.facts.architecture,
                "Users": image.facts.users.iter().map(|u| &u.name).collect::<Vec<_>>(),
            },
            "Origin": image.origin,
        }));
    }
    println!("{}", serde_json::to_string_pretty(&found)?);
    Ok(0)
}

/// With docker's keys, as far as there is something to tell.
fn machine(record: &Record) -> serde_json::Value {
    let about = record.about.as_ref();
    let time = |seconds: Option<u64>| seconds.map(rfc3339).unwrap_or_default();
    let mut value = json!({
        "Id": record.id(),
        "Name": record.name,
        "Created": time(about.map(|about| about.created)),
        "Image": about.map(|about| &about.image),
        "State": {
            "Status": ps::state(record),
            "Running": record.exited.is_none(),
            "Paused": record.paused,
            "Pid": record.pid.filter(|_| record.exited.is_none()).map_or(0, |(pid, _)| pid),
            "ExitCode": record.exited.map_or(0, |exited| exited.code),
            "StartedAt": time(about.map(|about| about.created)),
            "FinishedAt": time(record.exited.map(|exited| exited.at)),
        },
        "Condition": record.condition,
        "Detached": about.is_some_and(|about| about.detached),
        "Monitor": record.monitor.map(|(pid, _)| pid),
    });
    if let (Some(plan), Some(object)) = (&record.plan, value.as_object_mut()) {
        let more = of_plan(plan);
        object.extend(more.as_object().cloned().unwrap_or_default());
    }
    value
}

fn of_plan(plan: &Plan) -> serde_json::Value {
    let process = &plan.process;
    let mounts: Vec<serde_json::Value> = plan
        .mounts
        .iter()
        // The host's, which a machine with the host's network needs; nobody asked for it.
        .filter(|mount| mount.target != "/sys")
        .filter_map(|mount| match &mount.kind {
            MountKind::Bind { source, attributes, .. } => Some(json!({
                "Type": "bind",
                "Source": source,
                "Destination": mount.target,
                "RW": !attributes.read_only,
            })),
            // A part of the host's root is no image.
            MountKind::Overlay { layers, read_only } if *layers != [&*mount.target] => {
                Some(json!({
                    "Type": "image",
                    "Source": layers.last(),
                    "Destination": mount.target,
                    "RW": !read_only,
                }))
            }
            _ => None,
        })
        .collect();
    let read_only = matches!(plan.root, Root::Overlay { read_only: true, .. });
    json!({
        "Path": process.args.first(),
        "Args": process.args.get(1..).unwrap_or_default(),
        "Config": {
            "Hostname": plan.hostname,
            "User": format!("{}:{}", process.uid, process.gid),
            "Env": process.env,
            "Cmd": process.args,
            "WorkingDir": process.cwd,
            "Tty": process.terminal,
            "OpenStdin": process.stdin,
        },
        "HostConfig": {
            "Memory": plan.limits.memory.unwrap_or(0),
            "NanoCpus": plan.limits.milli_cpus.unwrap_or(0) * 1_000_000,
            "PidsLimit": plan.limits.pids,
            "ReadonlyRootfs": read_only,
            "Capabilities": process.capabilities,
            "AutoRemove": !plan.keep,
        },
        "Network": plan.network,
        "Mounts": mounts,
        "Init": plan.boot.as_ref().map(|boot| &boot.init),
    })
}
