//! Layers that are unpacked one by one and mounted are what layers that are applied one
//! onto the other are.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use store::Store;
use store::merged::{hides_all_below, leads_through_links, settle};
use store::unpack::{Limits, Style, Summary, unpack_over};
use sys::rooted::Root;

use crate::build::{Tar, item};
use crate::place::Place;

fn dir(tar: Tar, path: &str, mode: u32, mtime: i64) -> Tar {
    tar.add(item(b'5', path).mode(mode).mtime(mtime))
}

fn base() -> Tar {
    let tar = dir(Tar::new(), "./", 0o755, 1);
    let tar = dir(dir(dir(tar, "a", 0o750, 2), "a/b", 0o2711, 3), "c", 0o755, 4);
    // As where /usr is merged, and worse.
    let tar = tar
        .add(item(b'2', "to-a").link("a").mtime(5))
        .add(item(b'2', "c/up").link("../to-a/b").mtime(6))
        .add(item(b'2', "absolute").link("/c/up").mtime(7))
        .add(item(b'2', "out").link("../../a").mtime(8));
    tar.file("a/one", "1")
        .file("a/two", "2")
        .file("a/b/three", "3")
        .file("c/four", "4")
        .file("f", "f")
}

/// What layers are put over the base, each with a name for the assertion.
fn cases() -> Vec<(&'static str, Vec<Tar>)> {
    let new = Tar::new;
    vec![
        ("nothing", vec![new()]),
        ("a file gone", vec![new().file(".wh.f", "")]),
        ("a file gone, in a directory that is only implied", vec![new().file("a/b/.wh.three", "")]),
        ("a directory gone", vec![new().file(".wh.a", "")]),
        (
            "gone and come back",
            vec![new().file(".wh.a", ""), dir(new(), "a", 0o700, 9).file("a/new", "n")],
        ),
        (
            "gone, then new in one layer",
            vec![dir(new().file(".wh.a", ""), "a", 0o700, 9).file("a/new", "n")],
        ),
        (
            "new, then gone in one layer",
            vec![dir(new(), "a", 0o700, 9).file("a/new", "n").file(".wh.a", "")],
        ),
        ("gone, then implied in one layer", vec![new().file(".wh.a", "").file("a/new", "n")]),
        ("a file replaced, the mark first", vec![new().file(".wh.f", "").file("f", "new")]),
        ("a file replaced, the mark last", vec![new().file("f", "new").file(".wh.f", "")]),
        ("opaque", vec![dir(new(), "a", 0o755, 8).file("a/.wh..wh..opq", "").file("a/new", "n")]),
        (
            "opaque, last",
            vec![dir(new(), "a", 0o755, 8).file("a/new", "n").file("a/.wh..wh..opq", "")],
        ),
        ("opaque, implied", vec![new().file("a/.wh..wh..opq", "").file("a/new", "n")]),
        ("opaque of what is below", vec![new().file("a/b/.wh..wh..opq", "")]),
        ("book-keeping", vec![new().file(".wh..wh.plnk", "").file("a/.wh..wh.aufs", "")]),
        ("a directory becomes a file", vec![new().file("a", "file")]),
        ("a file becomes a directory", vec![dir(new(), "f", 0o700, 5).file("f/x", "x")]),
        (
            "implied directories keep what they were",
            vec![new().file("a/b/new", "n").file("c/x/y", "y")],
        ),
        ("named after it was implied", vec![dir(new().file("a/new", "n"), "a", 0o711, 6)]),
        (
            "several",
            vec![
                new().file("a/.wh.one", "").file("a/five", "5"),
                dir(new(), "a", 0o777, 7).file("a/one", "again").file("a/.wh.five", ""),
                new().file(".wh.c", "").file("a/b/.wh..wh..opq", "").file("a/b/six", "6"),
            ],
        ),
        ("through a link", vec![new().file("to-a/new", "n")]),
        ("through several", vec![new().file("absolute/new", "n").file("c/up/other", "o")]),
        ("through one that leads out", vec![new().file("out/b/new", "n")]),
        ("through a link and directly", vec![new().file("to-a/x", "1").file("a/x", "2")]),
        ("directly and through a link", vec![new().file("a/x", "2").file("to-a/x", "1")]),
        (
            "replaced through a link",
            vec![new().file("to-a/one", "new").file("absolute/three", "3")],
        ),
        ("gone through a link", vec![new().file("to-a/.wh.one", "").file("c/up/.wh.three", "")]),
        ("opaque through a link", vec![new().file("to-a/.wh..wh..opq", "").file("to-a/x", "x")]),
        ("a link becomes a directory", vec![dir(new(), "to-a", 0o755, 4).file("to-a/x", "x")]),
        (
            "a link becomes a directory after it was used",
            vec![dir(new().file("to-a/x", "x"), "to-a", 0o755, 4).file("to-a/y", "y")],
        ),
        ("a link gone, then implied", vec![new().file(".wh.to-a", "").file("to-a/x", "x")]),
        (
            "a hard link through a link to what is new",
            vec![new().file("a/one", "new").add(item(b'1', "l").link("to-a/one"))],
        ),
        (
            "a hard link through a link to what is below",
            vec![new().add(item(b'1', "to-a/l").link("absolute/three"))],
        ),
        (
            "a link of its own to what is below",
            vec![new().add(item(b'2', "s").link("a/b").mtime(3)).file("s/new", "n")],
        ),
        (
            "one layer after the other",
            vec![
                new().file("to-a/x", "x"),
                new().file("absolute/x", "y").file("to-a/b/z", "z"),
                new().file("a/.wh.b", "").file("to-a/w", "w"),
            ],
        ),
        ("a link to what is below", vec![new().add(item(b'1', "a/link").link("a/one"))]),
        (
            "two links to what is below",
            vec![
                new()
                    .add(item(b'1', "l1").link("a/b/three"))
                    .add(item(b'1', "a/two").link("a/b/three")),
            ],
        ),
    ]
}

#[test]
fn mounted_layers_are_what_applied_layers_are() {
    if !rustix::process::geteuid().is_root() {
        // Mounting takes a user namespace, and that a process of its own.
        let done = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["layered::mounted_layers_are_what_applied_layers_are", "--exact"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(said.contains("1 passed"), "{said} {}", String::from_utf8_lossy(&done.stderr));
        return;
    }
    for (what, above) in cases() {
        let layers: Vec<Vec<u8>> = std::iter::once(base()).chain(above).map(Tar::end).collect();
        let applied = Place::new();
        for (number, layer) in layers.iter().enumerate() {
            applied
                .unpack(layer, Style::Layer)
                .unwrap_or_else(|e| panic!("{what}: {number}: {e:#}"));
        }
        assert_eq!(mounted(&layers, what), listing(&applied.root()), "{what}");
    }
}

fn mounted(layers: &[Vec<u8>], what: &str) -> BTreeMap<PathBuf, String> {
    let place = Place::new();
    let store = Store::open(&place.root().join("store")).unwrap();
    let places: Vec<Place> = layers.iter().map(|_| Place::new()).collect();
    let mut roots: Vec<PathBuf> = Vec::new();
    for (layer, place) in layers.iter().zip(&places) {
        let summary =
            place.unpack(layer, Style::Overlay).unwrap_or_else(|e| panic!("{what}: {e:#}"));
        let mut root = place.root();
        if !roots.is_empty() {
            let over = place.root().with_extension("over");
            store
                .with_merged(&roots, |below| {
                    if !leads_through_links(&place.handle(), below, &summary.open)? {
                        return settle(&place.handle(), below, &summary.open);
                    }
                    fs::create_dir(&over)?;
                    let handle = Root::open(&over)?;
                    let limits = Limits::default();
                    let again = unpack_over(&layer[..], &handle, below, &limits)?;
                    settle(&handle, below, &again.open)?;
                    root.clone_from(&over);
                    Ok(())
                })
                .unwrap_or_else(|e| panic!("{what}: {e:#}"));
        }
        roots.push(root);
    }
    store
        .with_merged(&roots, |root| {
            let fd = root.open_dir("/")?;
            Ok(listing(Path::new(&format!("/proc/self/fd/{}", fd.as_raw_fd()))))
        })
        .unwrap()
}

fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(root.join(&at)).unwrap() {
            let path = at.join(entry.unwrap().file_name());
            let whole = root.join(&path);
            let stat = fs::symlink_metadata(&whole).unwrap();
            let head = format!("{:o} {}:{}", stat.mode(), stat.uid(), stat.gid());
            let text = if stat.is_dir() {
                todo.push(path.clone());
                head
            } else {
                let link = fs::read_link(&whole).map(|link| link.display().to_string());
                let text = link.or_else(|_| fs::read_to_string(&whole)).unwrap();
                format!("{head} {} {text}", stat.mtime())
            };
            found.insert(path, text);
        }
    }
    found
}

#[test]
fn marks_of_one_layer() {
    let place = Place::new();
    let archive = dir(Tar::new().file("a/.wh.x", "").file(".wh.d", ""), "d", 0o755, 1)
        .file("e/.wh..wh..opq", "")
        .add(item(b'1', "link").link("below/it"))
        .end();
    let summary: Summary = place.unpack(&archive, Style::Overlay).unwrap();
    let whiteout = place.stat("a/x");
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    assert!(place.stat("d").is_dir());
    let opaque = |path: &str| {
        let mut value = [0; 4];
        rustix::fs::getxattr(place.root().join(path), "user.overlay.opaque", &mut value[..])
            == Ok(1)
    };
    assert!(opaque("d") && opaque("e") && !opaque("a"));
    assert_eq!(summary.open.implied, [Path::new("a"), Path::new("e")]);
    assert_eq!(summary.open.links, [(PathBuf::from("link"), PathBuf::from("below/it"))]);
    assert!(!hides_all_below(&place.handle()).unwrap());
    let all = Place::new();
    all.unpack(&Tar::new().file(".wh..wh..opq", "").end(), Style::Overlay).unwrap();
    assert!(hides_all_below(&all.handle()).unwrap());
}
