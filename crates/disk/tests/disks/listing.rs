//! All of a tree that can be compared.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Result;
use disk::tree::Tree;
use rustix::fs::{FileType, lgetxattr, llistxattr, major, minor};

/// By path: everything else as text, which shows what differs.
pub(super) type Listing = BTreeMap<Vec<u8>, String>;

#[derive(Debug)]
#[expect(dead_code, reason = "compared as text")]
struct Row {
    kind: &'static str,
    mode: String,
    owner: (u32, u32),
    mtime: (i64, u32),
    size: u64,
    device: (u32, u32),
    xattrs: BTreeMap<String, Vec<u8>>,
    target: String,
    content: u64,
    /// The first of all names.
    same_as: String,
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// What the kernel shows of a mount or a directory.
pub(super) fn of_kernel(root: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut links: HashMap<u64, Vec<Vec<u8>>> = HashMap::new();
    let mut rows: Vec<(Vec<u8>, u64, Row)> = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let kind = FileType::from_raw_mode(metadata.mode());
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let is_file = kind == FileType::RegularFile;
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        let row = Row {
            kind: match kind {
                FileType::RegularFile => "File",
                FileType::Directory => "Directory",
                FileType::Symlink => "Link",
                FileType::CharacterDevice => "Character",
                FileType::BlockDevice => "Block",
                FileType::Fifo => "Fifo",
                FileType::Socket => "Socket",
                FileType::Unknown => "Unknown",
            },
            mode: format!("{:o}", metadata.mode() & 0o7777),
            owner: (metadata.uid(), metadata.gid()),
            mtime: (metadata.mtime(), metadata.mtime_nsec() as u32),
            size: if is_file || kind == FileType::Symlink { metadata.len() } else { 0 },
            device: match is_device {
                true => (major(metadata.rdev()), minor(metadata.rdev())),
                false => (0, 0),
            },
            xattrs: xattrs(&path),
            target: match kind {
                FileType::Symlink => {
                    shown(std::fs::read_link(&path).unwrap().as_os_str().as_bytes())
                }
                _ => String::new(),
            },
            content: if is_file { hash(&std::fs::read(&path).unwrap()) } else { 0 },
            same_as: String::new(),
        };
        if kind == FileType::Directory {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if metadata.nlink() > 1 {
            links.entry(metadata.ino()).or_default().push(name.clone());
        }
        rows.push((name, metadata.ino(), row));
    }
    for (name, inode, mut row) in rows {
        if let Some(names) = links.get(&inode).filter(|_| row.kind != "Directory") {
            row.same_as = shown(names.iter().min().unwrap());
        }
        listing.insert(name, format!("{row:?}"));
    }
    listing
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut names = vec![0; 65_536];
    let length = llistxattr(&path, &mut names[..]).unwrap_or(0);
    let all = names[..length].split(|&b| b == 0).filter(|name| !name.is_empty());
    all.map(|name| {
        let mut value = vec![0; 65_536];
        let length = lgetxattr(&path, name, &mut value[..]).unwrap();
        value.truncate(length);
        (shown(name), value)
    })
    .collect()
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// What we read.
pub(super) fn of_tree(tree: &mut Tree) -> Result<Listing> {
    let mut rows: Vec<(Vec<u8>, Row)> = Vec::new();
    let mut same: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    tree.walk(&mut |entry, content| {
        let attributes = &entry.attributes;
        if let Some(other) = &entry.same_as {
            same.push((entry.path.clone(), other.clone()));
            return Ok(());
        }
        let mut bytes = Vec::new();
        if attributes.kind == disk::Kind::File {
            content(&mut |offset, piece| {
                anyhow::ensure!(offset >= bytes.len() as u64, "pieces are not in order");
                bytes.resize(offset as usize, 0);
                bytes.extend_from_slice(piece);
                Ok(())
            })?;
            anyhow::ensure!(bytes.len() as u64 <= attributes.size, "too much content");
            bytes.resize(attributes.size as usize, 0);
        }
        let kind: &'static str = Box::leak(format!("{:?}", attributes.kind).into_boxed_str());
        let row = Row {
            kind,
            mode: format!("{:o}", attributes.mode),
            owner: (attributes.uid, attributes.gid),
            mtime: attributes.mtime,
            size: attributes.size,
            device: attributes.device,
            xattrs: entry.xattrs.iter().map(|(n, v)| (shown(n), v.clone())).collect(),
            target: shown(&entry.target),
            content: if attributes.kind == disk::Kind::File { hash(&bytes) } else { 0 },
            same_as: String::new(),
        };
        rows.push((entry.path.clone(), row));
        Ok(())
    })?;
    // The kernel's listing knows no first name but the least.
    let mut groups: HashMap<Vec<u8>, Vec<Vec<u8>>> = HashMap::new();
    for (name, first) in same {
        groups.entry(first).or_default().push(name);
    }
    let mut listing = Listing::new();
    for (name, mut row) in rows {
        if let Some(others) = groups.get(&name) {
            row.same_as = shown(others.iter().chain([&name]).min().unwrap());
            for other in others {
                listing.insert(other.clone(), format!("{row:?}"));
            }
        }
        listing.insert(name, format!("{row:?}"));
    }
    Ok(listing)
}

/// Panics with what differs.
pub(super) fn compare(ours: &Listing, kernel: &Listing, what: &str) {
    let mut differences = Vec::new();
    for name in ours.keys().chain(kernel.keys()) {
        let (a, b) = (ours.get(name), kernel.get(name));
        if a != b && differences.len() < 10 {
            let text = |row: Option<&String>| {
                row.map_or("nothing".into(), |row| row.chars().take(600).collect::<String>())
            };
            differences.push(format!(
                "{}:\n  ours   {}\n  kernel {}",
                shown(name),
                text(a),
                text(b)
            ));
        }
    }
    assert!(differences.is_empty(), "{what}:\n{}", differences.join("\n"));
    assert!(kernel.len() > 3, "{what}: nothing was compared");
}
