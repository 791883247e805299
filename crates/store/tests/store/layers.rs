//! Layers, sweeping and measuring.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use store::{Swept, measure};
use sys::rooted::Root;

use crate::scratch::{Scratch, add, id, image};

#[test]
fn a_layer_that_is_not_committed_goes() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let layer = store.new_layer().unwrap();
    assert!(layer.path().starts_with(scratch.dir().join("tmp")) && layer.path().ends_with("root"));
    fs::create_dir_all(layer.path().join("a/b")).unwrap();
    fs::set_permissions(layer.path().join("a"), PermissionsExt::from_mode(0o000)).unwrap();
    assert!(layer.root().exists(".").unwrap());
    // Another process leaves it alone as long as we live.
    assert_eq!(scratch.open().sweep().unwrap(), Swept::default());
    drop(layer);
    assert!(scratch.list("tmp").is_empty());
}

#[test]
fn a_committed_layer_waits_for_its_record() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let layer = store.new_layer().unwrap();
    fs::write(layer.path().join("file"), "x").unwrap();
    layer.commit(&id(1)).unwrap();
    assert!(store.has_layer(&id(1)) && !store.has_layer("x"));
    assert!(scratch.list("tmp").is_empty());
    let other = scratch.open();
    assert_eq!(other.sweep().unwrap(), Swept::default());
    assert!(other.check().unwrap().is_empty());
    let clone = store.clone();
    drop(store);
    assert_eq!(other.sweep().unwrap(), Swept::default());
    // The process ends without a record.
    drop(clone);
    assert!(other.check().unwrap().is_empty());
    assert_eq!(other.sweep().unwrap(), Swept::default());
    // The next pull goes on with it, and may take as long as it likes.
    let next = scratch.open();
    assert!(next.hold_layer(&id(1)).unwrap() && !next.hold_layer(&id(2)).unwrap());
    assert_eq!(other.prune(true).unwrap().layers, 0);
    drop(next);
    assert_eq!(other.prune(false).unwrap().layers, 1);
    assert!(scratch.list("layers").is_empty() && scratch.list("tmp").is_empty());
}

#[test]
fn a_layer_that_was_not_flushed_counts_until_the_machine_restarts() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for n in [1, 2] {
        let layer = store.new_layer().unwrap();
        fs::write(layer.path().join("file"), "x").unwrap();
        layer.commit_unflushed(&id(n)).unwrap();
    }
    let mark = |n| scratch.dir().join("layers").join(id(n)).join("unflushed");
    assert!(mark(1).exists() && mark(2).exists());
    store.record(&image(1), &["a".into()]).unwrap();
    assert!(!mark(1).exists() && mark(2).exists());
    drop(store);
    assert!(scratch.open().hold_layer(&id(2)).unwrap());
    fs::write(mark(2), "another boot").unwrap();
    assert!(!scratch.open().hold_layer(&id(2)).unwrap());
    assert_eq!(scratch.list("layers"), [id(1)]);
    assert!(scratch.list("tmp").is_empty());
}

#[test]
fn of_two_equal_layers_the_first_is_kept() {
    let scratch = Scratch::new();
    let (one, two) = (scratch.open(), scratch.open());
    let (first, second) = (one.new_layer().unwrap(), two.new_layer().unwrap());
    fs::write(first.path().join("who"), "first").unwrap();
    fs::write(second.path().join("who"), "second").unwrap();
    first.commit(&id(1)).unwrap();
    second.commit(&id(1)).unwrap();
    assert!(scratch.list("tmp").is_empty());
    assert_eq!(fs::read_to_string(two.layer_path(&id(1)).join("who")).unwrap(), "first");
    // Each protects it until it has recorded its image.
    drop(one);
    assert_eq!(scratch.open().sweep().unwrap(), Swept::default());
    two.record(&image(1), &["a".into()]).unwrap();
    drop(two);
    assert_eq!(scratch.open().sweep().unwrap(), Swept::default());
    assert!(scratch.open().find("a").unwrap().is_some());
}

#[test]
fn a_sweep_takes_what_the_dead_left() {
    let scratch = Scratch::new();
    let store = scratch.open();
    add(&store, 1, &["kept"]);
    let dir = scratch.dir();
    fs::create_dir_all(dir.join("tmp/dead/root/etc")).unwrap();
    fs::write(dir.join("tmp/dead/root/etc/file"), "x".repeat(10_000)).unwrap();
    fs::write(dir.join("tmp/half.json"), "{").unwrap();
    std::os::unix::fs::symlink("/etc", dir.join("tmp/link")).unwrap();
    std::os::unix::fs::symlink(format!("../images/{}.json", id(9)), dir.join("names/dangling"))
        .unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.join("names/strange")).unwrap();
    fs::write(dir.join("names/%%nonsense"), "nonsense").unwrap();
    fs::create_dir_all(dir.join(format!("layers/{}/root", id(7)))).unwrap();
    fs::write(dir.join("locks/of the dead"), "").unwrap();
    assert_eq!(store.check().unwrap().len(), 6, "{:#?}", store.check());
    let swept = store.prune(false).unwrap();
    assert_eq!((swept.temporary, swept.layers, swept.names), (3, 1, 3));
    assert!(swept.bytes >= 10_000, "{swept:?}");
    assert!(store.check().unwrap().is_empty(), "{:?}", store.check());
    assert_eq!(scratch.list("locks"), [".changes"]);
    assert_eq!(scratch.list("names"), ["kept"]);
    assert_eq!(store.sweep().unwrap(), Swept::default());
    assert!(fs::metadata("/etc/passwd").is_ok());
}

#[test]
fn half_layers_are_found() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let one = add(&store, 1, &["a"]);
    fs::remove_dir_all(store.layer_path(&one.id)).unwrap();
    let problems = store.check().unwrap();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("image 000000010000 lacks its layer"), "{problems:?}");
    fs::write(scratch.dir().join("layers/odd"), "").unwrap();
    assert!(store.check().unwrap().iter().any(|p| p == "layers/odd is no layer"));
}

#[test]
fn pruning_takes_what_has_no_name_or_no_user() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let used = add(&store, 1, &["used"]);
    add(&store, 2, &["idle", "idle too"]);
    add(&store, 3, &[]);
    let bytes = b"downloaded";
    let digest = "e6d1aaa88a8a7ef5e5a7e9e2bd0e0d5c0d3a35ac3d1a3d0b4b2d7a1f6d5bb2b6";
    let mut partial = store.cache().begin(digest).unwrap();
    partial.write_all(bytes).unwrap();
    let lease = scratch.open().lease(&used).unwrap();
    let swept = store.prune(false).unwrap();
    // The download is somebody's at the moment.
    assert_eq!((swept.images, swept.layers, swept.downloads), (1, 1, 0));
    drop(partial);
    let swept = store.prune(true).unwrap();
    assert_eq!((swept.images, swept.layers, swept.downloads), (1, 1, 1));
    assert_eq!(store.images().unwrap().len(), 1);
    drop(lease);
    assert_eq!(store.prune(false).unwrap(), Swept::default());
    assert_eq!(store.prune(true).unwrap().images, 1);
    assert!(store.check().unwrap().is_empty());
    assert!(scratch.list("layers").is_empty());
}

#[test]
fn usage_counts_and_knows_what_could_go() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let used = add(&store, 1, &["used"]);
    add(&store, 2, &["idle"]);
    let layer = store.new_layer().unwrap();
    fs::write(layer.path().join("file"), "x".repeat(5000)).unwrap();
    fs::create_dir(scratch.dir().join("tmp/dead")).unwrap();
    store.put_blob(b"a blob").unwrap();
    let _lease = store.lease(&used).unwrap();
    let usage = store.usage().unwrap();
    assert_eq!((usage.images.count, usage.images.active), (2, 1));
    assert_eq!((usage.layers.count, usage.layers.active), (2, 2));
    assert_eq!(usage.layers.reclaimable * 2, usage.layers.bytes);
    assert_eq!(usage.images.bytes, usage.layers.bytes);
    assert_eq!((usage.blobs.count, usage.cache.count), (1, 0));
    assert_eq!((usage.temporary.count, usage.temporary.active), (2, 1));
    assert!(usage.temporary.bytes >= 5000);
}

#[test]
fn a_tree_is_measured_each_file_once() {
    let scratch = Scratch::new();
    let tree = scratch.path().join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/one"), "x".repeat(100)).unwrap();
    fs::hard_link(tree.join("a/one"), tree.join("a/b/two")).unwrap();
    std::os::unix::fs::symlink("/", tree.join("a/root")).unwrap();
    let sparse = fs::File::create(tree.join("a/sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    let found = measure(&Root::open(&tree).unwrap()).unwrap();
    assert_eq!((found.files, found.content, found.unreadable), (6, (1 << 30) + 100, 0));
    assert!(found.disk < 1 << 20);
}
