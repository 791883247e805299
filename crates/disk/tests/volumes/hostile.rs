//! Images that are broken on purpose: cut off, and with bits turned over. Nothing may panic, and nothing may go on
//! for ever or take all memory, which the runner's limits would show.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::ensure;
use disk::{Blocks, Kind, Volume};

use crate::support::{FileBlocks, nasty, run};

/// Faulty images of each kind.
const FAULTS: usize = 400;

/// An image with a fault, which notes what is read of it.
struct Faulty {
    of: Arc<dyn Blocks>,
    size: u64,
    /// A byte, and what it is combined with.
    faults: Vec<(u64, u8)>,
    read: Mutex<Vec<(u64, u64)>>,
}

impl Faulty {
    fn new(of: &Arc<dyn Blocks>, faults: Vec<(u64, u8)>) -> Arc<Self> {
        Arc::new(Self { of: Arc::clone(of), size: of.size(), faults, read: Mutex::default() })
    }
}

impl Blocks for Faulty {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> anyhow::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        ensure!(end.is_some_and(|end| end <= self.size), "beyond the end");
        self.of.read_at(offset, buffer)?;
        self.read.lock().unwrap().push((offset, buffer.len() as u64));
        for (at, mask) in &self.faults {
            if let Some(byte) = at.checked_sub(offset).and_then(|n| buffer.get_mut(n as usize)) {
                *byte ^= mask;
            }
        }
        Ok(())
    }

    fn is_hole(&self, offset: u64, length: u64) -> bool {
        self.of.is_hole(offset, length)
    }
}

/// Looks at everything, as far as it can be read; says how much there was.
fn walk(volume: &mut dyn Volume) -> usize {
    let mut todo = vec![volume.root()];
    let mut seen = HashSet::new();
    while let Some(node) = todo.pop() {
        if seen.len() > 5000 || !seen.insert(node) {
            continue;
        }
        let _ = volume.xattrs(node);
        let Ok(attributes) = volume.attributes(node) else { continue };
        match attributes.kind {
            Kind::Directory => {
                todo.extend(volume.names(node).unwrap_or_default().iter().map(|name| name.node));
            }
            Kind::Link => drop(volume.target(node)),
            Kind::File => {
                let mut left = 4_u64 << 20;
                let _ = volume.content(node, &mut |_, bytes| {
                    left = left.saturating_sub(bytes.len() as u64);
                    ensure!(left > 0, "enough");
                    Ok(())
                });
            }
            _ => {}
        }
    }
    seen.len()
}

/// A small tree with one of each.
fn tree(root: &Path) -> PathBuf {
    let tree = root.join("tree");
    std::fs::create_dir_all(tree.join("directory/below")).unwrap();
    for number in 0..60 {
        std::fs::write(tree.join(format!("directory/file-{number}")), nasty::noise(number * 90, 5))
            .unwrap();
    }
    std::fs::write(tree.join("text"), "a line of text\n".repeat(5000)).unwrap();
    std::fs::write(tree.join("noise"), nasty::noise(40_000, 7)).unwrap();
    std::os::unix::fs::symlink("text", tree.join("link")).unwrap();
    let value = nasty::noise(500, 3);
    rustix::fs::setxattr(tree.join("text"), "user.x", &value, rustix::fs::XattrFlags::empty())
        .unwrap();
    tree
}

fn battery(image: &Path, kind: &str) {
    let whole = FileBlocks::open(image);
    let open = |blocks: Arc<Faulty>| {
        let format = disk::volume::FORMATS.iter().find(|format| format.name() == kind).unwrap();
        format.open(blocks).map(|mut volume| walk(&mut *volume))
    };
    let sound = Faulty::new(&whole, Vec::new());
    let count = open(Arc::clone(&sound)).unwrap();
    assert!(count > 60, "{count} nodes");
    let read = std::mem::take(&mut *sound.read.lock().unwrap());
    // Where something is, and a number that any other follows from.
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut refused = 0;
    for number in 0..FAULTS {
        let faults = (0..=number % 4).map(|_| {
            let (at, length) = read[random(read.len() as u64) as usize];
            let mask = if number % 3 == 0 { 0xff } else { 1 << random(8) };
            // What is at the beginning of a structure counts most.
            let reach = 1 << random(13);
            (at + random(length.min(reach)), mask)
        });
        refused += usize::from(open(Faulty::new(&whole, faults.collect())).is_err());
    }
    println!("{kind}: {refused} of {FAULTS} refused at once");
    for part in 0..60 {
        let faulty = Faulty::new(&whole, Vec::new());
        let size = whole.size() * part / 60;
        let cut = Faulty { of: faulty, size, faults: Vec::new(), read: Mutex::default() };
        let _ = open(Arc::new(cut));
    }
}

#[test]
fn squashfs() {
    let scratch = tempfile::tempdir().unwrap();
    let (tree, image) = (tree(scratch.path()), scratch.path().join("image"));
    let paths = [tree.to_str().unwrap(), image.to_str().unwrap()];
    for options in [&["-comp", "zstd"][..], &["-noI", "-noD", "-noF", "-noX"]] {
        run("mksquashfs", &[&paths, options, &["-noappend", "-quiet", "-no-progress"]].concat());
        battery(&image, "squashfs");
    }
}

#[test]
fn erofs() {
    let scratch = tempfile::tempdir().unwrap();
    let (tree, image) = (tree(scratch.path()), scratch.path().join("image"));
    for options in [&["-x1"][..], &["-zlz4hc", "-C16384"], &["-zlz4", "-Elegacy-compress"]] {
        let _ = std::fs::remove_file(&image);
        let paths = [image.to_str().unwrap(), tree.to_str().unwrap()];
        run("mkfs.erofs", &[&["--quiet"], options, &paths].concat());
        battery(&image, "erofs");
    }
}

#[test]
fn btrfs() {
    let scratch = tempfile::tempdir().unwrap();
    let (tree, image) = (tree(scratch.path()), scratch.path().join("image"));
    std::fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
    let paths = ["--rootdir", tree.to_str().unwrap(), image.to_str().unwrap()];
    // Other sums than CRC-32C are not checked, so that faults are not found by them.
    run("mkfs.btrfs", &[&["-q", "--csum", "xxhash"], &paths[..]].concat());
    battery(&image, "btrfs");
}

#[test]
fn xfs() {
    let scratch = tempfile::tempdir().unwrap();
    let image = scratch.path().join("image");
    std::fs::File::create(&image).unwrap().set_len(300 << 20).unwrap();
    let tree = tree(scratch.path());
    // mkfs.xfs(8), "-p": a prototype names what is in it.
    let mut prototype = String::from("/dev/null\n0 0\nd--755 0 0\n");
    for number in 0..60 {
        let from = tree.join(format!("directory/file-{number}"));
        prototype += &format!("file-{number}-{} ---644 1 2 {}\n", "n".repeat(150), from.display());
    }
    prototype += "link l--777 0 0 text\nbelow d--700 0 0\nfifo p--600 0 0\n$\n$\n";
    std::fs::write(scratch.path().join("prototype"), prototype).unwrap();
    let file = scratch.path().join("prototype");
    for options in [&["-m", "crc=1"][..], &["-m", "crc=0"], &["-m", "crc=0", "-n", "ftype=1"]] {
        let prototype = ["-f", "-q", "-p", file.to_str().unwrap(), image.to_str().unwrap()];
        run("mkfs.xfs", &[options, &prototype].concat());
        battery(&image, "xfs");
    }
}
