//! How long Debian 12 takes from the command to a healthy system, booted by postroj and by
//! systemd-nspawn; how long a command in a running machine takes; and sixteen at once.
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
use benches::{Candidate, alternate, installed, load, report, set_up};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["nspawn", root, work] => return nspawn(root, Path::new(work)),
        ["end-nspawn", work] => return end_nspawn(Path::new(work)),
        _ => {}
    }
    let runs = words.first().map_or(Ok(20), |n| n.parse()).context("RUNS")?;
    let bench = Bench::prepare()?;
    let who = if bench.is_root { "root" } else { "an ordinary user" };
    let title = format!("from the command to a healthy Debian 12, as {who}");
    let measured = alternate(&bench.boots()?, runs);
    bench.clean();
    report(&title, &measured?);
    let title = format!("a command in a running machine, as {who}");
    let measured = bench.execs().and_then(|list| alternate(&list, runs * 5));
    bench.clean();
    report(&title, &measured?);
    let many = bench.density();
    bench.clean();
    many
}

struct Bench {
    is_root: bool,
    work: PathBuf,
    postroj: PathBuf,
    me: PathBuf,
}

const IMAGE: &str = "debian-12";

/// Machines of a run in which all are to be up at once.
const MANY: usize = 16;

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

    fn execs(&self) -> Result<Vec<Candidate>> {
        self.postroj(&["boot", "-d", "--network=none", "--name", "bench-exec", IMAGE])?;
        let machines: serde_json::Value = serde_json::from_str(&self.postroj(&["ps", "--json"])?)?;
        let list = machines.as_array().context("`postroj ps` lists nothing")?;
        let machine = list.iter().find(|m| m["Name"] == "bench-exec").context("it is not up")?;
        let pid = machine["Pid"].as_u64().context("it has no process")?;
        let postroj = self.postroj.display();
        let mut list =
            vec![Candidate::new("postroj exec true", &format!("{postroj} exec bench-exec true"))];
        if installed("nsenter") {
            let user =
                if self.is_root { "-a" } else { "-U -m -p -u -i -n -C --preserve-credentials" };
            list.push(Candidate::new("nsenter true", &format!("nsenter -t {pid} {user} true")));
        }
        if self.podman_runs() {
            list.push(Candidate::new("podman exec true", "podman exec postroj-bench true"));
        }
        Ok(list)
    }

    /// From what `--bin launch` made.
    fn podman_runs(&self) -> bool {
        let args = "--runtime=runc --cgroup-manager=cgroupfs run -d --replace --name postroj-bench \
                    --network=none --cgroups=disabled --ulimit=host localhost/postroj-bench sleep 600";
        let args: Vec<&str> = args.split_ascii_whitespace().collect();
        installed("podman") && set_up("podman", &args).is_ok()
    }

    fn density(&self) -> Result<()> {
        let names: Vec<String> = (0..MANY).map(|n| format!("bench-many-{n}")).collect();
        let start = Instant::now();
        let children: Vec<_> = names
            .iter()
            .map(|name| {
                let mut command = Command::new(&self.postroj);
                command.args(["boot", "-d", "--network=none", "--name", name, IMAGE]);
                command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()
            })
            .collect::<std::io::Result<_>>()?;
        for mut child in children {
            ensure!(child.wait()?.success(), "one of {MANY} machines did not boot");
        }
        let up = start.elapsed();
        let memory = self.memory()?;
        let start = Instant::now();
        let stops: Vec<_> = names
            .iter()
            .map(|name| {
                Command::new(&self.postroj).args(["stop", name]).stdout(Stdio::null()).spawn()
            })
            .collect::<std::io::Result<_>>()?;
        for mut stop in stops {
            ensure!(stop.wait()?.success(), "one of {MANY} machines did not stop");
        }
        println!(
            "\n{MANY} machines at once (load {}): all up after {:.2} s, all stopped in {:.2} s; \
             proportional memory of each: {:.1} MB, its monitor {:.1} MB of it",
            load(),
            up.as_secs_f64(),
            start.elapsed().as_secs_f64(),
            memory.0 as f64 / 1e3 / MANY as f64,
            memory.1 as f64 / 1e3 / MANY as f64,
        );
        Ok(())
    }

    /// kB of all machines' processes with their monitors, and of the monitors alone.
    fn memory(&self) -> Result<(u64, u64)> {
        let machines: serde_json::Value = serde_json::from_str(&self.postroj(&["ps", "--json"])?)?;
        let mut sum = (0, 0);
        for machine in machines.as_array().into_iter().flatten() {
            let Some(pid) = machine["Pid"].as_u64() else { continue };
            let namespace = std::fs::read_link(format!("/proc/{pid}/ns/pid"))?;
            for entry in std::fs::read_dir("/proc")?.flatten() {
                let path = entry.path();
                if std::fs::read_link(path.join("ns/pid")).is_ok_and(|ns| ns == namespace) {
                    sum.0 += proportional(&path);
                }
            }
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
            let monitor = proportional(&Path::new("/proc").join(parent.unwrap_or("0").trim()));
            sum = (sum.0 + monitor, sum.1 + monitor);
        }
        Ok(sum)
    }

    fn clean(&self) {
        let many = (0..MANY).map(|n| format!("bench-many-{n}"));
        let names = ["plain", "fast", "host-ids", "exec"].map(|n| format!("bench-{n}"));
        for name in names.into_iter().chain(many) {
            let _ = self.postroj(&["rm", "-f", &name]);
        }
        let _ = end_nspawn(&self.work);
        if installed("podman") {
            let _ = set_up("podman", &["rm", "-f", "-t", "0", "postroj-bench"]);
        }
    }
}

/// kB (proc(5), `smaps_rollup`).
fn proportional(process: &Path) -> u64 {
    let rollup = std::fs::read_to_string(process.join("smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|l| l.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
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
