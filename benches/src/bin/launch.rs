//! How long a static `true` takes in an image, launched by postroj and by its peers.
//!
//!     cargo build --release && cargo run --release -p benches --bin launch -- [RUNS]
//!
//! Run it as root and as an ordinary user: each measures what that user can have. What is
//! installed of bwrap, crun, runc, systemd-nspawn and podman is compared.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use benches::{Candidate, alternate, installed, report, set_up};

fn main() -> Result<()> {
    let runs = std::env::args().nth(1).map_or(Ok(100), |n| n.parse()).context("RUNS")?;
    let root = rustix::process::getuid().is_root();
    if root && std::env::var_os(APART).is_none() {
        return Err(apart()?);
    }
    let bench = Bench::prepare(root)?;
    let who = if root { "root" } else { "an ordinary user" };
    report(&format!("launch of true as {who}, all namespaces"), &alternate(&bench.fast(), runs)?);
    let slow = bench.slow()?;
    if slow.len() > 1 {
        report(&format!("launch of true as {who}, slower peers"), &alternate(&slow, runs.min(10))?);
    }
    bench.resident()?;
    Ok(())
}

/// Set where this program is in a mount namespace of its own.
const APART: &str = "POSTROJ_BENCH_APART";

/// crun refuses a hybrid control group layout unless the newer hierarchy is out of sight.
fn apart() -> Result<anyhow::Error> {
    let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$0\" \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).env(APART, "1");
    Ok(std::os::unix::process::CommandExt::exec(&mut command).into())
}

/// A root file system with a static `true`, as a directory for the peers and as an image for postroj.
struct Bench {
    is_root: bool,
    work: PathBuf,
    rootfs: PathBuf,
    postroj: PathBuf,
    floor: PathBuf,
}

const IMAGE: &str = "bench:launch";

impl Bench {
    fn prepare(is_root: bool) -> Result<Self> {
        let uid = rustix::process::getuid().as_raw();
        let work = PathBuf::from(format!("/var/tmp/postroj-bench-{uid}"));
        std::fs::create_dir_all(&work)?;
        let postroj = beside_me("postroj")?;
        let floor = work.join("floor");
        compile(&floor, include_str!("../floor.c"))?;
        let rootfs = work.join("rootfs");
        if !rootfs.join("usr/bin/postroj-true").exists() {
            let tar = work.join("rootfs.tar");
            let script = format!(
                "set -e; mkdir -p {r}; cd {r}; {p} run debian-12 -- \
                 tar -C / --one-file-system -c bin etc lib lib64 sbin usr var | tar x; \
                 mkdir -p proc sys dev run tmp root",
                r = rootfs.display(),
                p = postroj.display(),
            );
            set_up("sh", &["-c", &script])?;
            compile(&rootfs.join("usr/bin/postroj-true"), "int main(void) { return 0; }\n")?;
            set_up("tar", &["-C", text(&rootfs)?, "-cf", text(&tar)?, "."])?;
            set_up(text(&postroj)?, &["pull", text(&tar)?])?;
            set_up(text(&postroj)?, &["tag", &format!("tar:{}", tar.display()), IMAGE])?;
        }
        Ok(Self { is_root, work, rootfs, postroj, floor })
    }

    fn fast(&self) -> Vec<Candidate> {
        let (postroj, rootfs) = (self.postroj.display(), self.rootfs.display());
        let run = |options: &str| format!("{postroj} run {options} {IMAGE} postroj-true");
        let mut list = vec![Candidate::new("postroj run", &run("--network=none"))];
        if !self.is_root {
            list.push(Candidate::new(
                "postroj run --userns=single",
                &run("--network=none --userns=single"),
            ));
        }
        list.push(Candidate::new(
            "C floor",
            &format!("{} {rootfs} /usr/bin/postroj-true", self.floor.display()),
        ));
        if installed("bwrap") {
            list.push(Candidate::new(
                "bwrap --unshare-all",
                &format!(
                    "bwrap --bind {rootfs} / --unshare-all --unshare-user --dev /dev --proc /proc \
                     --tmpfs /tmp postroj-true"
                ),
            ));
        }
        if installed("unshare") {
            list.push(Candidate::new(
                "unshare --root",
                &format!(
                    "unshare -Urmpuin --fork --mount-proc --root={rootfs} /usr/bin/postroj-true"
                ),
            ));
        }
        list
    }

    fn slow(&self) -> Result<Vec<Candidate>> {
        let (postroj, rootfs) = (self.postroj.display(), self.rootfs.display());
        let run = format!("{postroj} run --network=none {IMAGE} postroj-true");
        let mut list = vec![Candidate::new("postroj run", &run)];
        if installed("crun") {
            let bundle = self.bundle()?;
            for (name, options) in [
                ("crun run (bundle ready)", "--cgroup-manager=cgroupfs"),
                ("crun run (bundle ready, no cgroup)", "--cgroup-manager=disabled"),
            ] {
                let line = format!("crun {options} run -b {} postroj-bench", bundle.display());
                list.push(Candidate::new(name, &line));
            }
            if installed("runc") {
                let line = format!("runc run -b {} postroj-bench", bundle.display());
                list.push(Candidate::new("runc run (bundle ready)", &line));
            }
        }
        if self.is_root && installed("systemd-nspawn") {
            list.push(Candidate::new(
                "systemd-nspawn --volatile=overlay",
                &format!(
                    "systemd-nspawn -q --register=no --keep-unit --private-network \
                     --volatile=overlay -D {rootfs} postroj-true"
                ),
            ));
        }
        if installed("podman") && self.podman_image().is_ok() {
            for runtime in ["crun", "runc"].into_iter().filter(|runtime| installed(runtime)) {
                // Limits of its own are above what root may set on some hosts.
                let line = format!(
                    "podman --runtime={runtime} --cgroup-manager=cgroupfs run --rm --network=none \
                     --ulimit=nofile=1024:1024 --ulimit=nproc=4096:4096 \
                     localhost/postroj-bench postroj-true"
                );
                list.push(Candidate::new(&format!("podman run ({runtime})"), &line));
            }
        }
        Ok(list)
    }

    fn bundle(&self) -> Result<PathBuf> {
        let bundle = self.work.join("bundle");
        std::fs::create_dir_all(&bundle)?;
        let config = bundle.join("config.json");
        if !config.exists() {
            let rootless = if self.is_root { "" } else { "--rootless" };
            let script = format!("cd {} && crun spec {rootless}", bundle.display());
            set_up("sh", &["-c", &script])?;
            let spec = std::fs::read_to_string(&config)?
                .replace("\"sh\"", "\"/usr/bin/postroj-true\"")
                .replace("\"rootfs\"", &format!("\"{}\"", self.rootfs.display()))
                .replace("\"terminal\": true", "\"terminal\": false");
            std::fs::write(&config, spec)?;
        }
        Ok(bundle)
    }

    fn podman_image(&self) -> Result<()> {
        if set_up("podman", &["image", "exists", "localhost/postroj-bench"]).is_err() {
            let tar = self.work.join("rootfs.tar");
            set_up("podman", &["import", "-q", text(&tar)?, "localhost/postroj-bench"])?;
        }
        Ok(())
    }

    /// Memory of the monitor beside the payload, while a machine runs.
    fn resident(&self) -> Result<()> {
        let mut machine = std::process::Command::new(&self.postroj)
            .args(["run", "--network=none", IMAGE, "sleep", "1"])
            .spawn()?;
        std::thread::sleep(std::time::Duration::from_millis(500));
        println!("\nmemory beside the payload of a foreground run:");
        let monitor = machine.id();
        let init = children(monitor).first().copied();
        for (name, pid) in [("monitor", Some(monitor)), ("init", init)] {
            let Some(pid) = pid else { continue };
            let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
            let rollup = rollup.unwrap_or_default();
            let field = |name: &str| {
                let line = rollup.lines().find(|l| l.starts_with(name)).unwrap_or("? 0 kB");
                line.split_ascii_whitespace().nth(1).unwrap_or("?").to_owned()
            };
            println!("  {name}: {} kB resident, {} kB proportional", field("Rss:"), field("Pss:"));
        }
        machine.wait()?;
        Ok(())
    }
}

fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    text.unwrap_or_default().split_ascii_whitespace().filter_map(|p| p.parse().ok()).collect()
}

fn beside_me(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    anyhow::ensure!(path.exists(), "{} is missing: cargo build --release", path.display());
    Ok(path)
}

fn compile(to: &Path, source: &str) -> Result<()> {
    if to.exists() {
        return Ok(());
    }
    let file = std::env::temp_dir().join(format!("postroj-bench-{}.c", std::process::id()));
    std::fs::write(&file, source)?;
    set_up("cc", &["-O2", "-static", "-o", text(to)?, text(&file)?])?;
    Ok(std::fs::remove_file(file)?)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
