//! Sixteen systems at once: until all are up, what memory each takes, until all are stopped.
//!
//!     cargo build --release && cargo run --release -p benches --bin density -- [ROUNDS]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use benches::{load, set_up};

const IMAGE: &str = "debian-12";

/// Machines that are to be up at once.
const MANY: usize = 16;

fn main() -> Result<()> {
    let rounds = std::env::args().nth(1).map_or(Ok(1), |n| n.parse()).context("ROUNDS")?;
    let postroj = std::env::current_exe()?.with_file_name("postroj");
    ensure!(postroj.exists(), "{} is missing: cargo build --release", postroj.display());
    let bench = Bench { postroj };
    bench.postroj(&["pull", "--quiet", IMAGE])?;
    for _ in 0..rounds {
        for options in [&[][..], &["--fast"]] {
            let measured = bench.density(options);
            for name in names() {
                let _ = bench.postroj(&["rm", "-f", &name]);
            }
            measured?;
        }
    }
    Ok(())
}

fn names() -> Vec<String> {
    (0..MANY).map(|n| format!("bench-many-{n}")).collect()
}

struct Bench {
    postroj: PathBuf,
}

impl Bench {
    fn postroj(&self, args: &[&str]) -> Result<String> {
        set_up(self.postroj.to_str().context("a path that is not UTF-8")?, args)
    }

    fn density(&self, options: &[&str]) -> Result<()> {
        let names = names();
        let start = Instant::now();
        let children: Vec<_> = names
            .iter()
            .map(|name| {
                let mut command = Command::new(&self.postroj);
                command.args(["boot", "-d", "--network=none", "--name", name]);
                command.args(options).arg(IMAGE);
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
            "{MANY} machines at once {} (load {}): all up after {:.2} s, all stopped in {:.2} s; \
             proportional memory of each: {:.1} MB, its monitor {:.1} MB of it",
            options.join(" "),
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
}

/// kB (proc(5), `smaps_rollup`).
fn proportional(process: &Path) -> u64 {
    let rollup = std::fs::read_to_string(process.join("smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|l| l.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}
