//! What is mounted in a container's root, and what is made in its `/dev`.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use sys::mount::{self, Attributes, flag};

use super::super::super::bundle::piece::{Device, Hierarchy, Kind, Mount};
use super::super::super::step::Tree;
use super::super::{Child, copy_up, cstring};
use super::is;

impl Child<'_> {
    pub(super) fn mount(&mut self, what: &Mount) -> io::Result<()> {
        let target = what.target.as_str();
        let mounted = match &what.kind {
            Kind::Bind { tree, recursive } => Some(self.bind_tree(what, tree, *recursive)?),
            Kind::Filesystem { .. } => {
                self.new_filesystem(what)?;
                None
            }
            Kind::Remount { flags, data } => {
                let flags = flags | flag::REMOUNT;
                self.at(target, || mount::plain(c"", c".", c"", flags, data))?;
                None
            }
            Kind::Cgroups { hierarchies, namespace, read_only } => {
                return self.cgroup_mounts(target, hierarchies, *namespace, *read_only);
            }
        };
        let recursive = what.changes[1];
        if what.propagation.is_empty() && (mounted.is_some() || recursive.is_none()) {
            return Ok(());
        }
        let mounted = match mounted {
            Some(tree) => tree,
            None => self.root()?.open_in(target, OFlags::PATH, Mode::empty())?,
        };
        if !recursive.is_none() {
            mount::change(mounted.as_fd(), recursive, true)?;
        }
        for (flag, recursive) in &what.propagation {
            mount::propagate(mounted.as_fd(), *flag, *recursive)?;
        }
        Ok(())
    }

    fn bind_tree(&mut self, what: &Mount, tree: &Tree, recursive: bool) -> io::Result<OwnedFd> {
        let tree = self.tree(tree, recursive)?;
        for (change, recursive) in what.changes.into_iter().zip([false, true]) {
            if change.is_none() {
                continue;
            }
            match mount::change(tree.as_fd(), change, recursive) {
                // What another user namespace has set cannot be cleared (mount_namespaces(7)).
                Err(error) if is(&error, Errno::PERM) && change.clear != 0 => {
                    let change = mount::Change { clear: 0, ..change };
                    mount::change(tree.as_fd(), change, recursive)?;
                }
                other => other?,
            }
        }
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&tree)?.st_mode);
        let target = match kind {
            FileType::Directory => self.target_directory(&what.target)?,
            _ => self.target_file(&what.target)?,
        };
        mount::attach(tree.as_fd(), target.as_fd())?;
        Ok(tree)
    }

    fn new_filesystem(&self, what: &Mount) -> io::Result<()> {
        let Kind::Filesystem { fstype, source, flags, data, fallback, copy_up } = &what.kind else {
            return Ok(());
        };
        let data = self.with_mode(fstype, data, &what.target)?;
        let below = self.target_directory(&what.target)?;
        // What is copied must be written before nothing can be any more.
        let first = if *copy_up { flags & !flag::RDONLY } else { *flags };
        rustix::process::fchdir(&below)?;
        let mounted = mount::plain(source, c".", fstype, first, &data);
        rustix::process::fchdir(self.root()?.as_fd())?;
        match mounted {
            Err(error) if is(&error, Errno::PERM) && fallback.is_some() => {
                let Some(path) = fallback else { return Err(error) };
                let tree = mount::copy_tree(rustix::fs::CWD, path, true)?;
                return mount::attach(tree.as_fd(), below.as_fd());
            }
            other => other?,
        }
        if *copy_up {
            let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let above = self.root()?.open_in(&what.target, open, Mode::empty())?;
            let below = rustix::fs::openat(&below, c".", open, Mode::empty())?;
            copy_up::copy(below.as_fd(), above.as_fd())?;
            if flags & flag::RDONLY != 0 {
                let read_only = Attributes { read_only: true, ..Attributes::default() };
                mount::set_attributes(above.as_fd(), read_only, false)?;
            }
        }
        Ok(())
    }

    /// A file system in memory gets the permissions of what it covers, unless it is told others; where there
    /// was nothing, they are the kernel's: everybody's (runc and crun have it so).
    fn with_mode(&self, fstype: &CStr, data: &CStr, target: &str) -> io::Result<CString> {
        let text = data.to_string_lossy();
        if fstype != c"tmpfs" || text.split(',').any(|option| option.starts_with("mode=")) {
            return Ok(data.to_owned());
        }
        let Ok(below) = self.root()?.open_in(target, OFlags::PATH, Mode::empty()) else {
            return Ok(data.to_owned());
        };
        let mode = rustix::fs::fstat(below)?.st_mode & 0o7777;
        let comma = if text.is_empty() { "" } else { "," };
        cstring(format!("{text}{comma}mode={mode:o}"))
    }

    fn cgroup_mounts(
        &self,
        target: &str,
        hierarchies: &[Hierarchy],
        namespace: bool,
        read_only: bool,
    ) -> io::Result<()> {
        let inert = flag::NOSUID | flag::NODEV | flag::NOEXEC;
        let flags = inert | if read_only { flag::RDONLY } else { 0 };
        if let [only] = hierarchies
            && only.name.is_empty()
        {
            return self.at(target, || hierarchy(only, c".", flags, namespace));
        }
        self.at(target, || mount::plain(c"tmpfs", c".", c"tmpfs", inert, c"mode=0755"))?;
        let top = self.target_directory(target)?;
        rustix::process::fchdir(&top)?;
        for one in hierarchies {
            // Nothing but this is in there.
            rustix::fs::mkdir(one.name.as_str(), super::super::DIRECTORY_MODE)?;
            hierarchy(one, &cstring(one.name.clone())?, flags, namespace)?;
            for link in &one.links {
                rustix::fs::symlink(&one.name, link)?;
            }
        }
        if read_only {
            let read_only = Attributes { read_only, ..Attributes::default() };
            mount::set_attributes(top.as_fd(), read_only, false)?;
        }
        Ok(rustix::process::fchdir(self.root()?.as_fd())?)
    }

    /// Most are in one directory, which is then looked up once.
    pub(super) fn nodes(&self, devices: &[Device]) -> io::Result<()> {
        let mut last: Option<(&str, OwnedFd)> = None;
        for device in devices {
            let (above, name) = device.path.rsplit_once('/').unwrap_or(("", &device.path));
            let parent = match last.take().filter(|(path, _)| *path == above) {
                Some((_, parent)) => parent,
                None => self.root()?.create_dir_all(above, super::super::DIRECTORY_MODE)?,
            };
            self.node(device, &parent, name)?;
            last = Some((above, parent));
        }
        Ok(())
    }

    fn node(&self, device: &Device, parent: &OwnedFd, name: &str) -> io::Result<()> {
        let mode = Mode::from_raw_mode(device.mode);
        match rustix::fs::mknodat(parent, name, device.kind, mode, device.number) {
            Ok(()) => {}
            Err(Errno::PERM) if device.kind != FileType::Fifo => {
                // In a user namespace: the launcher's own node.
                let tree =
                    mount::copy_tree(rustix::fs::CWD, &cstring(device.path.clone())?, false)?;
                let target = self.target_file(&device.path)?;
                return mount::attach(tree.as_fd(), target.as_fd());
            }
            Err(Errno::EXIST) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if device.owner != (0, 0) {
            let uid = rustix::fs::Uid::from_raw(device.owner.0);
            let gid = rustix::fs::Gid::from_raw(device.owner.1);
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), flags)?;
        }
        Ok(())
    }
}

/// One control group hierarchy, on an empty directory: as a view of its own, or what the launcher sees.
fn hierarchy(what: &Hierarchy, target: &CStr, flags: u64, namespace: bool) -> io::Result<()> {
    let (fstype, data) = match &what.controllers {
        Some(controllers) => (c"cgroup", controllers.as_c_str()),
        None => (c"cgroup2", c""),
    };
    if namespace && mount::plain(fstype, target, fstype, flags, data).is_ok() {
        return Ok(());
    }
    let read_only = flags & flag::RDONLY != 0;
    let attributes = Attributes { read_only, nosuid: true, nodev: true, noexec: true };
    let tree = mount::copy_tree(rustix::fs::CWD, &what.group, true)?;
    mount::set_attributes(tree.as_fd(), attributes, false)?;
    mount::attach_at(tree.as_fd(), target)
}
