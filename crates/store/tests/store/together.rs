//! Many at once.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::scratch::{Scratch, add, id, image};

#[test]
fn a_lock_is_held_by_one() {
    let scratch = Scratch::new();
    let inside = AtomicBool::new(false);
    let (waited, rounds) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let store = scratch.open();
                for _ in 0..20 {
                    let lock = store
                        .lock("debian-12", &mut || {
                            waited.fetch_add(1, Ordering::Relaxed);
                        })
                        .unwrap();
                    assert!(!inside.swap(true, Ordering::SeqCst), "two hold the lock");
                    std::thread::sleep(Duration::from_micros(300));
                    inside.store(false, Ordering::SeqCst);
                    rounds.fetch_add(1, Ordering::Relaxed);
                    drop(lock);
                }
            });
        }
    });
    assert_eq!(rounds.into_inner(), 160);
    let waited = waited.into_inner();
    assert!((1..=160).contains(&waited), "told {waited} times");
    assert_eq!(scratch.list("locks"), [".changes"]);
}

#[test]
fn locks_of_different_keys_do_not_meet() {
    let scratch = Scratch::new();
    let (one, two) = (scratch.open(), scratch.open());
    let a = one.lock("a", &mut || panic!("nobody has it")).unwrap();
    let b = two.lock("b", &mut || panic!("nobody has it")).unwrap();
    let held = scratch.list("locks").len();
    assert_eq!(held, 3);
    two.sweep().unwrap();
    assert_eq!(scratch.list("locks").len(), 3, "a sweep leaves held locks alone");
    drop((a, b));
}

/// Pulls, runs, removals and sweeps of the same few images, all at once.
#[test]
fn everything_at_once_stays_sound() {
    let scratch = Scratch::new();
    drop(scratch.open());
    let until = Instant::now() + Duration::from_millis(1500);
    let (pulls, runs, removals) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for seed in 0..3u32 {
            let (scratch, pulls, runs, removals) = (&scratch, &pulls, &runs, &removals);
            scope.spawn(move || {
                for i in seed.. {
                    if Instant::now() > until {
                        break;
                    }
                    let store = scratch.open();
                    let n = i % 3;
                    let _lock = store.lock(&n.to_string(), &mut || {}).unwrap();
                    add(&store, n, &[&format!("image {n}"), "newest"]);
                    pulls.fetch_add(1, Ordering::Relaxed);
                }
            });
            scope.spawn(move || {
                for i in seed.. {
                    if Instant::now() > until {
                        break;
                    }
                    let store = scratch.open();
                    let Some(image) = store.find(&format!("image {}", i % 3)).unwrap() else {
                        continue;
                    };
                    // It may be gone by now: then that is what is said.
                    match store.lease(&image) {
                        Ok(_lease) => {
                            let file = store.layer_path(&image.layers[0]).join("dir/file");
                            for _ in 0..10 {
                                assert!(file.exists(), "a leased layer went away");
                            }
                            runs.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            assert!(error.to_string().contains("removed meanwhile"), "{error:#}")
                        }
                    }
                }
            });
            scope.spawn(move || {
                for i in seed.. {
                    if Instant::now() > until {
                        break;
                    }
                    let store = scratch.open();
                    match store.untag(&format!("image {}", i % 3)) {
                        Ok(_) => drop(removals.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => {
                            let error = format!("{error:#}");
                            assert!(
                                error.contains("there is no image") || error.contains("in use"),
                                "{error}"
                            );
                        }
                    }
                    store.prune(false).unwrap();
                    store.sweep().unwrap();
                    store.images().unwrap();
                }
            });
        }
    });
    for (what, count) in [("pulls", pulls), ("runs", runs), ("removals", removals)] {
        assert!(count.into_inner() > 5, "hardly any {what}");
    }
    let store = scratch.open();
    store.sweep().unwrap();
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
}

#[test]
fn a_layer_of_another_pull_is_taken_over_in_time() {
    // One pull removes the image whose layer another pull has just found there.
    let scratch = Scratch::new();
    let (one, two) = (scratch.open(), scratch.open());
    add(&one, 1, &["a"]);
    two.new_layer().unwrap().commit(&id(1)).unwrap();
    assert_eq!(one.untag("a").unwrap().layers, 0);
    two.record(&image(1), &["b".into()]).unwrap();
    assert!(two.check().unwrap().is_empty());
    assert!(two.layer_path(&id(1)).join("dir/file").exists());
}
