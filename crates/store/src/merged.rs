//! Layers as a machine will see them: one over the other, with the kernel's own overlayfs.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, Timespec, Timestamps, fchmod, fchown, fgetxattr,
    flistxattr, fsetxattr, fstat, futimens, linkat, openat, statat, utimensat,
};
use rustix::io::Errno;
use rustix::process::fchdir;
use rustix::thread::UnshareFlags;
use sys::mount::{self, Attributes};
use sys::rooted::Root;

use crate::Store;
use crate::archive::show;
use crate::unpack::{Open, is_opaque, is_portable_xattr};

/// Layers that one overlay can have (Linux, `OVL_MAX_STACK`).
const MAX_LAYERS: usize = 500;

impl Store {
    /// Lets `work` look at the merged content of layers, given by their roots, lowest first.
    ///
    /// # Errors
    /// Where they cannot be mounted, or `work`'s.
    pub fn with_merged<T: Send>(
        &self,
        layers: &[PathBuf],
        work: impl FnOnce(&Root) -> Result<T> + Send,
    ) -> Result<T> {
        if let [only] = layers {
            let root = Root::open(only).with_context(|| format!("opening {}", only.display()))?;
            return work(&root);
        }
        ensure!(!layers.is_empty(), "there are no layers");
        ensure!(layers.len() <= MAX_LAYERS, "more than {MAX_LAYERS} layers");
        // Nothing of the view lies there.
        let scratch = self.path().join("cache");
        // A thread of its own: what it mounts goes with it, however it ends.
        std::thread::scope(|scope| {
            let view = scope.spawn(|| {
                let root = view(layers, &scratch).context("mounting the layers")?;
                work(&root)
            });
            view.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn view(layers: &[PathBuf], scratch: &Path) -> Result<Root> {
    sys::process::unshare(UnshareFlags::NEWNS)?;
    mount::make_private()?;
    let inert = Attributes { nosuid: true, nodev: true, ..Attributes::default() };
    mount::filesystem(c"tmpfs", &text(scratch)?, inert, c"mode=0700")?;
    let mut lower = Vec::new();
    let before = openat(CWD, ".", OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
    std::env::set_current_dir(scratch)?;
    for (number, layer) in layers.iter().rev().enumerate() {
        // Short names: mount(2) takes one page of options.
        let name = format!("l{number}");
        std::fs::create_dir(&name)?;
        mount::bind(&text(layer)?, &CString::new(name.clone())?)?;
        lower.push(name);
    }
    std::fs::create_dir("r")?;
    let attributes = Attributes { read_only: true, ..inert };
    let options = format!("lowerdir={}", lower.join(":"));
    let overlay =
        |options: String| mount::filesystem(c"overlay", c"r", attributes, &CString::new(options)?);
    // Before Linux 5.11 there is no such option; real root can do without.
    overlay(format!("userxattr,{options}")).or_else(|_| overlay(options))?;
    let root = Root::open(Path::new("r"))?;
    // What comes may know relative paths.
    fchdir(before)?;
    Ok(root)
}

fn text(path: &Path) -> Result<CString> {
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
    CString::new(bytes).map_err(|_| anyhow!("{} holds a NUL byte", path.display()))
}

/// Whether a layer hides all below it, which overlayfs would not heed in a layer's root.
pub fn hides_all_below(layer: &Root) -> io::Result<bool> {
    let dir = layer.open_in("/", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    Ok(is_opaque(dir.as_fd()))
}

/// Completes a layer with what only the layers `below` can tell.
///
/// # Errors
/// Names the file that is missing below, or cannot be read or written.
pub fn settle(layer: &Root, below: &Root, open: &Open) -> Result<()> {
    for (link, target) in &open.links {
        let shown = |path: &Path| show(path.as_os_str().as_encoded_bytes());
        copy_up(layer, below, link, target)
            .with_context(|| format!("unpacking {}: its target {}", shown(link), shown(target)))?;
    }
    for path in &open.implied {
        settle_directory(layer, below, path)
            .with_context(|| format!("finishing the directory {}", path.display()))?;
    }
    Ok(())
}

/// Whether a layer that was unpacked by itself would have gone another way through symbolic links of the
/// layers `below`: then it must be unpacked again, over them ([`crate::unpack::unpack_over`]).
///
/// # Errors
/// As open(2).
pub fn leads_through_links(layer: &Root, below: &Root, open: &Open) -> io::Result<bool> {
    let above = |path: &'_ Path| -> Vec<PathBuf> {
        path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).map(Path::to_owned).collect()
    };
    let targets = open.links.iter().flat_map(|(_, target)| above(target));
    for path in open.entered.iter().cloned().chain(targets) {
        if let Some((_, stat)) = named_below(layer, below, &path)?
            && FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What has exactly that path below, and the directory that it is in; `None` where there is nothing,
/// or the layer hides it.
pub(crate) fn named_below(
    layer: &Root,
    below: &Root,
    path: &Path,
) -> io::Result<Option<(OwnedFd, Stat)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let (mut at, mut parent) = (PathBuf::from("."), below.open_in(".", flags, Mode::empty())?);
    for name in path.components() {
        if let Some(own) = there(layer.open_in(&at, flags, Mode::empty()))?
            && is_opaque(own.as_fd())
        {
            return Ok(None);
        }
        at.push(name);
        let stat = match statat(&parent, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        if path.components().count() + 1 == at.components().count() {
            return Ok(Some((parent, stat)));
        }
        match there(openat(&parent, name.as_os_str(), flags, Mode::empty()).map_err(Into::into))? {
            Some(fd) => parent = fd,
            None => return Ok(None),
        }
    }
    Ok(None)
}

/// `None` where there is nothing, or no directory.
fn there(opened: io::Result<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    match opened {
        Ok(fd) => Ok(Some(fd)),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Takes owner, mode, attributes and time from the directory of that name below, if it is one.
fn settle_directory(layer: &Root, below: &Root, path: &Path) -> Result<()> {
    let Some((parent, _)) = named_below(layer, below, path)? else { return Ok(()) };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let name = path.file_name().unwrap_or_default();
    let Some(from) = there(openat(parent, name, flags, Mode::empty()).map_err(Into::into))? else {
        return Ok(());
    };
    // A later entry may have taken its place.
    let Some(to) = there(layer.open_in(path, flags, Mode::empty()))? else { return Ok(()) };
    copy_metadata(from.as_fd(), to.as_fd())
}

/// What a hard link leads to is copied: a layer cannot share a file with another.
fn copy_up(layer: &Root, below: &Root, link: &Path, target: &Path) -> Result<()> {
    let (parent, name) = layer.parent_of(link)?;
    let before = fstat(&parent)?;
    // The second link to it finds what was copied for the first.
    if let Ok((dir, file)) = layer.parent_of(target)
        && linkat(&dir, &file, &parent, &name, AtFlags::empty()).is_ok()
    {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let found = match below.open_in(target, flags, Mode::empty()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!("does not exist"),
        other => other?,
    };
    ensure!(
        FileType::from_raw_mode(fstat(&found)?.st_mode) == FileType::RegularFile,
        "is no regular file"
    );
    let from = below.open_in(target, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty())?;
    if statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        sys::rooted::remove_tree(parent.as_fd(), &name)?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut to = File::from(openat(&parent, &name, flags, Mode::RUSR | Mode::WUSR)?);
    io::copy(&mut File::from(from.try_clone()?), &mut to)?;
    copy_metadata(from.as_fd(), to.as_fd())?;
    let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT as _ };
    let times = Timestamps { last_access: now, last_modification: modified(&before) };
    Ok(futimens_of(&parent, &times)?)
}

/// Of a directory that is open with `O_PATH`.
fn futimens_of(dir: impl AsFd, times: &Timestamps) -> rustix::io::Result<()> {
    utimensat(dir, ".", times, AtFlags::empty())
}

fn copy_metadata(from: std::os::fd::BorrowedFd<'_>, to: std::os::fd::BorrowedFd<'_>) -> Result<()> {
    let stat = fstat(from)?;
    let (uid, gid) =
        (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
    fchown(to, Some(uid), Some(gid))?;
    let mut list = vec![0; 64 << 10];
    let length = match flistxattr(from, &mut list[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    for name in list[..length].split(|&b| b == 0).filter(|name| is_portable_xattr(name)) {
        let mut value = vec![0; 64 << 10];
        let length = fgetxattr(from, name, &mut value[..])?;
        fsetxattr(to, name, &value[..length], rustix::fs::XattrFlags::empty())?;
    }
    fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT as _ };
    Ok(futimens(to, &Timestamps { last_access: omit, last_modification: modified(&stat) })?)
}

fn modified(stat: &rustix::fs::Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ }
}
