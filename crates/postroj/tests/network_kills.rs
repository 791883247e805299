//! Nothing of any network is left after kill -9 of whoever takes part in it.

mod fixture;
#[path = "network/place.rs"]
mod place;
#[path = "network/users.rs"]
mod users;

use std::process::{Child, Stdio};

use fixture::{Own, is_root, out, said, wait_until};
use place::Place;
use users::{OF_ROOT, Ordinary, Root, User};

/// A process's children, their children, and so on.
fn below(pid: u32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let ids = children.split_ascii_whitespace().filter_map(|id| id.parse::<u32>().ok());
    ids.flat_map(|id| [&[id.cast_signed()], &below(id)[..]].concat()).collect()
}

/// Kills one process of a machine after the other, a hundred times: its monitor at any moment of its
/// life, from the first steps to well after its start, and once it runs whatever is below.
fn kills(user: &dyn User, network: &str, clean: &dyn Fn()) {
    let marker = format!("31337.{}", std::process::id());
    // The host of an ordinary user's run is the real one.
    let port = if is_root() { "8080:80" } else { "80" };
    let udp = format!("{port}/udp");
    let ports = ["-p", port, "-p", &udp];
    let options = [&["run", "--network", network], &ports[..]].concat();
    let mut killed = 0;
    for round in 0..100_u64 {
        let script = ["host", "sh", "-c", "echo; exec sleep $0", &marker];
        let mut run = user.postroj(&[&options[..], &script].concat());
        let mut child = run.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        if round % 2 == 0 {
            std::thread::sleep(std::time::Duration::from_micros(round * 997 % 80_000));
        } else if started(&mut child) {
            // Else whoever held the port for the last one has not ended quite yet.
            let all = below(child.id());
            let victim = all[(round / 2) as usize % all.len()];
            let victim = rustix::process::Pid::from_raw(victim).unwrap();
            // It may just have ended by itself.
            let _ = rustix::process::kill_process(victim, rustix::process::Signal::KILL);
            killed += 1;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if round % 10 == 9 {
            clean();
            wait_until("no process is left", || {
                out(&mut user.postroj(&["ps"]));
                fixture::processes_with(&marker).is_empty()
            });
        }
    }
    assert!(killed > 25, "{killed} of 50 started");
}

/// Whether a machine said that it runs.
fn started(child: &mut Child) -> bool {
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).is_ok()
}

#[test]
fn nothing_is_left_after_kills() {
    let own = Root(Own::new("net-kills"));
    if !is_root() {
        return kills(&own, "bridge", &|| {});
    }
    let place = Place::new();
    kills(&own, "bridge", &|| place.is_clean(|| own.postroj(&["ps"])));
    let refused = said(&mut place.host(&["tcp", "127.0.0.1", "8080", "1"]));
    assert_ne!(refused.code, 0, "{refused:?}");
}

#[test]
fn nothing_is_left_of_those_who_carry_packets() {
    if !is_root() {
        return println!("skipped: {OF_ROOT}");
    }
    let _place = Place::new();
    kills(&Ordinary::new("kills-pasta", None), "user,accel=off", &|| {});
    let programs = ["slirp4netns", "newuidmap", "newgidmap"];
    kills(&Ordinary::new("kills-slirp", Some(&programs)), "user,accel=off", &|| {});
}

#[test]
fn nothing_is_left_where_the_run_directory_vanishes() {
    if !is_root() {
        return println!("skipped: {OF_ROOT}");
    }
    let place = Place::new();
    let own = Own::new("net-vanished");
    let mut run =
        own.postroj(&["run", "--network", "bridge", "host", "sh", "-c", "echo; exec sleep 1000"]);
    let mut child = run.stdout(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    std::fs::remove_dir_all(own.path("run")).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    place.is_clean(|| own.postroj(&["ps"]));
}
