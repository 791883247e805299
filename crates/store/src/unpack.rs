//! Unpacks archives that may be hostile into a directory, and nowhere else.
//!
//! Every name is cleaned as text first (a leading `/` or `./` goes, `..` must not lead out), then its
//! parent is resolved by [`sys::rooted`], and the last component is never followed: what
//! is made is made with `O_EXCL` and its like, after whatever stood there was removed.
//! So neither symbolic links, nor hard links, nor entries that replace one another
//! lead outside.
//!
//! Memory is bounded by [`Limits`]. A directory's owner, mode, attributes and time are set at the end, since
//! they could lock it, and making files in it would change its time.

mod directories;
mod filler;
mod overlay;
mod whiteout;

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chownat, fchmod,
    fchown, fsetxattr, ftruncate, futimens, linkat, makedev, mknodat, openat, readlinkat, statat,
    symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, pwrite, write};
use sys::rooted::{Root, chmod_at, remove_tree};

use crate::archive::{Archive, Member, Time, show};
pub use crate::archive::{Kind, Limits};
use directories::{Directories, Parent};
pub use filler::{Content, Filler};
pub(crate) use overlay::{is_opaque, is_whiteout};
use whiteout::{Mark, Whiteout};

/// Whose manners to follow where an archive meets a tree that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A layer of an OCI image (image-spec 1.1, layer.md), applied onto the layers below it:
    /// `.wh.NAME` removes NAME and `.wh..wh..opq` everything in its directory, as far as
    /// the layer itself has not brought it. The last of several entries of one name wins.
    Layer,
    /// A layer of an OCI image, unpacked by itself to be mounted over others: its whiteouts become
    /// overlayfs's own (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories").
    /// What only the layers below can tell is listed in [`Summary::open`].
    Overlay,
    /// A tar of a whole root: `.wh.` means nothing. The last of several entries wins.
    Plain,
    /// The `data.tar` of a Debian package, with dpkg's manners: a directory that exists, or
    /// a symbolic link to one, stays as it is where the archive has a directory, and
    /// nothing else may take a directory's place. Several threads may unpack packages into one root.
    Package,
}

/// Who owns what is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// The owners that the archive names; only root (of the user namespace) may.
    Exact,
    /// The caller.
    Mine,
}

impl Ids {
    /// [`Ids::Exact`] for root, be it of a user namespace, and [`Ids::Mine`] for everybody else.
    pub fn of_caller() -> Self {
        if rustix::process::geteuid().is_root() { Self::Exact } else { Self::Mine }
    }
}

/// How to unpack.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose manners.
    pub style: Style,
    /// Who owns the result.
    pub ids: Ids,
    /// What an archive may claim.
    pub limits: Limits,
}

/// What was just unpacked.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Relative, without `.` and `..`; empty for the root itself.
    pub path: &'a Path,
    /// Its kind.
    pub kind: Kind,
    /// Bytes of a regular file with its holes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// What a link leads to, as spelled in the archive.
    pub link: &'a OsStr,
}

/// What an archive held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// All entries.
    pub entries: u64,
    /// Regular files.
    pub files: u64,
    /// Bytes of the regular files, without holes.
    pub bytes: u64,
    /// Device nodes that were left out: only real root can make them.
    pub skipped_devices: u64,
    /// Extended attributes that were left out.
    pub skipped_xattrs: u64,
    /// File capabilities among them: what they belong to will lack a privilege.
    pub refused_capabilities: u64,
    /// What was left out, in words; the first few only.
    pub notes: Vec<String>,
    /// What [`Style::Overlay`] leaves to be settled with the layers below.
    pub open: Open,
}

/// What a layer does not tell by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Open {
    /// Directories that it has only because something is in them, parents first: they
    /// are to be as they are below.
    pub implied: Vec<PathBuf>,
    /// Hard links whose target must be below: the link's path and the target's.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Directories that it went into before it named them. Where one of them is a symbolic link below, the
    /// layer means what that leads to ([`crate::merged::leads_through_links`]).
    pub entered: Vec<PathBuf>,
}

impl Open {
    /// Whether the layer is the same whatever is below it.
    pub fn is_empty(&self) -> bool {
        self.entered.is_empty() && self.links.is_empty()
    }
}

/// Unpacks an uncompressed archive into `root`, owned as [`Ids::of_caller`] says.
///
/// `seen` hears of every entry once it is there. `reader` needs no buffer; it is read
/// up to the archive's end mark and perhaps a little beyond.
///
/// # Errors
/// As [`unpack_with`].
pub fn unpack(
    reader: impl Read,
    root: &Root,
    style: Style,
    limits: &Limits,
    seen: &mut dyn FnMut(&Entry<'_>),
) -> Result<Summary> {
    let options = Options { style, ids: Ids::of_caller(), limits: limits.clone() };
    unpack_with(reader, root, &options, seen)
}

/// Unpacks a layer as [`Style::Overlay`] does, through the symbolic links of the layers below it:
/// those that a path leads through become part of the layer.
///
/// # Errors
/// As [`unpack_with`].
pub fn unpack_over(
    reader: impl Read,
    root: &Root,
    below: &Root,
    limits: &Limits,
) -> Result<Summary> {
    let (style, ids) = (Style::Overlay, Ids::of_caller());
    let options = Options { style, ids, limits: limits.clone() };
    unpack_all(reader, Unpacker::new(root, &options, Some(below))?, &mut |_| {})
}

/// As [`unpack`], with every choice.
///
/// # Errors
/// Names the entry and why it cannot be unpacked: because it is hostile, damaged or truncated,
/// or because the system refuses. What was unpacked before remains.
pub fn unpack_with(
    reader: impl Read,
    root: &Root,
    options: &Options,
    seen: &mut dyn FnMut(&Entry<'_>),
) -> Result<Summary> {
    unpack_all(reader, Unpacker::new(root, options, None)?, seen)
}

fn unpack_all(
    reader: impl Read,
    mut unpacker: Unpacker<'_>,
    seen: &mut dyn FnMut(&Entry<'_>),
) -> Result<Summary> {
    let mut archive = Archive::new(reader, &unpacker.options.limits);
    let mut path = Vec::new();
    while let Some(member) = archive.next()? {
        let kind = unpacker
            .entry(&mut archive, &member, &mut path)
            .with_context(|| format!("unpacking {}", show(&member.path)))?;
        unpacker.summary.entries += 1;
        seen(&Entry {
            path: Path::new(OsStr::from_bytes(&path)),
            kind,
            size: member.size,
            mode: member.mode,
            link: OsStr::from_bytes(&member.link),
        });
    }
    unpacker.finish()
}

/// Whether an extended attribute belongs to an image, rather than to the host it was on.
///
/// `trusted.` and `user.overlay.` steer overlayfs and would let a layer hide, redirect or merge what
/// lies below it (kernel documentation, overlayfs.rst); `security.selinux` and its like are
/// labels of the host's policy.
pub fn is_portable_xattr(name: &[u8]) -> bool {
    let allowed: [&[u8]; 2] = [b"security.capability", b"security.ima"];
    allowed.contains(&name)
        || name.starts_with(b"system.posix_acl_")
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

/// Notes that a summary holds at most.
const MAX_NOTES: usize = 16;

/// Times that a name is cleared before an entry, against others that fill it again.
const ATTEMPTS: usize = 8;

struct Unpacker<'a> {
    options: &'a Options,
    directories: Directories<'a>,
    whiteout: Option<Whiteout>,
    /// Nothing was there when we began, so that no default ACL can meddle with modes.
    fresh: bool,
    umask: u32,
    uid: u32,
    gid: u32,
    summary: Summary,
}

/// Where an entry goes.
struct Place<'a> {
    parent: Rc<Parent>,
    name: &'a OsStr,
}

impl<'a> Unpacker<'a> {
    fn new(root: &'a Root, options: &'a Options, below: Option<&'a Root>) -> Result<Self> {
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
    fn entry(
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

    fn finish(mut self) -> Result<Summary> {
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

/// Whatever has the content of a file.
trait WriteContent {
    /// Writes it to an empty file; says how many bytes without holes.
    fn write(&mut self, member: &Member, fd: &OwnedFd) -> Result<u64>;
}

impl<R: Read> WriteContent for Archive<R> {
    fn write(&mut self, member: &Member, fd: &OwnedFd) -> Result<u64> {
        let Some(extents) = &member.extents else { return write_content(self, fd) };
        let mut sum = 0;
        for extent in extents {
            sum += write_extent(self, fd, extent.offset, extent.length)?;
        }
        ftruncate(fd, member.size).map_err(|e| failed("writing", e))?;
        Ok(sum)
    }
}

fn write_content(archive: &mut Archive<impl Read>, fd: &OwnedFd) -> Result<u64> {
    let mut sum = 0;
    loop {
        let mut chunk = archive.chunk()?;
        if chunk.is_empty() {
            return Ok(sum);
        }
        sum += chunk.len() as u64;
        while !chunk.is_empty() {
            match write(fd, chunk) {
                Ok(written) => chunk = &chunk[written..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed("writing", error)),
            }
        }
    }
}

fn write_extent(
    archive: &mut Archive<impl Read>,
    fd: &OwnedFd,
    offset: u64,
    length: u64,
) -> Result<u64> {
    let mut done = 0;
    while done < length {
        let mut chunk = archive.chunk_of(length - done)?;
        ensure!(!chunk.is_empty(), "its content is shorter than its extents");
        while !chunk.is_empty() {
            match pwrite(fd, chunk, offset + done) {
                Ok(written) => {
                    done += written as u64;
                    chunk = &chunk[written..];
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed("writing", error)),
            }
        }
    }
    Ok(length)
}

fn set_xattrs(
    fd: &OwnedFd,
    path: &[u8],
    xattrs: &[(Vec<u8>, Vec<u8>)],
    summary: &mut Summary,
) -> Result<()> {
    for (name, value) in xattrs {
        let refused = if is_portable_xattr(name) {
            match fsetxattr(fd, &name[..], value, rustix::fs::XattrFlags::empty()) {
                Ok(()) => continue,
                Err(error @ (Errno::PERM | Errno::OPNOTSUPP)) => error.to_string(),
                Err(error) => return Err(failed(&format!("setting {}", show(name)), error)),
            }
        } else {
            "it belongs to the host".to_owned()
        };
        summary.skipped_xattrs += 1;
        if name == b"security.capability" {
            summary.refused_capabilities += 1;
        }
        note(summary, path, &format!("attribute {} is left out: {refused}", show(name)));
    }
    Ok(())
}

fn note(summary: &mut Summary, path: &[u8], text: &str) {
    if summary.notes.len() < MAX_NOTES {
        summary.notes.push(format!("{}: {text}", show(path)));
    }
}

fn owner(uid: u32, gid: u32) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

fn times(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() },
    }
}

fn chown_failed(member: &Member, error: Errno) -> anyhow::Error {
    let (uid, gid) = (member.uid, member.gid);
    match error {
        Errno::INVAL => anyhow!(
            "owner {uid}:{gid} does not exist in this user namespace; give yourself a larger range in /etc/subuid and /etc/subgid"
        ),
        Errno::PERM => anyhow!("only root may make {uid}:{gid} its owner"),
        _ => failed(&format!("making {uid}:{gid} its owner"), error),
    }
}

fn failed(what: &str, error: Errno) -> anyhow::Error {
    match error {
        Errno::NOSPC | Errno::DQUOT => {
            anyhow!("{what}: {error}; free some space, for instance with `postroj system prune`")
        }
        _ => anyhow!("{what}: {error}"),
    }
}

/// The process's umask, which can be read without a change since Linux 4.7 (proc_pid_status(5)).
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    // Where it is not known, no mode comes out as wanted by itself.
    field.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0o777)
}
