//! A tree with everything that a file system can get wrong.

use std::fs::{DirBuilder, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, chown, lchown, symlink};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, makedev, mknodat,
    utimensat,
};

/// What the file system at hand cannot hold.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Names in the largest directory.
    pub names: usize,
    /// Bytes of the longest target of a symbolic link.
    pub target: usize,
    /// Bytes of the largest attribute.
    pub xattr: usize,
    /// The largest numbers of a device.
    pub device: (u32, u32),
    /// Bytes of the largest file, nearly all of them a hole.
    pub large: u64,
    /// Seconds of the earliest and the latest time.
    pub times: (i64, i64),
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            names: 20_000,
            target: 4090,
            device: (4095, 1_048_575),
            xattr: 3000,
            large: 6 << 30,
            times: (-2_000_000_000, 7_000_000_000),
        }
    }
}

/// Bytes that no compression and no other file has.
pub fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        bytes.extend_from_slice(&seed.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Fills a directory; as an ordinary user without other owners, devices and what only root may set.
pub fn fill(root: &Path, limits: Limits) {
    let is_root = super::is_root();
    sizes(root);
    sparse(root, limits.large);
    names(root, limits.names);
    links(root, limits.target);
    specials(root, is_root, limits.device);
    attributes(root, limits, is_root);
    times(root, limits.times);
}

fn sizes(root: &Path) {
    std::fs::create_dir(root.join("sizes")).unwrap();
    let sizes = [0, 1, 31, 511, 512, 513, 4031, 4032, 4033, 4095, 4096, 4097, 8192, 12_289, 65_536];
    for size in sizes.into_iter().chain([131_071, 131_073, 1 << 20, (1 << 20) + 7, 5_000_001]) {
        std::fs::write(root.join(format!("sizes/{size}")), noise(size, size as u64 + 1)).unwrap();
        // What compresses well.
        let text = format!("line of text {size}\n").repeat(size / 10 + 1);
        std::fs::write(root.join(format!("sizes/text-{size}")), &text[..size]).unwrap();
    }
    std::fs::write(root.join("sizes/zeros"), vec![0; 300_000]).unwrap();
}

fn sparse(root: &Path, large: u64) {
    let directory = root.join("sparse");
    std::fs::create_dir(&directory).unwrap();
    let make = |name: &str, size: u64, data: &[(u64, usize)]| {
        let file = File::create(directory.join(name)).unwrap();
        for &(at, length) in data {
            file.write_all_at(&noise(length, at + 9), at).unwrap();
        }
        file.set_len(size).unwrap();
    };
    make("empty", 10 << 20, &[]);
    make("begin", 3_000_000, &[(0, 5000)]);
    make("end", 3_000_001, &[(2_999_000, 1001)]);
    make("middle", 9 << 20, &[(4 << 20, 70_000)]);
    make("tail-only", 40_960 + 100, &[(40_960, 100)]);
    make("no-tail", 40_960 + 100, &[(0, 4096)]);
    let every: Vec<(u64, usize)> = (0..300).map(|n| (n * 24_576, 3000)).collect();
    make("many", 300 * 24_576, &every);
    make("large", large, &[(0, 10), (large / 6 * 5, 9000), (large - 5, 5)]);
}

fn names(root: &Path, count: usize) {
    let make = |path: std::path::PathBuf| std::fs::write(&path, b"x").unwrap();
    let directory = root.join("names");
    std::fs::create_dir(&directory).unwrap();
    make(directory.join("n".repeat(255)));
    make(directory.join("ä".repeat(127)));
    make(directory.join(std::ffi::OsStr::from_bytes(b"not \xff\xfe UTF-8 \x01\n")));
    for name in ["-", "!", ".hidden", "...", " ", "a b", "A", "a", "\\", "\"'", "~"] {
        make(directory.join(name));
    }
    std::fs::create_dir(root.join("many")).unwrap();
    for number in 0..count {
        let name = format!("many/{}-{number}", "entry".repeat(number % 7));
        match number % 10 {
            0 => symlink("nowhere", root.join(name)).unwrap(),
            1 if number < 1000 => std::fs::create_dir(root.join(name)).unwrap(),
            _ => drop(File::create(root.join(name)).unwrap()),
        }
    }
    for count in [2, 9, 60, 300] {
        let directory = root.join(format!("some-{count}"));
        std::fs::create_dir(&directory).unwrap();
        (0..count).for_each(|n| drop(File::create(directory.join(format!("file {n}"))).unwrap()));
    }
    let deep = ["deep"; 40].join("/");
    std::fs::create_dir_all(root.join(&deep)).unwrap();
    make(root.join(deep).join("below"));
    std::fs::create_dir(root.join("nothing")).unwrap();
}

fn links(root: &Path, longest: usize) {
    std::fs::create_dir_all(root.join("links/other")).unwrap();
    std::fs::write(root.join("links/a"), noise(10_000, 3)).unwrap();
    for name in ["links/b", "links/other/c", "zz-last"] {
        std::fs::hard_link(root.join("links/a"), root.join(name)).unwrap();
    }
    std::fs::write(root.join("links/small"), b"small").unwrap();
    std::fs::hard_link(root.join("links/small"), root.join("links/other/small")).unwrap();
    std::fs::write(root.join("links/popular"), b"").unwrap();
    for number in 0..300 {
        let name = format!("links/other/popular-{number}");
        std::fs::hard_link(root.join("links/popular"), root.join(name)).unwrap();
    }
    for length in [1, 59, 60, 150, 500, 1000, 2000, 4090].into_iter().filter(|n| *n <= longest) {
        symlink("t".repeat(length), root.join(format!("links/to-{length}"))).unwrap();
    }
    symlink("../links/a", root.join("links/relative")).unwrap();
    symlink("loop", root.join("links/loop")).unwrap();
    std::fs::hard_link(root.join("links/relative"), root.join("links/relative-2")).unwrap();
}

fn specials(root: &Path, is_root: bool, (major, minor): (u32, u32)) {
    let directory = root.join("special");
    std::fs::create_dir(&directory).unwrap();
    let make = |name: &str, kind, mode, device| {
        let path = directory.join(name);
        mknodat(CWD, &path, kind, Mode::from_raw_mode(mode), device).unwrap();
    };
    make("fifo", FileType::Fifo, 0o600, 0);
    make("socket", FileType::Socket, 0o755, 0);
    if is_root {
        make("null", FileType::CharacterDevice, 0o666, makedev(1, 3));
        make("large", FileType::CharacterDevice, 0o600, makedev(major, minor));
        make("odd", FileType::BlockDevice, 0o660, makedev(259, 256));
        make("disk", FileType::BlockDevice, 0o660, makedev(8, 1));
        std::fs::hard_link(directory.join("null"), directory.join("null-2")).unwrap();
    }
    for mode in [0, 0o777, 0o4755, 0o2755, 0o6711, 0o1666, 0o7777] {
        let path = directory.join(format!("mode-{mode:o}"));
        std::fs::write(&path, b"mode").unwrap();
        if mode != 0 || is_root {
            rustix::fs::chmod(&path, Mode::from_raw_mode(mode)).unwrap();
        }
    }
    DirBuilder::new().create(directory.join("sticky")).unwrap();
    rustix::fs::chmod(directory.join("sticky"), Mode::from_raw_mode(0o3777)).unwrap();
    DirBuilder::new().mode(0o700).create(directory.join("private")).unwrap();
    if is_root {
        for (name, uid, gid) in
            [("u", 1000, 100), ("v", 65_535, 65_536), ("w", 4_000_000_000, 1), ("x", 0, 70_000)]
        {
            std::fs::write(directory.join(name), name).unwrap();
            chown(directory.join(name), Some(uid), Some(gid)).unwrap();
            symlink("x", directory.join(format!("{name}-link"))).unwrap();
            lchown(directory.join(format!("{name}-link")), Some(uid), Some(gid)).unwrap();
        }
        // Its owner changed last: that takes set-id bits and capabilities away.
        rustix::fs::chmod(directory.join("u"), Mode::from_raw_mode(0o6755)).unwrap();
    }
}

fn attributes(root: &Path, limits: Limits, is_root: bool) {
    let directory = root.join("attributes");
    std::fs::create_dir(&directory).unwrap();
    let set = |path: &Path, name: &str, value: &[u8]| {
        lsetxattr(path, name, value, XattrFlags::empty())
            .unwrap_or_else(|error| panic!("{name} of {}: {error}", path.display()));
    };
    for name in ["one", "many", "large", "capability", "acl", "empty"] {
        std::fs::write(directory.join(name), noise(3000, 77)).unwrap();
    }
    set(&directory.join("one"), "user.one", b"1");
    set(&directory.join("empty"), "user.empty", b"");
    for number in 0..60 {
        set(&directory.join("many"), &format!("user.attribute.{number}"), &noise(number, 5)[..]);
    }
    set(&directory.join("large"), "user.large", &noise(limits.xattr, 8));
    set(&directory.join("large"), &format!("user.{}", "n".repeat(200)), b"a long name");
    set(&directory, "user.of-a-directory", b"value");
    // acl(5) in the form of linux/posix_acl_xattr.h: owner, user 1000, group, mask, others.
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, !0), (2, 4, 1000), (4, 4, !0), (0x10, 6, !0), (0x20, 0, !0)];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(rights.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    set(&directory.join("acl"), "system.posix_acl_access", &acl);
    std::fs::create_dir(directory.join("defaults")).unwrap();
    set(&directory.join("defaults"), "system.posix_acl_default", &acl);
    if is_root {
        // linux/capability.h, revision 2: CAP_NET_RAW, permitted and effective.
        let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        set(&directory.join("capability"), "security.capability", &capability);
        symlink("one", directory.join("link")).unwrap();
        set(&directory.join("link"), "trusted.of-a-link", b"value");
        mknodat(CWD, directory.join("null"), FileType::CharacterDevice, Mode::RUSR, makedev(1, 3))
            .unwrap();
        set(&directory.join("null"), "trusted.of-a-device", &noise(50, 4));
    }
}

fn times(root: &Path, (earliest, latest): (i64, i64)) {
    std::fs::create_dir(root.join("times")).unwrap();
    for (number, seconds) in [earliest, -1, 0, 1, 1 << 31, latest].into_iter().enumerate() {
        let path = root.join(format!("times/{number}"));
        std::fs::write(&path, b"time").unwrap();
        let seconds = seconds.clamp(earliest, latest);
        set_time(&path, seconds, 123_456_789 + number as u32);
    }
    set_time(&root.join("times"), 1_000_000_000, 999_999_999);
    set_time(root, 1_500_000_000, 5);
}

fn set_time(path: &Path, seconds: i64, nanoseconds: u32) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}
