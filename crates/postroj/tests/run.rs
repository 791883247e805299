//! `run`: what the command sees, and what its end means.

mod fixture;

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use fixture::{fails, home, is_root, out, postroj, processes_with, run, said, sh, wait_until};

#[test]
fn exit_codes_are_the_commands_or_dockers() {
    for (command, code) in [
        (vec!["true"], 0),
        (vec!["false"], 1),
        (vec!["sh", "-c", "exit 42"], 42),
        (vec!["sh", "-c", "exit 125"], 125),
        (vec!["sh", "-c", "kill -9 $$"], 137),
        (vec!["sh", "-c", "kill -TERM $$"], 143),
    ] {
        assert_eq!(said(&mut run(&[], &command)).code, code, "{command:?}");
        let pid_1 = said(&mut run(&["--as-pid-1"], &command)).code;
        // The kernel spares a process 1 its own signals (pid_namespaces(7)).
        let wanted = if code > 128 { 0 } else { code };
        assert_eq!(pid_1, wanted, "--as-pid-1 {command:?}");
    }
}

#[test]
fn a_command_that_cannot_be_executed_is_told_from_a_missing_one() {
    for options in [&[][..], &["--as-pid-1"]] {
        fails(&mut run(options, &["nonesuch"]), 127, &["\"nonesuch\"", "PATH"]);
        fails(
            &mut run(options, &["/bin/nonesuch"]),
            127,
            &["\"/bin/nonesuch\"", "not in the image"],
        );
        fails(&mut run(options, &["script"]), 127, &["\"script\""]);
        fails(&mut run(options, &["/etc"]), 126, &["\"/etc\"", "directory"]);
        fails(&mut run(options, &["/etc/passwd"]), 126, &["not marked as executable"]);
        fails(&mut run(options, &["garbage"]), 126, &["another architecture"]);
    }
}

#[test]
fn parsing_stops_at_the_image() {
    assert_eq!(out(&mut run(&[], &["echo", "--version", "-it", "--rm"])), "--version -it --rm");
    assert_eq!(out(&mut run(&[], &["--", "echo", "a  b", "", "c"])), "a  b  c");
    let nested = out(&mut run(&[], &["sh", "-c", "printf '[%s]' \"$@\"", "sh", "a b", "", "'"]));
    assert_eq!(nested, "[a b][][']");
}

#[test]
fn standard_streams_are_the_payloads() {
    let mut child = run(&["-i"], &["sh", "-c", "cat; echo err >&2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"x\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"x\n"[..], &b"err\n"[..]));
    // Without -i there is no input, even if the launcher has one.
    let mut child =
        run(&[], &["cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.as_mut().unwrap().write_all(b"x\n");
    assert_eq!(child.wait_with_output().unwrap().stdout, b"");
}

#[test]
fn environment_of_the_image_the_launcher_and_the_command_line() {
    let file = home().join("env");
    std::fs::write(&file, "# comment\n\nA=file\nB=file = x\nC\n").unwrap();
    let mut command = sh(
        &[
            "--env-file",
            file.to_str().unwrap(),
            "-e",
            "A=option",
            "-e",
            "D",
            "-e",
            "E=",
            "-e",
            "UNSET_HERE",
        ],
        "echo $A,$B,$C,$D,${E-unset},${UNSET_HERE-unset},$HOME,$container",
    );
    command.env("C", "from C").env("D", "from D").env_remove("UNSET_HERE");
    assert_eq!(out(&mut command), "option,file = x,from C,from D,,unset,/root,postroj");
    assert_eq!(out(&mut sh(&["-e", "HOME=/x"], "echo $HOME")), "/x");
    fails(&mut sh(&["-e", "=x"], "true"), 125, &["no name"]);
}

#[test]
fn users_are_the_images() {
    let id = "echo $(id -u):$(id -g):$(id -G):$HOME";
    for (user, wanted) in [
        ("", "0:0:0:/root"),
        ("app", "1000:1000:1000 2000:/home/app"),
        ("1000", "1000:1000:1000 2000:/home/app"),
        ("app:extra", "1000:2000:2000:/home/app"),
        ("4321:8765", "4321:8765:8765:/"),
    ] {
        assert_eq!(out(&mut sh(&["-u", user], id)), wanted, "{user}");
    }
    fails(&mut sh(&["-u", "nosuch"], id), 125, &["no user \"nosuch\""]);
    let caps = "grep -E 'Cap(Prm|Eff|Amb)' /proc/self/status | cut -f2 | tr '\\n' ' '";
    assert_eq!(out(&mut sh(&["-u", "app"], caps)).trim(), "0000000000000000 ".repeat(3).trim());
}

#[test]
fn working_directories_are_made_and_stay_inside() {
    assert_eq!(out(&mut run(&["-w", "/srv/new/dir"], &["pwd"])), "/srv/new/dir");
    assert_eq!(out(&mut run(&[], &["pwd"])), "/");
    fails(&mut run(&["-w", "srv"], &["pwd"]), 125, &["not absolute"]);
    fails(&mut run(&["-w", "/etc/passwd"], &["pwd"]), 125, &["/etc/passwd", "not a directory"]);
}

#[test]
fn names_inside() {
    assert_eq!(out(&mut run(&["-h", "box.example"], &["hostname"])), "box.example");
    let hosts =
        out(&mut run(&["-h", "box", "--network=none"], &["cat", "/etc/hosts", "/etc/hostname"]));
    assert!(hosts.contains("127.0.0.1\tlocalhost box") && hosts.ends_with("box"), "{hosts}");
    fails(&mut run(&["-h", "a b"], &["true"]), 125, &["invalid host name"]);
    let id = out(&mut run(&[], &["hostname"]));
    assert!(id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    let machine_id = out(&mut run(&[], &["cat", "/etc/machine-id"]));
    assert_eq!(machine_id.len(), 32);
    assert_ne!(machine_id, out(&mut run(&[], &["cat", "/etc/machine-id"])));
}

#[test]
fn entrypoints_are_dockers() {
    assert_eq!(out(&mut run(&["--entrypoint", "echo"], &["a", "b"])), "a b");
    fails(&mut run(&["--entrypoint", ""], &[]), 125, &["no command"]);
    assert_eq!(out(&mut run(&["--entrypoint", ""], &["echo", "x"])), "x");
    // The image has no command of its own but the shell that was found in it.
    let mut shell = run(&["-i"], &[]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    shell.stdin.take().unwrap().write_all(b"echo from shell\n").unwrap();
    assert_eq!(shell.wait_with_output().unwrap().stdout, b"from shell\n");
}

#[test]
fn what_is_written_is_thrown_away() {
    assert_eq!(out(&mut sh(&[], "echo x > /etc/passwd; rm -rf /home; ls /home 2>&1 | wc -l")), "1");
    assert_eq!(
        out(&mut sh(&[], "head -n1 /etc/passwd; ls /home")),
        "root:x:0:0::/root:/bin/sh\napp"
    );
}

#[test]
fn read_only_roots_have_scratch_space() {
    let script =
        "for d in / /etc /run /tmp /var/tmp /dev/shm; do touch $d/x 2>/dev/null && echo $d; done";
    assert_eq!(out(&mut sh(&["--read-only"], script)), "/run\n/tmp\n/var/tmp\n/dev/shm");
}

#[test]
fn volumes_and_mounts() {
    let dir = home().join(format!("volume-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    std::fs::write(dir.join("file"), "from host").unwrap();
    let path = dir.to_str().unwrap();
    let volume = format!("{path}:/data");
    assert_eq!(
        out(&mut sh(&["-v", &volume], "cat /data/file; echo new > /data/new; id -u")),
        "from host0"
    );
    assert_eq!(std::fs::read_to_string(dir.join("new")).unwrap(), "new\n");
    // A file that root made inside belongs to the launcher outside.
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(dir.join("new")).unwrap().uid();
    assert_eq!(owner, rustix::process::geteuid().as_raw());
    let read_only = format!("{path}:/data:ro");
    let script = "cat /data/file; touch /data/x 2>/dev/null || echo ' read-only'";
    assert_eq!(out(&mut sh(&["-v", &read_only], script)), "from host read-only");
    let long = format!("type=bind,src={path}/file,dst=/a/b/c,readonly");
    assert_eq!(out(&mut sh(&["--mount", &long], "cat /a/b/c")), "from host");
    let missing = format!("type=bind,src={path}/none,dst=/x");
    fails(&mut sh(&["--mount", &missing], "true"), 125, &["none", "no such file"]);
    let made = format!("{path}/made:/x");
    assert_eq!(out(&mut sh(&["-v", &made], "ls -d /x")), "/x");
    assert!(dir.join("made").is_dir());
    fails(&mut sh(&["-v", &volume, "-v", &volume], "true"), 125, &["duplicate mount point /data"]);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn file_systems_in_memory() {
    let script = "grep ' /x ' /proc/mounts | cut -d' ' -f3,4; stat -c %a /x";
    let said = out(&mut sh(&["--tmpfs", "/x:size=64k,mode=0711"], script));
    assert!(
        said.contains("noexec") && said.contains("size=64k") && said.ends_with("711"),
        "{said}"
    );
    let fills = "dd if=/dev/zero of=/x/y bs=1k count=100 2>&1 | tail -n1; ls -l /x/y | tr -s ' ' | cut -d' ' -f5";
    let full = out(&mut sh(&["--tmpfs", "/x:size=64k"], fills));
    assert!(full.ends_with("65536"), "{full}");
}

#[test]
fn capabilities() {
    let bounding = "grep CapBnd /proc/self/status | cut -f2";
    let set = |options: &[&str]| u64::from_str_radix(&out(&mut sh(options, bounding)), 16).unwrap();
    let default = 0x0000_0000_a804_25fb;
    assert_eq!(set(&[]), default);
    assert_eq!(set(&["--cap-drop=ALL"]), 0);
    assert_eq!(set(&["--cap-drop=ALL", "--cap-add=chown,CAP_KILL"]), 1 | 1 << 5);
    assert_eq!(set(&["--cap-add=NET_ADMIN"]), default | 1 << 12);
    assert_eq!(set(&["--cap-drop=CHOWN"]), default & !1);
    fails(&mut sh(&["--cap-add=FLY"], "true"), 125, &["unknown capability \"FLY\""]);
    let chown = "chown 1:1 /etc/passwd 2>/dev/null && echo yes || echo no";
    assert_eq!(out(&mut sh(&[], chown)), "yes");
    assert_eq!(out(&mut sh(&["--cap-drop=CHOWN"], chown)), "no");
}

#[test]
fn system_calls_are_filtered() {
    let script = "grep -E 'Seccomp:|NoNewPrivs:' /proc/self/status | cut -f2 | tr '\\n' ' '; \
                  unshare -m true 2>/dev/null && echo unshared || echo refused";
    assert_eq!(out(&mut sh(&[], script)), "0 2 refused");
    assert_eq!(out(&mut sh(&["--security-opt", "no-new-privileges"], script)), "1 2 refused");
    let free = ["--security-opt", "seccomp=unconfined", "--cap-add=SYS_ADMIN"];
    assert_eq!(out(&mut sh(&free, script)), "0 0 unshared");
    assert_eq!(out(&mut sh(&["--cap-add=SYS_ADMIN"], script)), "0 2 unshared");
}

#[test]
fn the_kernels_trees_are_protected() {
    let script = "for p in /proc/sys/kernel/hostname /proc/irq/x /sys/x; do \
                  (echo x > $p) 2>/dev/null && echo wrote $p; done; \
                  wc -c < /proc/keys; ls /sys/firmware | wc -l; ls -d /proc/acpi/* 2>/dev/null | wc -l";
    assert_eq!(out(&mut sh(&[], script)), "0\n0\n0");
    let devices = out(&mut sh(&[], "ls /dev; echo x > /dev/null; head -c3 /dev/zero | wc -c"));
    assert_eq!(
        devices.split_whitespace().collect::<Vec<_>>().join(" "),
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero 3"
    );
}

#[test]
fn processes_and_network_are_its_own() {
    // The shell and the init.
    assert_eq!(out(&mut sh(&[], "set -- /proc/[0-9]*; echo $#")), "2");
    assert_eq!(
        out(&mut sh(&["--network=none"], "ls /sys/class/net; cat /sys/class/net/lo/operstate")),
        "lo\nunknown"
    );
    let addresses = out(&mut sh(&["--network=none"], "ip -o addr show lo | grep -c 127.0.0.1/8"));
    assert_eq!(addresses, "1");
    let host = std::fs::read_dir("/sys/class/net").unwrap().count().to_string();
    assert_eq!(out(&mut sh(&[], "ls /sys/class/net | wc -l")), host);
}

#[test]
fn resource_limits() {
    assert_eq!(out(&mut sh(&["--ulimit", "nofile=100:200"], "ulimit -n; ulimit -Hn")), "100\n200");
    fails(&mut sh(&["--ulimit", "nofile=9:1"], "true"), 125, &["soft limit is above"]);
}

#[test]
fn control_group_limits_hold_or_are_refused() {
    if is_root() {
        let fork = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1 & done 2>&1 | grep -c -i resource";
        let said = said(&mut sh(&["--pids-limit=5"], fork));
        assert!(said.out.trim().parse::<u32>().is_ok_and(|n| n > 0) || said.code != 0, "{said:?}");
        let eat = said_code(&["--memory=16m"], "head -c 64m /dev/zero | tail -c 60m | wc -c");
        assert_ne!(eat.0, "62914560", "64 MB fit into 16");
        let busy = "end=$(($(date +%s)+1)); while [ $(date +%s) -le $end ]; do :; done; cat /proc/self/stat | cut -d' ' -f14";
        assert!(said_code(&["--cpus=0.2"], busy).1 == 0);
        let inside = out(&mut sh(
            &["--memory=64m"],
            "cd /sys/fs/cgroup; cat memory.max memory/memory.limit_in_bytes 2>/dev/null || true",
        ));
        assert_eq!(inside, "67108864");
        assert_eq!(our_groups(), Vec::<String>::new());
    } else if !delegated() {
        let what = &["cannot limit", "systemd-run"];
        for option in ["--memory=64m", "--cpus=1", "--pids-limit=5"] {
            fails(&mut sh(&[option], "true"), 125, what);
        }
    }
}

fn said_code(options: &[&str], script: &str) -> (String, i32) {
    let said = said(&mut sh(options, script));
    (said.out.trim().to_owned(), said.code)
}

fn delegated() -> bool {
    let layout = sys::cgroups::Layout::read().unwrap();
    layout.unified.is_some_and(|h| {
        let own = h.mount.join(h.own.trim_start_matches('/'));
        rustix::fs::access(own, rustix::fs::Access::WRITE_OK).is_ok()
    })
}

/// Groups named `postroj` that have none of a running machine's below them.
fn our_groups() -> Vec<String> {
    let layout = sys::cgroups::Layout::read().unwrap();
    let mounts =
        layout.legacy.iter().map(|h| &h.mount).chain(layout.unified.iter().map(|h| &h.mount));
    mounts
        .map(|m| m.join("postroj"))
        .filter(|p| {
            p.exists()
                && std::fs::read_dir(p)
                    .is_ok_and(|mut d| d.all(|e| e.is_ok_and(|e| !e.path().is_dir())))
        })
        .map(|p| p.display().to_string())
        .collect()
}

#[test]
fn user_namespaces() {
    let map = "tr -s ' ' < /proc/self/uid_map | cut -d' ' -f2-";
    if is_root() {
        let first = out(&mut sh(&[], map));
        let numbers: Vec<u64> = first.split(' ').map(|n| n.parse().unwrap()).collect();
        assert!(numbers[0] == 0 && numbers[1] >= 0x8_0000 && numbers[2] == 65_536, "{first}");
        assert_eq!(out(&mut sh(&["--userns=host"], map)), "0 0 4294967295");
        fails(&mut sh(&["--userns=keep-id"], map), 125, &["ordinary users"]);
    } else {
        let uid = rustix::process::geteuid().as_raw();
        assert!(out(&mut sh(&[], map)).starts_with(&format!("0 {uid} 1\n1 ")));
        assert_eq!(out(&mut sh(&["--userns=single"], map)), format!("0 {uid} 1"));
        let kept = out(&mut sh(&["--userns=keep-id"], "id -u"));
        assert_eq!(kept, uid.to_string());
        fails(&mut sh(&["--userns=host"], map), 125, &["needs root"]);
    }
}

#[test]
fn a_name_is_taken_while_its_machine_runs() {
    let name = format!("taken-{}", std::process::id());
    let id_file = home().join(format!("cid-{}", std::process::id()));
    let mut first =
        run(&["--name", &name, "--cidfile", id_file.to_str().unwrap()], &["sleep", "1000"])
            .spawn()
            .unwrap();
    wait_until("the machine is up", || id_file.exists());
    fails(&mut run(&["--name", &name], &["true"]), 125, &["in use by a running machine"]);
    let id = std::fs::read_to_string(&id_file).unwrap();
    assert_eq!(id.len(), 64);
    fails(
        &mut run(&["--cidfile", id_file.to_str().unwrap()], &["true"]),
        125,
        &["cannot make the id file"],
    );
    signal(first.id(), rustix::process::Signal::TERM);
    assert_eq!(first.wait().unwrap().code(), Some(143));
    assert_eq!(said(&mut run(&["--name", &name], &["true"])).code, 0);
    std::fs::remove_file(id_file).unwrap();
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn signals_reach_the_command_and_end_what_does_not_handle_them() {
    use rustix::process::Signal;
    for options in [&[][..], &["--as-pid-1"]] {
        let mut plain = run(options, &["sleep", "1001"]).spawn().unwrap();
        wait_until("it sleeps", || processes_with("sleep\x001001").len() >= 2);
        signal(plain.id(), Signal::INT);
        assert_eq!(plain.wait().unwrap().code(), Some(130), "{options:?}");
        let mut handler =
            run(options, &["sh", "-c", "trap 'exit 7' USR1; echo up; while :; do sleep 0.1; done"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
        let mut line = String::new();
        let stdout = handler.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        signal(handler.id(), Signal::USR1);
        assert_eq!(handler.wait().unwrap().code(), Some(7), "{options:?}");
    }
}

#[test]
fn a_signal_that_comes_early_is_not_lost() {
    use rustix::process::Signal;
    for round in 0..60 {
        let options: &[&str] = if round % 2 == 0 { &[] } else { &["--as-pid-1"] };
        let mut machine = run(options, &["sleep", "1007"]).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(round * 500));
        signal(machine.id(), Signal::INT);
        let mut ended = None;
        wait_until("it ends", || {
            ended = machine.try_wait().unwrap();
            ended.is_some()
        });
        // At first there is only postroj itself.
        let code = ended.and_then(|status| status.code());
        assert!(matches!(code, None | Some(130)), "{round}: {code:?}");
    }
}

#[test]
fn a_time_limit_kills() {
    let start = Instant::now();
    assert_eq!(said(&mut run(&["--timeout=1"], &["sleep", "1000"])).code, 137);
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(said(&mut run(&["--timeout=100"], &["true"])).code, 0);
}

#[test]
fn orphans_are_reaped_and_end_with_the_command() {
    let script = "(sleep 1002 &) ; (sh -c 'exit 3' &); sleep 0.3; \
                  grep -l '^State.*zombie' /proc/[0-9]*/status 2>/dev/null | wc -l";
    assert_eq!(out(&mut sh(&[], script)), "0");
    assert!(processes_with("sleep\x001002").is_empty());
}

#[test]
fn the_host_and_directories_run_without_a_pull() {
    let name =
        out(&mut postroj(&["run", "host", "--", "sed", "-n", "s/^ID=//p", "/etc/os-release"]));
    let text = std::fs::read_to_string("/etc/os-release").unwrap();
    assert!(text.contains(&format!("ID={name}")), "{name}");
    let marker = format!("/usr/postroj-test-{}", std::process::id());
    let script = format!("touch {marker} 2>/dev/null; ls -d /usr/bin");
    assert_eq!(out(&mut postroj(&["run", "host", "sh", "-c", &script])), "/usr/bin");
    assert!(!std::path::Path::new(&marker).exists(), "the host was written to");
    // Its own names, also where /etc is a layer of its own.
    let script = "cat /etc/hostname; test -L /bin || test -d /bin; echo $?; ls /proc/self/exe";
    let names = out(&mut postroj(&["run", "--hostname", "mine", "host", "sh", "-c", script]));
    assert_eq!(names, "mine\n0\n/proc/self/exe");
    fixture::image();
    let dir = format!("dir:{}", home().join("rootfs").display());
    assert_eq!(
        out(&mut postroj(&["run", &dir, "sh", "-c", "echo x > /etc/passwd; wc -l < /etc/passwd"])),
        "1"
    );
    let passwd = std::fs::read_to_string(home().join("rootfs/etc/passwd")).unwrap();
    assert!(passwd.starts_with("root:"), "the directory was written to");
}

#[test]
fn usage_errors_are_told_before_anything_is_done() {
    for (args, part) in [
        (vec!["run"], "IMAGE"),
        (vec!["run", "--bogus", "x"], "--bogus"),
        (vec!["run", "--memory", "1x", "x"], "unit"),
        (vec!["run", "-v", "a:/b", "x"], "named volumes"),
        (vec!["run", "--network", "user,fast", "x"], "accel"),
        (vec!["run", "--ulimit", "x=1", "x"], "unknown limit"),
    ] {
        let said = said(&mut postroj(&args));
        assert_eq!(said.code, 125, "{args:?}");
        assert!(said.err.contains(part), "{args:?}: {}", said.err);
    }
    fails(
        &mut postroj(&["run", "--pull=never", "no/such:image", "true"]),
        125,
        &["not here", "pull it"],
    );
    fails(&mut postroj(&["run", "Bad Image", "true"]), 125, &["invalid image reference"]);
    fails(&mut postroj(&["run", "./no/such.tar", "true"]), 125, &["cannot open the image"]);
}
