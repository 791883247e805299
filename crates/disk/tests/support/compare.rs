//! A file system that was read, compared with what the kernel shows of the same.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

use disk::{Attribute, Kind, Volume};
use rustix::fs::{SeekFrom, lgetxattr, llistxattr, seek};

/// What shall not be compared.
#[derive(Clone, Copy, Default)]
pub struct Except {
    /// Owners: the tree was made by a user who has none but his own.
    pub owners: bool,
    /// Fractions of seconds: the file system has none.
    pub fractions: bool,
    /// Attributes whose name begins so.
    pub xattrs: &'static [&'static str],
    /// Names in the root directory.
    pub names: &'static [&'static str],
}

/// Compares everything, entry by entry; returns how many there are.
pub fn compare(volume: &mut dyn Volume, with: &Path, except: Except) -> usize {
    let root = volume.root();
    let mut comparison = Comparison { volume, except, nodes: HashMap::new(), count: 0 };
    comparison.directory(root, with, true);
    comparison.inodes();
    comparison.count
}

struct Comparison<'a> {
    volume: &'a mut dyn Volume,
    except: Except,
    /// The inode of each node.
    nodes: HashMap<u64, (u64, u64)>,
    count: usize,
}

impl Comparison<'_> {
    fn directory(&mut self, node: u64, path: &Path, is_root: bool) {
        self.node(node, path);
        let names = self.volume.names(node).unwrap_or_else(|e| panic!("{}: {e:#}", path.display()));
        let skipped = |name: &OsStr| {
            is_root && self.except.names.iter().any(|other| OsStr::new(other) == name)
        };
        let mut ours = BTreeMap::new();
        for name in names {
            if !skipped(OsStr::from_bytes(&name.name)) {
                let twice = ours.insert(name.name, name.node);
                assert!(twice.is_none(), "twice in {}", path.display());
            }
        }
        let theirs = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
        let mut theirs: Vec<_> = theirs.filter(|name| !skipped(name)).collect();
        theirs.sort();
        let ours_shown: Vec<_> = ours.keys().map(|name| OsStr::from_bytes(name)).collect();
        assert_eq!(ours_shown, theirs, "names in {}", path.display());
        for (name, node) in ours {
            let path = path.join(OsStr::from_bytes(&name));
            match std::fs::symlink_metadata(&path).unwrap().is_dir() {
                true => self.directory(node, &path, false),
                false => self.node(node, &path),
            }
        }
    }

    fn node(&mut self, node: u64, path: &Path) {
        self.count += 1;
        let shown = path.display();
        let ours = self.volume.attributes(node).unwrap_or_else(|e| panic!("{shown}: {e:#}"));
        let theirs = std::fs::symlink_metadata(path).unwrap();
        let kind = theirs.file_type();
        let kind = match () {
            () if kind.is_file() => Kind::File,
            () if kind.is_dir() => Kind::Directory,
            () if kind.is_symlink() => Kind::Link,
            () if kind.is_char_device() => Kind::Character,
            () if kind.is_block_device() => Kind::Block,
            () if kind.is_fifo() => Kind::Fifo,
            () => Kind::Socket,
        };
        assert_eq!(ours.kind, kind, "kind of {shown}");
        assert_eq!(ours.mode, theirs.mode() & 0o7777, "mode of {shown}");
        if !self.except.owners {
            assert_eq!((ours.uid, ours.gid), (theirs.uid(), theirs.gid()), "owners of {shown}");
        }
        let fraction = if self.except.fractions { 0 } else { theirs.mtime_nsec() as u32 };
        assert_eq!(ours.mtime, (theirs.mtime(), fraction), "time of {shown}");
        if kind != Kind::Directory {
            assert_eq!(u64::from(ours.links), theirs.nlink(), "links of {shown}");
        }
        if matches!(kind, Kind::Character | Kind::Block) {
            let device = (rustix::fs::major(theirs.rdev()), rustix::fs::minor(theirs.rdev()));
            assert_eq!(ours.device, device, "device of {shown}");
        }
        if matches!(kind, Kind::File | Kind::Link) {
            assert_eq!(ours.size, theirs.len(), "size of {shown}");
        }
        let first = !self.nodes.contains_key(&node);
        let inode = *self.nodes.entry(node).or_insert((theirs.dev(), theirs.ino()));
        assert_eq!(inode, (theirs.dev(), theirs.ino()), "another name of {shown}");
        if !first {
            return;
        }
        let mut xattrs =
            self.volume.xattrs(node).unwrap_or_else(|e| panic!("attributes of {shown}: {e:#}"));
        xattrs.retain(|(name, _)| self.is_compared(name));
        xattrs.sort();
        assert_eq!(xattrs, self.theirs(path), "attributes of {shown}");
        match kind {
            Kind::File => self.content(node, path),
            Kind::Link => {
                let target = self.volume.target(node).unwrap();
                assert_eq!(
                    OsStr::from_bytes(&target),
                    std::fs::read_link(path).unwrap(),
                    "{shown}"
                );
            }
            _ => {}
        }
    }

    fn is_compared(&self, name: &[u8]) -> bool {
        !self.except.xattrs.iter().any(|beginning| name.starts_with(beginning.as_bytes()))
    }

    fn theirs(&self, path: &Path) -> Vec<Attribute> {
        let mut list = vec![0; 1024];
        let length = llistxattr(path, &mut list[..]).unwrap_or_else(|_| {
            list = vec![0; 64 << 10];
            match llistxattr(path, &mut list[..]) {
                // The image was made without any.
                Err(rustix::io::Errno::OPNOTSUPP) => 0,
                other => other.unwrap(),
            }
        });
        let names = list[..length].split(|&b| b == 0).filter(|name| !name.is_empty());
        let names = names.filter(|name| self.is_compared(name));
        let mut xattrs: Vec<Attribute> = names
            .map(|name| {
                let mut value = vec![0; 64 << 10];
                let length = lgetxattr(path, name, &mut value[..]).unwrap();
                (name.to_vec(), value[..length].to_vec())
            })
            .collect();
        xattrs.sort();
        xattrs
    }

    fn content(&mut self, node: u64, path: &Path) {
        let file = File::open(path).unwrap();
        let size = file.metadata().unwrap().len();
        let mut at = 0;
        let mut buffer = Vec::new();
        let read = self.volume.content(node, &mut |offset, bytes| {
            assert!(offset >= at, "{}: pieces out of order", path.display());
            assert!(offset + bytes.len() as u64 <= size, "{}: too much", path.display());
            only_zeros(&file, at, offset, path);
            buffer.resize(bytes.len(), 0);
            file.read_exact_at(&mut buffer, offset).unwrap();
            if buffer != bytes {
                let where_ = buffer.iter().zip(bytes).position(|(a, b)| a != b).unwrap_or(0);
                panic!("{} differs at {}", path.display(), offset + where_ as u64);
            }
            at = offset + bytes.len() as u64;
            Ok(())
        });
        read.unwrap_or_else(|error| panic!("content of {}: {error:#}", path.display()));
        only_zeros(&file, at, size, path);
    }

    /// Two nodes are two inodes.
    fn inodes(&self) {
        let inodes: std::collections::HashSet<_> = self.nodes.values().collect();
        assert_eq!(inodes.len(), self.nodes.len(), "nodes that are one file");
    }
}

/// What was left out as a hole reads as zeros.
fn only_zeros(file: &File, mut from: u64, to: u64, path: &Path) {
    let mut buffer = vec![0; 1 << 20];
    while from < to {
        match seek(file, SeekFrom::Data(from)) {
            Ok(data) => from = data.max(from),
            Err(rustix::io::Errno::NXIO) => return,
            Err(error) => panic!("{}: {error}", path.display()),
        }
        if from >= to {
            return;
        }
        let room = (to - from).min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..room], from).unwrap();
        let found = buffer[..room].iter().position(|&byte| byte != 0);
        assert_eq!(found, None, "{}: left out after {from}", path.display());
        from += room as u64;
    }
}
