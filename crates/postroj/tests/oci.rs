//! The OCI runtime by itself: bundles are made here, and each verb is called as podman, containerd and
//! people call it. As root on the host's control groups; as an ordinary user in a user namespace.

mod fixture;

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use fixture::bundle::{Bundle, refused};
use fixture::{Said, is_root, out, program, said};
use serde_json::{Value, json};

#[test]
fn create_start_kill_delete() {
    let bundle =
        Bundle::new("life").sh("trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done");
    bundle.create("a");
    let state = bundle.state("a");
    assert_eq!(state["status"], "created");
    assert_eq!(state["ociVersion"], "1.2.0");
    assert_eq!(state["bundle"].as_str(), bundle.dir.canonicalize().unwrap().to_str());
    let pid = std::fs::read_to_string(bundle.dir.join("pid")).unwrap();
    assert_eq!(state["pid"].to_string(), pid);
    assert_eq!(bundle.log(), "", "nothing runs before the start");
    refused(&mut bundle.oci(&["create", "a"]), "exists already");
    refused(&mut bundle.oci(&["delete", "a"]), "not stopped: it is created");
    out(&mut bundle.oci(&["start", "a"]));
    refused(&mut bundle.oci(&["start", "a"]), "it is running");
    refused(&mut bundle.oci(&["delete", "a"]), "not stopped: it is running");
    assert_eq!(out(&mut bundle.oci(&["exec", "a", "echo", "inside"])), "inside");
    assert_eq!(out(&mut bundle.oci(&["list", "-q"])), "a");
    while bundle.log() != "up\n" {
        std::thread::yield_now();
    }
    out(&mut bundle.oci(&["kill", "a", "TERM"]));
    bundle.ended();
    assert_eq!(bundle.state("a")["status"], "stopped");
    refused(&mut bundle.oci(&["kill", "a", "TERM"]), "not running");
    refused(&mut bundle.oci(&["exec", "a", "true"]), "it is stopped");
    out(&mut bundle.oci(&["delete", "a"]));
    refused(&mut bundle.oci(&["state", "a"]), "does not exist");
    assert_eq!(std::fs::read_dir(bundle.dir.join("state")).unwrap().count(), 0);
}

#[test]
fn run_ends_as_its_command_does() {
    for (script, code) in [("exit 3", 3), ("kill -9 $$; exit 4", 4), ("true", 0)] {
        let bundle = Bundle::new("run").sh(script);
        assert_eq!(said(&mut bundle.oci(&["run", "r"])).code, code, "{script}");
        assert_eq!(out(&mut bundle.oci(&["list", "-q"])), "");
    }
}

#[test]
fn what_is_seen_inside() {
    let mut bundle = Bundle::new("inside");
    bundle.config["process"]["cwd"] = "/made/cwd".into();
    bundle.config["process"]["user"] = json!({ "uid": 0, "gid": 0, "umask": 0o27 });
    bundle.config["process"]["oomScoreAdj"] = 500.into();
    bundle.config["root"]["readonly"] = false.into();
    bundle.config["process"]["rlimits"] =
        json!([{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 88 }]);
    bundle.config["domainname"] = "dom".into();
    let bundle = bundle.sh(
        "pwd; umask; hostname; cat /proc/sys/kernel/domainname /proc/self/oom_score_adj; ulimit -n
         ls /dev/fd/ | wc -l; test -c /dev/null && test -L /dev/ptmx && echo dev
         grep -E '^(CapEff|NoNewPrivs)' /proc/self/status; ls /proc/scsi /sys/firmware | wc -l
         touch /proc/sys/x 2>/dev/null || echo ro; echo $$",
    );
    let seen = out(&mut bundle.oci(&["run", "r"]));
    let caps = "CapEff:\t0000000020000420\nNoNewPrivs:\t1";
    let wanted = format!("/made/cwd\n0027\ncontainer\ndom\n500\n77\n4\ndev\n{caps}\n");
    assert!(seen.starts_with(&wanted), "{seen}");
    assert!(seen.ends_with("ro\n1"), "{seen}");
}

#[test]
fn mount_options() {
    let mut bundle = Bundle::new("mounts");
    let shared = bundle.dir.join("shared");
    std::fs::create_dir_all(shared.join("below")).unwrap();
    std::fs::create_dir_all(bundle.dir.join("rootfs/full/sub")).unwrap();
    std::fs::write(bundle.dir.join("rootfs/full/sub/file"), "kept\n").unwrap();
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    let mut add = |target: &str, kind: &str, source: &Path, options: &[&str]| {
        let source = source.to_str().unwrap();
        mounts.push(
            json!({ "destination": target, "type": kind, "source": source, "options": options }),
        );
    };
    add("/plain", "bind", &shared, &["bind"]);
    add("/plain/below", "tmpfs", Path::new("tmpfs"), &["size=64k"]);
    add("/ro", "none", Path::new("shared"), &["rbind", "ro", "nosuid", "nodev", "noexec"]);
    add("/rro", "none", &shared, &["rbind", "rro"]);
    add("/full", "tmpfs", Path::new("tmpfs"), &["tmpcopyup", "noatime", "ro"]);
    add("/shared", "tmpfs", Path::new("tmpfs"), &["rshared"]);
    add("/file", "bind", Path::new("config.json"), &["bind", "ro"]);
    let bundle = bundle.sh(
        "for at in /plain /ro /rro /full /shared /file; do cut -d' ' -f5-7 /proc/self/mountinfo | grep \"^$at \"; done
         touch /plain/a && echo w; touch /ro/b 2>/dev/null || echo r; touch /rro/below/c 2>/dev/null || echo r
         cat /full/sub/file; touch /full/d 2>/dev/null || echo r; head -c 1 /file",
    );
    let seen = out(&mut bundle.oci(&["run", "r"]));
    let lines: Vec<&str> = seen.lines().collect();
    assert!(lines[0].starts_with("/plain rw"), "{seen}");
    assert!(lines[1].starts_with("/ro ro,nosuid,nodev,noexec"), "{seen}");
    assert!(lines[2].starts_with("/rro ro"), "{seen}");
    assert!(lines[3].starts_with("/full ro") && lines[3].contains("noatime"), "{seen}");
    assert!(lines[4].starts_with("/shared rw") && lines[4].contains("shared:"), "{seen}");
    assert!(lines[5].starts_with("/file ro"), "{seen}");
    assert_eq!(lines[6..], ["w", "r", "r", "kept", "r", "{"], "{seen}");
}

#[test]
fn hooks_come_in_order_with_the_state() {
    let mut bundle = Bundle::new("hooks");
    let told = bundle.dir.join("told");
    let hook = |name: &str, number: u32| {
        let script = format!("echo {name}{number} $(cat) >> {}", told.display());
        json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A=b"], "timeout": 30 })
    };
    // Of the container's own programs, which writes to its root.
    let inside = json!({ "path": "/bin/sh", "args": ["sh", "-c", "cat > /told"] });
    let outside = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    let mut hooks: serde_json::Map<String, Value> = outside
        .iter()
        .map(|name| ((*name).to_owned(), json!([hook(name, 1), hook(name, 2)])))
        .collect();
    hooks.insert("startContainer".into(), json!([inside]));
    bundle.config["hooks"] = Value::Object(hooks);
    bundle.config["root"]["readonly"] = false.into();
    bundle.config["annotations"] = json!({ "org.a": "b" });
    let bundle = bundle.sh("test -s /told");
    bundle.create("h");
    out(&mut bundle.oci(&["start", "h"]));
    bundle.ended();
    out(&mut bundle.oci(&["delete", "h"]));
    let text = std::fs::read_to_string(&told).unwrap();
    let (mut names, mut states) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let (name, state) = line.split_once(' ').unwrap();
        let state: Value = serde_json::from_str(state).unwrap();
        assert_eq!((&state["id"], &state["annotations"]["org.a"]), (&json!("h"), &json!("b")));
        names.push(name.to_owned());
        states.push(state["status"].as_str().unwrap().to_owned());
    }
    let wanted: Vec<String> =
        outside.iter().flat_map(|name| [format!("{name}1"), format!("{name}2")]).collect();
    assert_eq!(names, wanted);
    assert_eq!(states[..6], ["created"; 6]);
    assert_eq!(states[6..], ["running", "running", "stopped", "stopped"]);
    let inside = std::fs::read(bundle.dir.join("rootfs/told")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&inside).unwrap()["status"], "created");
}

#[test]
fn a_hook_that_fails_leaves_nothing() {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let mut bundle = Bundle::new("hookfail");
        bundle.config["hooks"] = json!({ kind: [{ "path": "/bin/false" }] });
        let bundle = bundle.sh("true");
        refused(&mut bundle.oci(&["create", "f"]), "the hook /bin/false failed");
        assert_eq!(std::fs::read_dir(bundle.dir.join("state")).unwrap().count(), 0, "{kind}");
    }
    let mut bundle = Bundle::new("hooktime");
    bundle.config["hooks"] = json!({ "createRuntime": [{ "path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1 }] });
    let bundle = bundle.sh("true");
    refused(&mut bundle.oci(&["create", "f"]), "longer than its timeout of 1 s");
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 16] = [
        ("for version \"2.0.0\"", |c| c["ociVersion"] = "2.0.0".into()),
        ("process.args is empty", |c| c["process"]["args"] = json!([])),
        ("no absolute path", |c| c["process"]["cwd"] = "tmp".into()),
        // By these words those who call a runtime know 127 from 126.
        ("cannot execute /nosuch: no such file or directory", |c| {
            c["process"]["args"] = json!(["/nosuch"]);
        }),
        ("exec: \"nosuch\": executable file not found in $PATH: no such file or directory", |c| {
            c["process"]["args"] = json!(["nosuch"]);
        }),
        ("cannot execute /etc: permission denied", |c| {
            c["process"]["args"] = json!(["/etc"]);
        }),
        ("cannot find the root", |c| c["root"]["path"] = "nowhere".into()),
        ("this host has no AppArmor", |c| c["process"]["apparmorProfile"] = "x".into()),
        ("this host has no SELinux", |c| c["process"]["selinuxLabel"] = "x".into()),
        ("maps ids, but has no user namespace", |c| {
            c["linux"]["namespaces"] = json!([{ "type": "mount" }]);
            c["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": 0, "size": 1 }]);
            c.as_object_mut().unwrap().remove("hostname");
        }),
        ("has Pid twice", |c| {
            let all = c["linux"]["namespaces"].as_array_mut().unwrap();
            all.push(json!({ "type": "pid" }));
        }),
        ("the sysctl kernel.panic is the host's", |c| {
            c["linux"]["sysctl"] = json!({ "kernel.panic": "1" });
        }),
        ("the action \"SCMP_ACT_MAYBE\"", |c| {
            c["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_MAYBE" });
        }),
        ("unknown rlimit", |c| {
            c["process"]["rlimits"] = json!([{ "type": "RLIMIT_MOON", "soft": 1, "hard": 1 }]);
        }),
        ("rootfsPropagation", |c| c["linux"]["rootfsPropagation"] = "far".into()),
        ("cannot mount", |c| {
            let all = c["mounts"].as_array_mut().unwrap();
            all.push(json!({ "destination": "/x", "type": "bind", "source": "/nosuch", "options": ["bind"] }));
        }),
    ];
    let mut bundle = Bundle::new("refused").sh("true");
    let good = bundle.config.clone();
    for (part, change) in cases {
        change(&mut bundle.config);
        bundle = bundle.written();
        refused(&mut bundle.oci(&["create", "f"]), part);
        let left = std::fs::read_dir(bundle.dir.join("state")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{part}");
        bundle.config = good.clone();
    }
    for id in ["", "..", "a/b", "a b"] {
        refused(&mut bundle.oci(&["create", id]), "invalid container id");
    }
    refused(&mut bundle.oci(&["checkpoint", "a"]), "not supported");
    refused(&mut bundle.oci(&["--systemd-cgroup", "create", "a"]), "cgroupfs");
}

/// It is there until its start, which says why nothing can run (runtime-spec 1.2, `config.md`, "Process").
#[test]
fn a_container_without_a_process_cannot_be_started() {
    let mut bundle = Bundle::new("idle");
    bundle.config.as_object_mut().unwrap().remove("process");
    let bundle = bundle.written();
    bundle.create("i");
    assert_eq!(bundle.state("i")["status"], "created");
    refused(&mut bundle.oci(&["start", "i"]), "config.json has no process");
    bundle.ended();
    assert_eq!(bundle.state("i")["status"], "stopped");
    out(&mut bundle.oci(&["delete", "i"]));
}

#[test]
fn errors_are_logged_as_json() {
    let bundle = Bundle::new("log").sh("true");
    let log = bundle.dir.join("errors");
    let mut command = Command::new(program());
    command.args(["oci", "--log", log.to_str().unwrap(), "--log-format=json", "--root"]);
    refused(command.arg(bundle.dir.join("state")).args(["state", "nobody"]), "does not exist");
    let line: Value = serde_json::from_slice(&std::fs::read(log).unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().unwrap().contains("does not exist"), "{line}");
}

/// What came with one message on a socket.
fn received(listener: &UnixListener) -> (std::fs::File, Vec<u8>) {
    let (socket, _) = listener.accept().unwrap();
    let channel = sys::socket::Channel::from(std::os::fd::OwnedFd::from(socket));
    let mut message = vec![0; 1 << 16];
    let (length, mut descriptors) = channel.receive(&mut message).unwrap();
    message.truncate(length);
    (descriptors.pop().expect("a descriptor").into(), message)
}

#[test]
fn a_terminal_is_sent_to_the_console_socket() {
    let mut bundle = Bundle::new("console");
    bundle.config["process"]["terminal"] = true.into();
    bundle.config["process"]["consoleSize"] = json!({ "height": 11, "width": 33 });
    let bundle = bundle.sh("test -t 0 && test -t 1 && test -c /dev/console && stty size; sleep 60");
    refused(&mut bundle.oci(&["create", "t"]), "no --console-socket");
    let path = bundle.dir.join("console");
    let listener = UnixListener::bind(&path).unwrap();
    let mut create = bundle.oci(&["create", "--pid-file", "pid", "--console-socket"]);
    out(create.arg(&path).arg("t"));
    let (mut terminal, _) = received(&listener);
    out(&mut bundle.oci(&["start", "t"]));
    let mut seen = String::new();
    while !seen.contains('\n') {
        let mut chunk = [0; 64];
        let length = terminal.read(&mut chunk).unwrap();
        seen.push_str(&String::from_utf8_lossy(&chunk[..length]));
    }
    assert_eq!(seen.trim(), "11 33");
    let mut exec = bundle.oci(&["exec", "-t", "-d", "--console-socket"]);
    out(exec.arg(&path).args(["t", "sh", "-c", "tty; echo done"]));
    let (mut terminal, _) = received(&listener);
    let mut seen = Vec::new();
    // A terminal that nobody has open any more is an error to read from.
    let _ = terminal.read_to_end(&mut seen);
    assert!(String::from_utf8_lossy(&seen).contains("done"), "{seen:?}");
}

#[test]
fn preserved_descriptors_and_no_others() {
    let bundle = Bundle::new("fds").sh("cat <&3; ls /proc/self/fd | wc -l");
    let file = bundle.dir.join("third");
    std::fs::write(&file, "third\n").unwrap();
    let script = format!(
        "exec {} oci --root {} run --preserve-fds 1 r 3<{} 7<{}",
        program().display(),
        bundle.dir.join("state").display(),
        file.display(),
        file.display()
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]).current_dir(&bundle.dir).stdin(Stdio::null());
    // The three streams, the third, and the directory that is listed.
    assert_eq!(out(&mut command), "third\n5");
}

#[test]
fn filters() {
    let mut bundle = Bundle::new("seccomp");
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [
            { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 },
            { "names": ["kill"], "action": "SCMP_ACT_ERRNO",
              "args": [{ "index": 1, "value": 5, "op": "SCMP_CMP_GT" },
                       { "index": 0, "value": 1, "op": "SCMP_CMP_EQ" }] },
        ],
    });
    for nnp in [true, false] {
        bundle.config["process"]["noNewPrivileges"] = nnp.into();
        bundle.config["root"]["readonly"] = false.into();
        bundle = bundle.sh(
            "mkdir /x 2>&1; kill -0 1 && echo zero; kill -10 1 2>&1; grep Seccomp: /proc/self/status",
        );
        let seen = out(&mut bundle.oci(&["run", "r"]));
        assert!(seen.contains("No space left on device"), "{seen}");
        assert!(seen.contains("zero") && seen.contains("not permitted"), "{seen}");
        assert!(seen.contains("Seccomp:\t2"), "{seen}");
    }
}

#[test]
fn a_filter_s_listener_is_handed_on() {
    let mut bundle = Bundle::new("notify");
    let path = bundle.dir.join("listener");
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": path, "listenerMetadata": "meta",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }],
    });
    let bundle = bundle.sh("mkdir /asked && echo made");
    let listener = UnixListener::bind(&path).unwrap();
    bundle.create("n");
    let mut start = bundle.oci(&["start", "n"]).spawn().unwrap();
    let (file, message) = received(&listener);
    let told: Value = serde_json::from_slice(&message).unwrap();
    assert_eq!((&told["metadata"], &told["fds"]), (&json!("meta"), &json!(["seccompFd"])));
    assert_eq!((&told["state"]["id"], told["pid"].is_number()), (&json!("n"), true));
    assert!(start.wait().unwrap().success());
    let calls = sys::notify::Listener::new(file.into());
    let call = calls.receive().unwrap().expect("a call");
    assert!(call.name().starts_with("mkdir"), "{}", call.name());
    calls.answer(&call, sys::notify::Verdict::Done(0)).unwrap();
    bundle.ended();
    assert_eq!(bundle.log(), "made\n");
}

#[test]
fn namespaces_are_joined_by_their_paths() {
    let bundle = Bundle::new("first").sh("sleep 60");
    bundle.create("one");
    out(&mut bundle.oci(&["start", "one"]));
    let pid = bundle.state("one")["pid"].to_string();
    let mut second = Bundle::new("second");
    let kinds =
        [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid"), ("user", "user")];
    for namespace in second.config["linux"]["namespaces"].as_array_mut().unwrap() {
        let name = kinds.iter().find(|(kind, _)| namespace["type"] == *kind);
        if let Some((_, name)) = name {
            namespace["path"] = format!("/proc/{pid}/ns/{name}").into();
        }
    }
    let second = second
        .sh("for n in net ipc uts mnt; do readlink /proc/self/ns/$n; done; ps | grep -c sleep");
    let seen = out(&mut second.oci(&["run", "two"]));
    let lines: Vec<&str> = seen.lines().collect();
    for (line, name) in lines.iter().zip(["net", "ipc", "uts"]) {
        let theirs = std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        assert_eq!(*line, theirs.to_str().unwrap());
    }
    assert_ne!(
        lines[3],
        std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap().to_str().unwrap()
    );
    assert!(lines[4].parse::<u32>().unwrap() > 0, "{seen}");
}

#[test]
fn clocks_of_its_own() {
    if !Path::new("/proc/self/ns/time").exists() {
        println!("skipped: this kernel has no time namespaces");
        return;
    }
    let mut bundle = Bundle::new("time");
    let all = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    all.push(json!({ "type": "time" }));
    bundle.config["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1_000_000_000 } });
    let bundle = bundle.sh("cut -d. -f1 /proc/uptime");
    let seen: u64 = out(&mut bundle.oci(&["run", "r"])).parse().unwrap();
    assert!(seen > 1_000_000_000, "{seen}");
}

#[test]
fn limits_freezing_and_numbers() {
    if !is_root() {
        println!("skipped: control groups are not delegated to users on every host");
        return;
    }
    let mut bundle = Bundle::new("limits");
    let group = format!("/postroj-test-{}/one", std::process::id());
    bundle.config["linux"]["cgroupsPath"] = group.clone().into();
    bundle.config["linux"]["resources"] = json!({
        "memory": { "limit": 64 << 20 },
        "pids": { "limit": 20 },
        "cpu": { "quota": 50000, "period": 100_000 },
        "devices": [
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw" },
        ],
    });
    let bundle = bundle.sh("sleep 60");
    bundle.create("l");
    out(&mut bundle.oci(&["start", "l"]));
    let pid = bundle.state("l")["pid"].to_string();
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(groups.lines().all(|line| line.ends_with(&group)), "{groups}");
    let stats: Value =
        serde_json::from_str(&out(&mut bundle.oci(&["events", "--stats", "l"]))).unwrap();
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], 64 << 20);
    assert_eq!(stats["data"]["pids"], json!({ "current": 1, "limit": 20 }));
    out(&mut bundle.oci(&["update", "--memory", "32m", "--pids-limit", "10", "l"]));
    let stats: Value =
        serde_json::from_str(&out(&mut bundle.oci(&["events", "--stats", "l"]))).unwrap();
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], 32 << 20);
    assert_eq!(stats["data"]["pids"]["limit"], 10);
    out(&mut bundle.oci(&["pause", "l"]));
    assert_eq!(bundle.state("l")["status"], "paused");
    refused(&mut bundle.oci(&["exec", "l", "true"]), "it is paused");
    out(&mut bundle.oci(&["resume", "l"]));
    for (below, part) in [
        ("..", "is not a sub cgroup path"),
        ("nosuch", "error adding pid"),
        ("memory:/a/../../b", "is not a sub cgroup path"),
        ("whaaat:/", "unknown controller whaaat"),
    ] {
        refused(&mut bundle.oci(&["exec", "--cgroup", below, "l", "true"]), part);
    }
    assert_eq!(out(&mut bundle.oci(&["exec", "--cgroup", "/", "l", "echo", "top"])), "top");
    out(&mut bundle.oci(&["exec", "l", "true"]));
    assert_eq!(out(&mut bundle.oci(&["ps", "-f", "json", "l"])), format!("[{pid}]"));
    out(&mut bundle.oci(&["delete", "--force", "l"]));
    let layout = sys::cgroups::Layout::read().unwrap();
    for hierarchy in layout.legacy.iter().chain(&layout.unified) {
        let left = hierarchy.mount.join(group.trim_start_matches('/'));
        assert!(!left.exists() && !left.parent().unwrap().exists(), "{}", left.display());
    }
}

/// Groups that are somebody else's, frozen ones, and limits that are none.
#[test]
fn found_groups_and_wrong_limits() {
    if !is_root() {
        println!("skipped: control groups are not delegated to users on every host");
        return;
    }
    let mut bundle = Bundle::new("found");
    let group = format!("/postroj-found-{}/one", std::process::id());
    bundle.config["linux"]["cgroupsPath"] = group.clone().into();
    // As docker writes what it was not asked for.
    bundle.config["linux"]["resources"] =
        json!({ "cpu": { "shares": 0, "quota": 0 }, "blockIO": { "weight": 0 }, "memory": {} });
    let bundle = bundle.sh("sleep 60");
    bundle.create("first");
    out(&mut bundle.oci(&["start", "first"]));
    out(&mut bundle.oci(&["pause", "first"]));
    refused(&mut bundle.oci(&["create", "second"]), "cgroup unexpectedly frozen");
    assert_eq!(bundle.state("first")["status"], "paused");
    out(&mut bundle.oci(&["resume", "first"]));
    let log = bundle.dir.join("warnings");
    let mut second = Command::new(program());
    second.args(["oci", "--log", log.to_str().unwrap(), "--root"]).arg(bundle.dir.join("state"));
    // What is made keeps the streams open.
    second.args(["create", "second"]).current_dir(&bundle.dir);
    assert!(second.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    let warned = std::fs::read_to_string(log).unwrap();
    assert!(warned.contains("cgroup is not empty: 1 process"), "{warned}");
    out(&mut bundle.oci(&["delete", "--force", "second"]));
    out(&mut bundle.oci(&["delete", "--force", "first"]));
    let mut bundle = bundle;
    bundle.config["linux"]["resources"] = json!({ "cpu": { "period": 100 } });
    let bundle = bundle.written();
    refused(&mut bundle.oci(&["create", "a"]), "invalid argument");
}

/// Numbers, a user without rights, and what is read from a pipe.
#[test]
fn limits_and_processes_of_others() {
    let mut bundle = Bundle::new("others");
    bundle.config["process"]["rlimits"] =
        json!([{ "type": "RLIMIT_NOFILE", "soft": 90, "hard": 90 }]);
    bundle.config["process"]["user"] = match is_root() {
        true => json!({ "uid": 7, "gid": 8 }),
        false => json!({ "uid": 0, "gid": 0 }),
    };
    let bundle = bundle.sh("ulimit -n; sleep 60");
    bundle.create("o");
    out(&mut bundle.oci(&["start", "o"]));
    fixture::wait_until("its limit is told", || bundle.log() == "90\n");
    let script = format!(
        "jq .process {0}/config.json | sed 's/ulimit -n; sleep 60/ulimit -n/' | {1} oci --root {0}/state exec -p /dev/stdin o",
        bundle.dir.display(),
        program().display()
    );
    assert_eq!(out(Command::new("sh").args(["-c", &script])), "90");
    out(&mut bundle.oci(&["kill", "o", "0"]));
    out(&mut bundle.oci(&["kill", "o", "KILL"]));
    bundle.ended();
    out(&mut bundle.oci(&["kill", "-a", "o", "0"]));
    assert!(
        out(&mut bundle.oci(&["list", "-f", "json"]))
            .starts_with("[{\"ociVersion\":\"1.2.0\",\"id\":\"o\",")
    );
    out(&mut bundle.oci(&["delete", "o"]));
}

#[test]
fn ids_are_mapped() {
    if !is_root() {
        println!("skipped: only root maps the ids of mounts");
        return;
    }
    let mut bundle = Bundle::new("ids");
    let shown = bundle.dir.join("shown");
    std::fs::create_dir_all(&shown).unwrap();
    std::fs::write(shown.join("file"), "").unwrap();
    std::os::unix::fs::chown(shown.join("file"), Some(5), Some(6)).unwrap();
    let all = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    all.push(json!({ "type": "user" }));
    let map = json!([{ "containerID": 0, "hostID": 200_000, "size": 65536 }]);
    bundle.config["linux"]["uidMappings"] = map.clone();
    bundle.config["linux"]["gidMappings"] = map;
    bundle.config["linux"]["resources"] = json!({});
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    let root = bundle.dir.join("rootfs");
    out(Command::new("chown").args(["-R", "200000:200000"]).arg(root));
    for (target, options) in [("/mapped", &["bind", "idmap"][..]), ("/plain", &["bind"])] {
        mounts.push(
            json!({ "destination": target, "type": "bind", "source": shown, "options": options }),
        );
    }
    let bundle = bundle.sh("stat -c %u:%g /mapped/file /plain/file; cat /proc/self/uid_map; ls -ld /dev/null | cut -c1");
    let seen = out(&mut bundle.oci(&["run", "r"]));
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[..2], ["5:6", "65534:65534"], "{seen}");
    assert_eq!(lines[2].split_ascii_whitespace().collect::<Vec<_>>(), ["0", "200000", "65536"]);
    assert_eq!(lines[3], "c");
}

#[test]
fn features_and_versions_are_told() {
    let mut command = Command::new(program());
    let told: Value = serde_json::from_str(&out(command.args(["oci", "features"]))).unwrap();
    assert_eq!(told["ociVersionMax"], "1.2.0");
    assert!(told["mountOptions"].as_array().unwrap().contains(&json!("rro")));
    let said: Said = said(Command::new(program()).args(["oci", "--version"]));
    assert!(said.out.contains("spec: 1.2.0"), "{said:?}");
}
