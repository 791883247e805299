//! The directories of an unpacking: the one that is being filled, and the metadata
//! that they get at the end.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context, Result};
use rustix::fs::{
    AtFlags, Mode, OFlags, RawDir, Stat, fchmod, fchown, fstat, futimens, mkdirat, statat, unlinkat,
};
use rustix::io::Errno;
use sys::rooted::{Root, chmod_at};

use super::overlay::{is_whiteout, make_opaque};
use super::{Summary, chown_failed, failed, owner, set_xattrs, times};
use crate::archive::{Member, show};

/// Mode of directories that an archive needs and does not name.
const IMPLIED_MODE: Mode = Mode::from_raw_mode(0o755);

/// A directory that is being filled.
pub(super) struct Parent {
    pub(super) fd: OwnedFd,
    /// What is made in it gets our own group.
    pub(super) keeps_group: bool,
}

pub(super) struct Directories<'a> {
    pub(super) root: &'a Root,
    /// The last parent, by its cleaned path.
    last: Option<(Vec<u8>, Rc<Parent>)>,
    /// By cleaned path: the last of several entries wins.
    later: HashMap<Vec<u8>, Later>,
    gid: u32,
    /// Bytes of memory that `later` and `implied` may still take.
    budget: usize,
    /// The layer is to be mounted over others.
    overlay: bool,
    /// Directories that the layer needs and has not named, by device and inode.
    implied: HashMap<(u64, u64), PathBuf>,
}

/// A directory whose metadata is still to be set.
struct Later {
    member: Member,
    chown: bool,
    chmod: bool,
}

impl<'a> Directories<'a> {
    pub(super) fn new(root: &'a Root, budget: usize, overlay: bool) -> Self {
        let gid = rustix::process::getegid().as_raw();
        let (later, implied) = (HashMap::new(), HashMap::new());
        Self { root, last: None, later, gid, budget, overlay, implied }
    }

    /// The directory of that path; it is made where it is missing.
    pub(super) fn parent(&mut self, path: &[u8]) -> Result<Rc<Parent>> {
        if let Some((last, parent)) = &self.last
            && last == path
        {
            return Ok(parent.clone());
        }
        let fd = match self.open(path) {
            Err(error) if self.overlay && is_missing(&error) => {
                self.imply(path).with_context(|| format!("making its directory {}", show(path)))?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self
                .root
                .create_dir_all(OsStr::from_bytes(path), IMPLIED_MODE)
                .with_context(|| format!("making its directory {}", show(path)))?,
            other => other.with_context(|| format!("opening its directory {}", show(path)))?,
        };
        let stat = fstat(&fd).map_err(|e| failed("looking at its directory", e))?;
        // With the set-group-id bit, or a file system mounted with `grpid`, what is made in
        // a directory gets the directory's group (inode(7)).
        let keeps_group = stat.st_gid == self.gid && stat.st_mode & 0o2000 == 0;
        let parent = Rc::new(Parent { fd, keeps_group });
        self.last = Some((path.to_vec(), parent.clone()));
        Ok(parent)
    }

    /// Makes a directory and those above it, where they are missing or marked as gone.
    fn imply(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let mut end = 0;
        loop {
            end = path[end..]
                .iter()
                .skip(1)
                .position(|&b| b == b'/')
                .map_or(path.len(), |n| end + 1 + n);
            let prefix = &path[..end];
            let opened = match self.open(prefix) {
                Ok(fd) => fd,
                Err(error) if is_missing(&error) => self.imply_one(prefix)?,
                Err(error) => return Err(error.into()),
            };
            if end == path.len() {
                return Ok(opened);
            }
        }
    }

    fn imply_one(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let (parent, name) = self.root.parent_of(OsStr::from_bytes(path))?;
        let hides = match statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if is_whiteout(&stat) => {
                unlinkat(&parent, &name, AtFlags::empty())?;
                true
            }
            Ok(_) => return Err(Errno::NOTDIR.into()),
            Err(Errno::NOENT) => false,
            Err(error) => return Err(error.into()),
        };
        mkdirat(&parent, &name, IMPLIED_MODE)?;
        chmod_at(parent.as_fd(), &name, IMPLIED_MODE)?;
        let fd = self.open(path)?;
        if hides {
            make_opaque(parent.as_fd(), &name)?;
        } else {
            self.remember(path.len() + 64)?;
            let stat = fstat(&fd)?;
            let path = PathBuf::from(OsStr::from_bytes(path));
            self.implied.insert((stat.st_dev, stat.st_ino), path);
        }
        Ok(fd)
    }

    /// To be called where an entry names a directory that is there.
    pub(super) fn named(&mut self, stat: &Stat) {
        if self.overlay {
            self.implied.remove(&(stat.st_dev, stat.st_ino));
        }
    }

    /// The directories that no entry named, parents first.
    pub(super) fn implied(&mut self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = std::mem::take(&mut self.implied).into_values().collect();
        paths.sort();
        paths
    }

    /// Accounts for something that is kept until the end.
    pub(super) fn remember(&mut self, cost: usize) -> Result<()> {
        self.budget =
            self.budget.checked_sub(cost).context("the archive has too many names to remember")?;
        Ok(())
    }

    /// The directory of that path, which must be there.
    pub(super) fn existing(&self, path: &[u8]) -> std::io::Result<OwnedFd> {
        match &self.last {
            Some((last, parent)) if last == path => parent.fd.try_clone(),
            _ => self.open(path),
        }
    }

    fn open(&self, path: &[u8]) -> std::io::Result<OwnedFd> {
        self.root.open_dir(OsStr::from_bytes(if path.is_empty() { b"." } else { path }))
    }

    /// To be called when a name that may be part of a path was removed.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    pub(super) fn leads_to_directory(&self, path: &[u8]) -> bool {
        self.open(path).is_ok()
    }

    /// Whether what is there leads to the very directory that a link of that path with
    /// that text would lead to.
    pub(super) fn lead_to_the_same(&self, path: &[u8], link: &[u8]) -> bool {
        let slash = path.iter().rposition(|&b| b == b'/').unwrap_or(0);
        let through = match link {
            [b'/', ..] => link.to_vec(),
            _ => [&path[..slash], b"/", link].concat(),
        };
        let inode = |path: &[u8]| {
            let stat = fstat(self.open(path).ok()?).ok()?;
            Some((stat.st_dev, stat.st_ino))
        };
        inode(path).is_some_and(|found| inode(&through) == Some(found))
    }

    /// Remembers what a directory is to become.
    pub(super) fn later(
        &mut self,
        path: &[u8],
        member: &Member,
        chown: bool,
        chmod: bool,
    ) -> Result<()> {
        let xattrs: usize =
            member.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        let cost = size_of::<Later>() + 2 * path.len() + xattrs;
        self.budget =
            self.budget.checked_sub(cost).context("the archive has too many directories")?;
        let member = Member { path: path.to_vec(), ..member.clone() };
        self.later.insert(path.to_vec(), Later { member, chown, chmod });
        Ok(())
    }

    /// Sets what was remembered; of what is above, last, since its mode may lock its owner out.
    pub(super) fn finish(&mut self, summary: &mut Summary) -> Result<()> {
        let mut all: Vec<Later> = std::mem::take(&mut self.later).into_values().collect();
        all.sort_by(|a, b| {
            (b.member.path.len(), &a.member.path).cmp(&(a.member.path.len(), &b.member.path))
        });
        for later in all {
            self.settle(&later, summary)
                .with_context(|| format!("finishing the directory {}", show(&later.member.path)))?;
        }
        Ok(())
    }

    fn settle(&self, later: &Later, summary: &mut Summary) -> Result<()> {
        let member = &later.member;
        let path: &[u8] = if member.path.is_empty() { b"." } else { &member.path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let fd = match self.root.open_in(OsStr::from_bytes(path), flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(error) => match Errno::from_io_error(&error) {
                // A later entry, or a whiteout, took its place.
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
                _ => return Err(error).context("opening it"),
            },
        };
        if later.chown {
            let (uid, gid) = owner(member.uid, member.gid);
            fchown(&fd, uid, gid).map_err(|e| chown_failed(member, e))?;
        }
        if !member.xattrs.is_empty() {
            set_xattrs(&fd, &member.path, &member.xattrs, summary)?;
        }
        if later.chmod || !member.xattrs.is_empty() {
            fchmod(&fd, Mode::from_raw_mode(member.mode)).map_err(|e| failed("chmod", e))?;
        }
        futimens(&fd, &times(member.mtime)).map_err(|e| failed("setting its time", e))
    }
}

/// Nothing is there, or something that is no directory.
fn is_missing(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// Whether a root holds nothing at all.
pub(super) fn is_empty(root: &Root) -> std::io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let fd = root.open_in(".", flags, Mode::empty())?;
    let mut buffer = [const { MaybeUninit::uninit() }; 1024];
    let mut entries = RawDir::new(fd, &mut buffer);
    while let Some(entry) = entries.next() {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
