//! Debian's podman, buildah and containerd on the OCI runtime, as root and rootless, each with a store of
//! its own and an image that needs no network.

mod fixture;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fixture::podman::Podman;
use fixture::{is_root, out, said};

#[test]
fn the_life_of_a_container() {
    let podman = Podman::new("postroj-oci", "life");
    let script = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.1; done";
    let mut run = podman.podman(&["run", "-d", "--name", "c", "--network", "none"]);
    out(run.args(["localhost/busybox", "sh", "-c", script]));
    assert_eq!(out(&mut podman.podman(&["exec", "c", "echo", "inside"])), "inside");
    assert_eq!(out(&mut podman.podman(&["exec", "-u", "7:8", "c", "id", "-u"])), "7");
    assert!(out(&mut podman.podman(&["exec", "-t", "c", "tty"])).contains("/dev/pts/"));
    assert_eq!(said(&mut podman.podman(&["exec", "c", "nosuch"])).code, 127);
    assert!(out(&mut podman.podman(&["top", "c", "pid", "args"])).contains("sleep"));
    if is_root() {
        out(&mut podman.podman(&["pause", "c"]));
        let status = ["ps", "--all", "--format", "{{.Status}}"];
        assert!(out(&mut podman.podman(&status)).to_lowercase().contains("paused"));
        out(&mut podman.podman(&["unpause", "c"]));
    }
    out(&mut podman.podman(&["stop", "c"]));
    assert_eq!(out(&mut podman.podman(&["logs", "c"])), "up\nbye");
    let code = ["inspect", "c", "--format", "{{.State.ExitCode}}"];
    assert_eq!(out(&mut podman.podman(&code)), "7");
    out(&mut podman.podman(&["start", "c"]));
    out(&mut podman.podman(&["rm", "--force", "--time", "0", "c"]));
}

#[test]
fn options_of_run() {
    let podman = Podman::new("postroj-oci", "run");
    let volume = podman.dir.join("volume");
    std::fs::create_dir_all(&volume).unwrap();
    std::fs::write(volume.join("file"), "data\n").unwrap();
    let at = format!("{}:/v", volume.display());
    let ro = format!("{at}:ro");
    for (options, script, wanted) in [
        (&[][..], "echo $$; grep Seccomp: /proc/self/status", "1\nSeccomp:\t2"),
        (&["-v", &at], "cat /v/file", "data"),
        (&["-v", &ro], "touch /v/x 2>/dev/null || echo ro", "ro"),
        (&["--read-only"], "touch /x 2>/dev/null || echo ro; touch /tmp/x && echo tmp", "ro\ntmp"),
        (&["--hostname", "name"], "hostname", "name"),
        (&["--cap-drop", "all"], "grep CapEff /proc/self/status", "CapEff:\t0000000000000000"),
        (
            &["--security-opt", "no-new-privileges"],
            "grep NoNew /proc/self/status",
            "NoNewPrivs:\t1",
        ),
        (&["--privileged"], "echo privileged", "privileged"),
        (&["--tmpfs", "/t:size=64k"], "df -k /t | tail -1 | cut -c1-5", "tmpfs"),
        (&["--uidmap", "0:1:9000", "--gidmap", "0:1:9000"], "id -u", "0"),
        (&["--pid", "host", "--uts", "host"], "echo shared", "shared"),
        (&["--sysctl", "net.ipv4.ip_forward=1"], "cat /proc/sys/net/ipv4/ip_forward", "1"),
    ] {
        assert_eq!(out(&mut podman.run(options, script)), wanted, "{options:?}");
    }
    assert_eq!(said(&mut podman.run(&[], "exit 3")).code, 3);
    let mut missing = podman.podman(&["run", "--rm", "--network", "none", "localhost/busybox"]);
    assert_eq!(said(missing.arg("nosuch")).code, 127);
    let mut missing = podman.podman(&["run", "--rm", "--network", "none", "localhost/busybox"]);
    assert_eq!(said(missing.arg("/etc")).code, 126);
    if is_root() {
        let limits = ["--memory", "64m", "--pids-limit", "50"];
        let script = "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; true";
        assert_eq!(out(&mut podman.run(&limits, script)), "50");
    } else {
        let me = rustix::process::geteuid().as_raw().to_string();
        assert_eq!(out(&mut podman.run(&["--userns", "keep-id"], "id -u")), me);
        assert_eq!(out(&mut podman.run(&["--userns", "auto"], "id -u")), "0");
    }
}

/// Volumes with names keep what is written, and belong to who writes it.
#[test]
fn volumes_and_ids_of_its_own() {
    let podman = Podman::new("postroj-oci", "vol");
    out(&mut podman.run(&["-v", "kept:/v"], "echo one > /v/file"));
    out(&mut podman.run(&["-v", "kept:/v"], "echo two >> /v/file"));
    assert_eq!(
        out(&mut podman.run(&["-v", "kept:/v:ro"], "cat /v/file; touch /v/x || true")),
        "one\ntwo"
    );
    out(&mut podman.podman(&["volume", "rm", "kept"]));
    let own = podman.dir.join("own");
    std::fs::create_dir_all(&own).unwrap();
    let at = format!("{}:/v", own.display());
    let user = rustix::process::geteuid().as_raw();
    if !is_root() {
        out(&mut podman.run(&["--userns", "keep-id", "-v", &at], "touch /v/mine"));
        let made = std::fs::metadata(own.join("mine")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), user);
        return;
    }
    // Root takes ids of somebody who has some (containers-storage.conf(5), `root-auto-userns-user`).
    let ids = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    let Some((name, _)) = ids.lines().find_map(|line| line.split_once(':')) else {
        println!("skipped: nobody has further ids in /etc/subuid");
        return;
    };
    let storage = podman.dir.join("storage.conf");
    let place = podman.dir.display();
    let text = format!(
        "[storage]\ndriver = \"overlay\"\ngraphroot = \"{place}/store\"\nrunroot = \"{place}/run\"\n\
         [storage.options]\nroot-auto-userns-user = \"{name}\"\n"
    );
    std::fs::write(&storage, text).unwrap();
    let script = "id -u; cut -c1-21 /proc/self/uid_map; touch /mine && stat -c %u /mine";
    let mut run = podman.run(&["--userns", "auto:size=1024"], script);
    let told = out(run.env("CONTAINERS_STORAGE_CONF", &storage));
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!((lines[0], lines[2]), ("0", "0"), "{told}");
    let first: Vec<&str> = lines[1].split_whitespace().collect();
    assert!(first[0] == "0" && first[1] != "0", "its root is another user of the host: {told}");
}

#[test]
fn pods_and_healthchecks() {
    let podman = Podman::new("postroj-oci", "pod");
    out(&mut podman.podman(&["pod", "create", "--name", "pod", "--network", "none"]));
    let mut run = podman.podman(&["run", "-d", "--pod", "pod", "--name", "one"]);
    run.args(["--health-cmd", "test -e /etc", "localhost/busybox", "sleep", "100"]);
    out(&mut run);
    assert_eq!(out(&mut podman.podman(&["exec", "one", "echo", "inside"])), "inside");
    let mut run = podman.podman(&["run", "--rm", "--pod", "pod", "localhost/busybox"]);
    assert_eq!(out(run.args(["echo", "beside"])), "beside");
    out(&mut podman.podman(&["healthcheck", "run", "one"]));
    let health = ["inspect", "one", "--format", "{{.State.Health.Status}}"];
    assert_eq!(out(&mut podman.podman(&health)), "healthy");
    // All of a pod are in its namespaces.
    let names = |container: &str| {
        let script = "for kind in net ipc uts; do readlink /proc/self/ns/$kind; done";
        out(&mut podman.podman(&["exec", container, "sh", "-c", script]))
    };
    let mut run = podman.podman(&["run", "-d", "--pod", "pod", "--name", "two"]);
    out(run.args(["--health-cmd", "false", "localhost/busybox", "sleep", "100"]));
    assert_eq!(names("one"), names("two"));
    assert_ne!(said(&mut podman.podman(&["healthcheck", "run", "two"])).code, 0);
    out(&mut podman.podman(&["pod", "rm", "--force", "--time", "0", "pod"]));
}

#[test]
fn builds() {
    let podman = Podman::new("postroj-oci", "build");
    let context = podman.dir.join("context");
    std::fs::create_dir_all(&context).unwrap();
    std::fs::write(context.join("file"), "data\n").unwrap();
    let file =
        "FROM localhost/busybox\nRUN id -u > /made\nCOPY file /file\nRUN cat /file >> /made\n";
    std::fs::write(context.join("Containerfile"), file).unwrap();
    let mut build = podman.podman(&["build", "--network", "none", "--tag", "localhost/built"]);
    out(build.arg("--runtime").arg(podman.dir.join("bin/postroj-oci")).arg(&context));
    let mut run = podman.podman(&["run", "--rm", "--network", "none", "localhost/built"]);
    assert_eq!(out(run.args(["cat", "/made"])), "0\ndata");
}

/// buildah makes the bundles of its RUN itself.
#[test]
fn buildah_s_run_and_build() {
    let podman = Podman::new("postroj-oci", "bah");
    let runtime = podman.dir.join("bin/postroj-oci");
    let buildah = |args: &[&str]| {
        let mut command = Command::new("buildah");
        command.env("TMPDIR", &podman.dir).current_dir(&podman.dir).stdin(Stdio::null());
        command.arg("--root").arg(podman.dir.join("store"));
        command.arg("--runroot").arg(podman.dir.join("run")).args(args);
        command
    };
    let container = out(&mut buildah(&["from", "localhost/busybox"]));
    let run = |options: &[&str], script: &str| {
        let mut command = buildah(&["run", "--isolation", "oci", "--network", "none", "--runtime"]);
        command.arg(&runtime).args(options).args([&container, "--", "sh", "-c", script]);
        command
    };
    assert_eq!(out(&mut run(&[], "id -u; echo made > /made")), "0");
    assert_eq!(out(&mut run(&["--user", "app"], "id -u; cat /made")), "1000\nmade");
    assert_eq!(said(&mut run(&[], "exit 9")).code, 9);
    out(&mut buildah(&["rm", &container]));
    std::fs::write(
        podman.dir.join("Containerfile"),
        "FROM localhost/busybox\nRUN echo built > /built\n",
    )
    .unwrap();
    let mut bud = buildah(&["bud", "--isolation", "oci", "--network", "none", "--runtime"]);
    out(bud.arg(&runtime).args(["--tag", "localhost/bud", "-f", "Containerfile", "."]));
    let mut run = podman.podman(&["run", "--rm", "--network", "none", "localhost/bud"]);
    assert_eq!(out(run.args(["cat", "/built"])), "built");
}

/// A containerd of its own, ended with this.
struct Containerd {
    dir: PathBuf,
    daemon: std::process::Child,
}

impl Containerd {
    fn new(dir: &Path) -> Self {
        let place = dir.display();
        let config = format!(
            "version = 2\nroot = \"{place}/root\"\nstate = \"{place}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{place}/sock\"\n"
        );
        std::fs::write(dir.join("config.toml"), config).unwrap();
        let mut daemon = Command::new("containerd");
        daemon.arg("--config").arg(dir.join("config.toml"));
        let daemon = daemon.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let this = Self { dir: dir.to_owned(), daemon };
        while said(&mut this.ctr(&["version"])).code != 0 {
            std::thread::yield_now();
        }
        this
    }

    fn ctr(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.dir.join("sock")).args(args).stdin(Stdio::null());
        command
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = sys::signals::send(self.daemon.id() as i32, sys::signals::SIGTERM);
        let _ = self.daemon.wait();
    }
}

#[test]
fn containerd_s_ctr() {
    if !is_root() {
        println!("skipped: containerd is root's");
        return;
    }
    let podman = Podman::new("postroj-oci", "ctr");
    let place = podman.dir.join("d");
    std::fs::create_dir_all(&place).unwrap();
    let archive = place.join("image.tar");
    let mut save = podman.podman(&["save", "--format", "oci-archive", "--output"]);
    out(save.arg(&archive).arg("localhost/busybox"));
    let containerd = Containerd::new(&place);
    out(containerd.ctr(&["image", "import"]).arg(&archive));
    let image = "localhost/busybox:latest";
    let binary = podman.dir.join("bin/postroj-oci");
    let run = |options: &[&str], command: &[&str]| {
        let mut ctr = containerd.ctr(&["run", "--runtime", "io.containerd.runc.v2"]);
        ctr.arg("--runc-binary").arg(&binary).args(options).args(command);
        ctr
    };
    assert_eq!(out(&mut run(&["--rm"], &[image, "a", "echo", "inside"])), "inside");
    assert_eq!(said(&mut run(&["--rm"], &[image, "b", "sh", "-c", "exit 5"])).code, 5);
    out(&mut run(&["-d"], &[image, "c", "sleep", "100"]));
    let mut exec = containerd.ctr(&["task", "exec", "--exec-id", "e", "c", "echo"]);
    assert_eq!(out(exec.arg("more")), "more");
    out(&mut containerd.ctr(&["task", "pause", "c"]));
    assert!(out(&mut containerd.ctr(&["task", "ls"])).contains("PAUSED"));
    out(&mut containerd.ctr(&["task", "resume", "c"]));
    out(&mut containerd.ctr(&["task", "delete", "--force", "c"]));
    out(&mut containerd.ctr(&["container", "rm", "c"]));
}
