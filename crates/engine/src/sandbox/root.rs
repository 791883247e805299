//! Puts a sandbox's root together, piece by piece.
//!
//! The launcher's files are at `/oldroot` then, the new root is at `/newroot`, and the current
//! root directory is a file system in memory that holds both. Where a piece goes is resolved as
//! the command will see it: what is shown there may hold links of anybody's.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use spec::sandbox::{Access, Operation, Upper};
use sys::mount::{self, Attributes};
use sys::rooted::Root;

use super::{Step, because};

/// Of directories that are made for a mount.
const DIRECTORY: Mode = Mode::from_raw_mode(0o755);
/// Of what has no permissions of its own.
const PRIVATE: u32 = 0;
/// Of files that are made for a mount.
const FILE: Mode = Mode::from_raw_mode(0o444);

const PLAIN: Attributes = Attributes { read_only: false, nosuid: true, nodev: true, noexec: false };

/// What putting together needs to know.
pub(super) struct Builder<'a> {
    /// `/proc`, which is out of reach by name.
    pub(super) proc: &'a OwnedFd,
    /// The new processes have a namespace of their own.
    pub(super) own_processes: bool,
    /// The launcher's terminal.
    pub(super) console: Option<&'a Path>,
    overlays: usize,
    files: usize,
}

impl<'a> Builder<'a> {
    pub(super) fn new(proc: &'a OwnedFd, own_processes: bool, console: Option<&'a Path>) -> Self {
        Self { proc, own_processes, console, overlays: 0, files: 0 }
    }

    pub(super) fn build(&mut self, operations: &[Operation]) -> Step {
        operations.iter().try_for_each(|operation| self.operation(operation))
    }

    fn operation(&mut self, operation: &Operation) -> Step {
        match operation {
            Operation::Bind { source, target, access, optional, descriptor } => {
                let tree = match tree(source) {
                    Err(error) if *optional && error.kind() == io::ErrorKind::NotFound => {
                        return Ok(());
                    }
                    other => other.map_err(because(|| {
                        format!("Can't get type of source {}", source.display())
                    }))?,
                };
                let shown = || {
                    format!(
                        "Can't bind mount {} on {}",
                        old(source).display(),
                        new(target).display()
                    )
                };
                self.attach(&tree, target, *access, shown)?;
                descriptor.map_or(Ok(()), |fd| self.is_still(fd, target))
            }
            Operation::Overlay { lower, upper, target } => self.overlay(lower, upper, target),
            Operation::Proc(target) => self.processes(target),
            Operation::Dev(target) => self.devices(target),
            Operation::Tmpfs { target, mode, size } => {
                self.parents(target, *mode)?;
                let size = size.map_or(String::new(), |size| format!(",size={size}"));
                self.filesystem(c"tmpfs", target, PLAIN, &format!("mode={}{size}", octal(*mode)))
            }
            Operation::Mqueue(target) => {
                self.filesystem(c"mqueue", target, Attributes::default(), "")
            }
            Operation::Directory(target, mode) => {
                self.parents(target, *mode)?;
                self.directory(target, Mode::from_raw_mode(*mode)).map(drop)
            }
            Operation::File { target, mode, descriptor, mounted } => {
                self.file(target, *mode, *descriptor, *mounted)
            }
            Operation::Symlink(text, at) => self.link(text, at),
            Operation::RemountReadOnly(target) => {
                self.parents(target, PRIVATE)?;
                self.remount_read_only(target)
            }
            Operation::Chmod(target, mode) => {
                let shown = || format!("Can't chmod {} {}", octal(*mode), target.display());
                let opened = self.open(target, OFlags::PATH).map_err(because(shown))?;
                let path = format!("self/fd/{}", opened.as_raw_fd());
                let mode = Mode::from_raw_mode(*mode);
                rustix::fs::chmodat(self.proc, path, mode, AtFlags::empty())
                    .map_err(|error| because(shown)(error.into()))
            }
            Operation::Hostname(name) => {
                rustix::system::sethostname(name.as_bytes()).map_err(|error| {
                    because(|| format!("Can't set hostname to {}", name.display()))(error.into())
                })
            }
        }
    }

    fn remount_read_only(&self, target: &Path) -> Step {
        let at = new(target);
        let shown = || format!("Can't remount readonly on {}", at.display());
        let opened = self.open(target, OFlags::PATH);
        let opened = opened.map_err(because(|| format!("{}: realpath(destination)", shown())))?;
        let attributes = Attributes { read_only: true, ..PLAIN };
        mount::set_attributes(opened.as_fd(), attributes, false).map_err(|error| {
            match Errno::from_io_error(&error) {
                Some(Errno::INVAL) => {
                    format!("{}: Unable to find \"{}\" in mount table", shown(), at.display())
                }
                _ => because(|| {
                    let at = at.display();
                    format!(
                        "{}: Unable to remount destination \"{at}\" with correct flags",
                        shown()
                    )
                })(error),
            }
        })
    }

    fn root(&self) -> io::Result<Root> {
        Root::open(Path::new("/newroot"))
    }

    fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        self.root()?.open_in(path, flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// Directories that are missing above a target. Those above something private are as well, and so
    /// is, for the original, all that has no permissions of its own.
    fn parents(&self, target: &Path, mode: u32) -> Step {
        let mut parents = 0o755;
        for class in [0o070, 0o007] {
            if mode & class == 0 {
                parents &= !(class & 0o055);
            }
        }
        let known = |p: &&Path| p.as_os_str().is_empty() || *p == Path::new("/");
        let Some(parent) = target.parent().filter(|p| !known(p)) else {
            return Ok(());
        };
        let made =
            self.root().and_then(|root| root.create_dir_all(parent, Mode::from_raw_mode(parents)));
        made.map(drop).map_err(because(|| format!("Can't mkdir parents for {}", target.display())))
    }

    /// A directory, made where it is missing.
    fn directory(&self, target: &Path, mode: Mode) -> Step<OwnedFd> {
        let open = || self.open(target, OFlags::PATH | OFlags::DIRECTORY);
        let made = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self
                .root()
                .and_then(|root| root.parent_of(target))
                .and_then(|(parent, name)| match rustix::fs::mkdirat(parent, name, mode) {
                    Ok(()) | Err(Errno::EXIST) => open(),
                    Err(error) => Err(error.into()),
                }),
            other => other,
        };
        made.map_err(because(|| format!("Can't mkdir {}", target.display())))
    }

    /// What a file can be mounted on, made where it is missing.
    fn mount_point(&self, target: &Path) -> Step<OwnedFd> {
        let make = || {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            self.root()?.open_in(target, flags, FILE)
        };
        let made = match self.open(target, OFlags::PATH) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(),
            Ok(there) => match rustix::fs::fstat(&there) {
                Ok(stat) if is_directory(&stat) => Err(Errno::ISDIR.into()),
                _ => Ok(there),
            },
            other => other,
        };
        made.map_err(because(|| format!("Can't create file at {}", target.display())))
    }

    fn attach(
        &self,
        tree: &OwnedFd,
        target: &Path,
        access: Access,
        shown: impl Fn() -> String,
    ) -> Step {
        self.parents(target, PRIVATE)?;
        let stat = rustix::fs::fstat(tree).map_err(|e| because(&shown)(e.into()))?;
        let at = match is_directory(&stat) {
            true => self.directory(target, DIRECTORY)?,
            false => self.mount_point(target)?,
        };
        let attributes = Attributes {
            nodev: access != Access::Devices,
            read_only: access == Access::ReadOnly,
            ..PLAIN
        };
        mount::set_attributes(tree.as_fd(), attributes, true)
            .map_err(because(|| format!("{}: Unable to apply mount flags", shown())))?;
        mount::attach(tree.as_fd(), at.as_fd())
            .map_err(because(|| format!("{}: Unable to mount source on destination", shown())))
    }

    /// A descriptor's path could have been changed between looking at it and mounting it.
    fn is_still(&self, fd: i32, target: &Path) -> Step {
        let race = || "Race condition binding dirfd".to_owned();
        let descriptor =
            sys::process::take_inherited(fd).map_err(because(|| format!("Can't stat fd {fd}")))?;
        let given = rustix::fs::fstat(&descriptor).map_err(|e| because(race)(e.into()))?;
        let seen = self.open(target, OFlags::PATH).and_then(|at| Ok(rustix::fs::fstat(at)?));
        let seen = seen.map_err(because(|| format!("Can't stat mount at {}", target.display())))?;
        match (given.st_ino, given.st_dev) == (seen.st_ino, seen.st_dev) {
            true => Ok(()),
            false => Err(race()),
        }
    }

    fn filesystem(&self, kind: &CStr, target: &Path, attributes: Attributes, data: &str) -> Step {
        self.parents(target, PRIVATE)?;
        let at = self.directory(target, DIRECTORY)?;
        let shown =
            || format!("Can't mount {} on {}", kind.to_string_lossy(), new(target).display());
        let data = CString::new(data).unwrap_or_default();
        let mounted = rustix::process::fchdir(&at)
            .map_err(io::Error::from)
            .and_then(|()| mount::filesystem(kind, c".", attributes, &data));
        mounted.and_then(|()| Ok(rustix::process::chdir(c"/")?)).map_err(because(shown))
    }

    fn overlay(&mut self, lower: &[PathBuf], upper: &Upper, target: &Path) -> Step {
        let mut options = match upper {
            Upper::None => Vec::new(),
            Upper::Memory => {
                let number = self.overlays;
                self.overlays += 1;
                format!("upperdir=/tmp-overlay-upper-{number},workdir=/tmp-overlay-work-{number},")
                    .into_bytes()
            }
            Upper::Directories(upper, work) => {
                [b"upperdir=", &*escaped(upper), b",workdir=", &*escaped(work), b","].concat()
            }
        };
        options.extend(b"lowerdir=");
        let lower: Vec<Vec<u8>> = lower.iter().map(|path| escaped(path)).collect();
        options.extend(lower.join(&b':'));
        options.extend(b",userxattr");
        let shown = {
            let options = String::from_utf8_lossy(&options).into_owned();
            move || {
                format!(
                    "Can't make overlay mount on {} with options {options}",
                    new(target).display()
                )
            }
        };
        self.parents(target, PRIVATE)?;
        let at = self.directory(target, DIRECTORY)?;
        let options = CString::new(options).map_err(|_| shown())?;
        let mounted = rustix::process::fchdir(&at)
            .map_err(io::Error::from)
            .and_then(|()| mount::filesystem(c"overlay", c".", Attributes::default(), &options))
            .and_then(|()| Ok(rustix::process::chdir(c"/")?));
        mounted.map_err(|error| match Errno::from_io_error(&error) {
            // "Too many levels of symbolic links" would be no help.
            Some(Errno::LOOP) => format!("{}: Overlay directories may not overlap", shown()),
            _ => because(&shown)(error),
        })
    }

    fn processes(&self, target: &Path) -> Step {
        if self.own_processes {
            let inert = Attributes { noexec: true, ..PLAIN };
            self.filesystem(c"proc", target, inert, "")?;
        } else {
            let shown = || format!("Can't bind mount /oldroot/proc on {}", new(target).display());
            let tree = tree(Path::new("/proc")).map_err(because(shown))?;
            self.attach(&tree, target, Access::Plain, shown)?;
        }
        // What in it could change the host, if we could: nobody below needs that.
        for name in ["sys", "sysrq-trigger", "irq", "bus"] {
            let path = target.join(name);
            let shown = || format!("Can't bind mount {0} on {0}", new(&path).display());
            let opened = match self.open(&path, OFlags::PATH) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(because(|| format!("Can't access {}", path.display())))?,
            };
            let through = format!("self/fd/{}", opened.as_raw_fd());
            match rustix::fs::accessat(
                self.proc,
                through,
                rustix::fs::Access::WRITE_OK,
                AtFlags::empty(),
            ) {
                Ok(()) => {}
                Err(Errno::ACCESS | Errno::NOENT | Errno::ROFS) => continue,
                Err(error) => {
                    return Err(because(|| format!("Can't access {}", path.display()))(
                        error.into(),
                    ));
                }
            }
            let tree = mount::copy_tree(opened.as_fd(), c"", true).map_err(because(shown))?;
            self.attach(&tree, &path, Access::ReadOnly, shown)?;
        }
        Ok(())
    }

    fn devices(&self, target: &Path) -> Step {
        self.filesystem(c"tmpfs", target, PLAIN, "mode=0755")?;
        let mut nodes: Vec<(PathBuf, &str)> = ["null", "zero", "full", "random", "urandom", "tty"]
            .map(|n| (Path::new("/dev").join(n), n))
            .into();
        nodes.extend(self.console.map(|console| (console.to_owned(), "console")));
        for (source, name) in nodes {
            let at = target.join(name);
            let shown =
                || format!("Can't bind mount {} on {}", old(&source).display(), new(&at).display());
            let tree = tree(&source).map_err(because(|| {
                format!("{}: Unable to mount source on destination", shown())
            }))?;
            self.attach(&tree, &at, Access::Devices, shown)?;
        }
        let shown = |name: &str| format!("Can't create symlink {}/{name}", target.display());
        let dev = self.directory(target, DIRECTORY)?;
        for (text, name) in [
            ("/proc/self/fd/0", "stdin"),
            ("/proc/self/fd/1", "stdout"),
            ("/proc/self/fd/2", "stderr"),
            ("/proc/self/fd", "fd"),
            ("/proc/kcore", "core"),
            ("pts/ptmx", "ptmx"),
        ] {
            rustix::fs::symlinkat(text, &dev, name)
                .map_err(|e| because(|| shown(name))(e.into()))?;
        }
        for name in ["shm", "pts"] {
            rustix::fs::mkdirat(&dev, name, DIRECTORY)
                .map_err(|e| because(|| shown(name))(e.into()))?;
        }
        let terminals = Attributes { nosuid: true, noexec: true, ..Attributes::default() };
        self.filesystem(
            c"devpts",
            &target.join("pts"),
            terminals,
            "newinstance,ptmxmode=0666,mode=620",
        )
    }

    fn file(&mut self, target: &Path, mode: u32, content: i32, mounted: Option<Access>) -> Step {
        let shown = || format!("Can't create file {}", target.display());
        self.parents(target, mode)?;
        let given = sys::process::take_inherited(content)
            .map_err(because(|| format!("Can't write data to file {}", target.display())))?;
        let (mode, flags) =
            (Mode::from_raw_mode(mode), OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC);
        let hidden = format!("/bindfile{}", self.files);
        self.files += 1;
        let file = match mounted {
            None => self.root().and_then(|root| root.open_in(target, flags | OFlags::TRUNC, mode)),
            Some(_) => rustix::fs::open(&hidden, flags | OFlags::EXCL, mode).map_err(Into::into),
        };
        let file = file.map_err(because(shown))?;
        let (mut from, mut to) = (std::fs::File::from(given), std::fs::File::from(file));
        io::copy(&mut from, &mut to)
            .map_err(because(|| format!("Can't write data to file {}", target.display())))?;
        let Some(access) = mounted else { return Ok(()) };
        let shown = || format!("Can't bind mount {hidden} on {}", new(target).display());
        let path = CString::new(hidden.as_str()).map_err(|_| shown())?;
        let tree = mount::copy_tree(rustix::fs::CWD, &path, true).map_err(because(shown))?;
        self.attach(&tree, target, access, shown)?;
        // Then nothing else leads to it.
        rustix::fs::unlink(&path).map_err(|error| because(shown)(error.into()))
    }

    fn link(&self, text: &OsStr, at: &Path) -> Step {
        self.parents(at, PRIVATE)?;
        let shown = || format!("Can't make symlink at {}", at.display());
        let made = self.root().and_then(|root| root.parent_of(at));
        let (parent, name) = made.map_err(because(shown))?;
        match rustix::fs::symlinkat(text, &parent, &name) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(because(shown)(error.into())),
        }
        match rustix::fs::readlinkat(&parent, &name, Vec::new()) {
            Ok(existing) if existing.as_bytes() == text.as_bytes() => Ok(()),
            Ok(existing) => {
                Err(format!("{}: existing destination is {}", shown(), existing.to_string_lossy()))
            }
            Err(Errno::INVAL) => {
                Err(format!("{}: destination exists and is not a symlink", shown()))
            }
            Err(error) => Err(because(|| {
                format!("{}: destination exists, and cannot read symlink target", shown())
            })(error.into())),
        }
    }
}

/// A detached copy of what a path of the launcher's shows, with what is mounted below it.
fn tree(source: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(old(source).as_os_str().as_bytes())?;
    mount::copy_tree(rustix::fs::CWD, &path, true)
}

fn is_directory(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn below(root: &str, path: &Path) -> PathBuf {
    Path::new(root).join(path.strip_prefix("/").unwrap_or(path))
}

fn old(path: &Path) -> PathBuf {
    below("/oldroot", path)
}

fn new(path: &Path) -> PathBuf {
    below("/newroot", path)
}

/// As printf(3)'s `%#o`.
fn octal(mode: u32) -> String {
    if mode == 0 { "0".into() } else { format!("0{mode:o}") }
}

/// A path of the launcher, as overlayfs reads it in its options.
fn escaped(path: &Path) -> Vec<u8> {
    let mut text = Vec::new();
    for &byte in old(path).as_os_str().as_bytes() {
        if matches!(byte, b'\\' | b',' | b':') {
            text.push(b'\\');
        }
        text.push(byte);
    }
    text
}
