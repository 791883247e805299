//! Downloads and blobs.

use std::fs;
use std::io::Read;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::scratch::{Scratch, id, text};

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn content(mut file: fs::File) -> Vec<u8> {
    let mut content = Vec::new();
    file.read_to_end(&mut content).unwrap();
    content
}

#[test]
fn a_download_is_kept_and_resumed() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let bytes: Vec<u8> = (0..300_000u32).map(|i| (i % 253) as u8).collect();
    let name = digest(&bytes);
    assert!(store.cache().get(&name).unwrap().is_none());
    let mut partial = store.cache().begin(&name).unwrap();
    partial.write_all(&bytes[..200_000]).unwrap();
    drop(partial);
    let other = scratch.open();
    let mut partial = other.cache().begin(&name).unwrap();
    assert_eq!((partial.len(), partial.is_complete()), (200_000, false));
    partial.write_all(&bytes[200_000..]).unwrap();
    assert_eq!(partial.len(), 300_000);
    assert_eq!(content(partial.finish().unwrap()), bytes);
    assert_eq!(content(store.cache().get(&name).unwrap().unwrap()), bytes);
    assert!(scratch.list("cache/partial").is_empty());
    // Begun once more, it is complete.
    let mut partial = store.cache().begin(&name).unwrap();
    assert_eq!((partial.len(), partial.is_complete()), (300_000, true));
    assert!(text(partial.write_all(b"x")).contains("is complete"));
    assert!(text(partial.restart()).contains("is complete"));
    assert_eq!(content(partial.finish().unwrap()), bytes);
    assert!(scratch.list("cache/partial").is_empty());
    assert!(store.check().unwrap().is_empty());
}

#[test]
fn a_wrong_download_is_not_kept() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let name = digest(b"right");
    let mut partial = store.cache().begin(&name).unwrap();
    partial.write_all(b"wrong").unwrap();
    let error = text(partial.finish());
    assert!(error.contains(&digest(b"wrong")) && error.contains(&name), "{error}");
    assert!(scratch.list("cache/partial").is_empty() && scratch.list("cache/sha256").is_empty());
    let mut partial = store.cache().begin(&name).unwrap();
    assert_eq!(partial.len(), 0);
    partial.write_all(b"wrong, at first").unwrap();
    partial.restart().unwrap();
    partial.write_all(b"right").unwrap();
    assert_eq!(content(partial.finish().unwrap()), b"right");
    for bad in ["", "../x", &"A".repeat(64)] {
        assert!(text(store.cache().get(bad)).contains("is no SHA-256"));
        assert!(text(store.cache().begin(bad)).contains("is no SHA-256"));
    }
}

#[test]
fn several_want_the_same_and_one_downloads() {
    let scratch = Scratch::new();
    let bytes = b"wanted by all";
    let name = digest(bytes);
    let downloads = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let store = scratch.open();
                let mut partial = store.cache().begin(&name).unwrap();
                if !partial.is_complete() {
                    downloads.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(20));
                    partial.write_all(bytes).unwrap();
                }
                assert_eq!(content(partial.finish().unwrap()), bytes);
            });
        }
    });
    assert_eq!(downloads.into_inner(), 1);
}

#[test]
fn a_failed_download_passes_to_the_next() {
    let scratch = Scratch::new();
    let name = digest(b"0123456789");
    let tries = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let store = scratch.open();
                let mut partial = store.cache().begin(&name).unwrap();
                if partial.is_complete() {
                    return;
                }
                let attempt = tries.fetch_add(1, Ordering::Relaxed);
                let at = partial.len() as usize;
                assert_eq!(at, 2 * attempt as usize);
                partial.write_all(&b"0123456789"[at..at + 2]).unwrap();
                if partial.len() == 10 {
                    partial.finish().unwrap();
                }
            });
        }
    });
    assert_eq!(tries.into_inner(), 5);
    assert_eq!(content(scratch.open().cache().get(&name).unwrap().unwrap()), b"0123456789");
}

#[test]
fn blobs_are_checked() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let hex = store.put_blob(b"{}").unwrap();
    assert_eq!(hex, digest(b"{}"));
    assert_eq!(store.put_blob(b"{}").unwrap(), hex);
    assert_eq!(store.blob(&hex).unwrap().unwrap(), b"{}");
    assert_eq!(store.blob(&id(1)).unwrap(), None);
    assert!(text(store.blob("../../version")).contains("is no SHA-256"));
    assert!(text(store.put_blob(&vec![0; (16 << 20) + 1])).contains("at most"));
    fs::write(scratch.dir().join(format!("blobs/sha256/{hex}")), "{ }").unwrap();
    assert!(text(store.blob(&hex)).contains("is damaged: remove it, and pull again"));
    fs::write(scratch.dir().join(format!("cache/sha256/{}", id(1))), "no").unwrap();
    let problems = store.check().unwrap();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("is damaged: its SHA-256 is"), "{problems:?}");
}
