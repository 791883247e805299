//! Full and read-only file systems, in a mount namespace of the test's own.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::mount::{MountFlags, mount, mount_remount};
use store::unpack::{Style, unpack};

use crate::scratch::{Scratch, add, id, image, text};

const INSIDE: &str = "POSTROJ_TEST_INSIDE";

/// Runs a test again where it may mount; `true` in there.
fn in_own_mount_namespace(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let root = rustix::process::geteuid().is_root();
    let output = Command::new("unshare")
        .args(if root { &["-m"][..] } else { &["-U", "-r", "-m"] })
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare(1) is on every Debian system");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}

fn mount_small(at: &Path, size: &str) {
    fs::create_dir(at).unwrap();
    let data = std::ffi::CString::new(format!("size={size},mode=0755")).unwrap();
    mount("none", at, "tmpfs", MountFlags::empty(), data.as_c_str()).unwrap();
}

#[test]
fn a_full_disk_is_told_and_leaves_the_store_sound() {
    if !in_own_mount_namespace("faults::a_full_disk_is_told_and_leaves_the_store_sound") {
        return;
    }
    let scratch = Scratch::new();
    mount_small(&scratch.dir(), "400k");
    let store = scratch.open();
    add(&store, 1, &["kept"]);
    let remedy = "No space left on device (os error 28); free some space, for instance with `postroj system prune`";

    // While unpacking.
    let layer = store.new_layer().unwrap();
    let mut archive = Vec::new();
    let mut header = tar_header("big", 1 << 20);
    archive.append(&mut header);
    archive.resize(archive.len() + (1 << 20) + 1024, 0);
    archive[600] = 1;
    let error =
        text(unpack(&archive[..], layer.root(), Style::Plain, &Default::default(), &mut |_| {}));
    assert_eq!(error, format!("unpacking big: writing: {remedy}"));
    // While nothing can be written: the rest of it all.
    let error = text(store.record(&image(1), &["x".repeat(300)]));
    assert!(error.ends_with(remedy), "{error}");
    let mut partial = store.cache().begin(&id(5)).unwrap();
    let error = text(partial.write_all(&[1; 100_000]));
    assert!(error.starts_with("writing /") && error.ends_with(remedy), "{error}");
    drop(partial);
    let error = text(store.put_blob(&[1; 100_000]));
    assert!(error.ends_with(remedy), "{error}");
    // Everything can still be removed, and nothing half is left.
    drop(layer);
    store.prune(false).unwrap();
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    assert!(store.find("kept").unwrap().is_some());
    rustix::mount::unmount(scratch.dir(), rustix::mount::UnmountFlags::DETACH).unwrap();
}

fn tar_header(name: &str, size: u64) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[148..156].fill(b' ');
    block[156] = b'0';
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

#[test]
fn a_read_only_store_serves_and_says_so() {
    if !in_own_mount_namespace("faults::a_read_only_store_serves_and_says_so") {
        return;
    }
    let scratch = Scratch::new();
    mount_small(&scratch.dir(), "4m");
    let one = add(&scratch.open(), 1, &["a"]);
    mount_remount(scratch.dir(), MountFlags::RDONLY, c"").unwrap();
    let store = scratch.open();
    assert_eq!(store.find("a").unwrap(), Some(one.clone()));
    let lease = store.lease(&one).unwrap();
    assert_eq!(store.images().unwrap().len(), 1);
    assert_eq!(store.usage().unwrap().images.active, 1);
    assert!(store.check().unwrap().is_empty());
    drop(lease);
    let says = |error: String| {
        let wanted = "Read-only file system (os error 30); the store is on a read-only file system: its images can be run";
        assert!(error.contains(wanted), "{error}");
    };
    says(text(store.new_layer()));
    says(text(store.record(&image(1), &["b".into()])));
    says(text(store.tag(&one, "b")));
    says(text(store.untag("a")));
    says(text(store.put_blob(b"x")));
    says(text(store.cache().begin(&id(3))));
    says(text(store.lock("key", &mut || {})));
    rustix::mount::unmount(scratch.dir(), rustix::mount::UnmountFlags::DETACH).unwrap();
    let missing = scratch.path().join("missing");
    mount_small(&missing, "1m");
    mount_remount(&missing, MountFlags::RDONLY, c"").unwrap();
    says(text(store::Store::open(&missing)));
    says(text(store::Store::open(&missing.join("deep/store"))));
    rustix::mount::unmount(&missing, rustix::mount::UnmountFlags::DETACH).unwrap();
}
