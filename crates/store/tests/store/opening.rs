//! Opening: makes, and otherwise changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use store::Store;

use crate::scratch::{Scratch, add, id, text};

#[test]
fn a_new_store_has_its_layout() {
    let scratch = Scratch::new();
    let dir = scratch.path().join("deep/er/store");
    let store = Store::open(&dir).unwrap();
    assert_eq!(store.path(), dir);
    let mode = |name: &str| fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o7777;
    for (name, wanted) in [
        (".", 0o755),
        ("layers", 0o755),
        ("images", 0o700),
        ("names", 0o700),
        ("tmp", 0o700),
        ("locks", 0o700),
        ("cache", 0o700),
        ("cache/sha256", 0o700),
        ("cache/partial", 0o700),
        ("blobs/sha256", 0o700),
        ("..", 0o700),
    ] {
        assert_eq!(mode(name), wanted, "{name}");
    }
    assert_eq!(fs::read_to_string(dir.join("version")).unwrap(), "1\n");
    assert_eq!(fs::read_dir(dir.join("tmp")).unwrap().count(), 0);
    add(&store, 1, &["a"]);
    assert_eq!(mode(&format!("layers/{}", id(1))), 0o700);
    assert_eq!(mode(&format!("layers/{}/root", id(1))), 0o755);
    assert!(store.check().unwrap().is_empty());
}

#[test]
fn an_existing_store_is_not_written_to() {
    let scratch = Scratch::new();
    let image = add(&scratch.open(), 1, &["a name"]);
    let before = scratch.everything();
    let store = scratch.open();
    assert_eq!(store.find("a name").unwrap().as_ref(), Some(&image));
    drop(store.lease(&image).unwrap());
    assert_eq!(store.find("no such name").unwrap(), None);
    assert_eq!(scratch.everything(), before);
}

#[test]
fn what_was_begun_is_finished() {
    let scratch = Scratch::new();
    // As if the first one had been killed on the way.
    for dir in ["", "tmp", "images", "lost+found"] {
        fs::create_dir(scratch.dir().join(dir)).unwrap();
    }
    let store = scratch.open();
    add(&store, 1, &["a"]);
    assert!(store.check().unwrap().is_empty());
}

#[test]
fn what_is_no_store_is_left_alone() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.dir()).unwrap();
    fs::write(scratch.dir().join("thesis"), "").unwrap();
    let error = text(Store::open(&scratch.dir()));
    assert!(
        error.contains("is no store of postroj, and not empty: it holds \"thesis\""),
        "{error}"
    );
    assert_eq!(scratch.list("."), ["thesis"]);

    let error = text(Store::open(&scratch.dir().join("thesis")));
    assert!(error.contains("opening the store at") && error.contains("Not a directory"), "{error}");
    let error = text(Store::open(&scratch.dir().join("thesis/x")));
    assert!(error.contains("Not a directory"), "{error}");
}

#[test]
fn versions_are_told_apart() {
    let scratch = Scratch::new();
    drop(scratch.open());
    for (version, wanted) in [
        (
            "2\n",
            "has the layout 2 of a newer postroj, and this one knows layout 1: use the newer one",
        ),
        ("4294967295", "of a newer postroj"),
        ("0\n", "is damaged: its version is \"0\"; move it away"),
        ("one", "is damaged"),
        ("", "is damaged"),
        ("99999999999999999999999999999999999999999", "is damaged"),
    ] {
        fs::write(scratch.dir().join("version"), version).unwrap();
        let error = text(Store::open(&scratch.dir()));
        assert!(error.contains(wanted), "{version:?}: {error}");
    }
}

#[test]
fn a_relative_path_is_made_absolute() {
    let scratch = Scratch::new();
    drop(scratch.open());
    let here = std::env::current_dir().unwrap();
    let up: String = here.components().skip(1).map(|_| "../").collect();
    let relative = format!("{up}{}", scratch.dir().strip_prefix("/").unwrap().display());
    let store = Store::open(relative.as_ref()).unwrap();
    assert!(store.path().is_absolute());
}

#[test]
fn a_foreign_store_says_so() {
    let scratch = Scratch::new();
    drop(scratch.open());
    fs::set_permissions(scratch.dir().join("names"), PermissionsExt::from_mode(0o000)).unwrap();
    let found = scratch.open().find("a");
    if rustix::process::geteuid().is_root() {
        assert_eq!(found.unwrap(), None);
    } else {
        let error = text(found);
        assert!(
            error.contains("Permission denied") && error.contains("must be your own"),
            "{error}"
        );
    }
    fs::set_permissions(scratch.dir().join("names"), PermissionsExt::from_mode(0o700)).unwrap();
}
