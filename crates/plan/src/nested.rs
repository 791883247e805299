//! What programs that make containers need of a machine (`--nested`): postroj, podman, dockerd.

use spec::boot::RuntimeFile;
use spec::ids::IdMapping;
use spec::image::Facts;
use spec::plan::Mount;
use spec::request::Request;

use crate::RootSource;
use crate::root::{SCRATCH_ATTRIBUTES, mount, tmpfs};

/// Where they keep images: a layer cannot be above an overlay (Linux, fs/overlayfs/super.c,
/// "filesystem on %s not supported as upperdir"), which the machine's root is.
const STORES: [&str; 3] = ["/var/lib/containers", "/var/lib/docker", "/var/lib/postroj"];

/// For podman and its kin (containers.conf(5)). The limit of processes needs a controller that
/// the machine may not have, and it has its own; there is no journal where no systemd runs.
const CONTAINERS_CONF: &str = "\
[containers]
pids_limit = 0
[engine]
cgroup_manager = \"cgroupfs\"
events_logger = \"file\"
";

/// The first id of the ranges for the machine's users: those below are the image's own.
const FIRST: u32 = 10_000;
/// What comes after the last one: from here on are systemd's dynamic users, and nobody.
const END: u32 = 60_000;

/// File systems for what lies in [`STORES`], where the user has not put another there.
pub(crate) fn mounts(request: &Request, source: &RootSource) -> Vec<Mount> {
    if request.nested.is_none() || matches!(source, RootSource::InPlace(_)) {
        return Vec::new();
    }
    let taken = |path: &str| request.mounts.iter().any(|m| crate::root::requested(m).0 == path);
    let free = STORES.into_iter().filter(|path| !taken(path));
    // With devices and set-id programs, as images have them.
    let attributes = spec::plan::Attributes { nosuid: false, nodev: false, ..SCRATCH_ATTRIBUTES };
    free.map(|path| mount(path, tmpfs("mode=0711", attributes))).collect()
}

pub(crate) fn files(
    request: &Request,
    source: &RootSource,
    facts: &Facts,
    ids: &IdMapping,
) -> Vec<RuntimeFile> {
    if request.nested.is_none() || matches!(source, RootSource::InPlace(_)) {
        return Vec::new();
    }
    let ranges = subordinate(facts, ids);
    let directory = |path| RuntimeFile::directory(path, 0o755);
    vec![
        directory("/etc/containers"),
        directory("/etc/containers/containers.conf.d"),
        RuntimeFile::text("/etc/containers/containers.conf.d/50-postroj.conf", CONTAINERS_CONF),
        RuntimeFile::text("/etc/subuid", ranges.clone()),
        RuntimeFile::text("/etc/subgid", ranges),
    ]
}

/// A range for each of the image's ordinary users, of ids that the machine has (subuid(5)).
fn subordinate(facts: &Facts, ids: &IdMapping) -> String {
    // login.defs(5), `UID_MIN` and `UID_MAX`.
    let users: Vec<&str> = facts
        .users
        .iter()
        .filter(|user| (1000..END).contains(&user.uid))
        .map(|user| user.name.as_str())
        .collect();
    let end = match ids {
        IdMapping::Inherit => END,
        IdMapping::Private { uids, .. } => {
            uids.iter().map(|range| range.inside + range.count).max().unwrap_or(0).min(END)
        }
    };
    let each = end.saturating_sub(FIRST) / users.len().max(1) as u32;
    if each == 0 {
        return String::new();
    }
    let ranges = users.iter().zip((FIRST..).step_by(each as usize));
    ranges.map(|(user, first)| format!("{user}:{first}:{each}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::ids::IdRange;
    use spec::image::User;

    #[test]
    fn ranges_are_within_the_machine_and_do_not_overlap() {
        let user = |name: &str, uid| User { name: name.into(), uid, gid: uid, home: "/".into() };
        let facts = Facts {
            users: vec![user("root", 0), user("a", 1000), user("b", 1001), user("nobody", 65534)],
            ..Facts::default()
        };
        let map = |count| {
            let range = IdRange { inside: 0, outside: 100_000, count };
            IdMapping::Private { uids: vec![range], gids: vec![range] }
        };
        assert_eq!(subordinate(&facts, &map(65_536)), "a:10000:25000\nb:35000:25000\n");
        assert_eq!(subordinate(&facts, &map(10_100)), "a:10000:50\nb:10050:50\n");
        assert_eq!(subordinate(&facts, &map(1)), "");
        assert_eq!(subordinate(&Facts::default(), &map(65_536)), "");
    }
}
