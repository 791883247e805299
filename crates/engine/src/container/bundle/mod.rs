//! A bundle's `config.json` as steps of the engine's child: the plan of the OCI runtime is that
//! file. What the host cannot do is refused here, before there is a process.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::Mode;
use spec::runtime::{self, Config, Linux, Namespace, NamespaceKind, Process};
use sys::process::{Namespaces, Strings};

use super::step::{Runtime, Step, Tree};

mod check;
mod devices;
mod filter;
pub(crate) mod launch;
mod mounts;
pub(crate) mod piece;
mod rights;

pub(crate) use mounts::names as mount_options;
use mounts::{Options, Sources};
use piece::{Hierarchy, Kind, Mount, Piece};

/// Steps, and what the launcher itself must do for them.
pub(crate) struct Prepared {
    /// New ones, but for those that the child makes.
    namespaces: Namespaces,
    /// Those that are joined.
    joined: Vec<Namespace>,
    steps: Vec<Step>,
    trees: Vec<Wanted>,
}

/// A tree that the launcher opens.
struct Wanted {
    path: CString,
    recursive: bool,
    ids: Ids,
}

/// The ids that a tree is shown with.
enum Ids {
    Own,
    /// The container's, for all mounts in it.
    Container(bool),
    Mapped(Vec<runtime::IdMapping>, Vec<runtime::IdMapping>, bool),
}

/// What is not in the configuration.
pub(crate) struct Means<'a> {
    /// Absolute path.
    pub(crate) bundle: &'a Path,
    /// The container's groups, as they are mounted inside.
    pub(crate) hierarchies: Vec<piece::Hierarchy>,
    /// Descriptors from 3 on that the command gets.
    pub(crate) preserved: u32,
    pub(crate) no_pivot: bool,
    /// The name of a session keyring of its own.
    pub(crate) keyring: Option<String>,
    /// May open trees for another user namespace.
    pub(crate) opens: bool,
    /// What has to be told, though it stops nobody.
    pub(crate) warn: &'a mut dyn FnMut(String),
}

pub(crate) fn prepare(config: &Config, means: &mut Means<'_>) -> Result<Prepared> {
    check::check(config)?;
    let empty = Linux::default();
    let linux = config.linux.as_ref().unwrap_or(&empty);
    let process = &process_of(config);
    let mut builder =
        Builder { config, linux, process, means, steps: Vec::new(), trees: Vec::new() };
    builder.isolate()?;
    builder.root()?;
    builder.confine()?;
    builder.become_command()?;
    let Builder { steps, trees, .. } = builder;
    let (namespaces, joined) = namespaces(linux);
    Ok(Prepared { namespaces, joined, steps, trees })
}

/// A container may be made without one; its start then fails (runtime-spec 1.2, `config.md`, "Process").
pub(crate) fn process_of(config: &Config) -> Process {
    let none = || Process { cwd: "/".into(), ..Process::default() };
    config.process.clone().unwrap_or_else(none)
}

/// The steps of a further process in a container that runs, from inside of its namespaces on.
pub(crate) fn inside(
    process: &Process,
    userns: bool,
    preserved: u32,
    filter: Option<&runtime::Seccomp>,
    warn: &mut dyn FnMut(String),
) -> Result<Vec<Step>> {
    check::process(process)?;
    let mut steps = vec![Step::Session];
    if userns {
        steps.push(Step::Bundle(Piece::BecomeRoot));
    }
    if process.terminal {
        steps.push(Step::Terminal { console: false });
    }
    steps.push(Step::Bundle(Piece::Sync));
    prelude(&mut steps, process, None, preserved)?;
    let filter = filter.map(filter::step).transpose()?;
    let rights = rights::of(process, warn)?;
    let early = !process.no_new_privileges;
    let (first, last) = if early { (filter, None) } else { (None, filter) };
    steps.extend(first);
    steps.extend(rights);
    steps.push(Step::Bundle(Piece::Find(command(process)?)));
    steps.extend(last);
    steps.push(execute(process)?);
    Ok(steps)
}

/// Those that the clone makes, and those that are joined. Two kinds are made later by the child: that of
/// control groups once it was moved, and that of time once it may.
fn namespaces(linux: &Linux) -> (Namespaces, Vec<Namespace>) {
    let mut new = Namespaces::NONE;
    let mut joined = Vec::new();
    for namespace in &linux.namespaces {
        if namespace.path.as_deref().is_some_and(|path| !path.is_empty()) {
            joined.push(namespace.clone());
        } else if !matches!(namespace.kind, NamespaceKind::Cgroup | NamespaceKind::Time) {
            new |= bit(namespace.kind);
        }
    }
    (new, joined)
}

/// As the kernel has it.
pub(crate) fn bit(kind: NamespaceKind) -> Namespaces {
    match kind {
        NamespaceKind::Pid => Namespaces::PID,
        NamespaceKind::Network => Namespaces::NET,
        NamespaceKind::Mount => Namespaces::MOUNT,
        NamespaceKind::Ipc => Namespaces::IPC,
        NamespaceKind::Uts => Namespaces::UTS,
        NamespaceKind::User => Namespaces::USER,
        NamespaceKind::Cgroup => Namespaces::CGROUP,
        NamespaceKind::Time => Namespaces::TIME,
    }
}

struct Builder<'a, 'm> {
    config: &'a Config,
    linux: &'a Linux,
    process: &'a Process,
    means: &'a mut Means<'m>,
    steps: Vec<Step>,
    trees: Vec<Wanted>,
}

impl Builder<'_, '_> {
    fn piece(&mut self, piece: Piece) {
        self.steps.push(Step::Bundle(piece));
    }

    fn has(&self, kind: NamespaceKind) -> bool {
        self.linux.namespaces.iter().any(|n| n.kind == kind)
    }

    fn makes(&self, kind: NamespaceKind) -> bool {
        let is_new = |n: &&Namespace| n.path.as_deref().unwrap_or_default().is_empty();
        self.linux.namespaces.iter().filter(is_new).any(|n| n.kind == kind)
    }

    fn isolate(&mut self) -> Result<()> {
        self.steps.push(Step::Session);
        if let Some(name) = self.means.keyring.take() {
            self.piece(Piece::Keyring(cstring(&name, "a keyring's name")?));
        }
        if self.makes(NamespaceKind::Network) {
            self.steps.push(Step::Loopback);
        }
        self.steps.push(Step::AwaitLauncher);
        if self.has(NamespaceKind::User) {
            self.piece(Piece::BecomeRoot);
        }
        if self.makes(NamespaceKind::Cgroup) {
            self.steps.push(Step::CgroupNamespace);
        }
        if self.makes(NamespaceKind::Time) {
            let offset = |(clock, offset): (&String, &runtime::TimeOffset)| {
                format!("{clock} {} {}\n", offset.secs, offset.nanosecs)
            };
            let offsets = self.linux.time_offsets.iter().map(offset).collect();
            self.piece(Piece::TimeNamespace(offsets));
        }
        if let Some(name) = self.config.hostname.as_ref().filter(|name| !name.is_empty()) {
            self.steps.push(Step::Hostname(name.clone()));
        }
        if let Some(name) = self.config.domainname.as_ref().filter(|name| !name.is_empty()) {
            self.piece(Piece::Domainname(name.clone()));
        }
        Ok(())
    }

    fn root(&mut self) -> Result<()> {
        use sys::mount::flag::{RECURSIVE, SHARED, SLAVE};
        let root = self.config.root.as_ref().context("config.json has no root")?;
        let path = self.means.bundle.join(&root.path);
        let path = path
            .canonicalize()
            .with_context(|| format!("cannot find the root {}", path.display()))?;
        let path = cstring(&path.to_string_lossy(), "the root")?;
        if !self.has(NamespaceKind::Mount) {
            // What would be mounted would be mounted on the host.
            let readonly = self.config.root.as_ref().is_some_and(|root| root.readonly);
            let linux = self.linux;
            let paths = linux.masked_paths.iter().chain(&linux.readonly_paths).count();
            if readonly || !self.config.mounts.is_empty() || paths > 0 {
                (self.means.warn)(
                    "nothing is mounted, masked or made read-only: there is no mount namespace"
                        .into(),
                );
            }
            self.piece(Piece::PlainRoot(path));
            return Ok(());
        }
        let wanted = self.linux.rootfs_propagation.as_deref().unwrap_or_default();
        let shared = matches!(wanted, "shared" | "rshared");
        let flags = match wanted {
            _ if shared => SHARED | RECURSIVE,
            "private" | "rprivate" => {
                mounts::propagation(wanted).map_or(SLAVE, |(f, _)| f) | RECURSIVE
            }
            _ => SLAVE | RECURSIVE,
        };
        self.piece(Piece::Propagation(flags));
        self.piece(Piece::PrivateParent(path.clone()));
        let tree = self.source(path.clone(), true, Ids::Own)?;
        self.piece(Piece::Root { tree, path });
        self.mounts()?;
        Ok(())
    }

    /// Opened by who may: the launcher, where the container has other ids.
    fn source(&mut self, path: CString, recursive: bool, ids: Ids) -> Result<Tree> {
        let opens = self.means.opens && self.has(NamespaceKind::User);
        if matches!(ids, Ids::Own) && !opens {
            return Ok(Tree::Path(path));
        }
        self.trees.push(Wanted { path, recursive, ids });
        Ok(Tree::Received(self.trees.len() - 1))
    }

    fn mounts(&mut self) -> Result<()> {
        let bundle = self.means.bundle;
        let mut dev = None;
        let mut later = None;
        for mount in &self.config.mounts {
            let mut mount = mount.clone();
            if !mount.destination.starts_with('/') {
                mount.destination.insert(0, '/');
            }
            if mount.kind.as_deref() == Some("cgroup") {
                self.cgroups(&mount);
                continue;
            }
            let mut prepared = mounts::prepare(&mount, bundle, self)?;
            let target = mount.destination.trim_end_matches('/');
            if target == "/dev" {
                dev = Some(matches!(prepared.kind, Kind::Bind { .. }));
                // Nodes are made in it before.
                if let Kind::Filesystem { flags, .. } = &mut prepared.kind
                    && *flags & sys::mount::flag::RDONLY != 0
                {
                    *flags &= !sys::mount::flag::RDONLY;
                    let set = sys::mount::flag::ATTR_RDONLY;
                    later = Some(sys::mount::Change { set, clear: 0 });
                }
            }
            self.label(&mut prepared)?;
            self.piece(Piece::Mount(Box::new(prepared)));
        }
        if dev != Some(true) {
            self.piece(Piece::Devices(devices::all(&self.linux.devices)?));
            self.piece(Piece::DeviceLinks);
        }
        if self.process.terminal {
            self.steps.push(Step::Terminal { console: dev != Some(true) });
        }
        if let Some(change) = later {
            self.piece(Piece::ReadonlyLater("/dev".into(), change));
        }
        Ok(())
    }

    /// SELinux's label, for file systems that hold none themselves (mount(8), `context`).
    fn label(&mut self, mount: &mut Mount) -> Result<()> {
        let label = self.linux.mount_label.as_deref().filter(|label| !label.is_empty());
        let (Some(label), Kind::Filesystem { fstype, data, .. }) = (label, &mut mount.kind) else {
            return Ok(());
        };
        if !matches!(fstype.to_bytes(), b"tmpfs" | b"mqueue" | b"devpts" | b"ramfs") {
            return Ok(());
        }
        if !check::has_selinux() {
            (self.means.warn)("linux.mountLabel has no effect: this host has no SELinux".into());
            return Ok(());
        }
        let before = data.to_string_lossy().into_owned();
        let comma = if before.is_empty() { "" } else { "," };
        *data = cstring(&format!("{before}{comma}context=\"{label}\""), "mount options")?;
        Ok(())
    }

    fn cgroups(&mut self, mount: &runtime::Mount) {
        let options = Options::read(&mount.options);
        let kind = Kind::Cgroups {
            hierarchies: std::mem::take(&mut self.means.hierarchies),
            namespace: self.has(NamespaceKind::Cgroup),
            read_only: options.flags & sys::mount::flag::RDONLY != 0,
        };
        let (target, propagation) = (mount.destination.clone(), Vec::new());
        let mount = Mount { target, kind, changes: Default::default(), propagation };
        self.piece(Piece::Mount(Box::new(mount)));
    }

    fn confine(&mut self) -> Result<()> {
        for (name, value) in &self.linux.sysctl {
            let path = check::sysctl_path(name);
            self.piece(Piece::Sysctl { path, value: value.clone() });
        }
        let cwd = self.process.cwd.clone();
        self.steps.push(Step::Runtime { path: cwd, kind: Runtime::Directory(0o755) });
        self.piece(Piece::Sync);
        let hooks = self.config.hooks.clone().unwrap_or_default();
        if !hooks.create_container.is_empty() {
            self.piece(Piece::Hooks(hooks.create_container));
        }
        if !self.has(NamespaceKind::Mount) {
            self.piece(Piece::Chroot);
            return Ok(());
        }
        self.piece(Piece::Readonly(self.linux.readonly_paths.clone()));
        self.piece(Piece::Masked(self.linux.masked_paths.clone()));
        if self.config.root.as_ref().is_some_and(|root| root.readonly) {
            self.steps.push(Step::ReadonlyRoot);
        }
        match self.means.no_pivot {
            true => self.piece(Piece::MoveRoot),
            false => self.steps.push(Step::Pivot),
        }
        let wanted = self.linux.rootfs_propagation.as_deref().unwrap_or_default();
        if let Some((flag, recursive)) = mounts::propagation(wanted) {
            let flags = flag | if recursive { sys::mount::flag::RECURSIVE } else { 0 };
            self.piece(Piece::RootPropagation(flags));
        }
        Ok(())
    }

    fn become_command(&mut self) -> Result<()> {
        let process = self.process;
        prelude(&mut self.steps, process, self.linux.personality.as_ref(), self.means.preserved)?;
        let filter = self.linux.seccomp.as_ref().map(filter::step).transpose()?;
        let rights = rights::of(process, self.means.warn)?;
        let hooks = self.config.hooks.clone().unwrap_or_default().start_container;
        let hooks = (!hooks.is_empty()).then_some(Step::Bundle(Piece::Hooks(hooks)));
        let wait = Step::Bundle(Piece::AwaitStart);
        if self.config.process.is_none() {
            self.steps.extend([wait, Step::Bundle(Piece::NoProcess)]);
            return Ok(());
        }
        let find = Step::Bundle(Piece::Find(command(process)?));
        // A filter waits for the start too, as it may refuse what waiting needs. Without
        // no_new_privs it needs rights that are given up, so those wait for it.
        if filter.is_some() && !process.no_new_privileges {
            self.steps.extend([find, wait]);
            self.steps.extend(filter);
            self.steps.extend(rights);
        } else {
            self.steps.extend(rights);
            self.steps.extend([find, wait]);
            self.steps.extend(filter);
        }
        // As runc has it: these are the container's, and may no more than its command.
        self.steps.extend(hooks);
        self.steps.push(execute(process)?);
        Ok(())
    }
}

impl Sources for Builder<'_, '_> {
    fn open(
        &mut self,
        path: CString,
        recursive: bool,
        mount: &runtime::Mount,
        options: &Options,
    ) -> Result<Tree> {
        let (uids, gids) = (&mount.uid_mappings, &mount.gid_mappings);
        let ids = match (options.idmap, uids.is_empty() && gids.is_empty()) {
            (None, true) => Ids::Own,
            (Some(recursive), true) => Ids::Container(recursive),
            (wanted, false) => {
                if uids.is_empty() || gids.is_empty() {
                    bail!("a mount with mapped ids needs both uidMappings and gidMappings");
                }
                Ids::Mapped(uids.clone(), gids.clone(), wanted.unwrap_or(false))
            }
        };
        if matches!(ids, Ids::Container(_)) && !self.has(NamespaceKind::User) {
            bail!("a mount with mapped ids needs mappings, or a user namespace");
        }
        self.source(path, recursive, ids)
    }
}

/// What is not about rights.
fn prelude(
    steps: &mut Vec<Step>,
    process: &Process,
    personality: Option<&runtime::Personality>,
    preserved: u32,
) -> Result<()> {
    steps.push(Step::Streams { stdin: true, control: true });
    steps.push(Step::Bundle(Piece::CloseDescriptors(preserved)));
    if let Some(personality) = personality {
        steps.push(Step::Bundle(Piece::Personality(rights::personality(personality)?)));
    }
    if let Some(scheduler) = &process.scheduler {
        steps.push(Step::Bundle(Piece::Scheduler(rights::scheduler(scheduler)?)));
    }
    if let Some(priority) = &process.io_priority {
        steps.push(Step::Bundle(Piece::IoPriority(rights::io_priority(priority)?)));
    }
    steps.extend(rights::labels(process).into_iter().map(Step::Bundle));
    steps.push(Step::WorkingDirectory(cstring(&process.cwd, "the working directory")?));
    let umask = process.user.umask.unwrap_or(0o022);
    steps.push(Step::Bundle(Piece::Umask(Mode::from_raw_mode(umask & 0o777))));
    Ok(())
}

/// Where the command may be: in the directories of its own `PATH`.
fn command(process: &Process) -> Result<Vec<CString>> {
    let command = process.args.first().context("process.args is empty")?;
    if command.contains('/') {
        return Ok(vec![cstring(command, "the command")?]);
    }
    let path = process.env.iter().rev().find_map(|variable| variable.strip_prefix("PATH="));
    let path = path.unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let found = path.split(':').filter(|directory| !directory.is_empty());
    found.map(|directory| cstring(&format!("{directory}/{command}"), "the command")).collect()
}

fn execute(process: &Process) -> Result<Step> {
    let strings = |list: &mut dyn Iterator<Item = &str>, what: &str| {
        Strings::new(list).map_err(|text| anyhow!("{what} {text:?} contains a NUL byte"))
    };
    // The last one of a name counts, and HOME is there (as runc has it).
    let mut seen = BTreeSet::new();
    let mut env: Vec<&str> = process.env.iter().rev().map(String::as_str).collect();
    env.retain(|variable| seen.insert(variable.split('=').next().unwrap_or_default().to_owned()));
    env.reverse();
    Ok(Step::Execute {
        args: strings(&mut process.args.iter().map(String::as_str), "the argument")?,
        env: strings(&mut env.into_iter(), "the variable")?,
        path: command(process)?,
    })
}

fn cstring(text: &str, what: &str) -> Result<CString> {
    CString::new(text).map_err(|_| anyhow!("{what} {text:?} contains a NUL byte"))
}

/// One hierarchy for the mount of type `cgroup`.
pub(crate) fn hierarchy(
    name: &str,
    links: Vec<String>,
    controllers: Option<&str>,
    group: &Path,
) -> Result<Hierarchy> {
    Ok(Hierarchy {
        name: name.to_owned(),
        links,
        controllers: controllers.map(|c| cstring(c, "controllers")).transpose()?,
        group: cstring(&group.to_string_lossy(), "a control group")?,
    })
}
