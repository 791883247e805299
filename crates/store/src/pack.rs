//! Packs a tree as a tar archive (PAX format, POSIX.1-2024) that [`crate::unpack`] and every
//! other tool can read: sorted, with hard links, holes and extended attributes.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use anyhow::{Context, Result, ensure};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, Stat, fgetxattr, flistxattr, fstat, openat,
    readlinkat, seek, statat,
};
use rustix::io::Errno;
use sys::rooted::Root;

use crate::archive::{Extent, show};
use crate::unpack::{is_opaque, is_portable_xattr, is_whiteout};

/// What is left out, and what is changed.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Directories, by device and inode, that are packed without what is in them.
    pub without: Vec<(u64, u64)>,
    /// It is a layer of the store: overlayfs's whiteouts become those of OCI's layers
    /// (image-spec 1.1, layer.md, "Whiteouts").
    pub layer: bool,
    /// Seconds since the epoch: what is newer gets this time, so that equal layers are packed equally.
    pub newest: Option<i64>,
    /// Paths that are left out, with what is in them.
    pub except: Vec<Vec<u8>>,
    /// Only a part of the tree.
    pub part: Option<Part>,
    /// What is mounted below belongs to it.
    pub across: bool,
    /// Nothing that gives a right to whoever has the files afterwards: no set-user-id and
    /// set-group-id bits, no file capabilities, no device nodes.
    pub harmless: bool,
}

/// A part of a tree, and what it is called in the archive.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its path in the root, without a slash at either end.
    pub path: Vec<u8>,
    /// Its name in the archive; where it is empty, only what is in it is packed.
    pub name: Vec<u8>,
}

/// Writes what is in `root`, as far as it is in the same file system, as a tar archive.
///
/// What is in a mount below is left out, and so are sockets. A file that grows meanwhile is
/// packed as long as it was.
///
/// # Errors
/// Names the file that cannot be read or became shorter meanwhile, or says that `writer` failed.
pub fn pack(root: &Root, writer: impl Write, options: &Options) -> Result<()> {
    let device = root.metadata("/").context("reading the root directory")?.st_dev;
    let mut packer = Packer { root, options, device, writer, links: HashMap::new() };
    let mut todo = vec![options.part.as_ref().map(|part| part.path.clone()).unwrap_or_default()];
    while let Some(path) = todo.pop() {
        let below = packer.entry(&path).with_context(|| format!("packing {}", shown(&path)))?;
        let below = below.into_iter().rev().map(|name| joined(&path, &name));
        todo.extend(below.filter(|path| !options.except.contains(path)));
    }
    packer.writer.write_all(&[0; 2 * BLOCK]).context("writing the archive's end")?;
    packer.writer.flush().context("writing the archive's end")
}

const BLOCK: usize = 512;

struct Packer<'a, W> {
    root: &'a Root,
    options: &'a Options,
    device: u64,
    writer: W,
    /// The first path of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

/// An entry's extended header, as keys and values.
type Records = Vec<(String, Vec<u8>)>;

impl<W: Write> Packer<'_, W> {
    /// Writes an empty file that says that something is gone.
    fn whiteout(&mut self, path: &[u8], stat: &Stat) -> Result<()> {
        let mut stat = *stat;
        stat.st_mode = FileType::RegularFile.as_raw_mode() | 0o644;
        self.head(path, &stat, tar::EntryType::Regular, 0, Vec::new())
    }

    /// Writes one entry; returns the sorted names in it, where it is a directory.
    fn entry(&mut self, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let (parent, name) = match path {
            b"" => (self.root.open_dir("/")?, OsString::from(".")),
            _ => self.root.parent_of(OsStr::from_bytes(path))?,
        };
        let mut stat = statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        self.clamp(&mut stat);
        if self.options.layer && is_whiteout(&stat) {
            let directory = &path[..path.len() - name.len()];
            let marked = [directory, b".wh.", name.as_bytes()].concat();
            return self.whiteout(&marked, &stat).map(|()| Vec::new());
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        if kind == FileType::Socket || (self.options.harmless && is_device) {
            return Ok(Vec::new());
        }
        let id = (stat.st_dev, stat.st_ino);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&id).cloned() {
                let first = self.archived(&first, tar::EntryType::Link);
                return self.link(path, &stat, tar::EntryType::Link, &first).map(|()| Vec::new());
            }
            self.links.insert(id, path.to_vec());
        }
        match kind {
            FileType::Directory => {
                let dir = open(&parent, &name, OFlags::DIRECTORY)?;
                if !self.is_unnamed(path) {
                    self.plain(path, &stat, tar::EntryType::Directory, self.xattrs(&dir)?)?;
                }
                if self.options.layer && is_opaque(dir.as_fd()) {
                    self.whiteout(&joined(path, b".wh..wh..opq"), &stat)?;
                }
                let whole = (self.options.across || stat.st_dev == self.device)
                    && !self.options.without.contains(&id);
                return if whole { names(&dir) } else { Ok(Vec::new()) };
            }
            FileType::RegularFile => self.file(path, open(&parent, &name, OFlags::NONBLOCK)?)?,
            FileType::Symlink => {
                let target = readlinkat(&parent, &name, Vec::new())?.into_bytes();
                self.link(path, &stat, tar::EntryType::Symlink, &target)?;
            }
            FileType::CharacterDevice => {
                self.plain(path, &stat, tar::EntryType::Char, Vec::new())?;
            }
            FileType::BlockDevice => {
                self.plain(path, &stat, tar::EntryType::Block, Vec::new())?;
            }
            FileType::Fifo => self.plain(path, &stat, tar::EntryType::Fifo, Vec::new())?,
            _ => {}
        }
        Ok(Vec::new())
    }

    /// A part that has no name in the archive.
    fn is_unnamed(&self, path: &[u8]) -> bool {
        self.options.part.as_ref().is_some_and(|part| part.name.is_empty() && part.path == path)
    }

    /// The name in the archive of what has this path.
    fn archived(&self, path: &[u8], kind: tar::EntryType) -> Vec<u8> {
        let Some(part) = &self.options.part else { return archived(path, kind) };
        let rest = path.strip_prefix(&part.path[..]).unwrap_or(path);
        let rest = rest.strip_prefix(b"/").unwrap_or(rest);
        let name = match (&part.name[..], rest) {
            (name, b"") => name.to_vec(),
            (name, rest) => joined(name, rest),
        };
        // Without the `./` of a root: a part is spelled as tar(1) spells its arguments.
        archived(&name, kind)[2..].to_vec()
    }

    /// Those that an image may have, as PAX records (`SCHILY.xattr.`, star(5)).
    fn xattrs(&self, fd: &OwnedFd) -> Result<Records> {
        let mut records = xattrs(fd)?;
        if self.options.harmless {
            records.retain(|(key, _)| key != "SCHILY.xattr.security.capability");
        }
        Ok(records)
    }

    fn clamp(&self, stat: &mut Stat) {
        if let Some(newest) = self.options.newest.filter(|newest| stat.st_mtime >= *newest) {
            (stat.st_mtime, stat.st_mtime_nsec) = (newest, 0);
        }
    }

    fn plain(
        &mut self,
        path: &[u8],
        stat: &Stat,
        kind: tar::EntryType,
        records: Records,
    ) -> Result<()> {
        self.head(path, stat, kind, 0, records)
    }

    fn link(&mut self, path: &[u8], stat: &Stat, kind: tar::EntryType, to: &[u8]) -> Result<()> {
        self.head(path, stat, kind, 0, vec![("linkpath".into(), to.to_vec())])
    }

    fn file(&mut self, path: &[u8], fd: OwnedFd) -> Result<()> {
        // What was opened counts, not what was there before.
        let mut stat = fstat(&fd)?;
        self.clamp(&mut stat);
        ensure!(
            FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile,
            "it became something else meanwhile"
        );
        let mut records = self.xattrs(&fd)?;
        let size = u64::try_from(stat.st_size).context("its size")?;
        let extents = extents(&fd, &stat)?;
        let mut file = File::from(fd);
        let Some(extents) = extents else {
            self.head(path, &stat, tar::EntryType::Regular, size, records)?;
            self.content(&mut file, &[Extent { offset: 0, length: size }])?;
            return self.pad(size);
        };
        // GNU tar manual, "PAX Format, Version 1.0": the map precedes the content.
        let map = sparse_map(&extents);
        let stored = map.len() as u64 + extents.iter().map(|e| e.length).sum::<u64>();
        for (key, value) in [
            ("GNU.sparse.major", b"1".to_vec()),
            ("GNU.sparse.minor", b"0".to_vec()),
            ("GNU.sparse.name", self.archived(path, tar::EntryType::Regular)),
            ("GNU.sparse.realsize", size.to_string().into_bytes()),
        ] {
            records.push((key.into(), value));
        }
        self.head(path, &stat, tar::EntryType::Regular, stored, records)?;
        self.writer.write_all(&map)?;
        self.content(&mut file, &extents)?;
        self.pad(stored)
    }

    fn content(&mut self, file: &mut File, extents: &[Extent]) -> Result<()> {
        for extent in extents {
            file.seek(SeekFrom::Start(extent.offset))?;
            let copied = io::copy(&mut file.take(extent.length), &mut self.writer)?;
            ensure!(copied == extent.length, "it became shorter meanwhile");
        }
        Ok(())
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(self.writer.write_all(&[0; BLOCK][..padding as usize])?)
    }

    /// Writes the extended header, where one is needed, and the header.
    fn head(
        &mut self,
        path: &[u8],
        stat: &Stat,
        kind: tar::EntryType,
        size: u64,
        mut records: Records,
    ) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & if self.options.harmless { 0o1777 } else { 0o7777 });
        header.set_uid(0);
        header.set_gid(0);
        let name = self.archived(path, kind);
        if is_plain(&name) {
            // The tar crate would take the ./ away, and then names would be of two kinds.
            header.as_old_mut().name[..name.len()].copy_from_slice(&name);
        } else {
            records.push(("path".into(), name));
            header.set_path("long-name")?;
        }
        if let Some(at) = records.iter().position(|(key, _)| key == "linkpath")
            && is_plain(&records[at].1)
            && header.set_link_name_literal(&records[at].1[..]).is_ok()
        {
            records.remove(at);
        }
        if matches!(kind, tar::EntryType::Char | tar::EntryType::Block) {
            header.set_device_major(rustix::fs::major(stat.st_rdev))?;
            header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
        }
        number(&mut records, "uid", u64::from(stat.st_uid), OCTAL_7, |n| header.set_uid(n));
        number(&mut records, "gid", u64::from(stat.st_gid), OCTAL_7, |n| header.set_gid(n));
        number(&mut records, "size", size, OCTAL_11, |n| header.set_size(n));
        match u64::try_from(stat.st_mtime) {
            Ok(seconds) if stat.st_mtime_nsec == 0 && seconds <= OCTAL_11 => {
                header.set_mtime(seconds);
            }
            _ => {
                header.set_mtime(0);
                records.push(("mtime".into(), time(stat.st_mtime, stat.st_mtime_nsec)));
            }
        }
        if !records.is_empty() {
            self.extended(&records)?;
        }
        header.set_cksum();
        Ok(self.writer.write_all(header.as_bytes())?)
    }

    fn extended(&mut self, records: &Records) -> Result<()> {
        let data: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_path("pax-header")?;
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.writer.write_all(header.as_bytes())?;
        self.writer.write_all(&data)?;
        self.pad(data.len() as u64)
    }
}

/// `LENGTH KEY=VALUE\n`, the length that of the whole record in decimal (POSIX.1-2024, pax).
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// What fits in a header's field of eight and of twelve bytes.
const OCTAL_7: u64 = 0o7_777_777;
const OCTAL_11: u64 = 0o77_777_777_777;

/// In the header where it fits, else in the extended header too.
fn number(records: &mut Records, key: &str, value: u64, limit: u64, set: impl FnOnce(u64)) {
    if value <= limit {
        return set(value);
    }
    set(0);
    records.push((key.into(), value.to_string().into_bytes()));
}

/// Without the text of more than a header's field, and without what needs UTF-8's mark.
fn is_plain(name: &[u8]) -> bool {
    name.len() <= 100 && name.is_ascii()
}

/// `./a/b`, as everybody else spells the names of a root; directories end in a slash.
fn archived(path: &[u8], kind: tar::EntryType) -> Vec<u8> {
    let slash: &[u8] = match kind {
        tar::EntryType::Directory if !path.is_empty() => b"/",
        _ => b"",
    };
    [b"./", path, slash].concat()
}

fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

fn shown(path: &[u8]) -> String {
    if path.is_empty() { "the root directory".into() } else { show(path) }
}

fn open(parent: &OwnedFd, name: &OsStr, flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty()).context("opening it")
}

fn names(dir: &OwnedFd) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); 16 << 10];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.context("listing it")?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn xattrs(fd: &OwnedFd) -> Result<Records> {
    let mut list = vec![0; 1024];
    let length = loop {
        match flistxattr(fd, &mut list[..]) {
            Ok(length) => break length,
            Err(Errno::RANGE) => list.resize(list.len() * 8, 0),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(error) => return Err(error).context("listing its attributes"),
        }
    };
    let mut records = Vec::new();
    for name in list[..length].split(|&b| b == 0).filter(|name| !name.is_empty()) {
        if !is_portable_xattr(name) {
            continue;
        }
        // Its greatest size (xattr(7), Linux's VFS).
        let mut value = vec![0; 64 << 10];
        let length = match fgetxattr(fd, name, &mut value[..]) {
            Ok(length) => length,
            Err(Errno::NODATA) => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("reading its {}", show(name)));
            }
        };
        value.truncate(length);
        let name = String::from_utf8(name.to_vec()).context("the name of an attribute")?;
        records.push((format!("SCHILY.xattr.{name}"), value));
    }
    records.sort_unstable();
    Ok(records)
}

/// The stretches that are no holes; `None` where there is no hole.
pub(crate) fn extents(fd: &OwnedFd, stat: &Stat) -> Result<Option<Vec<Extent>>> {
    let size = stat.st_size as u64;
    // st_blocks counts 512 bytes, whatever the file system (stat(3type)).
    if stat.st_blocks as u64 * 512 >= size {
        return Ok(None);
    }
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(fd.as_fd(), rustix::fs::SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error).context("looking for its holes"),
        };
        let end = seek(fd.as_fd(), rustix::fs::SeekFrom::Hole(start))?.min(size);
        if start >= end {
            break;
        }
        extents.push(Extent { offset: start, length: end - start });
        at = end;
    }
    if matches!(extents[..], [Extent { offset: 0, length }] if length == size) {
        return Ok(None);
    }
    if extents.last().is_none_or(|last| last.offset + last.length < size) {
        // Without it GNU tar (1.34) makes a file that ends where its last data does.
        extents.push(Extent { offset: size, length: 0 });
    }
    Ok(Some(extents))
}

fn sparse_map(extents: &[Extent]) -> Vec<u8> {
    let mut map = format!("{}\n", extents.len()).into_bytes();
    for extent in extents {
        map.extend(format!("{}\n{}\n", extent.offset, extent.length).into_bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// Decimal seconds with their fraction.
fn time(seconds: i64, nanoseconds: impl TryInto<u32>) -> Vec<u8> {
    let nanoseconds = nanoseconds.try_into().unwrap_or(0);
    let text = match (seconds < 0, nanoseconds) {
        (_, 0) => seconds.to_string(),
        (false, _) => format!("{seconds}.{nanoseconds:09}"),
        // The fraction counts away from zero there.
        (true, _) => match seconds + 1 {
            0 => format!("-0.{:09}", 1_000_000_000 - nanoseconds),
            up => format!("{up}.{:09}", 1_000_000_000 - nanoseconds),
        },
    };
    OsString::from(text).into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_count_away_from_zero() {
        for (seconds, nanoseconds, text) in [
            (5, 0, "5"),
            (5, 1, "5.000000001"),
            (-5, 0, "-5"),
            (-1, 250_000_000, "-0.750000000"),
            (-2, 250_000_000, "-1.750000000"),
        ] {
            assert_eq!(time(seconds, nanoseconds), text.as_bytes());
        }
    }

    #[test]
    fn a_record_counts_itself() {
        assert_eq!(record("path", b"x"), b"9 path=x\n");
        for length in [0, 1, 2, 3, 89, 90, 91, 92, 988, 989, 990, 991] {
            let record = record("path", &vec![b'x'; length]);
            assert!(record.starts_with(format!("{} path=", record.len()).as_bytes()), "{length}");
        }
    }

    #[test]
    fn a_sparse_map_fills_blocks() {
        let map = sparse_map(&[Extent { offset: 4096, length: 10 }]);
        assert_eq!(map.len(), BLOCK);
        assert!(map.starts_with(b"1\n4096\n10\n\0"));
    }
}
