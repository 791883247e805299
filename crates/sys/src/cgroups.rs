//! Control groups on unified (v2), hybrid and legacy (v1) hosts.
//!
//! postroj makes groups only for machines that need one, below a group of its own
//! named `postroj` at the place where this process may: the top of a hierarchy for
//! root, its own group where that was delegated to an ordinary user (cgroups(7),
//! "Delegation").

use std::io;
use std::path::{Path, PathBuf};

/// The name of the group that holds all of ours.
const PARENT: &str = "postroj";

/// One mounted hierarchy and this process's place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// This process's group in it, absolute from the mount.
    pub own: String,
    /// Controllers of a v1 hierarchy; empty for v2.
    pub controllers: Vec<String>,
}

/// All hierarchies that this process can see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// The v2 hierarchy.
    pub unified: Option<Hierarchy>,
    /// The v1 hierarchies.
    pub legacy: Vec<Hierarchy>,
}

/// Limits of one machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    pub milli_cpus: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// Why limits cannot be had.
#[derive(Debug)]
pub enum Refusal {
    /// The controller is on no hierarchy of this host.
    NoController(&'static str),
    /// The group could not be made: nothing is delegated to this user.
    NotDelegated(PathBuf),
    /// A file or directory could not be written.
    Failed(PathBuf, io::Error),
}

/// The groups of one machine; removed when dropped.
#[derive(Debug, Default)]
pub struct Groups {
    directories: Vec<PathBuf>,
    /// The one of the v2 hierarchy, for CLONE_INTO_CGROUP.
    unified: Option<PathBuf>,
}

impl Layout {
    /// Reads this process's layout.
    ///
    /// # Errors
    /// Where `/proc` cannot be read.
    pub fn read() -> io::Result<Self> {
        let mounts = crate::process::read_proc("/proc/self/mountinfo")?;
        let own = crate::process::read_proc("/proc/self/cgroup")?;
        Ok(Self::parse(&mounts, &own))
    }

    /// From the texts of `/proc/self/mountinfo` (proc(5)) and `/proc/self/cgroup` (cgroups(7)).
    pub fn parse(mountinfo: &str, own: &str) -> Self {
        let mut layout = Self::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            let (Some(root), Some(mount), Some(fstype), Some(options)) =
                (left.get(3), left.get(4), right.first(), right.get(2))
            else {
                continue;
            };
            match *fstype {
                "cgroup2" => {
                    let own = own.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("/");
                    layout.unified = Some(hierarchy(mount, root, own, Vec::new()));
                }
                "cgroup" => {
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|o| is_controller(o))
                        .map(str::to_owned)
                        .collect();
                    let own = own.lines().find_map(|l| own_legacy(l, &controllers)).unwrap_or("/");
                    layout.legacy.push(hierarchy(mount, root, own, controllers));
                }
                _ => {}
            }
        }
        layout
    }

    /// Makes the groups that these limits need, named `name`, and sets the limits. With
    /// `managed` there is one of the v2 hierarchy in any case, for the machine to manage.
    ///
    /// # Errors
    /// See [`Refusal`]. Nothing that was made remains.
    pub fn create(&self, name: &str, limits: &Limits, managed: bool) -> Result<Groups, Refusal> {
        let wanted: Vec<&'static str> = [
            ("memory", limits.memory.is_some()),
            ("cpu", limits.milli_cpus.is_some()),
            ("pids", limits.pids.is_some()),
        ]
        .into_iter()
        .filter_map(|(controller, wanted)| wanted.then_some(controller))
        .collect();
        let mut groups = Groups::default();
        for controller in wanted {
            if let Some(legacy) = self.legacy_with(controller) {
                let directory = groups.make(legacy, name)?;
                set_legacy(&directory, controller, limits)?;
            } else if let Some(unified) = self.unified_with(controller) {
                let directory = groups.make(unified, name)?;
                groups.unified = Some(directory.clone());
                set_unified(&directory, controller, limits)?;
            } else {
                return Err(Refusal::NoController(controller));
            }
        }
        if managed {
            let unified = self.unified.as_ref().ok_or(Refusal::NoController("cgroup2"))?;
            groups.unified = Some(groups.make(unified, name)?);
        }
        Ok(groups)
    }

    /// Every group that [`Layout::create`] could make: for a record that is written before, so
    /// that nothing is lost when this process is killed in between.
    #[must_use]
    pub fn directories(&self, name: &str) -> Vec<PathBuf> {
        let hierarchies = self.legacy.iter().chain(&self.unified);
        hierarchies.map(|h| top_of(h).join(PARENT).join(name)).collect()
    }

    fn legacy_with(&self, controller: &str) -> Option<&Hierarchy> {
        self.legacy.iter().find(|h| h.controllers.iter().any(|c| c == controller))
    }

    fn unified_with(&self, controller: &str) -> Option<&Hierarchy> {
        self.unified.as_ref().filter(|h| {
            std::fs::read_to_string(h.mount.join("cgroup.controllers"))
                .is_ok_and(|list| list.split_ascii_whitespace().any(|c| c == controller))
        })
    }
}

fn hierarchy(mount: &str, root: &str, own: &str, controllers: Vec<String>) -> Hierarchy {
    // A mount of a part of the hierarchy shows the groups below that part.
    let own = own.strip_prefix(root.trim_end_matches('/')).unwrap_or(own);
    Hierarchy { mount: mount.into(), own: own.to_owned(), controllers }
}

fn is_controller(option: &str) -> bool {
    !matches!(option, "rw" | "ro" | "xattr" | "noprefix" | "clone_children" | "none")
        && !option.starts_with("release_agent=")
}

fn own_legacy<'a>(line: &'a str, controllers: &[String]) -> Option<&'a str> {
    let mut fields = line.splitn(3, ':');
    let (_, names, path) = (fields.next()?, fields.next()?, fields.next()?);
    names.split(',').any(|n| controllers.iter().any(|c| c == n)).then_some(path)
}

impl Groups {
    /// Makes (once) the machine's group in a hierarchy.
    fn make(&mut self, hierarchy: &Hierarchy, name: &str) -> Result<PathBuf, Refusal> {
        let mut attempts = 0;
        loop {
            let directory = parent_of(hierarchy)?.join(name);
            if self.directories.contains(&directory) {
                return Ok(directory);
            }
            match std::fs::create_dir(&directory) {
                Ok(()) => {
                    self.directories.push(directory.clone());
                    return Ok(directory);
                }
                // Another machine was the last in it, and took the parent with it.
                Err(e) if e.kind() == io::ErrorKind::NotFound && attempts < 100 => attempts += 1,
                Err(e) => return Err(refusal(&directory, e)),
            }
        }
    }

    /// Moves a process into those groups that it was not born into.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn adopt(&self, pid: i32) -> Result<(), Refusal> {
        for directory in self.directories.iter().filter(|d| Some(*d) != self.unified.as_ref()) {
            write(&directory.join("cgroup.procs"), pid)?;
        }
        Ok(())
    }

    /// Gives the machine's root its group of the v2 hierarchy, so that it may make groups
    /// below (cgroups(7), "Delegation containment").
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn delegate(&self, uid: u32, gid: u32) -> Result<(), Refusal> {
        let Some(directory) = &self.unified else { return Ok(()) };
        let files = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"];
        let paths = std::iter::once(directory.clone())
            .chain(files.into_iter().map(|file| directory.join(file)));
        for path in paths {
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).map_err(|e| refusal(&path, e))?;
        }
        Ok(())
    }

    /// The directory to be born into, if any.
    #[must_use]
    pub fn unified(&self) -> Option<&Path> {
        self.unified.as_deref()
    }

    /// The controllers of each v1 hierarchy in which there is a group, as mount(2) takes them.
    #[must_use]
    pub fn legacy_controllers(&self) -> Vec<String> {
        let hierarchy = |d: &PathBuf| {
            let mount = d.parent()?.parent()?;
            Some(mount.file_name()?.to_string_lossy().into_owned())
        };
        let legacy = self.directories.iter().filter(|d| Some(*d) != self.unified.as_ref());
        legacy.filter_map(hierarchy).collect()
    }

    /// All directories, for whoever must remove them later.
    #[must_use]
    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        self.directories.iter().for_each(|directory| remove(directory));
    }
}

/// Removes a machine's group with those below it, and ours above it when it was the last. A
/// group whose last process has just been reaped can be busy for a moment.
pub fn remove(directory: &Path) {
    remove_one(directory);
    if let Some(parent) = directory.parent().filter(|p| p.ends_with(PARENT)) {
        // Fails while other machines have groups there, as it should.
        let _ = std::fs::remove_dir(parent);
    }
}

fn remove_one(directory: &Path) {
    // Most have none below them.
    if std::fs::remove_dir(directory).is_ok() {
        return;
    }
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_one(&entry.path());
        }
    }
    for _ in 0..200 {
        match std::fs::remove_dir(directory) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            _ => break,
        }
    }
}

fn top_of(hierarchy: &Hierarchy) -> PathBuf {
    if rustix::process::geteuid().is_root() {
        hierarchy.mount.clone()
    } else {
        hierarchy.mount.join(hierarchy.own.trim_start_matches('/'))
    }
}

/// Makes the group that holds all of ours, and has it pass its controllers down.
fn parent_of(hierarchy: &Hierarchy) -> Result<PathBuf, Refusal> {
    let top = top_of(hierarchy);
    let parent = top.join(PARENT);
    match std::fs::create_dir(&parent) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(refusal(&parent, e)),
    }
    if hierarchy.controllers.is_empty() {
        for directory in [&top, &parent] {
            for controller in ["memory", "cpu", "pids"] {
                // Those that the host lacks cannot be passed down; the limit's own file tells.
                let _ = std::fs::write(
                    directory.join("cgroup.subtree_control"),
                    format!("+{controller}"),
                );
            }
        }
    }
    Ok(parent)
}

fn set_unified(directory: &Path, controller: &str, limits: &Limits) -> Result<(), Refusal> {
    match controller {
        "memory" => {
            write_some(&directory.join("memory.max"), limits.memory)?;
            // Without swap accounting there is no such file, and nothing to limit.
            let _ = std::fs::write(directory.join("memory.swap.max"), "0");
            Ok(())
        }
        "cpu" => match limits.milli_cpus {
            Some(milli) => write(&directory.join("cpu.max"), format!("{} {PERIOD}", quota(milli))),
            None => Ok(()),
        },
        _ => write_some(&directory.join("pids.max"), limits.pids),
    }
}

fn set_legacy(directory: &Path, controller: &str, limits: &Limits) -> Result<(), Refusal> {
    match controller {
        "memory" => {
            write_some(&directory.join("memory.limit_in_bytes"), limits.memory)?;
            if let Some(bytes) = limits.memory {
                let _ = std::fs::write(
                    directory.join("memory.memsw.limit_in_bytes"),
                    bytes.to_string(),
                );
            }
            Ok(())
        }
        "cpu" => {
            write(&directory.join("cpu.cfs_period_us"), PERIOD)?;
            write_some(&directory.join("cpu.cfs_quota_us"), limits.milli_cpus.map(quota))
        }
        _ => write_some(&directory.join("pids.max"), limits.pids),
    }
}

/// Microseconds; the kernel's default.
const PERIOD: u64 = 100_000;

fn quota(milli_cpus: u64) -> u64 {
    // The kernel refuses less than a millisecond.
    (milli_cpus * PERIOD / 1000).max(1000)
}

fn write_some(path: &Path, value: Option<u64>) -> Result<(), Refusal> {
    value.map_or(Ok(()), |value| write(path, value))
}

fn write(path: &Path, value: impl ToString) -> Result<(), Refusal> {
    std::fs::write(path, value.to_string()).map_err(|e| refusal(path, e))
}

fn refusal(path: &Path, error: io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Refusal::NotDelegated(path.to_owned())
        }
        _ => Refusal::Failed(path.to_owned(), error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_host() {
        let own = "9:name=systemd:/s\n4:memory:/m/x\n2:cpu,cpuacct:/\n0::/u\n";
        let layout = Layout::parse(HYBRID, own);
        assert_eq!(layout.legacy_with("memory").unwrap().own, "/m/x");
        assert_eq!(
            layout.legacy_with("cpu").unwrap().mount,
            Path::new("/sys/fs/cgroup/cpu,cpuacct")
        );
        assert_eq!(layout.unified.as_ref().unwrap().own, "/u");
        assert!(layout.legacy_with("pids").is_none());
    }

    #[test]
    fn a_unified_host_and_a_partial_mount() {
        let line = "25 1 0:22 /user.slice /sys/fs/cgroup rw shared:4 - cgroup2 none rw,nsdelegate";
        let layout = Layout::parse(line, "0::/user.slice/a\n");
        assert_eq!(layout.unified.unwrap().own, "/a");
        assert!(layout.legacy.is_empty());
    }

    #[test]
    fn garbage_is_no_layout() {
        assert_eq!(Layout::parse("x\n - \na b - cgroup2", "?"), Layout::default());
    }
}
