//! What an ordinary archive must come out as.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use store::unpack::{Ids, Kind, Limits, Options, Style, unpack, unpack_with};

use crate::build::{Tar, item};
use crate::place::Place;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn modes_times_and_links() {
    let place = Place::new();
    let archive = Tar::new()
        .add(item(b'5', "./").mode(0o751).mtime(11))
        .add(item(b'5', "d/").mode(0o3775).mtime(12))
        .add(item(b'0', "d/suid").content("x").mode(0o4755).mtime(13))
        .add(item(b'0', "d/none").mode(0))
        .add(item(b'0', "d/all").mode(0o777))
        .add(item(b'2', "d/link").link("../d/suid").mtime(14))
        .add(item(b'1', "d/hard").link("./d/suid"))
        .add(item(b'7', "d/contiguous").content("y"))
        .add(item(b'0', "d/old directory/").mode(0o700).mtime(15))
        .add(item(b'5', "empty").mode(0o1777).mtime(-5))
        .end();
    let summary = place.unpack(&archive, Style::Plain).unwrap();
    assert_eq!((summary.entries, summary.files, summary.bytes), (10, 4, 2));
    for (path, mode, mtime) in [
        (".", 0o751, 11),
        ("d", 0o3775, 12),
        ("d/suid", 0o4755, 13),
        ("d/none", 0, 1_000_000_000),
        ("d/all", 0o777, 1_000_000_000),
        ("d/old directory", 0o700, 15),
        ("empty", 0o1777, -5),
    ] {
        let stat = place.stat(path);
        assert_eq!((stat.mode() & 0o7777, stat.mtime()), (mode, mtime), "{path}");
    }
    assert_eq!(fs::read_link(place.root().join("d/link")).unwrap(), PathBuf::from("../d/suid"));
    assert_eq!(place.stat("d/link").mtime(), 14);
    assert_eq!(place.stat("d/hard").ino(), place.stat("d/suid").ino());
    assert_eq!(place.stat("d/hard").nlink(), 2);
    assert_eq!(place.read("d/contiguous"), "y");
}

#[test]
fn the_umask_changes_nothing() {
    // A process of its own: the umask belongs to all threads.
    let name = "semantics::the_umask_changes_nothing";
    if std::env::var_os("POSTROJ_TEST_UMASK").is_none() {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env("POSTROJ_TEST_UMASK", "1")
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"));
        return;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let place = Place::new();
    let archive = Tar::new()
        .file("implied/below/f", "")
        .add(item(b'5', "d").mode(0o775))
        .add(item(b'6', "d/fifo").mode(0o666))
        .end();
    place.unpack(&archive, Style::Plain).unwrap();
    for (path, mode) in [
        ("implied", 0o755),
        ("implied/below", 0o755),
        ("implied/below/f", 0o644),
        ("d", 0o775),
        ("d/fifo", 0o666),
    ] {
        assert_eq!(place.stat(path).mode() & 0o7777, mode, "{path}");
    }
}

#[test]
fn locked_directories_can_be_filled() {
    let place = Place::new();
    let archive = Tar::new()
        .add(item(b'5', "locked").mode(0))
        .add(item(b'5', "locked/below").mode(0o555).mtime(7))
        .file("locked/below/f", "x")
        .end();
    place.unpack(&archive, Style::Plain).unwrap();
    assert_eq!(place.stat("locked").mode() & 0o7777, 0);
    fs::set_permissions(place.root().join("locked"), PermissionsExt::from_mode(0o700)).unwrap();
    let below = place.stat("locked/below");
    assert_eq!((below.mode() & 0o7777, below.mtime()), (0o555, 7));
    assert_eq!(place.read("locked/below/f"), "x");
}

#[test]
fn owners_are_exact_for_root_and_mine_for_others() {
    let archive = Tar::new()
        .add(item(b'5', "d").owner(10, 20).mode(0o2755))
        .add(item(b'0', "d/f").owner(11, 21).mode(0o6755).content("x"))
        .add(item(b'2', "d/l").owner(12, 22).link("f"))
        .add(item(b'6', "d/p").owner(13, 23))
        .add(item(b'0', "d/large").owner(3_000_000_000, 65534))
        .end();
    let place = Place::new();
    let options = |ids| Options { style: Style::Plain, ids, limits: Limits::default() };
    let result = unpack_with(&archive[..], &place.handle(), &options(Ids::Exact), &mut |_| {});
    if is_root() {
        result.unwrap();
        for (path, owner) in [
            ("d", (10, 20)),
            ("d/f", (11, 21)),
            ("d/l", (12, 22)),
            ("d/p", (13, 23)),
            ("d/large", (3_000_000_000, 65534)),
        ] {
            let stat = place.stat(path);
            assert_eq!((stat.uid(), stat.gid()), owner, "{path}");
        }
        assert_eq!(place.stat("d/f").mode() & 0o7777, 0o6755);
        assert_eq!(place.stat("d").mode() & 0o7777, 0o2755);
    } else {
        let error = format!("{:#}", result.unwrap_err());
        assert!(error.contains("unpacking d/f: only root may make 11:21 its owner"), "{error}");
    }
    let place = Place::new();
    unpack_with(&archive[..], &place.handle(), &options(Ids::Mine), &mut |_| {}).unwrap();
    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    for path in ["d", "d/f", "d/l", "d/p", "d/large"] {
        let stat = place.stat(path);
        assert_eq!((stat.uid(), stat.gid()), me, "{path}");
    }
}

#[test]
fn extensions_of_pax_and_gnu() {
    let long = format!("{}/{}", "d".repeat(200), "n".repeat(250));
    let target = "t/".repeat(300);
    let place = Place::new();
    let pax_name = "pax/Größe".as_bytes();
    let archive = Tar::new()
        .file(&long, "gnu")
        .symlink("long link", &target)
        .pax(b'g', &[("comment", b"for all"), ("mtime", b"77.5")])
        .pax(b'x', &[("path", pax_name), ("mtime", b"1350244992.023960108"), ("size", b"3")])
        .add_with(item(b'0', "cut").content("pax"), |h| h[124..136].fill(0))
        .file("after", "")
        .pax(b'x', &[("mtime", b"-1.25")])
        .file("before the epoch", "")
        .add(item(b'V', "label").content("volume"))
        .add(item(b'D', "dump").content("Yfile\0\0").mode(0o755))
        .pax(b'x', &[("linkpath", &b"x".repeat(150))])
        .symlink("pax link", "short")
        .end();
    place.unpack(&archive, Style::Plain).unwrap();
    assert_eq!(place.read(&long), "gnu");
    assert_eq!(fs::read_link(place.root().join("long link")).unwrap(), PathBuf::from(target));
    assert_eq!(place.read("pax/Größe"), "pax");
    let times = |path| (place.stat(path).mtime(), place.stat(path).mtime_nsec());
    assert_eq!(times("pax/Größe"), (1_350_244_992, 23_960_108));
    assert_eq!(times("after"), (77, 500_000_000));
    assert_eq!(times("before the epoch"), (-2, 750_000_000));
    assert!(place.stat("dump").is_dir() && !place.has("label"));
    assert_eq!(fs::read_link(place.root().join("pax link")).unwrap().as_os_str().len(), 150);
}

#[test]
fn attributes_and_capabilities() {
    let place = Place::new();
    // VFS_CAP_REVISION_2 | effective, cap_net_raw (linux/capability.h).
    let capability = [1u8, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let records: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.security.capability", &capability),
        ("SCHILY.xattr.user.bytes", b"a\nb\0c="),
    ];
    let archive = Tar::new()
        .pax(b'x', records)
        .add(item(b'0', "f").owner(0, 5))
        .pax(b'x', &records[1..])
        .dir("d")
        .end();
    let summary = place.unpack(&archive, Style::Plain).unwrap();
    let get = |path: &str, name: &str| {
        let mut value = [0; 100];
        rustix::fs::getxattr(place.root().join(path), name, &mut value[..])
            .map(|n| value[..n].to_vec())
    };
    match get("f", "user.bytes") {
        Ok(value) => {
            assert_eq!(value, b"a\nb\0c=");
            assert_eq!(get("d", "user.bytes").unwrap(), b"a\nb\0c=");
        }
        // The scratch directory's file system may lack them.
        Err(_) => assert!(summary.skipped_xattrs >= 2, "{summary:?}"),
    }
    match get("f", "security.capability") {
        Ok(value) => {
            // Not only the value: the kernel drops it when the owner changes later.
            assert_eq!(value[4..], capability[4..]);
            assert_eq!(summary.refused_capabilities, 0);
        }
        Err(_) => {
            assert!(!is_root() || summary.skipped_xattrs > 0);
            assert_eq!(summary.refused_capabilities, 1);
            assert!(summary.notes[0].contains("f: attribute security.capability is left out"));
        }
    }
}

#[test]
fn sparse_files_in_four_formats() {
    let mut wanted = vec![0; 1 << 20];
    wanted[8192..8196].copy_from_slice(b"abcd");
    wanted[500_000..500_002].copy_from_slice(b"ef");
    let content = "abcdef";
    let size = ("GNU.sparse.size", &b"1048576"[..]);
    let old = |tar: Tar| {
        tar.add_with(item(b'S', "old").content(content), |header| {
            let octal = |at: usize, value: u64, header: &mut [u8; 512]| {
                header[at..at + 12].copy_from_slice(format!("{value:011o}\0").as_bytes());
            };
            octal(386, 8192, header);
            octal(398, 4, header);
            octal(410, 500_000, header);
            octal(422, 2, header);
            octal(434, 1 << 20, header);
            octal(446, 0, header);
            octal(483, 1 << 20, header);
        })
    };
    let map = "2\n8192\n4\n500000\n2\n";
    let v1 = [map.as_bytes(), &vec![0; 512 - map.len()], content.as_bytes()].concat();
    let archive = old(Tar::new())
        .pax(
            b'x',
            &[
                size,
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.offset", b"8192"),
                ("GNU.sparse.numbytes", b"4"),
                ("GNU.sparse.offset", b"500000"),
                ("GNU.sparse.numbytes", b"2"),
            ],
        )
        .file("v0.0", content)
        .pax(b'x', &[size, ("GNU.sparse.name", b"v0.1"), ("GNU.sparse.map", b"8192,4,500000,2")])
        .file("GNUSparseFile.0/v0.1", content)
        .pax(
            b'x',
            &[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"v1.0"),
                ("GNU.sparse.realsize", b"1048576"),
            ],
        )
        .add(item(b'0', "GNUSparseFile.0/v1.0").content(v1))
        .pax(b'x', &[size, ("GNU.sparse.map", b"")])
        .file("hole", "")
        .file("after", "still in step")
        .end();
    let place = Place::new();
    let summary = place.unpack(&archive, Style::Plain).unwrap();
    assert_eq!(summary.bytes, 4 * 6 + 13);
    for name in ["old", "v0.0", "v0.1", "v1.0"] {
        assert!(fs::read(place.root().join(name)).unwrap() == wanted, "{name}");
        assert!(place.stat(name).blocks() * 512 < 100_000, "{name}");
    }
    assert_eq!(place.stat("hole").len(), 1 << 20);
    assert_eq!(place.read("after"), "still in step");
    assert!(!place.has("GNUSparseFile.0"));
}

#[test]
fn the_last_of_several_entries_wins() {
    for style in [Style::Plain, Style::Layer] {
        let place = Place::new();
        let archive = Tar::new()
            .file("a", "first")
            .hard_link("other name", "a")
            .file("a", "second")
            .dir("b")
            .file("b/x", "")
            .file("b", "a file now")
            .file("c", "")
            .dir("c")
            .file("c/x", "a directory now")
            .symlink("d", "one")
            .symlink("d", "two")
            .dir("e")
            .file("e/x", "kept")
            .add(item(b'5', "e").mode(0o711).mtime(9))
            .add(item(b'6', "f"))
            .hard_link("f", "a")
            .end();
        place.unpack(&archive, style).unwrap();
        assert_eq!(place.read("a"), "second");
        assert_eq!(place.read("other name"), "first");
        assert_eq!(place.read("b"), "a file now");
        assert_eq!(place.read("c/x"), "a directory now");
        assert_eq!(fs::read_link(place.root().join("d")).unwrap(), PathBuf::from("two"));
        assert_eq!(place.read("e/x"), "kept");
        assert_eq!((place.stat("e").mode() & 0o7777, place.stat("e").mtime()), (0o711, 9));
        assert_eq!(place.read("f"), "second");
    }
}

#[test]
fn links_inside_the_root_are_followed_for_parents() {
    for user_space in [false, true] {
        let place = Place::resolving(user_space);
        let archive = Tar::new()
            .dir("usr/lib")
            .dir("run")
            .dir("var")
            .symlink("lib", "usr/lib")
            .symlink("var/run", "/run")
            .file("lib/x", "1")
            .file("var/run/pid", "2")
            .hard_link("lib/y", "var/run/pid")
            .dir("lib/deep/er")
            .file("lib/deep/er/z", "3")
            .end();
        place.unpack(&archive, Style::Plain).unwrap();
        for (path, content) in
            [("usr/lib/x", "1"), ("run/pid", "2"), ("usr/lib/y", "2"), ("usr/lib/deep/er/z", "3")]
        {
            assert_eq!(place.read(path), content);
        }
        assert!(place.stat("lib").is_symlink());
    }
}

#[test]
fn a_changed_link_is_not_looked_through_from_memory() {
    let place = Place::new();
    let archive = Tar::new()
        .dir("one")
        .dir("two")
        .symlink("l", "one")
        .file("l/a", "")
        .symlink("l", "two")
        .file("l/b", "")
        .end();
    place.unpack(&archive, Style::Plain).unwrap();
    assert_eq!(place.names(), ["l", "one", "one/a", "two", "two/b"]);
}

#[test]
fn a_layer_changes_what_is_below() {
    let place = Place::new();
    let below = Tar::new()
        .dir("etc")
        .file("etc/keep", "below")
        .file("etc/change", "below")
        .file("etc/gone", "below")
        .dir("old")
        .file("old/x", "")
        .dir("turned")
        .file("turned/x", "")
        .end();
    place.unpack(&below, Style::Layer).unwrap();
    let layer = Tar::new()
        .add(item(b'5', "etc").mode(0o700).mtime(5))
        .file("etc/change", "layer")
        .file("etc/.wh.gone", "")
        .dir("old")
        .file("old/.wh..wh..opq", "")
        .file("old/new", "")
        .symlink("turned", "etc")
        .end();
    let mut seen = Vec::new();
    unpack(&layer[..], &place.handle(), Style::Layer, &Limits::default(), &mut |entry| {
        seen.push((entry.path.to_str().unwrap().to_owned(), entry.kind));
    })
    .unwrap();
    assert_eq!(place.names(), ["etc", "etc/change", "etc/keep", "old", "old/new", "turned"]);
    assert_eq!(place.read("etc/change"), "layer");
    assert_eq!((place.stat("etc").mode() & 0o7777, place.stat("etc").mtime()), (0o700, 5));
    assert_eq!(seen[2], ("etc/.wh.gone".to_owned(), Kind::Whiteout));
    assert_eq!(seen[6], ("turned".to_owned(), Kind::Symlink));
}

#[test]
fn packages_have_dpkgs_manners() {
    let place = Place::new();
    let base = Tar::new()
        .dir("usr/bin")
        .symlink("bin", "usr/bin")
        .add(item(b'5', "etc").mode(0o750).mtime(3))
        .file("etc/conf", "old")
        .dir("real")
        .symlink("dangling", "nowhere")
        .end();
    place.unpack(&base, Style::Plain).unwrap();
    let package = Tar::new()
        .add(item(b'5', "./").mode(0o700))
        .add(item(b'5', "./bin/").mode(0o700))
        .file("./bin/tool", "x")
        .add(item(b'5', "./etc/").mode(0o777))
        .file("./etc/conf", "new")
        .symlink("./real", "usr")
        .dir("./new")
        .end();
    let root_mode = place.stat(".").mode();
    let error = place.unpack(&package, Style::Package).unwrap_err();
    assert!(format!("{error:#}").contains("unpacking ./real: there is a directory"), "{error:#}");
    assert!(place.stat("bin").is_symlink());
    assert_eq!(place.read("usr/bin/tool"), "x");
    assert_eq!(place.read("etc/conf"), "new");
    assert_eq!(place.stat("etc").mode() & 0o7777, 0o750);
    assert_eq!(place.stat("usr/bin").mode() & 0o7777, 0o755);
    assert_eq!(place.stat(".").mode(), root_mode);

    for (archive, text) in [
        (Tar::new().file("real", ""), "there is a directory of that name"),
        (Tar::new().dir("etc/conf"), "something of that name that is no directory"),
        (Tar::new().dir("dangling"), "something of that name that is no directory"),
    ] {
        let error = format!("{:#}", place.unpack(&archive.end(), Style::Package).unwrap_err());
        assert!(error.contains(text), "{error}");
    }
    // A link that is there already, in the same or in other words, stays.
    let before = place.stat("bin").ino();
    for text in ["usr/bin", "/usr/bin", "./usr/../usr/bin"] {
        place.unpack(&Tar::new().symlink("bin", text).end(), Style::Package).unwrap();
        assert_eq!(place.stat("bin").ino(), before);
    }
    place.unpack(&Tar::new().symlink("usr/bin", "../bin").end(), Style::Package).unwrap();
    assert!(place.stat("usr/bin").is_dir());
}

#[test]
fn many_packages_at_once_fill_one_root() {
    let place = Place::new();
    let base = Tar::new().dir("usr/bin").symlink("bin", "usr/bin").end();
    place.unpack(&base, Style::Plain).unwrap();
    std::thread::scope(|scope| {
        for package in 0..8 {
            let place = &place;
            scope.spawn(move || {
                let mut tar = Tar::new()
                    .dir("./")
                    .dir("./usr")
                    .dir("./usr/share")
                    .dir("./usr/share/doc")
                    .dir("./bin");
                for i in 0..100 {
                    tar = tar
                        .dir(&format!("./usr/share/doc/{i}"))
                        .file(&format!("./usr/share/doc/{i}/{package}"), "x")
                        .file(&format!("./bin/{package}-{i}"), "x")
                        .symlink("./bin", "usr/bin");
                }
                place.unpack(&tar.end(), Style::Package).unwrap();
            });
        }
    });
    assert_eq!(fs::read_dir(place.root().join("usr/bin")).unwrap().count(), 800);
    for i in 0..100 {
        assert_eq!(
            fs::read_dir(place.root().join(format!("usr/share/doc/{i}"))).unwrap().count(),
            8
        );
    }
}

#[test]
fn large_files_and_odd_readers() {
    struct Dribble<'a>(&'a [u8], usize);
    impl std::io::Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.1 = self.1 * 5 % 70_001 + 1;
            let length = self.1.min(buffer.len()).min(self.0.len());
            buffer[..length].copy_from_slice(&self.0[..length]);
            self.0 = &self.0[length..];
            Ok(length)
        }
    }
    let mut tar = Tar::new();
    let content = |size: usize| -> Vec<u8> { (0..size).map(|i| (i * 7 % 251) as u8).collect() };
    let sizes = [0, 1, 511, 512, 513, 65_535, 65_536, 131_071, 131_072, 131_073, 3_000_000];
    for size in sizes {
        tar = tar.add(item(b'0', size.to_string()).content(content(size)));
    }
    let archive = tar.end();
    let place = Place::new();
    let limits = Limits::default();
    unpack(Dribble(&archive, 1), &place.handle(), Style::Plain, &limits, &mut |_| {}).unwrap();
    for size in sizes {
        assert!(fs::read(place.root().join(size.to_string())).unwrap() == content(size), "{size}");
    }
}
