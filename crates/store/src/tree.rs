//! A directory of the host, as a file system to be read: the way from layers to an image of a disk.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use disk::{Attribute, Attributes, Kind, Name, Piece, Volume};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, Stat, fstat, lgetxattr, llistxattr, major, minor,
    openat, readlinkat, statat,
};
use rustix::io::Errno;
use sys::rooted::Root;

use crate::archive::{Extent, show};
use crate::pack::extents;
use crate::unpack::{is_portable_xattr, is_whiteout};

/// A tree of the host. What is mounted below, and overlayfs's whiteouts, are not in it; of extended attributes
/// only those that an image may have ([`is_portable_xattr`]).
///
/// Owners, attributes and access control lists are those that this process sees in its user namespace. The tree
/// must not change meanwhile; where it does, that is an error or a mixture, never something outside of it.
pub struct Tree<'a> {
    root: &'a Root,
    device: u64,
    /// Each node's directory, which is a node, and its name there. The first is the root, and its own.
    nodes: Vec<(usize, OsString)>,
    /// Files with several names.
    shared: HashMap<(u64, u64), u64>,
    /// The directory that was looked into last.
    open: Option<(usize, OwnedFd)>,
    buffer: Vec<u8>,
}

/// Bytes that are read at once.
const BUFFER: usize = 1 << 20;
/// The longest path that is given to the kernel at once: below PATH_MAX (limits.h).
const PATH: usize = 4000;
/// Greatest size of an attribute, and of the list of their names (xattr(7), Linux's VFS).
const XATTR: usize = 64 << 10;

impl<'a> Tree<'a> {
    /// Reads the tree below this root.
    ///
    /// # Errors
    /// Where its root cannot be read.
    pub fn new(root: &'a Root) -> Result<Self> {
        let device = root.metadata("/").context("reading the root directory")?.st_dev;
        let nodes = vec![(0, OsString::new())];
        Ok(Self { root, device, nodes, shared: HashMap::new(), open: None, buffer: Vec::new() })
    }

    fn entry(&self, node: u64) -> Result<&(usize, OsString)> {
        usize::try_from(node).ok().and_then(|n| self.nodes.get(n)).context("there is no such node")
    }

    /// Opens a directory, from the root on: a path may be longer than the kernel takes.
    fn directory(&self, node: usize) -> Result<OwnedFd> {
        let mut names = Vec::new();
        let mut at = node;
        while at != 0 {
            names.push(&self.nodes[at].1);
            at = self.nodes[at].0;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let mut root = self.root.try_clone()?;
        while !names.is_empty() {
            let mut path = OsString::new();
            while let Some(name) = names.pop_if(|name| path.len() + name.len() < PATH) {
                path.push(name);
                path.push("/");
            }
            root = Root::from_fd(root.open_in(&path, flags, Mode::empty())?);
        }
        Ok(root.open_in(".", flags, Mode::empty())?)
    }

    /// The directory that a node is in, which stays open for its neighbours, and its name there.
    fn parent(&mut self, node: u64) -> Result<(&OwnedFd, &OsStr)> {
        let (parent, _) = *self.entry(node)?;
        if self.open.as_ref().is_none_or(|(open, _)| *open != parent) {
            self.open = Some((parent, self.directory(parent)?));
        }
        let name = &self.nodes[node as usize].1;
        let name = if name.is_empty() { OsStr::new(".") } else { name };
        match &self.open {
            Some((_, fd)) => Ok((fd, name)),
            None => unreachable!("it was opened above"),
        }
    }

    fn stat(&mut self, node: u64) -> Result<Stat> {
        let (parent, name) = self.parent(node)?;
        Ok(statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn open(&mut self, node: u64, flags: OFlags) -> Result<OwnedFd> {
        let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        let (parent, name) = self.parent(node)?;
        openat(parent, name, flags, Mode::empty()).context("opening it")
    }

    /// The node of a name; `None` for what is not in the tree.
    fn add(&mut self, directory: usize, name: OsString, stat: &Stat) -> Option<u64> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if is_whiteout(stat) {
            return None;
        }
        let new = self.nodes.len() as u64;
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let node = *self.shared.entry((stat.st_dev, stat.st_ino)).or_insert(new);
            if node != new {
                return Some(node);
            }
        }
        self.nodes.push((directory, name));
        Some(new)
    }
}

impl Volume for Tree<'_> {
    fn root(&self) -> u64 {
        0
    }

    fn attributes(&mut self, node: u64) -> Result<Attributes> {
        let stat = self.stat(node)?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Link,
            FileType::CharacterDevice => Kind::Character,
            FileType::BlockDevice => Kind::Block,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::Unknown => anyhow::bail!("it is of an unknown kind"),
        };
        Ok(Attributes {
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            size: if matches!(kind, Kind::File | Kind::Link) { stat.st_size as u64 } else { 0 },
            links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            device: (major(stat.st_rdev), minor(stat.st_rdev)),
        })
    }

    fn names(&mut self, directory: u64) -> Result<Vec<Name>> {
        let fd = self.open(directory, OFlags::DIRECTORY)?;
        // The directory of a mount below is the host's, and so is what is in it.
        if fstat(&fd)?.st_dev != self.device {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        let mut buffer = vec![MaybeUninit::uninit(); 32 << 10];
        let mut entries = RawDir::new(&fd, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.context("listing it")?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                found.push(name.to_vec());
            }
        }
        // Those that share a file are told apart by which came first: always the same one.
        found.sort_unstable();
        let mut names = Vec::with_capacity(found.len());
        for name in found {
            let stat = statat(&fd, &name[..], AtFlags::SYMLINK_NOFOLLOW)
                .with_context(|| format!("reading {} in it", show(&name)))?;
            let own = OsString::from_vec(name.clone());
            if let Some(node) = self.add(directory as usize, own, &stat) {
                names.push(Name { name, node });
            }
        }
        Ok(names)
    }

    fn target(&mut self, link: u64) -> Result<Vec<u8>> {
        let (parent, name) = self.parent(link)?;
        Ok(readlinkat(parent, name, Vec::new()).context("reading the link")?.into_bytes())
    }

    fn xattrs(&mut self, node: u64) -> Result<Vec<Attribute>> {
        let (parent, name) = self.parent(node)?;
        // A link and a device cannot be opened for it: by a path that begins at an open directory.
        let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.as_bytes());
        let mut list = [0; 1024];
        let list = match llistxattr(&path[..], &mut list[..]) {
            Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Ok(length) => list[..length].to_vec(),
            Err(Errno::RANGE) => {
                let mut list = vec![0; XATTR];
                let length =
                    llistxattr(&path[..], &mut list[..]).context("listing its attributes")?;
                list.truncate(length);
                list
            }
            Err(error) => return Err(error).context("listing its attributes"),
        };
        let mut found = Vec::new();
        for name in list.split(|&b| b == 0).filter(|name| is_portable_xattr(name)) {
            let mut value = vec![0; XATTR];
            let length = match lgetxattr(&path[..], name, &mut value[..]) {
                Ok(length) => length,
                Err(Errno::NODATA) => continue,
                Err(error) => {
                    return Err(error).with_context(|| format!("reading its {}", show(name)));
                }
            };
            value.truncate(length);
            found.push((name.to_vec(), value));
        }
        Ok(found)
    }

    fn content(&mut self, file: u64, piece: &mut Piece<'_>) -> Result<()> {
        let fd = self.open(file, OFlags::NONBLOCK)?;
        let stat = fstat(&fd)?;
        ensure!(
            FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile,
            "it became something else meanwhile"
        );
        let whole = || vec![Extent { offset: 0, length: stat.st_size as u64 }];
        let extents = extents(&fd, &stat)?.unwrap_or_else(whole);
        let file = File::from(fd);
        self.buffer.resize(BUFFER, 0);
        for extent in extents {
            let (mut at, end) = (extent.offset, extent.offset + extent.length);
            while at < end {
                let room = (end - at).min(BUFFER as u64) as usize;
                let length = file.read_at(&mut self.buffer[..room], at).context("reading it")?;
                ensure!(length > 0, "it became shorter meanwhile");
                piece(at, &self.buffer[..length])?;
                at += length as u64;
            }
        }
        Ok(())
    }
}
