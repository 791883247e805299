//! File systems that are made of images' layers.

use std::fs;
use std::path::PathBuf;

use crate::scratch::{Scratch, add, id, text};

fn files(scratch: &Scratch) -> Vec<String> {
    scratch.list("roots")
}

#[test]
fn one_is_made_once_and_goes_with_its_image() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let image = add(&store, 1, &["a"]);
    assert_eq!(store.root_image(&image), None);
    let made: Vec<PathBuf> = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..4)
            .map(|_| {
                let (store, image) = (scratch.open(), image.clone());
                scope.spawn(move || store.make_root_image(&image, &mut || ()).unwrap())
            })
            .collect();
        makers.into_iter().map(|maker| maker.join().unwrap()).collect()
    });
    assert!(made.windows(2).all(|pair| pair[0] == pair[1]), "{made:?}");
    assert_eq!(store.root_image(&image).as_ref(), Some(&made[0]));
    let inode = |path: &PathBuf| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let first = inode(&made[0]);
    store.make_root_image(&image, &mut || ()).unwrap();
    assert_eq!(inode(&made[0]), first, "made again");
    assert_eq!((files(&scratch).len(), scratch.list("tmp").len()), (1, 0));
    let content = fs::read(&made[0]).unwrap();
    assert!(content.windows(4).any(|bytes| bytes == b"of 1"));

    // A machine has it.
    let lease = store.lease(&image).unwrap();
    assert_eq!(store.prune(true).unwrap().roots, 0);
    text(store.untag("a"));
    assert_eq!(files(&scratch).len(), 1);
    drop(lease);
    let other = add(&store, 2, &["b"]);
    store.make_root_image(&other, &mut || ()).unwrap();
    store.untag("a").unwrap();
    assert_eq!(files(&scratch).len(), 1, "the other's remains");
    assert_eq!(store.prune(true).unwrap().roots, 1);
    assert_eq!(files(&scratch).len(), 0);
}

#[test]
fn what_cannot_be_made_leaves_nothing() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let image = add(&store, 1, &["a"]);
    fs::remove_dir_all(store.layer_path(&id(1))).unwrap();
    let error = text(store.make_root_image(&image, &mut || ()));
    assert!(error.contains("making a file system of the image's layers"), "{error}");
    assert_eq!(scratch.list("tmp").len(), 0);
    assert_eq!(store.root_image(&image), None);
}
