//! Writers that are killed at any moment.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use store::Store;

use crate::scratch::{Scratch, add, id};

const STORE: &str = "POSTROJ_TEST_STORE";
const ROUNDS: u32 = 150;

/// Not a test of its own: what the children of the one below do until they are killed.
#[test]
fn writer() {
    let Some(dir) = std::env::var_os(STORE) else { return };
    let mut random = u64::from(std::process::id());
    let mut below = |n: u64| {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % n
    };
    loop {
        let store = Store::open(Path::new(&dir)).unwrap();
        let n = below(4) as u32;
        let name = format!("image {n}");
        match below(10) {
            0..=4 => {
                let _lock = store.lock(&name, &mut || {}).unwrap();
                let long = "long ".repeat(100);
                add(&store, n, &[&name, if below(2) == 0 { "newest" } else { &long }]);
            }
            // Perhaps it is not there, or in use.
            5 | 6 => drop(store.untag(&name)),
            7 => {
                // The digest of nothing that is written here: it is never finished.
                let mut partial = store.cache().begin(&id(n)).unwrap();
                partial.write_all(&vec![b'x'; 20_000]).unwrap();
                if below(2) == 0 {
                    drop(partial.finish());
                }
            }
            8 => drop(store.put_blob(format!("{}", below(1000)).as_bytes()).unwrap()),
            _ => drop(store.prune(below(2) == 0).unwrap()),
        }
    }
}

fn spawn(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["killed::writer", "--exact", "--nocapture"])
        .env(STORE, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn killed_at_any_moment_nothing_half_remains() {
    let scratch = Scratch::new();
    let mut random = 42u64;
    let (mut left, mut images) = (0, 0);
    for round in 0..ROUNDS {
        let mut children = [spawn(&scratch.dir()), spawn(&scratch.dir())];
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_micros(5_000 + (random >> 33) % 40_000));
        for child in &mut children {
            child.kill().unwrap();
        }
        for child in children {
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(
                output.status.signal(),
                Some(9),
                "round {round}: it ended by itself: {said}"
            );
        }
        // The next command: it reads at once, whatever was left, and what it reads is whole.
        let store = scratch.open();
        for named in store.images().unwrap() {
            images += 1;
            let _lease = store.lease(&named.image).unwrap();
            let file = store.layer_path(&named.image.layers[0]).join("dir/file");
            assert!(fs::read_to_string(file).unwrap().starts_with("of "));
        }
        left += scratch.list("tmp").len();
        store.sweep().unwrap();
        assert_eq!(store.check().unwrap(), Vec::<String>::new(), "round {round}");
        assert!(scratch.list("tmp").is_empty(), "round {round}");
        assert_eq!(scratch.list("locks"), [".changes"], "round {round}");
    }
    assert!(left > 10 && images > 50, "hardly anybody was interrupted: {left}, {images}");
}
