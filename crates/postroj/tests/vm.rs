//! Virtual machines from the command line. Each boots a kernel, emulated where KVM cannot be had, so that
//! few machines are asked many things.

mod fixture;

use std::io::Write;
use std::process::Stdio;

use fixture::terminal::Terminal;
use fixture::{IMAGE, Machine, debian, fails, home, image, out, postroj, said};

const VM: [&str; 4] = ["--isolation", "vm", "--network", "none"];

fn host_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim().to_owned()
}

/// What is left of machines on this host: processes of QEMU's, and sockets.
fn left(id: &str) -> (Vec<i32>, bool) {
    let qemu = fixture::processes_with(&format!("postroj-{}", &id[..12]));
    (qemu, home().join("run/sockets").join(id).exists())
}

fn id_of(machine: &Machine) -> String {
    let text = out(&mut postroj(&["inspect", &machine.name]));
    let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
    shown[0]["Id"].as_str().unwrap().to_owned()
}

fn is_clean(id: &str) {
    fixture::wait_until("QEMU has ended", || left(id).0.is_empty());
    assert!(!left(id).1, "a socket is left");
}

#[test]
fn a_command_runs_under_a_kernel_of_its_own() {
    image();
    let script = "uname -r; cat; pwd; id -u; echo $WORD; echo trouble >&2; exit 7";
    let options = ["-i", "-e", "WORD=word", "-w", "/srv", "-u", "app"];
    let mut command =
        postroj(&[&["run"], &VM[..], &options, &[IMAGE, "sh", "-c", script]].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"input\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(7), "{text} {error}");
    let lines: Vec<&str> = text.lines().collect();
    assert_ne!(lines[0], host_release());
    assert_eq!(lines[1..], ["input", "/srv", "1000", "word"]);
    assert!(error.ends_with("trouble\n"), "{error}");
}

#[test]
fn what_only_a_container_can_have_is_refused_before_anything_is_made() {
    image();
    for (options, part) in [
        (&["--privileged"][..], "--privileged means nothing with --isolation vm"),
        (&["--userns", "keep-id"], "--userns means nothing"),
        (&["--nested"], "--nested means nothing"),
        (&["--network", "host"], "cannot share a network"),
    ] {
        let args = [&["run", "--isolation", "vm", "--network", "none"], options].concat();
        // A later --network wins nowhere: it may be given once.
        let args = match options[0] {
            "--network" => [&["run", "--isolation", "vm"], options].concat(),
            _ => args,
        };
        fails(&mut postroj(&[&args[..], &[IMAGE, "true"]].concat()), 125, &[part]);
    }
    fails(
        &mut postroj(&[&["run"], &VM[..], &[IMAGE, "nothing"]].concat()),
        127,
        &["cannot execute \"nothing\""],
    );
}

#[test]
fn a_machine_in_the_background_is_asked_many_things() {
    image();
    let script = "trap 'exit 9' TERM; echo began; while :; do sleep 1; done";
    let machine = Machine::start(
        &[&["run", "-d"], &VM[..], &["-e", "A=1", IMAGE, "sh", "-c", script]].concat(),
    );
    let id = id_of(&machine);
    holds_no_stream_of_its_starter(&machine);
    let listed = out(&mut postroj(&["ps"]));
    assert!(listed.contains(&machine.name), "{listed}");
    commands(&machine);
    files(&machine);
    terminal(&machine);
    assert_eq!(out(&mut postroj(&["logs", &machine.name])), "began");
    let shown = out(&mut postroj(&["top", &machine.name]));
    assert!(shown.contains("sleep 1"), "{shown}");
    uses(&machine);
    assert_eq!(machine.stop(), 9, "it was sent SIGTERM, and took it");
    fails(&mut machine.exec(&[], &["true"]), 125, &["has ended"]);
    is_clean(&id);
}

/// Else who reads what `run -d` says would wait for the machine's end.
fn holds_no_stream_of_its_starter(machine: &Machine) {
    let shown: serde_json::Value =
        serde_json::from_str(&out(&mut postroj(&["inspect", &machine.name]))).unwrap();
    let process = &shown[0]["State"]["Pid"];
    for stream in 0..3 {
        let leads_to = std::fs::read_link(format!("/proc/{process}/fd/{stream}")).unwrap();
        assert_eq!(leads_to, std::path::Path::new("/dev/null"), "stream {stream}");
    }
}

/// What it takes of the host, and what its guest says.
fn uses(machine: &Machine) {
    let stats = ["stats", "--no-stream", "--json", &machine.name];
    let shown: serde_json::Value = serde_json::from_str(&out(&mut postroj(&stats))).unwrap();
    let number = |name: &str| shown[0][name].as_f64().unwrap_or_else(|| panic!("{name}: {shown}"));
    assert!(number("CPUSeconds") > 0.0 && number("CPUPercent") > 0.0, "{shown}");
    let (used, has) = (number("GuestMemoryBytes"), number("GuestMemoryTotalBytes"));
    // A gibibyte, but for what the kernel takes for itself.
    assert!(0.0 < used && used < has && 7e8 < has && has < 1.1e9, "{shown}");
    assert!(number("MemoryBytes") > 1e6, "{shown}");
    assert!(number("Pids") >= 2.0 && number("NetworkSentBytes") == 0.0, "{shown}");
    let table = out(&mut postroj(&["stats", "--no-stream", &machine.name]));
    assert!(table.lines().next().unwrap().ends_with("GUEST MEM / TOTAL"), "{table}");
    out(&mut postroj(&["pause", &machine.name]));
    let shown: serde_json::Value = serde_json::from_str(&out(&mut postroj(&stats))).unwrap();
    assert!(shown[0]["GuestMemoryBytes"].is_null() && shown[0]["CPUSeconds"].is_number());
    out(&mut postroj(&["unpause", &machine.name]));
}

fn commands(machine: &Machine) {
    let both = said(&mut machine.exec(&[], &["sh", "-c", "echo $A; echo no >&2; exit 3"]));
    assert_eq!((both.code, &*both.out, &*both.err), (3, "1\n", "no\n"));
    fails(&mut machine.exec(&[], &["nothing"]), 127, &["cannot execute"]);
    assert_eq!(said(&mut machine.exec(&[], &["sh", "-c", "kill -9 $$"])).code, 137);
    assert_eq!(out(&mut machine.exec(&["-u", "app"], &["id", "-un"])), "app");
    assert_eq!(out(&mut machine.exec(&["-w", "/srv"], &["pwd"])), "/srv");
    // More than any window holds, both ways at once.
    let size = 3 << 20;
    let mut echo = machine.exec(&["-i"], &["cat"]);
    let mut child = echo.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let sent: Vec<u8> = (0..size).map(|n: u32| (n >> 3) as u8).collect();
    let bytes = sent.clone();
    let writer = std::thread::spawn(move || input.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success() && output.stdout == sent);
    // Who does not read holds up nobody else, and its command ends with it.
    let mut flood = machine.exec(&[], &["yes", "flood"]);
    let mut flood = flood.stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(out(&mut machine.exec(&[], &["echo", "fine"])), "fine");
    flood.kill().unwrap();
    flood.wait().unwrap();
    let ends = || !out(&mut postroj(&["top", &machine.name])).contains("yes");
    fixture::wait_until("its command has ended", ends);
}

fn files(machine: &Machine) {
    let own = home().join(format!("vm-{}", machine.name));
    std::fs::create_dir_all(own.join("in/deep")).unwrap();
    std::fs::write(own.join("in/deep/file"), "copied").unwrap();
    let path = |name: &str| own.join(name).to_str().unwrap().to_owned();
    let inside = |name: &str| format!("{}:{name}", machine.name);
    out(&mut postroj(&["cp", &path("in"), &inside("/srv")]));
    assert_eq!(out(&mut machine.exec(&[], &["cat", "/srv/in/deep/file"])), "copied");
    out(&mut postroj(&["cp", &inside("/srv/in"), &path("out")]));
    assert_eq!(std::fs::read_to_string(own.join("out/deep/file")).unwrap(), "copied");
    fails(&mut postroj(&["cp", &inside("/nothing"), &path("x")]), 125, &["/nothing"]);
    std::fs::remove_dir_all(own).unwrap();
}

fn terminal(machine: &Machine) {
    // A new size and what is typed go different ways: whichever comes first.
    let script = "stty size; read line; echo got-$line; \
                  until [ \"$(stty size)\" = '20 60' ]; do sleep 0.1; done; echo resized; exit 4";
    let mut person =
        Terminal::start(&["exec", "-it", &machine.name, "sh", "-c", script], &[("TERM", "xterm")]);
    person.sees("33 101");
    person.types("word\r");
    person.sees("got-word");
    person.resize(20, 60);
    person.signal(rustix::process::Signal::WINCH);
    person.sees("resized");
    assert_eq!(person.ends(), 4);
    assert!(!person.is_raw());
}

#[test]
fn whoever_is_killed_the_rest_goes_and_says_why() {
    image();
    let start = || {
        let words = [&["run", "-d"], &VM[..], &[IMAGE, "sleep", "1000"]].concat();
        let machine = Machine::start(&words);
        let id = id_of(&machine);
        (machine, id)
    };
    let send = |pid: i32, signal| {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    };
    let kill = |pid: i32| send(pid, rustix::process::Signal::KILL);
    for (signal, verdict) in [
        (rustix::process::Signal::KILL, "QEMU was killed by signal 9"),
        (rustix::process::Signal::TERM, "somebody told QEMU to end"),
    ] {
        let (machine, id) = start();
        let [qemu] = left(&id).0[..] else { panic!("there is one QEMU") };
        send(qemu, signal);
        assert_eq!(out(&mut postroj(&["wait", &machine.name])), "125");
        let log = said(&mut postroj(&["logs", &machine.name]));
        let text = log.out + &log.err;
        assert!(text.contains(verdict), "{text}");
        is_clean(&id);
    }

    let (machine, id) = start();
    let monitors = fixture::processes_with(&machine.name);
    monitors.into_iter().for_each(kill);
    fixture::wait_until("QEMU has ended", || left(&id).0.is_empty());
    // Whoever looks next cleans up.
    out(&mut postroj(&["ps"]));
    let _ = postroj(&["rm", "-f", &machine.name]).output();
    is_clean(&id);

    let (machine, id) = start();
    out(&mut postroj(&["kill", &machine.name]));
    assert_eq!(out(&mut postroj(&["wait", &machine.name])), "137");
    is_clean(&id);
}

#[test]
fn a_system_boots() {
    let image = debian("debian-12");
    let machine = Machine::boot(&VM, &image);
    assert_eq!(out(&mut machine.exec(&[], &["systemctl", "is-system-running"])), "running");
    assert_ne!(out(&mut machine.exec(&[], &["uname", "-r"])), host_release());
    out(&mut postroj(&["wait", "--for", "ready", &machine.name]));
    assert_eq!(machine.stop(), 0);
}
