//! The control groups of a container, made without a manager ("cgroupfs"): one in each hierarchy of
//! the first version, and one in the second's, whichever of them this host has.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use spec::runtime::Resources;
use sys::cgroups::{Hierarchy, Layout};

use super::limits;
use crate::container::bundle::{self, piece};

/// A container's groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Groups(pub(super) Vec<Group>);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Group {
    /// Where the hierarchy is mounted.
    mount: PathBuf,
    /// Of the first version; empty for the second.
    pub(super) controllers: Vec<String>,
    /// Where the group is.
    pub(super) path: PathBuf,
    /// How many directories were made for it, and are to be removed.
    made: usize,
}

impl Group {
    pub(super) fn is_unified(&self) -> bool {
        self.controllers.is_empty()
    }
}

impl Groups {
    /// Makes them. Who is not root does without those that it may not make; its limits are missed
    /// later.
    pub(super) fn make(
        path: Option<&str>,
        id: &str,
        rootless: bool,
        warn: &dyn Fn(&str),
    ) -> Result<Self> {
        let layout = Layout::read().context("cannot read this process's control groups")?;
        if let Some(path) = path.filter(|path| !path.is_empty()) {
            let groups = Self::at(&layout, path, rootless)?;
            groups.look_at_found(warn).inspect_err(|_| groups.remove_made())?;
            return Ok(groups);
        }
        // Nobody said where: not where a container of this id is that is known in another directory.
        let names = (1_u32..).map(|number| format!("{id}.{number}"));
        for name in std::iter::once(id.to_owned()).chain(names) {
            let groups = Self::at(&layout, &name, rootless)?;
            if groups.0.iter().all(|group| group.made > 0) {
                return Ok(groups);
            }
            groups.remove_made();
        }
        bail!("every control group of the name {id} is taken")
    }

    fn at(layout: &Layout, path: &str, rootless: bool) -> Result<Self> {
        let mut groups = Self::default();
        for hierarchy in layout.legacy.iter().chain(&layout.unified) {
            let group = place(hierarchy, path).inspect_err(|_| groups.remove_made())?;
            match group.make() {
                Ok(group) => groups.0.push(group),
                Err((_, error)) if rootless && is_denied(&error) => {}
                Err((directory, error)) => {
                    groups.remove_made();
                    let what = format!("cannot make the control group {}", directory.display());
                    return Err(anyhow!(error).context(what));
                }
            }
        }
        Ok(groups)
    }

    /// What others made stays theirs.
    fn remove_made(&self) {
        self.0.iter().filter(|group| group.made > 0).for_each(Group::remove);
    }

    /// A container in somebody else's groups is ended with what else is in there, and one in frozen groups never
    /// comes up. In runc's words, which its callers know.
    fn look_at_found(&self, warn: &dyn Fn(&str)) -> Result<()> {
        if self.0.iter().all(|group| group.made > 0) {
            return Ok(());
        }
        if self.is_frozen() {
            bail!(
                "container's cgroup unexpectedly frozen: thaw it first, or choose another cgroupsPath"
            );
        }
        match self.processes().len() {
            0 => {}
            count => warn(&format!("container's cgroup is not empty: {count} process(es) found")),
        }
        Ok(())
    }

    /// Moves a process into all of them.
    pub(super) fn adopt(&self, pid: i32) -> Result<()> {
        for group in &self.0 {
            let file = group.path.join("cgroup.procs");
            fs::write(&file, pid.to_string())
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }

    /// The same for a process of a container that runs already: a group that is gone is passed over.
    pub(super) fn adopt_another(&self, pid: i32, below: &[String]) -> Result<()> {
        let below = below.iter().map(|text| self.below(text)).collect::<Result<Vec<_>>>()?;
        for group in self.0.iter().filter(|group| group.path.exists()) {
            let named = |wanted: &[&str]| {
                wanted.iter().any(|one| group.controllers.iter().any(|own| own == one))
            };
            let is_of = |wanted: &[&str]| wanted.is_empty() || named(wanted);
            let path = below.iter().rev().find(|(wanted, _)| is_of(wanted));
            let path = path.map_or_else(|| group.path.clone(), |(_, path)| group.path.join(path));
            let file = path.join("cgroup.procs");
            // In runc's words.
            fs::write(&file, pid.to_string()).with_context(|| {
                format!("error adding pid {pid} to cgroups: open {}", file.display())
            })?;
        }
        Ok(())
    }

    /// Controllers, and a path below their groups.
    fn below<'a>(&self, text: &'a str) -> Result<(Vec<&'a str>, &'a str)> {
        let (controllers, path) = text.split_once(':').unwrap_or(("", text));
        let wanted: Vec<&str> = controllers.split(',').filter(|name| !name.is_empty()).collect();
        let is_known =
            |name: &str| self.0.iter().any(|group| group.controllers.iter().any(|own| own == name));
        if let Some(unknown) = wanted.iter().find(|name| !is_known(name)) {
            bail!("unknown controller {unknown} in --cgroup {text}");
        }
        if path.split('/').any(|part| part == "..") {
            bail!("bad --cgroup path: {path} is not a sub cgroup path");
        }
        Ok((wanted, path.trim_start_matches('/')))
    }

    /// Sets limits.
    pub(super) fn limit(
        &self,
        resources: &Resources,
        rootless: bool,
        warn: &mut dyn FnMut(String),
    ) -> Result<()> {
        limits::set(self, resources, rootless, warn)
    }

    pub(super) fn with(&self, controller: &str) -> Option<&Group> {
        let legacy = self.0.iter().find(|g| g.controllers.iter().any(|c| c == controller));
        legacy.or_else(|| {
            self.0.iter().find(|group| {
                group.is_unified()
                    && fs::read_to_string(group.path.join("cgroup.controllers"))
                        .is_ok_and(|all| all.split_ascii_whitespace().any(|c| c == controller))
            })
        })
    }

    /// The group that can be frozen.
    fn freezer(&self) -> Option<&Group> {
        self.with("freezer").or_else(|| self.0.iter().find(|group| group.is_unified()))
    }

    pub(super) fn is_frozen(&self) -> bool {
        let Some(group) = self.freezer() else { return false };
        match group.is_unified() {
            true => fs::read_to_string(group.path.join("cgroup.freeze"))
                .is_ok_and(|text| text.trim() == "1"),
            false => fs::read_to_string(group.path.join("freezer.state"))
                .is_ok_and(|text| matches!(text.trim(), "FROZEN" | "FREEZING")),
        }
    }

    /// Freezes all its processes, or lets them go on, and waits until that is so.
    pub(super) fn freeze(&self, freeze: bool) -> Result<()> {
        let group = self.freezer().context("this host has no control group to freeze it in")?;
        let (file, text) = match (group.is_unified(), freeze) {
            (true, true) => ("cgroup.freeze", "1"),
            (true, false) => ("cgroup.freeze", "0"),
            (false, true) => ("freezer.state", "FROZEN"),
            (false, false) => ("freezer.state", "THAWED"),
        };
        let path = group.path.join(file);
        let what = || format!("cannot write {}", path.display());
        fs::write(&path, text).with_context(what)?;
        if group.is_unified() || !freeze {
            return Ok(());
        }
        // What forks meanwhile is seen at the next writing only (freezer-subsystem.rst, "FREEZING").
        for _ in 0..1000 {
            if fs::read_to_string(&path).with_context(what)?.trim() == "FROZEN" {
                return Ok(());
            }
            fs::write(&path, text).with_context(what)?;
            std::thread::yield_now();
        }
        let _ = fs::write(&path, "THAWED");
        bail!("the container's processes cannot be frozen now")
    }

    /// All processes in them, those of groups below too.
    pub(super) fn processes(&self) -> Vec<i32> {
        // Any of them has all; a host may have no other but that of one controller.
        let group = self.with("pids").or_else(|| self.0.first());
        let mut found = Vec::new();
        if let Some(group) = group {
            collect(&group.path, &mut found);
        }
        found.sort_unstable();
        found
    }

    /// Removes what was made.
    pub(super) fn remove(&self) {
        self.0.iter().for_each(Group::remove);
    }

    /// As a mount of type `cgroup` shows them: all hierarchies, or the only one.
    pub(super) fn shown(&self) -> Result<Vec<piece::Hierarchy>> {
        if let [only] = self.0.as_slice()
            && only.is_unified()
        {
            return Ok(vec![bundle::hierarchy("", Vec::new(), None, &only.path)?]);
        }
        let layout = Layout::read()?;
        let mut shown = Vec::new();
        for hierarchy in layout.legacy.iter().chain(&layout.unified) {
            // The group that it is in, or this process's where it has none.
            let own = || hierarchy.mount.join(hierarchy.own.trim_start_matches('/'));
            let group = self.0.iter().find(|group| group.mount == hierarchy.mount);
            let path = group.map_or_else(own, |group| group.path.clone());
            let name = hierarchy.mount.file_name().unwrap_or_default().to_string_lossy();
            let controllers = &hierarchy.controllers;
            if controllers.is_empty() && layout.legacy.is_empty() {
                return Ok(vec![bundle::hierarchy("", Vec::new(), None, &path)?]);
            }
            let links = match controllers.len() {
                0 | 1 => Vec::new(),
                _ => controllers.iter().filter(|c| **c != *name).cloned().collect(),
            };
            let text = (!controllers.is_empty()).then(|| controllers.join(","));
            // A hierarchy without a controller has a name only (cgroups(7), "Named").
            let text = text.map(|t| if t.starts_with("name=") { format!("none,{t}") } else { t });
            shown.push(bundle::hierarchy(&name, links, text.as_deref(), &path)?);
        }
        Ok(shown)
    }
}

fn is_denied(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::NotFound
    )
}

/// An absolute path is below the top; any other below this process's own group.
fn place(hierarchy: &Hierarchy, relative: &str) -> Result<Group> {
    if Path::new(relative).components().any(|c| c == std::path::Component::ParentDir) {
        bail!("linux.cgroupsPath {relative:?} leads upwards");
    }
    let base = match relative.starts_with('/') {
        true => hierarchy.mount.clone(),
        false => hierarchy.mount.join(hierarchy.own.trim_start_matches('/')),
    };
    Ok(Group {
        mount: hierarchy.mount.clone(),
        controllers: hierarchy.controllers.clone(),
        path: base.join(relative.trim_start_matches('/')),
        made: 0,
    })
}

impl Group {
    fn remove(&self) {
        sys::cgroups::remove(&self.path);
        let mut path = self.path.clone();
        for _ in 1..self.made {
            // Fails while somebody else uses it, as it should.
            if !path.pop() || fs::remove_dir(&path).is_err() {
                break;
            }
        }
    }

    fn make(mut self) -> Result<Self, (PathBuf, io::Error)> {
        let relative = self.path.strip_prefix(&self.mount).unwrap_or(&self.path).to_owned();
        let mut directory = self.mount.clone();
        for name in &relative {
            if self.is_unified() {
                pass_down(&directory);
            }
            directory.push(name);
            match fs::create_dir(&directory) {
                Ok(()) => self.made += 1,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err((directory, error)),
            }
            if self.controllers.iter().any(|c| c == "cpuset") {
                inherit_cpuset(&directory).map_err(|error| (directory.clone(), error))?;
            }
        }
        // One that is there already may be another's.
        if self.made == 0 && !is_writable(&self.path) {
            return Err((self.path, io::ErrorKind::PermissionDenied.into()));
        }
        Ok(self)
    }
}

fn is_writable(path: &Path) -> bool {
    let file = path.join("cgroup.procs");
    rustix::fs::access(&file, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Those controllers that the group has, for the groups below. Where it has processes of its own, it
/// cannot; a limit that needs one misses it then.
fn pass_down(directory: &Path) {
    let read = |name| read(&directory.join(name)).unwrap_or_default();
    let (all, passed) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    for controller in all.split_ascii_whitespace() {
        if !passed.split_ascii_whitespace().any(|c| c == controller) {
            let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

/// No process can be in a group before these are set (cpusets.rst).
fn inherit_cpuset(directory: &Path) -> io::Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let path = directory.join(name);
        if read(&path)?.trim().is_empty()
            && let Some(parent) = directory.parent()
        {
            fs::write(&path, read(&parent.join(name))?.trim())?;
        }
    }
    Ok(())
}

fn collect(directory: &Path, found: &mut Vec<i32>) {
    let text = read(&directory.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found);
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    sys::process::read_proc(path)
}
