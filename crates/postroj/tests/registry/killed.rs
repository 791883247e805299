//! Pulls and pushes that are killed at any moment.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::fixture::{out, said};
use crate::images::{self, image, pack_files, push};
use crate::place::Place;
use crate::server::{Counting, Registry};

/// How often; `POSTROJ_KILLS=200` for as often as anybody could ask for.
fn rounds() -> u32 {
    std::env::var("POSTROJ_KILLS").map_or(40, |text| text.parse().expect("a number"))
}

/// Moments that are different each round and the same each time.
struct Moments(u64);

impl Moments {
    /// Somewhere between nothing and a quarter more than `whole`.
    fn next(&mut self, whole: Duration) -> Duration {
        let factor = 6_364_136_223_846_793_005;
        self.0 = self.0.wrapping_mul(factor).wrapping_add(1_442_695_040_888_963_407);
        whole * (self.0 >> 33) as u32 / (u32::MAX >> 1) * 5 / 4
    }
}

/// Starts it, and kills it after that time; whether it was still there.
fn kill_after(command: &mut Command, moment: Duration) -> bool {
    let mut child = command.spawn().unwrap();
    std::thread::sleep(moment);
    child.kill().unwrap();
    !child.wait().unwrap().success()
}

/// How long it takes undisturbed: at best of three, since the machine may be busy.
fn takes(mut one: impl FnMut()) -> Duration {
    let time = || {
        let start = Instant::now();
        one();
        start.elapsed()
    };
    std::iter::repeat_with(time).take(3).min().unwrap()
}

/// A small image of many layers, some of which need those below.
fn layered(place: &Place, tag: &str) -> String {
    let base = images::busybox(place);
    let layers: Vec<String> = (0..8)
        .map(|n| {
            let content = format!("{n} {}", "0123456789abcdef".repeat(4000));
            let (file, few) = (format!("data/{n}"), format!("data/few/{n}"));
            let files = [(&file[..], &content[..]), (&few, "few"), ("data/top", &tag[..1])];
            // Directories are named in every other one.
            match n % 2 {
                0 => pack_files(place, &format!("{n}.tar"), &files),
                _ => {
                    pack_files(place, &format!("{n}.tar"), &files);
                    images::pack(place, &format!("{n}.tar"), &place.path(&format!("{n}.tar.d")))
                }
            }
        })
        .collect();
    let mut all = vec![&base[..]];
    all.extend(layers.iter().map(String::as_str));
    image(place, tag, &all)
}

/// Layers of the image.
const LAYERS: usize = 9;

fn blobs(requests: &[String], method: &str) -> usize {
    requests.iter().filter(|r| r.starts_with(method) && r.contains("/blobs/")).count()
}

#[test]
fn a_killed_pull_leaves_a_sound_store_and_goes_on() {
    let place = Place::new();
    let registry = Registry::start(&place);
    push(&layered(&place, "t"), &registry.image("many:t"));
    let proxy = Counting::before(&registry);
    let name = format!("localhost:{}/many:t", proxy.port);
    let run = |args: &[&str]| out(&mut place.postroj(args));
    let clear = || {
        run(&["rmi", &name]);
        run(&["system", "prune"]);
        assert_eq!(place.stored("layers"), [""; 0]);
    };
    let whole = takes(|| {
        run(&["pull", "-q", &name]);
        clear();
    });
    let (mut moments, mut interrupted, mut resumed) = (Moments(7), 0, 0);
    for round in 0..rounds() {
        let moment = moments.next(whole);
        interrupted += u32::from(kill_after(&mut place.postroj(&["pull", "-q", &name]), moment));
        // What it had begun, the next pull removes.
        let check = said(&mut place.postroj(&["system", "check"]));
        let left = |line: &str| line.ends_with("was left by a process that is dead");
        let sound = check.out.lines().all(|line| line == "The store is sound" || left(line));
        assert!(sound, "round {round}: {check:?}");
        let there = place.path("store/layers");
        let whole = if there.exists() { place.stored("layers").len() } else { 0 };
        proxy.take();
        run(&["pull", "-q", &name]);
        let fetched = blobs(&proxy.take(), "GET");
        // The configuration may be one of them.
        let most = LAYERS - whole + 1;
        assert!(fetched <= most, "round {round}: {whole} were whole, {fetched} were fetched");
        resumed += u32::from(whole > 0 && whole < LAYERS);
        assert_eq!(run(&["system", "check"]), "The store is sound", "round {round}");
        assert_eq!(run(&["run", &name, "sh", "-c", "cd /data; echo few/* top"]), FEW);
        clear();
    }
    println!("{interrupted} of {} pulls were interrupted, {resumed} resumed", rounds());
    assert!(interrupted > 0 && resumed > 0, "{interrupted} interrupted, {resumed} resumed");
}

const FEW: &str = "few/0 few/1 few/2 few/3 few/4 few/5 few/6 few/7 top";

#[test]
fn a_killed_push_leaves_a_sound_store_and_goes_on() {
    let place = Place::new();
    let registry = Registry::start(&place);
    let from = format!("oci:{}", layered(&place, "t"));
    let proxy = Counting::before(&registry);
    let run = |args: &[&str]| out(&mut place.postroj(args));
    run(&["pull", "-q", &from]);
    let place_of = |round: u32| format!("localhost:{}/to/{round}:t", proxy.port);
    let mut next = 1_000_000;
    let whole = takes(|| {
        next += 1;
        run(&["push", "-q", &from, &place_of(next)]);
    });
    let (mut moments, mut interrupted, mut resumed) = (Moments(11), 0, 0);
    for round in 0..rounds() {
        let to = place_of(round);
        let moment = moments.next(whole);
        proxy.take();
        interrupted +=
            u32::from(kill_after(&mut place.postroj(&["push", "-q", &from, &to]), moment));
        assert_eq!(run(&["system", "check"]), "The store is sound", "round {round}");
        assert_eq!(place.stored("tmp"), [""; 0], "round {round}");
        let first = blobs(&proxy.take(), "PUT");
        run(&["push", "-q", &from, &to]);
        let second = blobs(&proxy.take(), "PUT");
        // One may have been on its way; the configuration counts as well.
        let most = LAYERS + 1 - first.saturating_sub(1);
        assert!(second <= most, "round {round}: {first} were sent, then {second}");
        resumed += u32::from(first > 0 && second < LAYERS + 1);
    }
    let last = place_of(rounds() - 1);
    run(&["rmi", &from]);
    assert_eq!(run(&["run", &last, "sh", "-c", "cd /data; echo few/* top"]), FEW);
    println!("{interrupted} of {} pushes were interrupted, {resumed} resumed", rounds());
    assert!(interrupted > 0 && resumed > 0, "{interrupted} interrupted, {resumed} resumed");
}
