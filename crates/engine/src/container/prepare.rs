//! Plan to steps: everything that can be decided, allocated or refused is, before
//! there is a process that could be left half-made.

use std::ffi::{CStr, CString};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use spec::boot::{Ready, RuntimeKind};
use spec::ids::IdMapping;
use spec::plan::{self, Mount, MountKind, Network, Plan, Root};
use sys::caps;
use sys::mount::Attributes;
use sys::process::{Namespaces, Strings};
use sys::seccomp::Filter;

use super::step::{EtcFile, Protected, Runtime, Step, Tree, lower_name};
use super::{bypass, cgroupfs, filter, supervisor};

/// Steps, and what the launcher itself must do for them.
pub(super) struct Prepared {
    pub(super) namespaces: Namespaces,
    pub(super) steps: Vec<Step>,
    /// Trees to be opened with the machine's ids, in the order of [`Tree::Received`].
    pub(super) trees: Vec<WantedTree>,
}

/// A tree that only the launcher can open: with ids mapped.
pub(super) struct WantedTree {
    pub(super) path: CString,
    pub(super) recursive: bool,
}

/// What the launcher knows of itself.
pub(super) struct Means<'a> {
    /// May show files with other ids: root of the initial user namespace.
    pub(super) maps_ids: bool,
    /// The overlay is mounted in a user namespace other than the initial one.
    pub(super) in_userns: bool,
    /// An empty place to mount on.
    pub(super) scratch: &'a Path,
    /// What the machine's last run wrote is there.
    pub(super) kept: bool,
    /// No control group can be had that the machine could manage.
    pub(super) emulates: bool,
    /// Control group hierarchies (v1) that the machine has a group in, and whether v2 is one.
    pub(super) cgroups: (Vec<String>, bool),
}

pub(super) fn prepare(plan: &Plan, means: &Means<'_>) -> Result<Prepared> {
    let mut builder = Builder { plan, means, steps: Vec::new(), trees: Vec::new() };
    builder.isolate()?;
    builder.root()?;
    for mount in &plan.mounts {
        builder.mount(mount)?;
    }
    if let Some(emulation) = &plan.emulation {
        let architecture = emulation.architecture.clone();
        let registration = emulation.registration.clone().into_bytes();
        builder.steps.push(Step::Emulation { architecture, registration });
    }
    builder.runtime()?;
    builder.confine()?;
    // An init gives its terminal to whoever logs in, so it must not be its own.
    become_command(&mut builder.steps, &plan.process, plan.boot.is_none())?;
    hand_over(&mut builder.steps, plan, means.emulates)?;
    Ok(Prepared { namespaces: namespaces(plan), steps: builder.steps, trees: builder.trees })
}

/// The steps of a further process in a machine that runs, from inside of its namespaces on.
pub(super) fn inside(plan: &Plan, process: &plan::Process) -> Result<Vec<Step>> {
    let mut steps = vec![Step::DieWithLauncher, Step::Session];
    if matches!(plan.ids, IdMapping::Private { .. }) {
        steps.push(Step::BecomeRoot);
    }
    if process.terminal {
        steps.push(Step::Terminal { console: false });
    }
    become_command(&mut steps, process, true)?;
    Ok(steps)
}

/// While it still has the right to, and when it makes none of the calls itself any more.
pub(super) fn hand_over(steps: &mut Vec<Step>, plan: &Plan, cgroups: bool) -> Result<()> {
    let mut rules = if cgroups { cgroupfs::rules() } else { Vec::new() };
    if let Some(policy) = &plan.bypass {
        rules.extend(bypass::rules(!policy.ports.is_empty()));
    }
    if rules.is_empty() {
        return Ok(());
    }
    let at = steps.iter().position(|step| matches!(step, Step::BoundCapabilities(_)));
    let at = at.context("the machine has no rights to give up")?;
    let (filter, connects) = (supervisor::filter(&rules), plan.bypass.is_some());
    steps.insert(at, Step::HandOver { filter, cgroups, connects });
    Ok(())
}

fn namespaces(plan: &Plan) -> Namespaces {
    let mut namespaces = Namespaces::MOUNT | Namespaces::PID | Namespaces::UTS | Namespaces::IPC;
    if matches!(plan.network, Network::Attached(_)) {
        namespaces |= Namespaces::NET;
    }
    if matches!(plan.ids, IdMapping::Private { .. }) {
        namespaces |= Namespaces::USER;
    }
    if !moves(plan) {
        namespaces |= Namespaces::CGROUP;
    }
    namespaces
}

/// Whether the machine is moved into a control group: the root of its view is set after that.
fn moves(plan: &Plan) -> bool {
    plan.limits.any() || plan.manages_control_groups()
}

/// Whether what a machine writes is its own, and thrown away with it.
pub(super) fn keeps(plan: &Plan) -> bool {
    matches!(plan.root, Root::Overlay { .. })
}

/// An empty directory in the scratch.
const EMPTY: &CStr = c"e";

struct Builder<'a> {
    plan: &'a Plan,
    means: &'a Means<'a>,
    steps: Vec<Step>,
    trees: Vec<WantedTree>,
}

impl Builder<'_> {
    /// What needs no ids comes first: it is done while helpers still write the id maps.
    fn isolate(&mut self) -> Result<()> {
        self.steps.extend([Step::DieWithLauncher, Step::Session, Step::PrivateMounts]);
        // Nobody else has to do with it: then it is made while the launcher maps ids and opens layers.
        if matches!(self.plan.network, Network::Loopback) {
            self.steps.push(Step::NetworkNamespace);
        }
        if self.plan.network.is_own() {
            self.steps.push(Step::Loopback);
        }
        self.steps.push(Step::Hostname(self.plan.hostname.clone()));
        self.steps.push(Step::AwaitLauncher);
        if self.has_userns() {
            self.steps.push(Step::BecomeRoot);
        }
        if moves(self.plan) {
            self.steps.push(Step::CgroupNamespace);
        }
        let directory = cstring(&self.means.scratch.to_string_lossy(), "the run directory")?;
        let kept = self.means.kept;
        self.steps.push(Step::Scratch { directory, kept });
        if keeps(self.plan) {
            self.steps.push(Step::KeepScratch);
        }
        Ok(())
    }

    fn has_userns(&self) -> bool {
        matches!(self.plan.ids, IdMapping::Private { .. })
    }

    fn tree(&mut self, path: &str, recursive: bool) -> Result<Tree> {
        let path = cstring(path, "a path")?;
        if !(self.means.maps_ids && self.has_userns()) {
            return Ok(Tree::Path(path));
        }
        self.trees.push(WantedTree { path, recursive });
        Ok(Tree::Received(self.trees.len() - 1))
    }

    fn root(&mut self) -> Result<()> {
        match &self.plan.root {
            Root::Directory { path } => {
                let tree = self.tree(path, false)?;
                self.steps.push(Step::DirectoryRoot(tree));
            }
            Root::Overlay { layers, links, .. } => {
                let mut trees =
                    layers.iter().rev().map(|l| self.tree(l, false)).collect::<Result<Vec<_>>>()?;
                if trees.is_empty() {
                    trees.push(Tree::Path(EMPTY.into()));
                }
                let lower: Vec<String> = (0..trees.len()).map(|n| format!("l{n}")).collect();
                let options = self.overlay_options(&lower.join(":"), "u", "w")?;
                self.steps.push(Step::Layers(trees));
                // They are there since the first run, and the machine's own by now.
                if !self.means.kept {
                    self.steps.extend(self.etc_files()?.map(Step::EtcFiles));
                }
                if !links.is_empty() && !self.means.kept {
                    let pair = |(name, to): &(String, String)| {
                        Ok((cstring(name, "a file name")?, cstring(to, "a path")?))
                    };
                    let links = links.iter().map(pair).collect::<Result<Vec<_>>>()?;
                    self.steps.push(Step::Links(links));
                }
                self.steps.push(Step::OverlayRoot { options });
            }
        }
        Ok(())
    }

    fn etc_files(&self) -> Result<Option<Vec<EtcFile>>> {
        let files = self
            .plan
            .files
            .iter()
            .map(|file| {
                Ok(EtcFile {
                    name: cstring(&file.name, "a file name")?,
                    content: file.content.clone().into_bytes(),
                    mode: file.mode,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok((!files.is_empty()).then_some(files))
    }

    /// In a user namespace overlayfs keeps its own attributes under `user.` (Linux 5.11,
    /// Documentation/filesystems/overlayfs.rst, "User xattr").
    fn overlay_options(&self, lower: &str, upper: &str, work: &str) -> Result<CString> {
        let userxattr = if self.means.in_userns || self.has_userns() { ",userxattr" } else { "" };
        let text = format!("lowerdir={lower},upperdir={upper},workdir={work}{userxattr}");
        // mount(2): the options are one page at most.
        if text.len() >= 4096 {
            bail!("the image has too many layers for one overlay mount");
        }
        cstring(&text, "overlay options")
    }

    fn mount(&mut self, mount: &Mount) -> Result<()> {
        let target = mount.target.clone();
        match &mount.kind {
            MountKind::Filesystem { fstype, data, attributes } => {
                self.steps.push(Step::Filesystem {
                    target: target.clone(),
                    fstype: cstring(fstype, "a file system type")?,
                    data: cstring(data, "mount options")?,
                    attributes: convert(attributes),
                });
                if target == "/dev" {
                    let names = self.plan.devices.iter().map(|d| cstring(d, "a device name"));
                    self.steps.push(Step::Devices(names.collect::<Result<_>>()?));
                    self.steps.push(Step::DeviceLinks);
                }
            }
            MountKind::Bind { source, recursive, create_source, attributes } => {
                let tree = self.bind_source(source, *recursive, *create_source)?;
                let (recursive, attributes) = (*recursive, convert(attributes));
                self.steps.push(Step::Bind { target, tree, recursive, attributes });
            }
            // A mount of the host's that somebody took away since it was listed: before a restart, say.
            MountKind::Overlay { layers, .. }
                if layers[..] == [target.clone()] && !Path::new(&target).exists() => {}
            MountKind::Overlay { layers, read_only } => {
                let trees = layers.iter().rev().map(|layer| self.tree(layer, false));
                let trees = trees.collect::<Result<Vec<_>>>()?;
                // The same each time that the machine starts.
                let index = self.plan.mounts.iter().position(|other| std::ptr::eq(other, mount));
                let index = index.unwrap_or_default();
                let [upper, work] = ["u", "w"].map(|name| format!("{name}{index}"));
                let lower: Vec<String> =
                    (0..trees.len()).map(|number| lower_name(index, number)).collect();
                let options = self.overlay_options(&lower.join(":"), &upper, &work)?;
                let files =
                    if target == "/etc" && !self.means.kept { self.etc_files()? } else { None };
                let (files, read_only) = (files.unwrap_or_default(), *read_only);
                let step = Step::OverlayMount { target, trees, index, options, read_only, files };
                self.steps.push(step);
            }
            MountKind::Cgroup { managed: true } => self.managed_groups(target),
            MountKind::Cgroup { managed: false } => {
                let (legacy, unified) = &self.means.cgroups;
                let legacy = legacy.iter().map(|c| cstring(c, "a controller"));
                let legacy = legacy.collect::<Result<Vec<_>>>()?;
                self.steps.push(Step::Cgroups { legacy, unified: *unified });
            }
        }
        Ok(())
    }

    /// A hierarchy that the machine may write.
    fn managed_groups(&mut self, target: String) {
        let emulates = self.means.emulates;
        let attributes = Attributes { read_only: false, nosuid: true, nodev: true, noexec: true };
        self.steps.push(Step::Filesystem {
            target,
            fstype: if emulates { c"tmpfs" } else { c"cgroup2" }.to_owned(),
            data: if emulates { c"mode=0755,size=16m" } else { c"" }.to_owned(),
            attributes,
        });
        // An init makes room itself.
        if !emulates && self.plan.boot.is_none() {
            self.steps.push(Step::OwnGroup);
        }
    }

    /// What the machine finds in its `/run`, and some files elsewhere.
    fn runtime(&mut self) -> Result<()> {
        for file in &self.plan.runtime {
            // There since the first run, and the machine's own by now.
            if self.means.kept && file.path.starts_with("/etc/") {
                continue;
            }
            let path = file.path.clone();
            let kind = match &file.kind {
                RuntimeKind::Directory(mode) => Runtime::Directory(*mode),
                RuntimeKind::Text { content, mode } => {
                    Runtime::Text(content.clone().into_bytes(), *mode)
                }
                RuntimeKind::Link(target) => Runtime::Link(cstring(target, "a link's target")?),
            };
            self.steps.push(Step::Runtime { path, kind });
        }
        let ready = self.plan.boot.as_ref().map(|boot| &boot.ready);
        if let Some(Ready::Notify { socket, .. }) = ready {
            self.steps.push(Step::NotifySocket(socket.clone()));
        }
        Ok(())
    }

    fn bind_source(&mut self, source: &str, recursive: bool, create: bool) -> Result<Tree> {
        // The kernel's own trees have no ids to map.
        if source == "/sys" {
            return Ok(Tree::Path(cstring(source, "a path")?));
        }
        match std::fs::metadata(source) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && create => {
                std::fs::create_dir_all(source)
                    .with_context(|| format!("cannot make the directory {source} to mount"))?;
            }
            Err(error) => return Err(error).with_context(|| format!("cannot mount {source}")),
        }
        self.tree(source, recursive)
    }

    /// Nothing is mounted after this.
    fn confine(&mut self) -> Result<()> {
        if self.plan.process.terminal {
            self.steps.push(Step::Terminal { console: true });
        }
        let empty = self.means.scratch.join("e");
        let empty = cstring(&empty.to_string_lossy(), "the run directory")?;
        for root in ["/proc", "/sys"] {
            let paths = protected(root, &self.plan.masked_paths, &self.plan.readonly_paths)?;
            self.steps.push(Step::Protect { root, paths, empty: empty.clone() });
        }
        if let Root::Overlay { read_only: true, .. } = self.plan.root {
            self.steps.push(Step::ReadonlyRoot);
        }
        // Such sockets can be moved to the host's network, and raw ones cannot.
        if self.plan.bypass.is_some() {
            self.steps.push(Step::Pings { last: last_group(&self.plan.ids) });
        }
        self.steps.push(Step::Pivot);
        if self.plan.boot.is_some() {
            self.steps.push(Step::SharedMounts);
        }
        Ok(())
    }
}

/// The last of the groups that a machine has from 0 on: the kernel takes a range of mapped ones only.
fn last_group(ids: &IdMapping) -> u32 {
    match ids {
        // `INT_MAX` (Linux, `ipv4_ping_group_range`).
        IdMapping::Inherit => i32::MAX.unsigned_abs(),
        IdMapping::Private { gids, .. } => {
            let from_0 = gids.iter().find(|range| range.inside == 0);
            from_0.map_or(0, |range| range.count.saturating_sub(1)).min(i32::MAX.unsigned_abs())
        }
    }
}

/// From the machine's root on. `control`: the terminal is the session's own.
fn become_command(steps: &mut Vec<Step>, process: &plan::Process, control: bool) -> Result<()> {
    for limit in &process.rlimits {
        let resource = sys::rlimits::resource(&limit.name)
            .ok_or_else(|| anyhow!("unknown resource limit {:?}", limit.name))?;
        let (name, soft, hard) = (limit.name.clone(), limit.soft, limit.hard);
        steps.push(Step::Rlimit { name, resource, soft, hard });
    }
    steps.push(Step::Streams { stdin: process.stdin, control });
    steps.push(Step::CloseDescriptors);
    steps.push(Step::WorkingDirectory(cstring(&process.cwd, "the working directory")?));
    credentials(steps, process)?;
    if process.init {
        steps.push(Step::Init);
    }
    steps.push(execute(process)?);
    Ok(())
}

/// Without no_new_privs a filter needs the rights that are about to be given up, so it comes
/// first; with it, last, so that it need not allow what the steps before do.
fn credentials(steps: &mut Vec<Step>, process: &plan::Process) -> Result<()> {
    let set = caps::Set::of(process.capabilities.iter().map(String::as_str))
        .map_err(|name| anyhow!("unknown capability {name:?}"))?;
    let filter = process.seccomp.as_ref().map(filter);
    steps.push(Step::BoundCapabilities(set));
    let (early, late) = if process.no_new_privileges { (None, filter) } else { (filter, None) };
    steps.extend(early.map(Step::Seccomp));
    let (uid, gid, groups) = (process.uid, process.gid, process.groups.clone());
    steps.push(Step::User { uid, gid, groups });
    if uid == 0 {
        steps.push(Step::Capabilities(set));
    }
    steps.push(Step::DieWithLauncher);
    if process.no_new_privileges {
        steps.push(Step::NoNewPrivileges);
    }
    steps.extend(late.map(Step::Seccomp));
    Ok(())
}

/// What of these exists, by its kind: it is the same kernel's tree that the launcher sees,
/// and a mount that fails costs far more than a look.
fn protected(root: &str, masked: &[String], readonly: &[String]) -> Result<Protected> {
    let below = |path: &str| {
        let relative = path.strip_prefix(root)?.strip_prefix('/')?.to_owned();
        Some((relative, std::fs::metadata(path).ok()?.is_dir()))
    };
    let mut paths = Protected::default();
    for (path, _) in readonly.iter().filter_map(|p| below(p)) {
        paths.readonly.push(cstring(&path, "a path")?);
    }
    for (path, directory) in masked.iter().filter_map(|p| below(p)) {
        let list = if directory { &mut paths.hidden_directories } else { &mut paths.hidden_files };
        list.push(cstring(&path, "a path")?);
    }
    Ok(paths)
}

fn execute(process: &plan::Process) -> Result<Step> {
    let strings = |list: &[String], what: &str| {
        Strings::new(list.iter().map(String::as_str))
            .map_err(|s| anyhow!("{what} {s:?} contains a NUL byte"))
    };
    let command = process.args.first().context("there is no command")?;
    let path = if command.contains('/') {
        vec![cstring(command, "the command")?]
    } else {
        let path =
            process.env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or("/usr/bin:/bin");
        // An empty entry means the working directory to a shell; here it means nothing.
        path.split(':')
            .filter(|d| !d.is_empty())
            .map(|d| cstring(&format!("{d}/{command}"), "the command"))
            .collect::<Result<_>>()?
    };
    Ok(Step::Execute {
        args: strings(&process.args, "the argument")?,
        env: strings(&process.env, "the variable")?,
        path,
    })
}

/// Compiled when this program was built, for nearly all machines.
fn filter(profile: &plan::Seccomp) -> Filter {
    const BUILT: &[(u64, &[sys::seccomp::Instruction])] =
        include!(concat!(env!("OUT_DIR"), "/filters.rs"));
    let key = filter::key(profile);
    match BUILT.iter().find(|(built, _)| *built == key) {
        Some((_, instructions)) => Filter::from_instructions(instructions),
        None => filter::compile(profile),
    }
}

fn convert(attributes: &plan::Attributes) -> Attributes {
    Attributes {
        read_only: attributes.read_only,
        nosuid: attributes.nosuid,
        nodev: attributes.nodev,
        noexec: attributes.noexec,
    }
}

fn cstring(text: &str, what: &str) -> Result<CString> {
    CString::new(text).map_err(|_| anyhow!("{what} {text:?} contains a NUL byte"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::seccomp::{self, DEFAULT_CAPABILITIES};

    #[test]
    fn what_was_compiled_at_build_time_is_what_would_be_compiled_now() {
        let default: Vec<String> = DEFAULT_CAPABILITIES.iter().map(|c| (*c).to_owned()).collect();
        for suppress_sync in [false, true] {
            let profile = seccomp::default(&default, suppress_sync);
            let (built, now) = (filter(&profile), filter::compile(&profile));
            assert_eq!(built.instructions(), now.instructions());
        }
        let few = seccomp::default(&[], false);
        assert_ne!(filter::key(&few), filter::key(&seccomp::default(&default, false)));
    }
}
