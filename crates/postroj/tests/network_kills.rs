//! Nothing of any network is left after kill -9 of whoever takes part in it.

mod fixture;
#[path = "network/place.rs"]
mod place;
#[path = "network/users.rs"]
mod users;

use std::process::{Child, Command, Stdio};

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

/// Kills one process of a machine after the other: a hundred times its monitor at any moment of its
/// life, from the first steps to well after its start, and as often, once it runs, whatever is below.
fn kills(user: &dyn User, network: &str, clean: &dyn Fn()) {
    let marker = format!("31337.{}", std::process::id());
    // The host of an ordinary user's run is the real one.
    let port = if is_root() { "8080:80" } else { "80" };
    let udp = format!("{port}/udp");
    let ports = ["-p", port, "-p", &udp];
    let options = [&["run", "--network", network], &ports[..]].concat();
    let mut killed = 0;
    for round in 0..200_u64 {
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
    assert!(killed > 50, "{killed} of 100 started");
}

/// Processes of a name that have a file of the network `further` open.
fn helpers(own: &Own, name: &str) -> Vec<i32> {
    let network = own.path("run/networks/further");
    let is_ours = |pid: &i32| {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        comm.is_ok_and(|comm| comm.trim() == name) && links.any(|link| link.starts_with(&network))
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_ours).collect()
}

/// A machine comes to a network, and one of its helpers is killed, a hundred times in a row: the
/// next command finds whatever that left.
fn kills_of(own: &Own, machine: &str, helper: &str) {
    for round in 0..100 {
        let come = said(&mut own.postroj(&["network", "connect", "further", machine]));
        assert_eq!(come.code, 0, "{helper} {round}: {come:?}");
        let mut found = helpers(own, helper);
        // One that ends by itself may be there still.
        wait_until(&format!("{helper} runs"), || {
            found = helpers(own, helper);
            !found.is_empty()
        });
        for pid in found {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        if helper == "pj-lease" {
            // With it the place is gone.
            wait_until("the place is free", || {
                let shown = own.json(&["network", "inspect", "further"]);
                shown[0]["Machines"].as_array().unwrap().is_empty()
            });
        } else {
            let left = ["network", "disconnect", "further", machine];
            assert_eq!(said(&mut own.postroj(&left)).code, 0, "round {round}");
        }
    }
}

#[test]
fn nothing_is_left_of_those_who_keep_places_and_names() {
    let place = is_root().then(Place::new);
    let own = Own::new("net-helpers");
    for network in ["first", "further"] {
        out(&mut own.postroj(&["network", "create", network]));
    }
    let machine = format!("kept-{}", std::process::id());
    let start = ["run", "-d", "--rm", "--name", &machine, "--network", "first"];
    let sleeps = ["host", "sleep", "1000"];
    out(own.postroj(&[&start[..], &sleeps].concat()).stderr(Stdio::null()));
    for helper in ["pj-lease", "pj-names"] {
        kills_of(&own, &machine, helper);
    }
    // The kernel takes the devices of a namespace that is gone in its own time (`cleanup_net`).
    wait_until("its devices are those of its first network", || {
        out(&mut own.postroj(&["exec", &machine, "ls", "/sys/class/net"])) == "eth0\nlo"
    });
    out(&mut own.postroj(&["rm", "-f", &machine]));
    wait_until("no process is left", || {
        out(&mut own.postroj(&["ps"]));
        ["pj-lease", "pj-names", "pj-network"].iter().all(|name| helpers(&own, name).is_empty())
    });
    if let Some(place) = place {
        place.is_clean(|| own.postroj(&["ps"]));
    }
}

/// `run` of a machine that asks for an alias of its own, which its own files do not have.
fn asks_for_itself(own: &Own, alias: &str) -> Command {
    let options = ["run", "--rm", "--network", "further", "--network-alias", alias];
    let script = ["host", "perl", "-e", place::PEER, "resolve", alias];
    own.postroj(&[&options[..], &script].concat())
}

#[track_caller]
fn knows_itself(child: Child, when: &str) {
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.starts_with("10."), "{when}: {told:?} {output:?}");
}

fn kill_speakers(own: &Own) {
    for pid in helpers(own, "pj-names") {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

#[test]
fn names_are_answered_whoever_answered_has_ended() {
    let place = is_root().then(Place::new);
    let own = Own::new("net-speakers");
    out(&mut own.postroj(&["network", "create", "further"]));
    let start = |alias: &str| {
        let mut run = asks_for_itself(&own, alias);
        run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for round in 0..40 {
        kill_speakers(&own);
        if !is_root() {
            // A user's network ends with it, and all that is on it.
            wait_until("its network is gone", || helpers(&own, "pj-names").is_empty());
        }
        knows_itself(start(&format!("k{round}")), &format!("killed before round {round}"));
    }
    // Two come as the last one's time is over: a second after it was asked for the last time.
    for round in 0..20_u64 {
        std::thread::sleep(std::time::Duration::from_millis(900 + round * 7));
        let two = ["a", "b"].map(|name| start(&format!("{name}{round}")));
        for child in two {
            knows_itself(child, &format!("at the end before round {round}"));
        }
    }
    if let Some(place) = place {
        next_command_answers(&own);
        place.is_clean(|| own.postroj(&["ps"]));
    }
}

/// Machines that run have their names back with the next command.
fn next_command_answers(own: &Own) {
    let machine = format!("speaker-{}", std::process::id());
    let options = ["run", "-d", "--rm", "--name", &machine, "--network", "further"];
    let sleeps = ["--network-alias", "kept", "host", "sleep", "1000"];
    out(own.postroj(&[&options[..], &sleeps].concat()).stderr(Stdio::null()));
    kill_speakers(own);
    wait_until("nobody answers", || helpers(own, "pj-names").is_empty());
    let resolve = ["exec", &machine, "perl", "-e", place::PEER, "resolve", "kept"];
    // A command that finds whoever answered still dying leaves it to the next one.
    wait_until("a command has names answered", || {
        out(&mut own.postroj(&["ps"]));
        said(&mut own.postroj(&resolve)).out.starts_with("10.")
    });
    out(&mut own.postroj(&["rm", "-f", &machine]));
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
