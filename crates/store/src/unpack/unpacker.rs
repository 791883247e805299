//! Makes one entry after the other: each kind of them, and what gives way to it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, chownat, fchmod, fchown, futimens, linkat, makedev, mknodat,
    openat, readlinkat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use sys::rooted::{Root, chmod_at, remove_tree};

use super::attributes::{chown_failed, note, owner, set_xattrs, times, umask};
use super::content::WriteContent;
use super::directories::{self, Directories, Parent};
use super::overlay::{self, is_whiteout};
use super::whiteout::{self, Mark, Whiteout};
use super::{Ids, Kind, Options, Style, Summary, failed};
use crate::archive::{Member, show};

/// Times that a name is cleared before an entry, against others that fill it again.
const ATTEMPTS: usize = 8;

pub(super) struct Unpacker<'a> {
    pub(super) options: &'a Options,
    directories: Directories<'a>,
    whiteout: Option<Whiteout>,
    /// Nothing was there when we began, so that no default ACL can meddle with modes.
    fresh: bool,
    umask: u32,
    uid: u32,
    gid: u32,
    pub(super) summary: Summary,
}

/// Where an entry goes.
struct Place<'a> {
    parent: Rc<Parent>,
    name: &'a OsStr,
}

impl<'a> Unpacker<'a> {
    pub(super) fn new(
        root: &'a Root,
        options: &'a Options,
        below: Option<&'a Root>,
    ) -> Result<Self> {
        let fresh = directories::is_empty(root).context("reading the root directory")?;
        // Below a layer there is nothing to remove if nothing was there.
        let whiteout = (options.style == Style::Layer && !fresh).then(Whiteout::default);
        Ok(Self {
            options,
            directories: Directories::new(
                root,
                options.limits.max_remembered,
                options.style == Style::Overlay,
                below,
            ),
            whiteout,
            fresh,
            umask: umask(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            summary: Summary::default(),
        })
    }

    /// Unpacks one entry; `path` receives its cleaned name.
    pub(super) fn entry(
        &mut self,
        content: &mut impl WriteContent,
        member: &Member,
        path: &mut Vec<u8>,
    ) -> Result<Kind> {
        clean(&member.path, path)?;
        if path.is_empty() {
            ensure!(!member.path.is_empty(), "it has no name");
            ensure!(member.kind == Kind::Directory, "it would take the place of the root");
            if self.options.style != Style::Package {
                self.directory_later(path, member, false)?;
            }
            return Ok(Kind::Directory);
        }
        let whiteouts = matches!(self.options.style, Style::Layer | Style::Overlay);
        if whiteouts && self.whiteout(path)? {
            return Ok(Kind::Whiteout);
        }
        let slash = path.iter().rposition(|&b| b == b'/');
        let parent = self.directories.parent(&path[..slash.unwrap_or(0)])?;
        let name = OsStr::from_bytes(&path[slash.map_or(0, |slash| slash + 1)..]);
        let place = Place { parent, name };
        match member.kind {
            Kind::File => self.file(content, member, &place)?,
            Kind::Directory => self.directory(member, path, &place)?,
            Kind::Symlink => self.symlink(member, path, &place)?,
            Kind::HardLink => self.hard_link(member, path, &place)?,
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo | Kind::Socket => {
                self.node(member, &place)?;
            }
            Kind::Whiteout => bail!("no archive holds such an entry"),
        }
        self.summary.skipped_xattrs += u64::from(member.skipped_attributes);
        if let Some(whiteout) = &mut self.whiteout {
            whiteout.brought(path, self.options.limits.max_remembered)?;
        }
        Ok(member.kind)
    }

    /// Does what a whiteout says; `false` where the entry is none.
    fn whiteout(&mut self, path: &[u8]) -> Result<bool> {
        let Some(mark) = whiteout::parse(path)? else {
            return Ok(false);
        };
        if self.options.style == Style::Overlay {
            self.mark(&mark)?;
            return Ok(true);
        }
        let Some(whiteout) = &mut self.whiteout else {
            return Ok(true);
        };
        whiteout.apply(&mark, self.directories.root)?;
        self.directories.forget();
        Ok(true)
    }

    /// Makes the mark that overlayfs understands.
    fn mark(&mut self, mark: &Mark<'_>) -> Result<()> {
        match mark {
            Mark::Nothing => Ok(()),
            Mark::Opaque { directory } => {
                let parent = self.directories.parent(directory)?;
                overlay::make_opaque(parent.fd.as_fd(), OsStr::new("."))
            }
            Mark::Gone { directory, name } => {
                let parent = self.directories.parent(directory)?;
                overlay::make_whiteout(parent.fd.as_fd(), OsStr::from_bytes(name))
            }
        }
    }

    fn file(
        &mut self,
        content: &mut impl WriteContent,
        member: &Member,
        place: &Place<'_>,
    ) -> Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(member.mode & 0o777);
        let fd = self
            .make(place, "making the file", || openat(&place.parent.fd, place.name, flags, mode))?;
        let written = content.write(member, &fd)?;
        self.summary.files += 1;
        self.summary.bytes += written;
        if self.needs_chown(member.uid, member.gid, place.parent.keeps_group) {
            // Before the mode and the attributes, which a change of owner would reduce.
            let (uid, gid) = owner(member.uid, member.gid);
            fchown(&fd, uid, gid).map_err(|e| chown_failed(member, e))?;
        }
        if self.needs_chmod(member.mode) {
            fchmod(&fd, Mode::from_raw_mode(member.mode)).map_err(|e| failed("chmod", e))?;
        }
        if !member.xattrs.is_empty() {
            set_xattrs(&fd, &member.path, &member.xattrs, &mut self.summary)?;
        }
        futimens(&fd, &times(member.mtime)).map_err(|e| failed("setting its time", e))
    }

    fn directory(&mut self, member: &Member, path: &[u8], place: &Place<'_>) -> Result<()> {
        // The owner must be able to fill it; its own mode comes at the end.
        let mode = Mode::from_raw_mode(member.mode & 0o777 | 0o700);
        let parent = &place.parent.fd;
        let mut hides = false;
        for _ in 0..ATTEMPTS {
            match rustix::fs::mkdirat(parent, place.name, mode) {
                Ok(()) => {
                    if hides {
                        overlay::make_opaque(parent.as_fd(), place.name)?;
                    }
                    return self.directory_later(path, member, place.parent.keeps_group);
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(failed("making the directory", error)),
            }
            let there = match statat(parent, place.name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    hides |= self.options.style == Style::Overlay && is_whiteout(&stat);
                    self.directories.named(&stat);
                    FileType::from_raw_mode(stat.st_mode)
                }
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(failed("looking at it", error)),
            };
            let package = self.options.style == Style::Package;
            match there {
                FileType::Directory if package => return Ok(()),
                FileType::Directory => return self.directory_later(path, member, false),
                FileType::Symlink if package && self.directories.leads_to_directory(path) => {
                    return Ok(());
                }
                _ if package => bail!("there is something of that name that is no directory"),
                _ => self.clear(place)?,
            }
        }
        bail!("somebody else keeps making it at the same time")
    }

    fn symlink(&mut self, member: &Member, path: &[u8], place: &Place<'_>) -> Result<()> {
        ensure!(!member.link.is_empty(), "it is a symbolic link to nothing");
        let parent = &place.parent.fd;
        let made = symlinkat(&member.link[..], parent, place.name);
        // The same link again stays: another thread may be looking through it.
        let same = made == Err(Errno::EXIST)
            && readlinkat(parent, place.name, Vec::new())
                .is_ok_and(|text| text.as_bytes() == member.link);
        if made.is_err() && !same {
            // As dpkg (archives.c, linktosameexistingdir).
            let package = self.options.style == Style::Package;
            if package && self.directories.lead_to_the_same(path, &member.link) {
                return Ok(());
            }
            self.make(place, "making the link", || {
                symlinkat(&member.link[..], parent, place.name)
            })?;
        }
        self.skip_xattrs(member);
        self.own_and_date(member, place)
    }

    fn hard_link(&mut self, member: &Member, path: &[u8], place: &Place<'_>) -> Result<()> {
        let mut target = Vec::new();
        clean(&member.link, &mut target)
            .with_context(|| format!("its target {}", show(&member.link)))?;
        ensure!(!target.is_empty(), "it is a hard link to the root");
        let slash = target.iter().rposition(|&b| b == b'/');
        self.directories.take_links(&target[..slash.unwrap_or(0)])?;
        let from = match self.directories.existing(&target[..slash.unwrap_or(0)]) {
            Err(error)
                if self.options.style == Style::Overlay
                    && error.kind() == std::io::ErrorKind::NotFound =>
            {
                return self.link_to_below(path, &target);
            }
            other => other.with_context(|| format!("looking for its target {}", show(&target)))?,
        };
        let target_name = &target[slash.map_or(0, |slash| slash + 1)..];
        let (parent, name) = (&place.parent.fd, place.name);
        let link = || linkat(&from, target_name, parent, name, AtFlags::empty());
        let explain = |error| match error {
            Errno::NOENT => anyhow!("its target {} does not exist", show(&target)),
            Errno::PERM => anyhow!("its target {} cannot have another name", show(&target)),
            _ => failed(&format!("linking it to {}", show(&target)), error),
        };
        match link() {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(Errno::NOENT) if self.options.style == Style::Overlay => {
                return self.link_to_below(path, &target);
            }
            Err(error) => return Err(explain(error)),
        }
        // Only where there is something to link to is the name cleared; and a link to itself stays.
        let what = |dir: &OwnedFd, name: &OsStr| statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let old = what(&from, OsStr::from_bytes(target_name)).map_err(explain)?;
        if let Ok(new) = what(parent, name)
            && (old.st_dev, old.st_ino) == (new.st_dev, new.st_ino)
        {
            return Ok(());
        }
        ensure!(
            FileType::from_raw_mode(old.st_mode) != FileType::Directory,
            "its target {} is a directory",
            show(&target)
        );
        self.clear(place)?;
        link().map_err(explain)
    }

    /// Leaves a link for later whose target this layer does not have.
    fn link_to_below(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        self.directories.remember(2 * (path.len() + target.len()))?;
        let owned = |path: &[u8]| PathBuf::from(OsStr::from_bytes(path));
        self.summary.open.links.push((owned(path), owned(target)));
        Ok(())
    }

    fn node(&mut self, member: &Member, place: &Place<'_>) -> Result<()> {
        let (kind, (major, minor)) = match member.kind {
            Kind::CharDevice => (FileType::CharacterDevice, member.device),
            Kind::BlockDevice => (FileType::BlockDevice, member.device),
            Kind::Socket => (FileType::Socket, (0, 0)),
            _ => (FileType::Fifo, (0, 0)),
        };
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        if is_device && (major, minor) == (0, 0) {
            // To overlayfs, 0:0 is the mark that a name of a lower layer is gone.
            self.summary.skipped_devices += 1;
            self.note(member, "device 0:0 is left out: there is no such device");
            return Ok(());
        }
        let mode = Mode::from_raw_mode(member.mode & 0o777);
        let device = makedev(major, minor);
        let made = self.make(place, "making the node", || {
            match mknodat(&place.parent.fd, place.name, kind, mode, device) {
                Err(Errno::PERM) if is_device => Ok(false),
                other => other.map(|()| true),
            }
        })?;
        if !made {
            self.summary.skipped_devices += 1;
            self.note(member, "device left out: only real root can make it");
            return Ok(());
        }
        self.skip_xattrs(member);
        self.own_and_date(member, place)?;
        if self.needs_chmod(member.mode) {
            let mode = Mode::from_raw_mode(member.mode);
            chmod_at(place.parent.fd.as_fd(), place.name, mode).context("chmod")?;
        }
        Ok(())
    }

    /// Owner and time of what cannot be opened.
    fn own_and_date(&self, member: &Member, place: &Place<'_>) -> Result<()> {
        let parent = &place.parent.fd;
        if self.needs_chown(member.uid, member.gid, place.parent.keeps_group) {
            let (uid, gid) = owner(member.uid, member.gid);
            chownat(parent, place.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| chown_failed(member, e))?;
        }
        utimensat(parent, place.name, &times(member.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| failed("setting its time", e))
    }

    /// Makes something; where the name is taken, clears it first.
    fn make<T>(
        &mut self,
        place: &Place<'_>,
        what: &str,
        mut make: impl FnMut() -> rustix::io::Result<T>,
    ) -> Result<T> {
        for _ in 0..ATTEMPTS {
            match make() {
                Ok(made) => return Ok(made),
                Err(Errno::EXIST) => self.clear(place)?,
                Err(error) => return Err(failed(what, error)),
            }
        }
        bail!("somebody else keeps making it at the same time")
    }

    /// Removes what has the name of an entry that is about to be made.
    fn clear(&mut self, place: &Place<'_>) -> Result<()> {
        // Whether it was a link to a directory, through which a path led, is not worth asking.
        self.directories.forget();
        let parent = &place.parent.fd;
        match unlinkat(parent, place.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(failed("removing what was there", error)),
        }
        if self.options.style == Style::Package {
            bail!("there is a directory of that name");
        }
        remove_tree(parent.as_fd(), place.name).context("removing the directory that was there")
    }

    fn directory_later(&mut self, path: &[u8], member: &Member, keeps_group: bool) -> Result<()> {
        // Of one that was there before, nothing is known.
        let owned = keeps_group && !self.needs_chown(member.uid, member.gid, true);
        let made_as = member.mode & 0o777 | 0o700;
        let fits = keeps_group && made_as == member.mode && !self.needs_chmod(member.mode);
        self.directories.later(path, member, self.options.ids == Ids::Exact && !owned, !fits)
    }

    fn needs_chown(&self, uid: u32, gid: u32, keeps_group: bool) -> bool {
        let ours = keeps_group && (uid, gid) == (self.uid, self.gid);
        self.options.ids == Ids::Exact && !ours
    }

    fn needs_chmod(&self, mode: u32) -> bool {
        !self.fresh || mode & (0o7000 | self.umask) != 0
    }

    fn skip_xattrs(&mut self, member: &Member) {
        if !member.xattrs.is_empty() {
            self.summary.skipped_xattrs += member.xattrs.len() as u64;
            self.note(member, "attributes of what is no file and no directory are left out");
        }
    }

    fn note(&mut self, member: &Member, text: &str) {
        note(&mut self.summary, &member.path, text);
    }

    pub(super) fn finish(mut self) -> Result<Summary> {
        (self.summary.open.implied, self.summary.open.entered) = self.directories.implied();
        self.directories.finish(&mut self.summary)?;
        Ok(self.summary)
    }
}

/// Cleans a name: relative, without empty components, `.` and `..`.
fn clean(name: &[u8], path: &mut Vec<u8>) -> Result<()> {
    path.clear();
    for component in name.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                ensure!(!path.is_empty(), "its name leads out of the root");
                path.truncate(path.iter().rposition(|&b| b == b'/').unwrap_or(0));
            }
            _ => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(component);
            }
        }
    }
    Ok(())
}
