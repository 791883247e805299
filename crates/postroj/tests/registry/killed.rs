//! Pulls that are killed at any moment.

use std::time::Duration;

use crate::fixture::{is_root, out};
use crate::images::{self, image, pack_files, push};
use crate::place::Place;
use crate::server::{Counting, Registry};

#[test]
fn a_killed_pull_leaves_a_sound_store_and_goes_on() {
    let place = Place::new();
    let registry = Registry::start(&place);
    let base = images::busybox(&place);
    let large = "0123456789abcdef".repeat(200_000);
    let layers: Vec<String> = (0..6)
        .map(|n| {
            let (file, mark) = (format!("data/{n}"), format!("{n} {large}"));
            let few: Vec<(String, String)> =
                (0..40).map(|m| (format!("data/few/{n}-{m}"), m.to_string())).collect();
            let mut files = vec![(&file[..], &mark[..])];
            files.extend(few.iter().map(|(path, text)| (&path[..], &text[..])));
            pack_files(&place, &format!("{n}.tar"), &files)
        })
        .collect();
    let mut all = vec![&base[..]];
    all.extend(layers.iter().map(String::as_str));
    push(&image(&place, "t", &all), &registry.image("big:t"));
    let proxy = Counting::before(&registry);
    let name = format!("localhost:{}/big:t", proxy.port);
    let rounds = if is_root() { 30 } else { 20 };
    let mut random = 7u64;
    let (mut interrupted, mut resumed) = (0, 0);
    for round in 0..rounds {
        let mut pull = place.postroj(&["pull", "-q", &name]).spawn().unwrap();
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // After so many layers, however slow the machine is, and a moment more.
        let (layers, more) = ((random >> 33) as usize % 8, (random >> 40) % 30);
        let directory = place.path("store/layers");
        let count = || std::fs::read_dir(&directory).map_or(0, Iterator::count);
        while count() < layers && pull.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(more));
        pull.kill().unwrap();
        interrupted += u64::from(!pull.wait().unwrap().success());
        let there = place.path("store/layers");
        let whole = if there.exists() { place.stored("layers").len() } else { 0 };
        proxy.take();
        out(&mut place.postroj(&["pull", "-q", &name]));
        let blobs =
            proxy.take().iter().filter(|r| r.starts_with("GET") && r.contains("/blobs/")).count();
        // The configuration may be one of them.
        assert!(blobs <= 7 - whole + 1, "round {round}: {whole} were whole, {blobs} were fetched");
        resumed += u64::from(whole > 0 && whole < 7);
        assert_eq!(
            out(&mut place.postroj(&["system", "check"])),
            "The store is sound",
            "round {round}"
        );
        assert_eq!(out(&mut place.postroj(&["run", &name, "cat", "/data/few/5-39"])), "39");
        out(&mut place.postroj(&["rmi", &name]));
        out(&mut place.postroj(&["system", "prune"]));
        assert_eq!(place.stored("layers"), [""; 0], "round {round}");
    }
    assert!(
        interrupted > rounds / 4 && resumed > 0,
        "{interrupted} were interrupted, {resumed} resumed"
    );
}
