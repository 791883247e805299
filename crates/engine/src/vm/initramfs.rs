//! The first root of a guest: our own program as `/init`, and the kernel's modules that it loads before
//! it can see a disk. An archive in the kernel's own format ("initramfs buffer format" of its
//! documentation), not compressed: a guest that is emulated copies faster than it unpacks.
//!
//! ```text
//! /init             this program
//! /dev/console      what the kernel opens as init's standard streams
//! /modules/NN-NAME  to be loaded in the order of their names (finit_module(2))
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{Dir, FileType, Mode, OFlags};
use sys::rooted::Root;

/// A module of a kernel, as it is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// As `lsmod` shows it.
    pub name: String,
    /// The ELF file.
    pub content: Vec<u8>,
}

/// Undoes the compression of a module's file with this suffix (`.xz`, `.zst`, `.gz`).
pub type Decompress<'a> = dyn Fn(&str, Vec<u8>) -> Result<Vec<u8>> + 'a;

/// Largest module: bytes. The largest of Debian's has 12 MiB.
const LARGEST: u64 = 64 << 20;

/// Most files of modules that a kernel may have.
const MOST: usize = 50_000;

/// What a guest's devices need, whatever else there is: virtio on both buses, disks, ports, the root.
pub const NEEDED: &[&str] =
    &["virtio_mmio", "virtio_pci", "virtio_blk", "virtio_console", "overlay", "erofs"];

/// For network cards.
pub const NETWORK: &[&str] = &["virtio_net"];

/// For shared directories.
pub const SHARES: &[&str] = &["virtiofs"];

/// For volumes that are disks. The checksum is looked up by name at run time, where no dependency tells of it.
pub const VOLUMES: &[&str] = &["crc32c_generic", "ext4"];

/// What is a module of some kernels, and a part of others that do not list it.
const OPTIONAL: &[&str] = &["crc32c_generic"];

/// Finds the modules of a kernel by name, with all that they depend on, in the order in which they can be
/// loaded. What is built into the kernel is not among them.
///
/// The root is not trusted. No `modules.dep` is needed, which only comes into being where a kernel
/// is installed: what a module depends on is written in it.
///
/// # Errors
/// Names a module that is missing or cannot be read.
pub fn modules(
    root: &Root,
    release: &str,
    wanted: &[&str],
    decompress: &Decompress<'_>,
) -> Result<Vec<Module>> {
    let tree = Tree::read(root, release)
        .with_context(|| format!("cannot read the modules of the kernel {release}"))?;
    let mut finding =
        Finding { root, tree: &tree, decompress, seen: BTreeSet::new(), found: Vec::new() };
    for name in wanted {
        finding.add(name, 0).with_context(|| format!("for the kernel {release}"))?;
    }
    Ok(finding.found)
}

/// Where a kernel's modules are, by name.
struct Tree {
    files: BTreeMap<String, String>,
    built_in: BTreeSet<String>,
}

impl Tree {
    fn read(root: &Root, release: &str) -> Result<Self> {
        ensure!(
            !release.is_empty() && !release.contains('/') && !release.starts_with('.'),
            "{release:?} is no kernel's release"
        );
        let base = format!("/lib/modules/{release}");
        let mut files = BTreeMap::new();
        let mut left = vec![format!("{base}/kernel")];
        while let Some(directory) = left.pop() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = root
                .open_in(&directory, flags, Mode::empty())
                .with_context(|| format!("opening {directory}"))?;
            for entry in Dir::read_from(&opened)? {
                let entry = entry?;
                let Ok(name) = entry.file_name().to_str() else { continue };
                match entry.file_type() {
                    FileType::Directory if !matches!(name, "." | "..") => {
                        left.push(format!("{directory}/{name}"));
                    }
                    FileType::RegularFile => {
                        if let Some((stem, _)) = name.split_once(".ko") {
                            files.insert(plain(stem), format!("{directory}/{name}"));
                        }
                    }
                    _ => {}
                }
            }
            ensure!(files.len() + left.len() <= MOST, "there are more than {MOST} of them");
        }
        let text = read(root, &format!("{base}/modules.builtin")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let stem = |line: &str| Some(plain(line.rsplit('/').next()?.strip_suffix(".ko")?));
        Ok(Self { files, built_in: text.lines().filter_map(stem).collect() })
    }
}

struct Finding<'a> {
    root: &'a Root,
    tree: &'a Tree,
    decompress: &'a Decompress<'a>,
    seen: BTreeSet<String>,
    found: Vec<Module>,
}

impl Finding<'_> {
    fn add(&mut self, name: &str, depth: u32) -> Result<()> {
        let name = plain(name);
        if self.tree.built_in.contains(&name) || !self.seen.insert(name.clone()) {
            return Ok(());
        }
        ensure!(depth < 100, "the modules depend on each other without an end");
        let Some(path) = self.tree.files.get(&name) else {
            if OPTIONAL.contains(&&name[..]) {
                return Ok(());
            }
            bail!("there is no module {name}, and it is not built in");
        };
        let content = read(self.root, path)?;
        let suffix = path.rsplit_once(".ko").map_or("", |(_, suffix)| suffix);
        let content = match suffix {
            "" => content,
            suffix => {
                (self.decompress)(suffix, content).with_context(|| format!("unpacking {path}"))?
            }
        };
        let needs = dependencies(&content).with_context(|| format!("reading {path}"))?;
        for needed in &needs {
            self.add(needed, depth + 1)?;
        }
        self.found.push(Module { name, content });
        Ok(())
    }
}

/// As the kernel calls it.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

fn read(root: &Root, path: &str) -> Result<Vec<u8>> {
    root.read(path, LARGEST).with_context(|| format!("reading {path}"))
}

/// Names of the modules that one depends on: `depends` of its section `.modinfo`.
fn dependencies(module: &[u8]) -> Result<Vec<String>> {
    let info = section(module, b".modinfo").context("it is no module of a 64-bit kernel")?;
    let mut names = Vec::new();
    for entry in info.split(|byte| *byte == 0) {
        let Ok(entry) = str::from_utf8(entry) else { continue };
        if let Some(list) = entry.strip_prefix("depends=") {
            names.extend(list.split(',').filter(|name| !name.is_empty()).map(str::to_owned));
        }
    }
    Ok(names)
}

/// A section of an ELF file of 64 bits, little-endian (elf(5)).
fn section<'a>(file: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    if file.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table = usize::try_from(u64_at(file, 0x28)?).ok()?;
    let (size, count, names) = (u16_at(file, 0x3a)?, u16_at(file, 0x3c)?, u16_at(file, 0x3e)?);
    let header = |number: u16| {
        let start = table.checked_add(usize::from(number) * usize::from(size))?;
        file.get(start..start.checked_add(0x40)?)
    };
    let content = |header: &[u8]| {
        let start = usize::try_from(u64_at(header, 0x18)?).ok()?;
        let length = usize::try_from(u64_at(header, 0x20)?).ok()?;
        file.get(start..start.checked_add(length)?)
    };
    let names = content(header(names)?)?;
    (0..count).find_map(|number| {
        let header = header(number)?;
        let called = names.get(u32_at(header, 0)? as usize..)?;
        let is_it = called.starts_with(name) && called.get(name.len()) == Some(&0);
        is_it.then(|| content(header)).flatten()
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// Of a program's file, what is needed to run it: everything up to the end of its last segment. Behind
/// that are symbols and what debuggers want, which is most of a program that was built for tests.
///
/// # Errors
/// Where it cannot be read, or is no such program.
pub fn program(file: &File) -> Result<Vec<u8>> {
    const LOAD: u32 = 1;
    let mut header = [0; 0x40];
    file.read_exact_at(&mut header, 0).context("reading a program's header")?;
    ensure!(header[..6] == *b"\x7fELF\x02\x01", "it is no program of 64 bits");
    let absent = "its header is cut";
    let table = u64_at(&header, 0x20).context(absent)?;
    let (size, count) =
        (u16_at(&header, 0x36).context(absent)?, u16_at(&header, 0x38).context(absent)?);
    let mut segments = vec![0; usize::from(size) * usize::from(count)];
    file.read_exact_at(&mut segments, table).context("reading a program's segments")?;
    let mut end = table.saturating_add(segments.len() as u64);
    for segment in segments.chunks_exact(usize::from(size).max(1)) {
        if u32_at(segment, 0) == Some(LOAD) {
            let (start, length) =
                (u64_at(segment, 8).context(absent)?, u64_at(segment, 0x20).context(absent)?);
            end = end.max(start.checked_add(length).context("a segment has no end")?);
        }
    }
    ensure!(end <= file.metadata()?.len(), "its last segment is cut");
    let mut bytes = vec![0; usize::try_from(end)?];
    file.read_exact_at(&mut bytes, 0).context("reading a program")?;
    // The table of sections lies behind the end: there is none (elf(5), e_shoff, e_shnum, e_shstrndx).
    bytes[0x28..0x30].fill(0);
    bytes[0x3c..0x40].fill(0);
    Ok(bytes)
}

/// Writes the archive.
///
/// # Errors
/// Those of `out`; where something is larger than the format can tell.
pub fn write(out: &mut impl Write, init: &[u8], modules: &[Module]) -> Result<()> {
    let mut archive = Archive::new(out)?;
    archive.file("init", 0o755, init)?;
    archive.directory("modules")?;
    for (number, module) in modules.iter().enumerate() {
        archive.file(&format!("modules/{number:02}-{}", module.name), 0o644, &module.content)?;
    }
    archive.finish()
}

/// An archive that is being written. It begins with `/dev/console`, without which a kernel's init has no
/// standard streams.
pub struct Archive<'a, W> {
    out: &'a mut W,
    written: u64,
    inode: u32,
}

impl<'a, W: Write> Archive<'a, W> {
    /// Begins one.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(out: &'a mut W) -> Result<Self> {
        let mut archive = Self { out, written: 0, inode: 0 };
        archive.directory("dev")?;
        archive.entry("dev/console", 0o020_600, (5, 1), b"")?;
        Ok(archive)
    }

    /// Adds a directory; those above it must be there already. Paths have no slash at their beginning.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        self.entry(path, 0o040_755, (0, 0), b"")
    }

    /// Adds a regular file with these permissions.
    ///
    /// # Errors
    /// Those of `out`; where it is larger than the format can tell.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> Result<()> {
        self.entry(path, 0o100_000 | permissions, (0, 0), content)
    }

    /// Ends it. What is written behind that is another archive, which is unpacked over this one.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn finish(mut self) -> Result<()> {
        self.entry("TRAILER!!!", 0, (0, 0), b"")
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len())
            .with_context(|| format!("{name} is too large for an initramfs"))?;
        self.inode += 1;
        let length = name.len() as u32 + 1;
        // Inode, mode, owner, group, links, time, size, its device, the device it is, name, checksum.
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, length, 0];
        let mut header = b"070701".to_vec();
        for field in fields {
            write!(header, "{field:08X}")?;
        }
        header.extend_from_slice(name.as_bytes());
        header.push(0);
        self.put(&header)?;
        self.put(content)
    }

    /// Everything begins at a multiple of four.
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.written + bytes.len() as u64;
        let padding = end.next_multiple_of(4) - end;
        self.out.write_all(bytes).context("writing an initramfs")?;
        self.out.write_all(&[0; 3][..padding as usize]).context("writing an initramfs")?;
        self.written = end + padding;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with nothing but `.modinfo`.
    fn module(info: &[u8]) -> Vec<u8> {
        let names = b"\0.modinfo\0.names\0";
        let mut file = vec![0; 0x40];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let (info_at, names_at) = (0x40, 0x40 + info.len());
        let table = names_at + names.len();
        file[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
        file[0x3a..0x3c].copy_from_slice(&0x40_u16.to_le_bytes());
        file[0x3c..0x3e].copy_from_slice(&3_u16.to_le_bytes());
        file[0x3e..0x40].copy_from_slice(&2_u16.to_le_bytes());
        file.extend_from_slice(info);
        file.extend_from_slice(names);
        for (name, at, size) in
            [(0_u32, 0, 0), (1, info_at, info.len()), (10, names_at, names.len())]
        {
            let mut header = [0; 0x40];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
            file.extend_from_slice(&header);
        }
        file
    }

    fn tree(files: &[(&str, Vec<u8>)]) -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("lib/modules/6.1");
        for (name, content) in files {
            let path = base.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let root = Root::open(directory.path()).unwrap();
        (directory, root)
    }

    #[test]
    fn modules_come_after_what_they_depend_on() {
        let (_kept, root) = tree(&[
            ("kernel/a/virtio.ko", module(b"license=GPL\0depends=\0")),
            ("kernel/a/virtio-ring.ko.xz", b"packed".to_vec()),
            (
                "kernel/b/virtio_blk.ko",
                module(b"depends=virtio_ring,virtio,crc32c\0name=virtio_blk\0"),
            ),
            ("modules.builtin", b"kernel/lib/crc32c.ko\n".to_vec()),
        ]);
        let unpack = |suffix: &str, content: Vec<u8>| {
            assert_eq!((suffix, &content[..]), (".xz", &b"packed"[..]));
            Ok(module(b"depends=virtio\0"))
        };
        let found = modules(&root, "6.1", &["virtio_blk", "virtio"], &unpack).unwrap();
        let names: Vec<&str> = found.iter().map(|module| &module.name[..]).collect();
        assert_eq!(names, ["virtio", "virtio_ring", "virtio_blk"]);
        let why = |release, wanted| {
            format!("{:#}", modules(&root, release, &[wanted], &unpack).unwrap_err())
        };
        assert!(why("6.1", "nothing").contains("no module nothing"));
        assert!(why("6.2", "virtio").contains("cannot read the modules of the kernel 6.2"));
        assert!(why("../x", "virtio").contains("no kernel's release"));
    }

    #[test]
    fn circles_and_damaged_modules_are_survived() {
        let good = module(b"depends=b\0");
        let (_kept, root) = tree(&[
            ("kernel/a.ko", good.clone()),
            ("kernel/b.ko", module(b"depends=a\0")),
            ("kernel/c.ko", b"no module".to_vec()),
        ]);
        let never = |_: &str, _: Vec<u8>| bail!("nothing is packed");
        assert_eq!(modules(&root, "6.1", &["a"], &never).unwrap().len(), 2);
        let error = modules(&root, "6.1", &["c"], &never).unwrap_err();
        assert!(format!("{error:#}").contains("c.ko: it is no module"), "{error:#}");
        for length in 0..good.len() {
            let _ = dependencies(&good[..length]);
        }
        for at in 0..good.len() {
            let mut damaged = good.clone();
            damaged[at] = 0xff;
            let _ = dependencies(&damaged);
        }
    }

    #[test]
    fn a_program_without_its_symbols_still_runs() {
        let directory = tempfile::tempdir().unwrap();
        let own = File::open("/proc/self/exe").unwrap();
        let bytes = program(&own).unwrap();
        assert!((bytes.len() as u64) < own.metadata().unwrap().len());
        let path = directory.path().join("cut");
        std::fs::write(&path, &bytes).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let shown = std::process::Command::new(&path).arg("--list").output().unwrap();
        assert!(shown.status.success(), "{shown:?}");
        let script = directory.path().join("script");
        std::fs::write(&script, "#!/bin/sh\n".repeat(20)).unwrap();
        assert!(program(&File::open(&script).unwrap()).is_err());
    }

    #[test]
    fn the_archive_is_in_the_kernels_format() {
        let mut bytes = Vec::new();
        let modules = [Module { name: "virtio".into(), content: b"12345".to_vec() }];
        write(&mut bytes, b"#!", &modules).unwrap();
        let mut names = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            assert_eq!((&bytes[at..at + 6], at % 4), (&b"070701"[..], 0));
            let field = |number: usize| {
                let start = at + 6 + number * 8;
                usize::from_str_radix(str::from_utf8(&bytes[start..start + 8]).unwrap(), 16)
                    .unwrap()
            };
            let (size, length) = (field(6), field(11));
            let name = &bytes[at + 110..at + 110 + length - 1];
            names.push((String::from_utf8(name.to_vec()).unwrap(), field(1), size));
            at = (at + 110 + length).next_multiple_of(4);
            at = (at + size).next_multiple_of(4);
        }
        let expected = [
            ("dev", 0o040_755, 0),
            ("dev/console", 0o020_600, 0),
            ("init", 0o100_755, 2),
            ("modules", 0o040_755, 0),
            ("modules/00-virtio", 0o100_644, 5),
            ("TRAILER!!!", 0, 0),
        ];
        assert_eq!(names, expected.map(|(name, mode, size)| (name.to_owned(), mode, size)));
    }
}
