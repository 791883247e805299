//! postroj in a machine of postroj.

mod fixture;

use fixture::{Machine, Own, home, is_root, out, postroj};

#[test]
fn a_machine_in_a_machine() {
    fixture::image();
    let inner = home().join(format!("inner-{}", std::process::id()));
    fixture::busybox(&inner);
    let program = format!("{}:/usr/bin/postroj:ro", fixture::program().display());
    let image = format!("{}:/srv/image:ro", inner.display());
    let options = ["-d", "--privileged", "--network=none", "-v", &program, "-v", &image];
    // A store on the outer machine's root would be an overlay on an overlay.
    let store = ["--tmpfs", "/var/lib/postroj:exec,suid,dev"];
    let command = [fixture::IMAGE, "sleep", "1000"];
    let outer = Machine::start(&[&["run"], &options[..], &store, &command].concat());
    let run = |words: &[&str]| out(&mut outer.exec(&[], &[&["postroj"], words].concat()));
    run(&["pull", "-q", "dir:/srv/image"]);
    run(&["tag", "dir:/srv/image", "in:1"]);
    assert_eq!(run(&["run", "--network=none", "in:1", "echo", "nested"]), "nested");
    // In the background as well, and a command in that.
    let id = run(&["run", "-d", "--name", "deep", "--network=none", "in:1", "sleep", "1000"]);
    assert_eq!(id.len(), 64);
    assert_eq!(
        run(&["exec", "deep", "sh", "-c", "cat /proc/2/cmdline | tr '\\0' ' '"]),
        "sleep 1000 "
    );
    run(&["rm", "-f", "deep"]);
    out(&mut postroj(&["rm", "-f", &outer.name]));
    std::fs::remove_dir_all(inner).unwrap();
}

/// A small image as `podman import` and `docker import` take it.
fn small(own: &Own) -> String {
    let root = own.path("small");
    fixture::busybox(&root);
    let tar = own.path("small.tar");
    fixture::tar(&root, &tar);
    format!("{}:/srv/small.tar:ro", tar.display())
}

/// A release of Debian with further packages, in a store of the test's own.
fn debian_with(own: &Own, packages: &str) {
    let config = own.path("config/postroj");
    std::fs::create_dir_all(&config).unwrap();
    let text = "[bootstrap.debian]\ncheck-valid-until = false\n";
    std::fs::write(config.join("config.toml"), text).unwrap();
    let mut pull = own.postroj(&["pull", "-q", "--include", packages, "debian-12"]);
    out(pull.env("XDG_CONFIG_HOME", own.path("config")));
}

const PODMAN: &str = "podman import -q /srv/small.tar small:1 >/dev/null && \
    podman run --rm small:1 sh -c 'echo in a container of $(cat /proc/1/comm)' && \
    podman run -d --name held small:1 sleep 1000 >/dev/null && \
    podman exec held echo entered && podman rm -f -t 0 held >/dev/null";
const SAID: &str = "in a container of sh\nentered";

#[test]
fn podman_in_a_machine() {
    let own = Own::new("podman");
    debian_with(&own, "podman,uidmap");
    let tar = small(&own);
    let options = ["--nested", "--network=none", "-v", &tar];
    // A command's machine.
    let mut command = own.postroj(&[&["run"], &options[..], &["debian-12", "sh", "-c"]].concat());
    assert_eq!(out(command.arg(PODMAN)), SAID);
    // An ordinary user's, in there.
    let ann = "range='-K SUB_UID_MIN=10000 -K SUB_GID_MIN=10000 -K SUB_UID_COUNT=50000 -K SUB_GID_COUNT=50000'; \
        useradd -m $range ann && cd /home/ann && exec su ann -c \"$1\"";
    let plain = PODMAN.replace("podman run", "podman run --network=none");
    let mut command = own.postroj(&[&["run"], &options[..], &["debian-12", "sh", "-c"]].concat());
    assert_eq!(out(command.args([ann, "sh", &plain])), SAID);
    // A whole system: entered from outside, and as a unit of its own.
    let name = format!("nested-{}", std::process::id());
    let boot = ["boot", "-d", "--name", &name];
    let said = own.path("boot.out");
    let file = std::fs::File::create(&said).unwrap();
    let mut boot = own.postroj(&[&boot[..], &options, &["debian-12"]].concat());
    let booted = boot.stdout(file.try_clone().unwrap()).stderr(file).status().unwrap();
    assert!(booted.success(), "{}", std::fs::read_to_string(said).unwrap());
    let entered = own.postroj(&["exec", &name, "sh", "-c", PODMAN]).output().unwrap();
    let unit = own.postroj(&["exec", "--unit", &name, "sh", "-c", PODMAN]).output().unwrap();
    let state = fixture::said(&mut own.postroj(&["exec", &name, "systemctl", "is-system-running"]));
    out(&mut own.postroj(&["rm", "-f", &name]));
    for done in [entered, unit] {
        assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), SAID, "{done:?}");
    }
    assert_eq!(state.out.trim(), "running");
}

/// Starts dockerd with further options, and makes an image.
const DOCKERD: &str = "dockerd --bridge=none --iptables=false $OPTIONS >/tmp/log 2>&1 & \
    until docker version >/dev/null 2>&1; do kill -0 $! || { cat /tmp/log >&2; exit 9; }; sleep 0.1; done; \
    docker import - small:1 </srv/small.tar >/dev/null && ";
const DOCKER: &str = "docker run --rm --network=none small:1 sh -c 'echo in a container of $(cat /proc/1/comm)' && \
    docker run -d --name held --network=none small:1 sleep 1000 >/dev/null && \
    docker exec held echo entered && docker rm -f held >/dev/null";

/// What dockerd asks of a runtime beside that: limits and their change, exit codes by the runtime's words, an init of
/// ours by docker's name for it, builds, restarts, health.
const MORE: &str = r#"
    run() { docker run --rm --network=none "$@" 2>/tmp/error; echo "= $?"; }
    run small:1 nothing; run small:1 /etc; run small:1 sh -c 'exit 7'
    run --init small:1 cat /proc/1/comm
    run -u 7:8 --cap-drop ALL --read-only --tmpfs /t --ulimit nofile=99:99 small:1 \
        sh -c 'id -u; grep CapBnd /proc/self/status; touch /x || touch /t/x; ulimit -n'
    docker run -d --name aa --health-cmd true --health-interval 1s --network=none small:1 sleep 1000 >/dev/null
    docker exec aa sh -c 'exit 5'; echo "= $?"
    until [ "$(docker inspect aa --format '{{.State.Health.Status}}')" = healthy ]; do sleep 0.1; done
    docker restart -t 0 aa; docker stop -t 0 aa; docker inspect aa --format '{{.State.ExitCode}}'; docker rm aa
    printf 'FROM small:1\nRUN echo built >/f\nCMD cat /f' | docker build -q --network=none -t built - >/dev/null; run built"#;
const MORE_SAID: &str = "= 127\n= 126\n= 7\ndocker-init\n= 0\n\
    7\nCapBnd:\t0000000000000000\n99\n= 0\n= 5\naa\naa\n137\naa\nbuilt\n= 0";

#[test]
fn dockerd_in_a_machine() {
    let own = Own::new("dockerd");
    debian_with(&own, "docker.io,iptables");
    let tar = small(&own);
    let options = ["run", "--nested", "--network=none", "-v", &tar];
    // Debian's runc finds "not a cgroup file" now and then where groups are emulated.
    if is_root() {
        let script = format!("{DOCKERD}{DOCKER}");
        let words = ["debian-12", "sh", "-c", &script];
        assert_eq!(out(&mut own.postroj(&[&options[..], &words].concat())), SAID);
    }
    let program = fixture::program();
    let [runtime, init] = ["postroj-oci", "docker-init"]
        .map(|name| format!("{}:/usr/local/bin/{name}:ro", program.display()));
    let ours = "OPTIONS=--add-runtime=ours=/usr/local/bin/postroj-oci --default-runtime=ours";
    let script = format!("{DOCKERD}{DOCKER}{MORE}");
    let words = ["-v", &runtime, "-v", &init, "-e", ours, "debian-12", "sh", "-c", &script];
    let said = out(&mut own.postroj(&[&options[..], &words].concat()));
    assert_eq!(said, format!("{SAID}\n{MORE_SAID}"));
}
