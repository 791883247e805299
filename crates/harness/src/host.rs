//! What a plan must know of the launcher and its host.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, bail};
use plan::{HostTree, Launcher};
use rustix::fs::FlockOperation;
use rustix::thread::UnshareFlags;
use spec::ids::{IdMapping, IdRange};
use sys::userns::{self, Range};

/// Facts, and the lock that keeps the id block in them ours.
pub struct Host {
    /// For [`plan::plan`].
    pub launcher: Launcher,
    /// Held as long as the machine runs.
    _block: Option<File>,
}

/// First id of the blocks for private user namespaces, and how many there are: what
/// systemd reserves for the purpose (systemd.io, "Users, Groups, UIDs and GIDs on systemd Systems").
const FIRST_BLOCK: u32 = 0x8_0000;
const BLOCKS: u32 = (0x6FFF_0000 - FIRST_BLOCK) / BLOCK;
const BLOCK: u32 = 0x1_0000;

impl Host {
    /// Gathers the facts; `run` is the run directory.
    ///
    /// # Errors
    /// Where the kernel gives no random numbers, or no id block is free.
    pub fn new(run: &Path) -> Result<Self> {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let initial_userns = userns::is_initial();
        let random = random()?;
        let (block, private_base) = if uid.is_root() && initial_userns {
            let (file, base) =
                id_block(run, u32::from_le_bytes([random[0], random[1], random[2], random[3]]))?;
            (Some(file), base)
        } else {
            (None, 0)
        };
        let (subuids, subgids) =
            if uid.is_root() { Default::default() } else { subordinate(uid.as_raw()) };
        let resolv_conf = text("/etc/resolv.conf");
        let launcher = Launcher {
            uid: uid.as_raw(),
            gid: gid.as_raw(),
            initial_userns,
            subuids,
            subgids,
            private_base,
            capabilities: capabilities(uid.is_root())?,
            upstream_resolv_conf: upstream(&resolv_conf),
            resolv_conf,
            hosts: text("/etc/hosts"),
            id: random.iter().map(|b| format!("{b:02x}")).collect(),
            term: std::env::var("TERM").ok(),
        };
        Ok(Self { launcher, _block: block })
    }
}

fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .context("cannot get random numbers")?;
    }
    Ok(bytes)
}

/// A block of ids that no other machine of this host's root has: one lock file each.
fn id_block(run: &Path, start: u32) -> Result<(File, u32)> {
    let directory = run.join("ids");
    for attempt in 0..BLOCKS {
        let block = (start.wrapping_add(attempt)) % BLOCKS;
        let path = directory.join(block.to_string());
        let open = || File::options().create(true).truncate(false).write(true).open(&path);
        let file = match open() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir_all(&directory)
                    .with_context(|| format!("cannot make {}", directory.display()))?;
                open()
            }
            other => other,
        }
        .with_context(|| format!("cannot lock an id block in {}", directory.display()))?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok((file, FIRST_BLOCK + block * BLOCK));
        }
    }
    bail!("all {BLOCKS} id blocks are in use")
}

/// First ids and counts, as in subuid(5).
type Ranges = Vec<(u32, u32)>;

/// An ordinary user's subordinate user and group ids.
fn subordinate(uid: u32) -> (Ranges, Ranges) {
    let name = user_name(uid);
    let read = |path: &str| userns::subordinate(&text(path), &name, uid);
    (read("/etc/subuid"), read("/etc/subgid"))
}

/// How many subordinate user and group ids this user has.
#[must_use]
pub fn subordinate_ids() -> (u64, u64) {
    let (uids, gids) = subordinate(rustix::process::geteuid().as_raw());
    let count = |ranges: &[(u32, u32)]| ranges.iter().map(|(_, count)| u64::from(*count)).sum();
    (count(&uids), count(&gids))
}

/// By `/etc/passwd` alone: a static program has no other source of names.
fn user_name(uid: u32) -> String {
    text("/etc/passwd")
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let (name, id) = (fields.next()?, fields.nth(1)?);
            (id.parse() == Ok(uid)).then(|| name.to_owned())
        })
        .or_else(|| std::env::var("USER").ok())
        .unwrap_or_default()
}

/// In a user namespace of its own a machine's root can have all; without one, what we have.
fn capabilities(root: bool) -> Result<Vec<String>> {
    let names = sys::caps::NAMES.map(str::to_owned);
    if !root {
        return Ok(names.to_vec());
    }
    let permitted = sys::caps::permitted().context("cannot read this process's capabilities")?;
    let numbered = names.into_iter().enumerate();
    Ok(numbered.filter(|(n, _)| permitted.has(*n)).map(|(_, name)| name).collect())
}

/// What says the same without resolvers on this host's loopback device, which a machine with a
/// network of its own cannot reach: systemd-resolved(8) keeps the real ones in a file of its own.
fn upstream(resolv_conf: &str) -> String {
    let is_local = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        words.next() == Some("nameserver")
            && words.next().is_some_and(|a| a == "::1" || a.starts_with("127."))
    };
    if !resolv_conf.lines().any(is_local) {
        return resolv_conf.to_owned();
    }
    let systemd = text("/run/systemd/resolve/resolv.conf");
    let text = if systemd.is_empty() { resolv_conf } else { &systemd };
    text.lines().filter(|line| !is_local(line)).map(|line| format!("{line}\n")).collect()
}

fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Moves this process into a user namespace that has all of the user's ids, where it
/// is not root already: a layer's files have many owners. Must happen before any thread is made.
///
/// # Errors
/// Says what is missing: subordinate ids, or the programs that map them.
pub fn enter_user_namespace() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    unshare(UnshareFlags::NEWNS)?;
    userns::become_root().context("cannot become root of a user namespace")
}

/// Moves this process into a user namespace as its root, and into the new namespaces of `with`:
/// one that has all of the user's ids, or for root all of its own. Supplementary groups remain.
/// Must happen before any thread is made.
///
/// # Errors
/// As [`enter_user_namespace`].
pub fn unshare(with: UnshareFlags) -> Result<()> {
    let (uids, gids) = maps()?;
    let ranges = |map: Vec<IdRange>| -> Vec<Range> {
        let range = |r: IdRange| Range { inside: r.inside, outside: r.outside, count: r.count };
        map.into_iter().map(range).collect()
    };
    userns::enter(&ranges(uids), &ranges(gids), with).map_err(engine::explain_map)
}

/// All ids that files of this user's can have: for root as they are, for others with its own as root's.
///
/// # Errors
/// Where an ordinary user lacks subordinate ids.
pub fn ids_of_files() -> Result<IdMapping> {
    let (uids, gids) = maps()?;
    Ok(IdMapping::Private { uids, gids })
}

fn maps() -> Result<(Vec<IdRange>, Vec<IdRange>)> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if uid == 0 {
        return Ok((own_map("/proc/self/uid_map")?, own_map("/proc/self/gid_map")?));
    }
    let (subuids, subgids) = subordinate(uid);
    let uids = plan::subordinate_map(uid, &subuids, uid, "subuid")?;
    Ok((uids, plan::subordinate_map(gid, &subgids, uid, "subgid")?))
}

/// The ids that there are, each as itself (user_namespaces(7)).
fn own_map(path: &str) -> Result<Vec<IdRange>> {
    let map = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let numbers = |line: &str| -> Option<IdRange> {
        let mut fields = line.split_ascii_whitespace().map(|field| field.parse().ok());
        let (inside, _, count) = (fields.next()??, fields.next()??, fields.next()??);
        Some(IdRange { inside, outside: inside, count })
    };
    map.lines()
        .map(|line| numbers(line).with_context(|| format!("no map of ids in {path}")))
        .collect()
}

/// Whether a file of this owner could be written by some id of the machine: see [`sys::exe`].
pub fn within_reach(ids: &IdMapping, owner: u32) -> bool {
    match ids {
        IdMapping::Inherit => true,
        IdMapping::Private { uids, .. } => {
            uids.iter().any(|r| (r.outside..=r.outside + (r.count - 1)).contains(&owner))
        }
    }
}

/// What the running system consists of, besides what the kernel makes up and what lives in memory.
///
/// # Errors
/// Where `/proc` or `/` cannot be read.
pub fn disk_mounts() -> Result<HostTree> {
    let text =
        std::fs::read_to_string("/proc/self/mountinfo").context("cannot read the host's mounts")?;
    let mounts = mounts_in(&text);
    if rustix::process::geteuid().is_root() && userns::is_initial() {
        let on_disk = mounts.into_iter().filter(|m| m.on_disk).map(|m| m.path);
        // A single file can be a mount point too, and has no layers.
        return Ok(HostTree::Whole { below: on_disk.filter(|p| Path::new(p).is_dir()).collect() });
    }
    let mut parts = Parts { mounts: &mounts, directories: Vec::new(), links: Vec::new() };
    parts.add(Path::new("/"), 0).context("cannot list the root directory")?;
    let Parts { directories, links, .. } = parts;
    Ok(HostTree::Parts { directories, links })
}

/// One mount below `/`.
#[derive(Debug, PartialEq, Eq)]
struct HostMount {
    path: String,
    on_disk: bool,
}

/// proc(5), `/proc/PID/mountinfo`; sorted, the last one at each place.
fn mounts_in(mountinfo: &str) -> Vec<HostMount> {
    const ON_DISK: [&str; 7] = ["btrfs", "ext2", "ext3", "ext4", "f2fs", "xfs", "zfs"];
    let parsed = mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let path = left.split(' ').nth(4)?.to_owned();
        let on_disk = ON_DISK.contains(&right.split(' ').next()?) && !path.contains('\\');
        (path != "/").then_some((path, on_disk))
    });
    let last: std::collections::BTreeMap<String, bool> = parsed.collect();
    last.into_iter().map(|(path, on_disk)| HostMount { path, on_disk }).collect()
}

/// How deep below `/` a directory is taken apart that holds mount points. Deeper ones are left out.
const DEPTH: usize = 2;

struct Parts<'a> {
    mounts: &'a [HostMount],
    directories: Vec<String>,
    links: Vec<(String, String)>,
}

impl Parts<'_> {
    /// Adds what is in a directory that something is mounted in.
    fn add(&mut self, directory: &Path, depth: usize) -> std::io::Result<()> {
        let mut entries: Vec<_> = std::fs::read_dir(directory)?.flatten().collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
            let Some(text) = path.to_str() else { continue };
            if kind.is_symlink() && depth == 0 {
                let to = std::fs::read_link(&path)?;
                if let (Some(name), Some(to)) = (entry.file_name().to_str(), to.to_str()) {
                    self.links.push((name.to_owned(), to.to_owned()));
                }
            } else if kind.is_dir() {
                self.directory(text, &path, depth);
            }
        }
        Ok(())
    }

    fn directory(&mut self, text: &str, path: &Path, depth: usize) {
        let in_memory = self.mounts.iter().any(|m| m.path == text && !m.on_disk);
        let taken_apart = self
            .mounts
            .iter()
            .any(|m| m.path.strip_prefix(text).is_some_and(|below| below.starts_with('/')));
        match (in_memory, taken_apart) {
            (true, _) => {}
            (false, false) => self.directories.push(text.to_owned()),
            // What may not be listed may not be used either.
            (false, true) if depth < DEPTH => drop(self.add(path, depth + 1)),
            (false, true) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_file_systems_on_disk_make_up_the_host() {
        let text = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 / /home rw shared:1 - xfs /dev/b rw\n\
                    3 1 0:5 / /proc rw - proc proc rw\n4 1 0:6 / /run rw - tmpfs tmpfs rw\n\
                    5 1 8:3 / /boot rw - ext4 /dev/c rw\n6 5 8:3 / /boot rw - ext4 /dev/c rw\nx\n";
        let told: Vec<(String, bool)> =
            mounts_in(text).into_iter().map(|m| (m.path, m.on_disk)).collect();
        let expected = [("/boot", true), ("/home", true), ("/proc", false), ("/run", false)];
        assert_eq!(told, expected.map(|(path, on_disk)| (path.to_owned(), on_disk)));
    }

    #[test]
    fn directories_with_mounts_are_taken_apart() {
        let root = tempfile::tempdir().unwrap();
        for directory in ["usr/lib", "var/a/deep/x", "var/b", "run"] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        std::os::unix::fs::symlink("usr/lib", root.path().join("lib")).unwrap();
        let path = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
        let mount = |name, on_disk| HostMount { path: path(name), on_disk };
        let mounts = [mount("run", false), mount("var/a/deep/x", true), mount("var/b", true)];
        let mut parts = Parts { mounts: &mounts, directories: Vec::new(), links: Vec::new() };
        parts.add(root.path(), 0).unwrap();
        assert_eq!(parts.directories, [path("usr"), path("var/b")]);
        assert_eq!(parts.links, [("lib".to_owned(), "usr/lib".to_owned())]);
    }
}
