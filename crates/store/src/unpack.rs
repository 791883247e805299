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

mod attributes;
mod content;
mod directories;
mod filler;
mod overlay;
mod unpacker;
mod whiteout;

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use rustix::io::Errno;
use sys::rooted::Root;

use crate::archive::{Archive, show};
pub use crate::archive::{Kind, Limits};
pub use attributes::is_portable_xattr;
pub use filler::{Content, Filler};
pub(crate) use overlay::{is_opaque, is_whiteout};
use unpacker::Unpacker;

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

fn failed(what: &str, error: Errno) -> anyhow::Error {
    match error {
        Errno::NOSPC | Errno::DQUOT => {
            anyhow!("{what}: {error}; free some space, for instance with `postroj system prune`")
        }
        _ => anyhow!("{what}: {error}"),
    }
}
