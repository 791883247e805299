//! How long Debian 12 takes from the command to a healthy system, booted by postroj, by systemd-nspawn and by podman.
//!
//!     cargo build --release && cargo run --release -p benches --bin boot -- [RUNS]
//!
//! As an ordinary user there is no peer: nspawn needs root. Then the ratios are to postroj's
//! own default.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use benches::{Candidate, alternate, installed, report, set_up};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["nspawn", root, work] => return nspawn(root, Path::new(work)),
        ["end-nspawn", work] => return end_nspawn(Path::new(work)),
        ["podman", root] => return podman(root),
        _ => {}
    }
    let runs = words.first().map_or(Ok(20), |n| n.parse()).context("RUNS")?;
    let bench = Bench::prepare()?;
    let who = if bench.is_root { "root" } else { "an ordinary user" };
    let title = format!("from the command to a healthy Debian 12, as {who}");
    let measured = alternate(&bench.boots()?, runs);
    bench.clean();
    report(&title, &measured?);
    Ok(())
}

struct Bench {
    is_root: bool,
    work: PathBuf,
    postroj: PathBuf,
    me: PathBuf,
}

const IMAGE: &str = "debian-12";

impl Bench {
    fn prepare() -> Result<Self> {
        let uid = rustix::process::getuid();
        let work = PathBuf::from(format!("/var/tmp/postroj-bench-{}", uid.as_raw()));
        std::fs::create_dir_all(&work)?;
        let me = std::env::current_exe()?;
        let postroj = me.with_file_name("postroj");
        ensure!(postroj.exists(), "{} is missing: cargo build --release", postroj.display());
        let bench = Self { is_root: uid.is_root(), work, postroj, me };
        bench.postroj(&["pull", "--quiet", IMAGE])?;
        Ok(bench)
    }

    fn postroj(&self, args: &[&str]) -> Result<String> {
        set_up(self.postroj.to_str().context("a path that is not UTF-8")?, args)
    }

    fn boots(&self) -> Result<Vec<Candidate>> {
        let postroj = self.postroj.display();
        let boot = |name: &str, options: &str| {
            let line = format!("{postroj} boot -d --name bench-{name} {options} {IMAGE}");
            let shown = format!("postroj boot {options}");
            Candidate::new(shown.trim_end(), &line).before(&format!("{postroj} rm -f bench-{name}"))
        };
        let mut list = Vec::new();
        if self.is_root && installed("systemd-nspawn") {
            let (me, work) = (self.me.display(), self.work.display());
            let line = format!("{me} nspawn {} {work}", self.rootfs()?.display());
            list.push(
                Candidate::new("systemd-nspawn --boot", &line)
                    .before(&format!("{me} end-nspawn {work}")),
            );
        }
        if self.is_root && installed("podman") && installed("runc") {
            let line = format!("{} podman {}", self.me.display(), self.rootfs()?.display());
            list.push(
                Candidate::new("podman run --systemd=always", &line)
                    .before("podman rm --force --ignore --time 0 postroj-bench"),
            );
        }
        list.extend([boot("plain", ""), boot("fast", "--fast")]);
        if self.is_root {
            list.push(boot("host-ids", "--userns=host"));
        }
        Ok(list)
    }

    /// The very directory that postroj boots, for nspawn under a throw-away layer as well.
    fn rootfs(&self) -> Result<PathBuf> {
        let text = self.postroj(&["inspect", IMAGE])?;
        let found: serde_json::Value = serde_json::from_str(&text)?;
        let id = found[0]["RootFS"]["Layers"][0].as_str();
        let id = id.context("`postroj inspect` shows no layer")?.trim_start_matches("sha256:");
        let root = Path::new("/var/lib/postroj/layers").join(id).join("root");
        ensure!(root.exists(), "{} is missing", root.display());
        Ok(root)
    }

    fn clean(&self) {
        for name in ["plain", "fast", "host-ids"] {
            let _ = self.postroj(&["rm", "-f", &format!("bench-{name}")]);
        }
        let _ = end_nspawn(&self.work);
        if installed("podman") {
            let _ = set_up("podman", &["rm", "-f", "-t", "0", "postroj-bench"]);
        }
    }
}

/// Boots the same directory with podman under a throw-away layer, and returns when its systemd says that it is
/// running: podman itself does not wait for that. The limits are there because podman would raise them,
/// which needs a right (CAP_SYS_RESOURCE) that not every host's root has; crun refuses hybrid control groups.
fn podman(root: &str) -> Result<()> {
    let rootfs = format!("{root}:O");
    let options = "--runtime=runc --cgroup-manager=cgroupfs run --detach --name postroj-bench \
                   --network=none --ulimit nofile=1024:1024 --ulimit nproc=5000:5000 \
                   --systemd=always --rootfs";
    let options: Vec<&str> = options.split_ascii_whitespace().collect();
    set_up("podman", &[&options, &[&*rootfs, "/usr/lib/systemd/systemd"][..]].concat())?;
    let ask = ["exec", "postroj-bench", "systemctl", "is-system-running", "--wait"];
    let until = Instant::now() + Duration::from_secs(60);
    // Until its bus is there it cannot be asked.
    while !set_up("podman", &ask).is_ok_and(|said| said.trim() == "running") {
        ensure!(Instant::now() < until, "podman's system is not running");
    }
    Ok(())
}

/// Boots with nspawn and returns when it says that the system is up, as `machinectl start`
/// does; it goes on in groups of its own, since `--keep-unit` leaves it in its starter's.
fn nspawn(root: &str, work: &Path) -> Result<()> {
    let path = work.join("nspawn.notify");
    let _ = std::fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut script = String::new();
    for group in groups() {
        std::fs::create_dir_all(&group)?;
        script += &format!("echo $$ > {}/cgroup.procs; ", group.display());
    }
    script += &format!(
        "exec systemd-nspawn -q -D {root} --boot --volatile=overlay --register=no --keep-unit \
         --private-network --notify-ready=yes"
    );
    let log = std::fs::File::create(work.join("nspawn.log"))?;
    let child = Command::new("sh")
        .args(["-c", &script])
        .env("NOTIFY_SOCKET", &path)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    std::fs::write(work.join("nspawn.pid"), child.id().to_string())?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).context("systemd-nspawn was never ready")?;
        if buffer[..length].split(|&b| b == b'\n').any(|line| line == b"READY=1") {
            return Ok(());
        }
    }
}

fn groups() -> Vec<PathBuf> {
    let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"];
    let mounts = mounts.into_iter().filter(|mount| Path::new(mount).exists());
    mounts.map(|mount| Path::new(mount).join("postroj-bench")).collect()
}

/// Ends the nspawn that [`nspawn`] started, if any, and removes its groups.
fn end_nspawn(work: &Path) -> Result<()> {
    let file = work.join("nspawn.pid");
    let Ok(text) = std::fs::read_to_string(&file) else { return Ok(()) };
    std::fs::remove_file(&file)?;
    let pid = text.trim().parse().ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.context("the process id of nspawn")?;
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    for attempt in 0.. {
        if rustix::process::test_kill_process(pid).is_err() {
            break;
        }
        if attempt == 3000 {
            bail!("systemd-nspawn does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for group in groups() {
        remove_group(&group);
    }
    Ok(())
}

fn remove_group(group: &Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_group(&entry.path());
        }
    }
    for _ in 0..100 {
        if std::fs::remove_dir(group).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
