//! The directories of an unpacking: the one that is being filled, and the metadata
//! that they get at the end.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, Stat, chownat, fchmod, fchown, fstat, futimens,
    mkdirat, readlinkat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use sys::rooted::{Root, chmod_at};

use super::attributes::{chown_failed, owner, set_xattrs, times};
use super::overlay::{is_whiteout, make_opaque};
use super::{Summary, failed};
use crate::archive::{Member, Time, show};
use crate::merged::named_below;

/// Mode of directories that an archive needs and does not name.
const IMPLIED_MODE: Mode = Mode::from_raw_mode(0o755);

/// Links that one path may lead through, as in the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;

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
    /// What it will be mounted over, where that is known.
    below: Option<&'a Root>,
    /// Directories that the layer needed before it named them, by device and inode; and whether it has since.
    implied: HashMap<(u64, u64), (PathBuf, bool)>,
}

/// A directory whose metadata is still to be set.
struct Later {
    member: Member,
    chown: bool,
    chmod: bool,
}

impl<'a> Directories<'a> {
    pub(super) fn new(
        root: &'a Root,
        budget: usize,
        overlay: bool,
        below: Option<&'a Root>,
    ) -> Self {
        let gid = rustix::process::getegid().as_raw();
        let (later, implied) = (HashMap::new(), HashMap::new());
        Self { root, last: None, later, gid, budget, overlay, below, implied }
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
        let real = self.walk(path, true)?;
        Ok(self.open(&real)?)
    }

    /// Takes over the links below through which that path leads, if it leads somewhere.
    pub(super) fn take_links(&mut self, path: &[u8]) -> Result<()> {
        match self.below.map(|_| self.walk(path, false)) {
            Some(Err(error)) if !error.downcast_ref::<Errno>().is_some_and(leads_nowhere) => {
                Err(error).with_context(|| format!("following {}", show(path)))
            }
            _ => Ok(()),
        }
    }

    /// Follows a path; returns it without links. What is missing of it is made, if it may be.
    fn walk(&mut self, path: &[u8], make: bool) -> Result<Vec<u8>> {
        let components = |path: &[u8]| -> Vec<Vec<u8>> {
            path.rsplit(|&b| b == b'/').map(<[u8]>::to_vec).collect()
        };
        let (mut rest, mut at, mut links) = (components(path), Vec::new(), 0);
        while let Some(name) = rest.pop() {
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    at.truncate(at.iter().rposition(|&b| b == b'/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let parent = self.open(&at)?;
            let length = at.len();
            if length > 0 {
                at.push(b'/');
            }
            at.extend_from_slice(&name);
            if let Some(text) = self.step(&parent, OsStr::from_bytes(&name), &at, make)? {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                at.truncate(if text.starts_with(b"/") { 0 } else { length });
                rest.extend(components(&text));
            }
        }
        Ok(at)
    }

    /// Sees to it that a directory is there, or returns the text of the link that is.
    fn step(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &[u8],
        make: bool,
    ) -> Result<Option<Vec<u8>>> {
        let hides = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => return Ok(None),
                FileType::Symlink => {
                    return Ok(Some(readlinkat(parent, name, Vec::new())?.into_bytes()));
                }
                _ if is_whiteout(&stat) && make => {
                    unlinkat(parent, name, AtFlags::empty())?;
                    true
                }
                _ => return Err(Errno::NOTDIR.into()),
            },
            Err(Errno::NOENT) => match self.link_below(path)? {
                Some((text, stat)) => {
                    self.take_link(parent, name, &text, &stat)?;
                    return Ok(Some(text));
                }
                None if make => false,
                None => return Err(Errno::NOENT.into()),
            },
            Err(error) => return Err(error.into()),
        };
        mkdirat(parent, name, IMPLIED_MODE)?;
        chmod_at(parent.as_fd(), name, IMPLIED_MODE)?;
        if hides {
            make_opaque(parent.as_fd(), name)?;
        } else {
            self.remember(path.len() + 64)?;
            let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let path = PathBuf::from(OsStr::from_bytes(path));
            self.implied.insert((stat.st_dev, stat.st_ino), (path, false));
        }
        Ok(None)
    }

    /// The link that has that path below, unless the layer hides it.
    fn link_below(&self, path: &[u8]) -> Result<Option<(Vec<u8>, Stat)>> {
        let Some(below) = self.below else { return Ok(None) };
        let path = Path::new(OsStr::from_bytes(path));
        let Some((parent, stat)) = named_below(self.root, below, path)? else { return Ok(None) };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Ok(None);
        }
        let name = path.file_name().unwrap_or_default();
        Ok(Some((readlinkat(parent, name, Vec::new())?.into_bytes(), stat)))
    }

    /// Makes the same link in the layer, so that everything after it goes the same way.
    fn take_link(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        text: &[u8],
        stat: &Stat,
    ) -> Result<()> {
        self.remember(text.len() + 64)?;
        symlinkat(text, parent, name)?;
        let (uid, gid) = owner(stat.st_uid, stat.st_gid);
        chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        let time = Time { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 };
        Ok(utimensat(parent, name, &times(time), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// To be called where an entry names a directory that is there.
    pub(super) fn named(&mut self, stat: &Stat) {
        if let Some((_, named)) = self.implied.get_mut(&(stat.st_dev, stat.st_ino)) {
            *named = true;
        }
    }

    /// The directories that no entry named, parents first; and those with the ones that were named too late.
    pub(super) fn implied(&mut self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let mut all: Vec<_> = std::mem::take(&mut self.implied).into_values().collect();
        all.sort();
        let unnamed = all.iter().filter(|(_, named)| !named).map(|(path, _)| path.clone());
        (unnamed.collect(), all.iter().map(|(path, _)| path.clone()).collect())
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

fn leads_nowhere(error: &Errno) -> bool {
    matches!(*error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
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
