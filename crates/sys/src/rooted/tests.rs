//! The two ways to resolve, beside each other and against races.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::*;

/// `root/`, the root of the tests, and `outside/canary`, which must never change.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("postroj-rooted-{}-{n}", std::process::id()));
        fs::create_dir_all(path.join("root")).unwrap();
        fs::create_dir(path.join("outside")).unwrap();
        fs::write(path.join("outside/canary"), "sings").unwrap();
        fs::set_permissions(path.join("outside/canary"), fs::Permissions::from_mode(0o640))
            .unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn root(&self) -> Root {
        Root::open(&self.0.join("root")).unwrap()
    }

    pub(super) fn assert_outside_is_whole(&self) {
        let names: Vec<_> = fs::read_dir(self.0.join("outside"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["canary"]);
        let canary = self.0.join("outside/canary");
        assert_eq!(fs::read_to_string(&canary).unwrap(), "sings");
        assert_eq!(fs::metadata(&canary).unwrap().permissions().mode() & 0o7777, 0o640);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let above = Root::open(self.0.parent().unwrap()).unwrap();
        let removed = above.remove_all(self.0.file_name().unwrap());
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

fn both(scratch: &Scratch) -> [(&'static str, Root); 2] {
    [("kernel", scratch.root()), ("user space", scratch.root().without_openat2())]
}

/// The tree that the table below walks; each file holds its own path.
fn plant(scratch: &Scratch) {
    let root = scratch.path().join("root");
    for dir in ["usr/lib", "etc", "a/b/c", "tmp"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    for file in ["etc/passwd", "usr/lib/x", "a/b/c/f", "canary"] {
        fs::write(root.join(file), file).unwrap();
    }
    let out = scratch.path().join("outside");
    for (link, text) in [
        ("lib", "usr/lib"),
        ("abslib", "/usr/lib"),
        ("slashlib", "/usr/lib///"),
        ("up", "../../../../../outside"),
        ("upcanary", "../outside/canary"),
        ("abs", out.to_str().unwrap()),
        ("a/b/toroot", "/"),
        ("a/b/back", "../../etc"),
        ("a/b/c/far", "../../../../../../etc/passwd"),
        ("loop1", "loop2"),
        ("loop2", "loop1"),
        ("self", "self/x"),
        ("dangling", "nothing/here"),
        ("tofile", "/etc/passwd"),
        ("dotdot", ".."),
        ("chain0", "etc/passwd"),
        ("new", "tmp/made"),
    ] {
        symlink(text, root.join(link)).unwrap();
    }
    for i in 1..=40 {
        symlink(format!("chain{}", i - 1), root.join(format!("chain{i}"))).unwrap();
    }
}

/// Path, flags, and what is read or the error.
type Row = (&'static str, OFlags, Result<&'static str, i32>);

const READ: OFlags = OFlags::RDONLY;
const HERE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    ("etc/passwd", READ, Ok("etc/passwd")),
    ("/etc/passwd", READ, Ok("etc/passwd")),
    ("//etc//./passwd", READ, Ok("etc/passwd")),
    ("./etc/../etc/passwd", READ, Ok("etc/passwd")),
    ("../etc/passwd", READ, Ok("etc/passwd")),
    ("../../../../etc/passwd", READ, Ok("etc/passwd")),
    ("a/../../../canary", READ, Ok("canary")),
    ("lib/x", READ, Ok("usr/lib/x")),
    ("abslib/x", READ, Ok("usr/lib/x")),
    ("slashlib/x", READ, Ok("usr/lib/x")),
    ("lib/../lib/x", READ, Ok("usr/lib/x")),
    ("a/b/toroot/canary", READ, Ok("canary")),
    ("a/b/toroot/../canary", READ, Ok("canary")),
    ("a/b/toroot/a/b/toroot/lib/x", READ, Ok("usr/lib/x")),
    ("a/b/back/passwd", READ, Ok("etc/passwd")),
    ("a/b/c/far", READ, Ok("etc/passwd")),
    ("dotdot/canary", READ, Ok("canary")),
    ("tofile", READ, Ok("etc/passwd")),
    ("chain39", READ, Ok("etc/passwd")),
    ("chain40", READ, Err(libc::ELOOP)),
    ("up/canary", READ, Err(libc::ENOENT)),
    ("upcanary", READ, Err(libc::ENOENT)),
    ("abs/canary", READ, Err(libc::ENOENT)),
    ("../outside/canary", READ, Err(libc::ENOENT)),
    ("loop1", READ, Err(libc::ELOOP)),
    ("self", READ, Err(libc::ELOOP)),
    ("dangling", READ, Err(libc::ENOENT)),
    ("dangling/x", READ, Err(libc::ENOENT)),
    ("etc/passwd/x", READ, Err(libc::ENOTDIR)),
    ("etc/passwd/..", READ, Err(libc::ENOTDIR)),
    ("etc/passwd/", READ, Err(libc::ENOTDIR)),
    ("tofile/x", READ, Err(libc::ENOTDIR)),
    ("nothing", READ, Err(libc::ENOENT)),
    ("nothing/..", READ, Err(libc::ENOENT)),
    ("", READ, Err(libc::ENOENT)),
    ("a\0b", READ, Err(libc::EINVAL)),
    ("tofile", HERE, Err(libc::ELOOP)),
    ("lib", HERE.union(OFlags::DIRECTORY), Err(libc::ENOTDIR)),
    ("etc/passwd", READ.union(OFlags::DIRECTORY), Err(libc::ENOTDIR)),
    ("lib/x", HERE, Ok("usr/lib/x")),
    ("etc/passwd", OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL), Err(libc::EEXIST)),
    ("tofile", OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL), Err(libc::EEXIST)),
    ("new", OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL), Err(libc::EEXIST)),
    ("tofile", OFlags::RDWR.union(OFlags::CREATE), Ok("etc/passwd")),
    ("/", OFlags::RDWR.union(OFlags::CREATE), Err(libc::EISDIR)),
];

#[test]
fn one_table_for_both_ways_to_resolve() {
    let scratch = Scratch::new();
    plant(&scratch);
    for (way, root) in both(&scratch) {
        for &(path, flags, expected) in TABLE {
            let found = root.open_in(path, flags, Mode::RUSR).map(|fd| {
                let mut text = String::new();
                File::from(fd).read_to_string(&mut text).unwrap();
                text
            });
            match (found, expected) {
                (Ok(text), Ok(wanted)) => assert_eq!(text, wanted, "{way}: {path:?}"),
                (Err(error), Err(wanted)) if error.raw_os_error() == Some(wanted) => {}
                (found, _) => panic!("{way}: {path:?}: {found:?} instead of {expected:?}"),
            }
        }
        let long = "a/".repeat(2048);
        let failure = root.open_in(&long, READ, Mode::empty()).unwrap_err();
        assert_eq!(failure.raw_os_error(), Some(libc::ENAMETOOLONG), "{way}");
    }
    scratch.assert_outside_is_whole();
}

#[test]
fn directories_are_where_the_kernel_says() {
    let scratch = Scratch::new();
    plant(&scratch);
    let root = scratch.path().join("root");
    for (way, handle) in both(&scratch) {
        for (path, real) in [
            ("/", "."),
            (".", "."),
            ("..", "."),
            ("lib", "usr/lib"),
            ("lib/", "usr/lib"),
            ("lib/..", "usr"),
            ("a/b/toroot", "."),
            ("a/b/back/..", "."),
            ("dotdot", "."),
            ("a/b/c/..", "a/b"),
        ] {
            let found = fstat(handle.open_dir(path).unwrap()).unwrap();
            let wanted = rustix::fs::stat(root.join(real)).unwrap();
            assert_eq!(found.st_ino, wanted.st_ino, "{way}: {path}");
        }
    }
}

#[test]
fn making_files_stays_inside() {
    for user_space in [false, true] {
        let scratch = Scratch::new();
        plant(&scratch);
        let mut root = scratch.root();
        root.in_user_space = user_space;
        let make = OFlags::WRONLY | OFlags::CREATE;
        root.open_in("new", make, Mode::RUSR).unwrap();
        assert!(scratch.path().join("root/tmp/made").exists());
        root.open_in("../../made", make, Mode::RUSR).unwrap();
        assert!(scratch.path().join("root/made").exists());
        assert!(root.open_in("up/made", make, Mode::RUSR).is_err());

        root.create_dir_all("/lib/x y/z//", Mode::RWXU).unwrap();
        assert!(scratch.path().join("root/usr/lib/x y/z").is_dir());
        root.create_dir_all("../q/./r", Mode::RWXU).unwrap();
        assert!(scratch.path().join("root/q/r").is_dir());
        root.create_dir_all("", Mode::RWXU).unwrap();
        for (path, errno) in [
            ("dangling", libc::ENOENT),
            ("dangling/x", libc::ENOENT),
            ("etc/passwd/x", libc::ENOTDIR),
            ("tofile", libc::ENOTDIR),
            ("up/x", libc::ENOENT),
            ("loop1/x", libc::ELOOP),
        ] {
            let failure = root.create_dir_all(path, Mode::RWXU).unwrap_err();
            assert_eq!(failure.raw_os_error(), Some(errno), "{path}");
        }

        root.write("upcanary", b"mine", Mode::RUSR).unwrap();
        assert_eq!(root.read("upcanary", 4).unwrap(), b"mine");
        root.write("lib/x", b"new", Mode::RUSR | Mode::WUSR).unwrap();
        assert_eq!(fs::read(scratch.path().join("root/usr/lib/x")).unwrap(), b"new");
        assert!(root.write("etc", b"", Mode::RUSR).is_err());
        scratch.assert_outside_is_whole();
    }
}

#[test]
fn parents_are_resolved_and_names_are_not() {
    let scratch = Scratch::new();
    plant(&scratch);
    let inode =
        |path: &str| rustix::fs::stat(scratch.path().join("root").join(path)).unwrap().st_ino;
    for (way, root) in both(&scratch) {
        for (path, parent, name) in [
            ("canary", ".", "canary"),
            ("/canary", ".", "canary"),
            ("lib", ".", "lib"),
            ("lib/", ".", "lib"),
            ("lib//./.", ".", "lib"),
            ("lib/x", "usr/lib", "x"),
            ("/abslib//nothing", "usr/lib", "nothing"),
            ("../../x", ".", "x"),
            ("a/b/../x", "a", "x"),
        ] {
            let (found, last) = root.parent_of(path).unwrap();
            assert_eq!(last, name, "{way}: {path}");
            assert_eq!(fstat(found).unwrap().st_ino, inode(parent), "{way}: {path}");
        }
        for path in ["", "/", ".", "..", "a/..", "//", "./."] {
            let failure = root.parent_of(path).unwrap_err();
            assert_eq!(failure.raw_os_error(), Some(libc::EINVAL), "{way}: {path:?}");
        }
        assert!(root.parent_of("up/x").is_err());
    }
}

#[test]
fn reading_is_bounded_and_only_of_files() {
    let scratch = Scratch::new();
    plant(&scratch);
    rustix::fs::mknodat(CWD, scratch.path().join("root/fifo"), FileType::Fifo, Mode::RUSR, 0)
        .unwrap();
    for (way, root) in both(&scratch) {
        assert_eq!(root.read("tofile", 10).unwrap(), b"etc/passwd", "{way}");
        for (path, limit, errno) in [
            ("tofile", 9, libc::EFBIG),
            ("etc", 9, libc::EINVAL),
            ("fifo", 9, libc::EINVAL),
            ("nothing", 9, libc::ENOENT),
        ] {
            let failure = root.read(path, limit).unwrap_err();
            assert_eq!(failure.raw_os_error(), Some(errno), "{way}: {path}");
        }
        assert_eq!(root.read_link("/a/b/back").unwrap(), Path::new("../../etc"));
        assert_eq!(root.read_link("canary").unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert!(root.exists("lib/x").unwrap());
        assert!(!root.exists("up").unwrap());
        assert!(!root.exists("etc/passwd/x").unwrap());
        assert!(!root.exists("loop1").unwrap());
        let is_link = |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        assert!(is_link(root.symlink_metadata("lib").unwrap()));
        assert!(!is_link(root.metadata("lib").unwrap()));
    }
}

#[test]
fn a_directory_that_turns_into_a_link_leads_nowhere() {
    let scratch = Scratch::new();
    let root = scratch.path().join("root");
    fs::create_dir_all(root.join("real/sub")).unwrap();
    fs::write(root.join("real/canary"), "inside").unwrap();
    symlink("../outside", root.join("link")).unwrap();
    symlink(scratch.path().join("outside"), root.join("link2")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for other in ["link", "link2"] {
                    let (real, other) = (root.join("real"), root.join(other));
                    let swap = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(CWD, &real, CWD, &other, swap).unwrap();
                    rustix::fs::renameat_with(CWD, &real, CWD, &other, swap).unwrap();
                }
            }
        });
        let mut seen = [0u32; 2];
        for (which, (_, handle)) in both(&scratch).into_iter().enumerate() {
            for _ in 0..20_000 {
                for path in ["real/canary", "real/sub/../canary", "real/../real/canary"] {
                    if let Ok(content) = handle.read(path, 100) {
                        assert_eq!(content, b"inside", "{path}");
                        seen[which] += 1;
                    }
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(seen.iter().all(|&n| n > 1000), "the race was hardly run: {seen:?}");
    });
    scratch.assert_outside_is_whole();
}
