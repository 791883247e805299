//! The machine's root, and what is mounted in it.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use sys::mount::{self, Attributes};
use sys::rooted::Root;

use super::super::step::{EtcFile, Tree, lower_name};
use super::etc::write_files;
use super::{Child, DIRECTORY_MODE, SCRATCH, cstring, directory, open_directory};

impl Child<'_> {
    pub(super) fn make_scratch(&mut self, path: &CStr, kept: bool) -> io::Result<()> {
        if !kept {
            return scratch(path);
        }
        let last = self.trees.pop().flatten().ok_or(io::ErrorKind::NotFound)?;
        mount::attach_at(last.as_fd(), path)?;
        rustix::process::chdir(path)?;
        rustix::process::umask(Mode::empty());
        Ok(())
    }

    /// A detached mount of it: it outlives this mount namespace, and can be attached in another.
    pub(super) fn keep_scratch(&self) -> io::Result<()> {
        let scratch = mount::copy_tree(rustix::fs::CWD, c".", false)?;
        let launcher = self.launcher.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        launcher.send(&[SCRATCH], &[scratch.as_fd()])
    }

    /// A detached copy of a tree.
    pub(super) fn tree(&mut self, tree: &Tree, recursive: bool) -> io::Result<OwnedFd> {
        match tree {
            Tree::Received(index) => self
                .trees
                .get_mut(*index)
                .and_then(Option::take)
                .ok_or_else(|| io::ErrorKind::NotFound.into()),
            Tree::Path(path) => mount::copy_tree(rustix::fs::CWD, path, recursive),
        }
    }

    pub(super) fn layers(&mut self, trees: &[Tree]) -> io::Result<()> {
        for (index, tree) in trees.iter().enumerate() {
            let name = cstring(format!("l{index}"))?;
            match tree {
                // A link instead of a mount: short in the options, and with nothing to escape.
                Tree::Path(path) => match rustix::fs::symlink(path, &name) {
                    // Of the last run.
                    Err(rustix::io::Errno::EXIST) => {}
                    other => other?,
                },
                Tree::Received(_) => {
                    let tree = self.tree(tree, false)?;
                    directory(&name, 0o755)?;
                    mount::attach_at(tree.as_fd(), &name)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn enter_root(&mut self) -> io::Result<()> {
        let root = open_directory(c"r")?;
        rustix::process::fchdir(&root)?;
        self.root = Some(Root::from_fd(root));
        Ok(())
    }

    pub(super) fn root(&self) -> io::Result<&Root> {
        self.root.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Where something is to be mounted; a directory is made where nothing is.
    pub(super) fn target_directory(&self, target: &str) -> io::Result<OwnedFd> {
        self.root()?.create_dir_all(target, DIRECTORY_MODE)
    }

    pub(super) fn target_file(&self, target: &str) -> io::Result<OwnedFd> {
        let root = self.root()?;
        match root.open_in(target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some((parent, _)) = target.rsplit_once('/').filter(|(p, _)| !p.is_empty()) {
                    root.create_dir_all(parent, DIRECTORY_MODE)?;
                }
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
                root.open_in(target, flags, Mode::from_raw_mode(0o644))
            }
            other => other,
        }
    }

    pub(super) fn filesystem(
        &self,
        target: &str,
        fstype: &CStr,
        data: &CStr,
        attributes: Attributes,
    ) -> io::Result<()> {
        self.at(target, || mount::filesystem(fstype, c".", attributes, data))
    }

    /// Does something with `target` as the current directory, then returns to the root.
    pub(super) fn at(&self, target: &str, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        rustix::process::fchdir(self.target_directory(target)?)?;
        act()?;
        Ok(rustix::process::fchdir(self.root()?.as_fd())?)
    }

    pub(super) fn bind(
        &mut self,
        target: &str,
        tree: &Tree,
        recursive: bool,
        attributes: Attributes,
    ) -> io::Result<()> {
        let tree = self.tree(tree, recursive)?;
        if attributes.any() {
            mount::set_attributes(tree.as_fd(), attributes, recursive)?;
        }
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&tree)?.st_mode);
        let target = match kind {
            rustix::fs::FileType::Directory => self.target_directory(target)?,
            _ => self.target_file(target)?,
        };
        mount::attach(tree.as_fd(), target.as_fd())
    }

    /// The directories of an overlay in the scratch, with what is to lie below it.
    pub(super) fn overlay_trees(
        &mut self,
        trees: &[Tree],
        index: usize,
        files: &[EtcFile],
    ) -> io::Result<()> {
        rustix::process::fchdir(self.scratch()?)?;
        for (number, tree) in trees.iter().enumerate() {
            let tree = self.tree(tree, false)?;
            let lower = cstring(lower_name(index, number))?;
            directory(&lower, 0o755)?;
            mount::attach_at(tree.as_fd(), &lower)?;
        }
        for (name, mode) in [("u", 0o755), ("w", 0o700), ("m", 0o755)] {
            directory(&cstring(format!("{name}{index}"))?, mode)?;
        }
        write_files(&cstring(format!("u{index}"))?, files)?;
        Ok(rustix::process::fchdir(self.root()?.as_fd())?)
    }

    pub(super) fn overlay_mount(
        &mut self,
        target: &str,
        index: usize,
        options: &CStr,
        read_only: bool,
    ) -> io::Result<()> {
        let target = self.target_directory(target)?;
        rustix::process::fchdir(self.scratch()?)?;
        let merged = cstring(format!("m{index}"))?;
        mount::filesystem(c"overlay", &merged, Attributes::default(), options)?;
        let merged = mount::copy_tree(rustix::fs::CWD, &merged, false)?;
        if read_only {
            let attributes = Attributes { read_only, ..Attributes::default() };
            mount::set_attributes(merged.as_fd(), attributes, false)?;
        }
        mount::attach(merged.as_fd(), target.as_fd())?;
        Ok(rustix::process::fchdir(self.root()?.as_fd())?)
    }

    /// The parent of the root's mount point.
    pub(super) fn scratch(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(self.root()?.as_fd(), c"..", flags, Mode::empty())?)
    }
}

fn scratch(path: &CStr) -> io::Result<()> {
    mount::filesystem(c"tmpfs", path, Attributes::default(), c"mode=0755")?;
    rustix::process::chdir(path)?;
    rustix::process::umask(Mode::empty());
    for (name, mode) in [(c"u", 0o755), (c"w", 0o700), (c"r", 0o755), (c"e", 0o555)] {
        directory(name, mode)?;
    }
    Ok(())
}

/// Whether what could not be opened is a mount of the host's, shown where the host has it, that somebody took away since
/// it was listed.
pub(super) fn has_vanished(error: &io::Error, target: &str, trees: &[Tree]) -> bool {
    let is_own = matches!(trees, [Tree::Path(path)] if path.to_bytes() == target.as_bytes());
    is_own && error.raw_os_error() == Some(rustix::io::Errno::NOENT.raw_os_error())
}
