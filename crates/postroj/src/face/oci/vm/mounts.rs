//! What a bundle mounts, as a guest has it: directories and files of the host's are shared with it, those of `/etc` that
//! its caller made for it are copied, and what is in memory is in the guest's.

use std::path::Path;

use anyhow::{Context, Result};
use spec::plan::{Attributes, File, Mount, MountKind};
use spec::runtime::Config;

/// Files of podman's and docker's that tell of the host's side, which a guest has no use for.
const PASSED_OVER: [&str; 3] = ["/dev/shm", "/run/.containerenv", "/run/secrets"];

/// Files that a guest gets a copy of: who mounts them changes them no more.
const COPIED: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

fn is_bind(mount: &spec::runtime::Mount) -> bool {
    let is_option = |option: &String| option == "bind" || option == "rbind";
    mount.kind.as_deref() == Some("bind") || mount.options.iter().any(is_option)
}

/// The file's name in `/etc`.
fn copied(mount: &spec::runtime::Mount) -> Option<&str> {
    mount.destination.strip_prefix("/etc/").filter(|name| COPIED.contains(name))
}

/// The copies.
///
/// # Errors
/// Where one cannot be read.
pub(super) fn files(config: &Config) -> Result<Vec<File>> {
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

/// All others, in their order; whatever a container has below `/proc`, `/sys` and `/dev` besides, a guest has anyway.
///
/// # Errors
/// Where a mount says not what, or its source cannot be found.
pub(super) fn of(config: &Config, bundle: &Path) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for mount in &config.mounts {
        let target = mount.destination.clone();
        let is_own = mount.kind.as_deref() == Some("tmpfs")
            && !target.starts_with("/dev")
            && !target.starts_with("/sys");
        let is_passed_over = PASSED_OVER.contains(&&*target) || copied(mount).is_some();
        let kind = match is_bind(mount) {
            true if is_passed_over => continue,
            true => bind(mount, bundle)?,
            false if is_own => memory(mount),
            false => continue,
        };
        mounts.push(Mount { target, kind });
    }
    Ok(mounts)
}

/// A relative source is the bundle's (runtime-spec 1.2, config.md, "Mounts").
fn bind(mount: &spec::runtime::Mount, bundle: &Path) -> Result<MountKind> {
    let source = mount.source.as_deref();
    let source = source
        .with_context(|| format!("the mount at {} does not say of what", mount.destination))?;
    let path = bundle.join(source);
    let path = path.canonicalize().with_context(|| format!("cannot mount {}", path.display()))?;
    let source = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(MountKind::Bind {
        source: source.to_owned(),
        recursive: has(mount, "rbind"),
        create_source: false,
        attributes: attributes(mount),
    })
}

fn memory(mount: &spec::runtime::Mount) -> MountKind {
    let is_data = |option: &&String| {
        let name = option.split('=').next().unwrap_or_default();
        option.contains('=') && ["size", "mode", "uid", "gid", "nr_inodes"].contains(&name)
    };
    let data: Vec<&str> = mount.options.iter().filter(is_data).map(String::as_str).collect();
    MountKind::Filesystem {
        fstype: "tmpfs".into(),
        data: data.join(","),
        attributes: attributes(mount),
    }
}

fn has(mount: &spec::runtime::Mount, name: &str) -> bool {
    mount.options.iter().any(|option| option == name)
}

fn attributes(mount: &spec::runtime::Mount) -> Attributes {
    Attributes {
        read_only: has(mount, "ro"),
        nosuid: has(mount, "nosuid"),
        nodev: has(mount, "nodev"),
        noexec: has(mount, "noexec"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(mounts: serde_json::Value) -> Config {
        Config::parse(serde_json::json!({"mounts": mounts}).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_is_in_memory_is_the_guest_s() {
        let config = config(serde_json::json!([
            {"destination": "/t", "type": "tmpfs", "options": ["nosuid", "size=64k", "rprivate"]},
            {"destination": "/dev/shm", "type": "tmpfs"},
            {"destination": "/proc", "type": "proc"},
        ]));
        let mounts = of(&config, Path::new("/")).unwrap();
        let [mount] = &mounts[..] else { panic!("there is one") };
        let MountKind::Filesystem { data, attributes, .. } = &mount.kind else { panic!() };
        assert_eq!((&*mount.target, &**data), ("/t", "size=64k"));
        assert!(attributes.nosuid && !attributes.noexec);
    }

    #[test]
    fn what_is_the_host_s_is_shared_but_for_a_few_files() {
        let bundle = std::env::temp_dir().join(format!("postroj-mounts-{}", std::process::id()));
        std::fs::create_dir_all(bundle.join("v")).unwrap();
        let bundle = bundle.canonicalize().unwrap();
        std::fs::write(bundle.join("h"), "1.2.3.4 a\n").unwrap();
        let hosts = bundle.join("h");
        let config = config(serde_json::json!([
            {"destination": "/v", "type": "bind", "source": "v", "options": ["rbind", "ro"]},
            {"destination": "/etc/hosts", "type": "bind", "source": hosts, "options": ["bind"]},
            {"destination": "/dev/shm", "type": "bind", "source": "/nowhere"},
        ]));
        let mounts = of(&config, &bundle).unwrap();
        let [mount] = &mounts[..] else { panic!("there is one: {mounts:?}") };
        let MountKind::Bind { source, recursive, attributes, .. } = &mount.kind else { panic!() };
        assert_eq!(*source, bundle.join("v").to_str().unwrap());
        assert!(*recursive && attributes.read_only);
        assert_eq!(files(&config).unwrap()[0].content, "1.2.3.4 a\n");
        let gone = serde_json::json!([{"destination": "/v", "type": "bind", "source": "/nowhere"}]);
        let error = of(&self::config(gone), &bundle).unwrap_err();
        assert!(error.to_string().contains("cannot mount /nowhere"), "{error}");
        std::fs::remove_dir_all(bundle).unwrap();
    }
}
