//! How long a command in a running machine takes, beside nsenter and `podman exec`; and how long a machine
//! takes that comes out of a pool, until a command in it has answered, beside one that is booted.
//!
//!     cargo build --release && cargo run --release -p benches --bin exec -- [RUNS]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::{Candidate, Measured, alternate, installed, report, set_up};

const IMAGE: &str = "debian-12";
const PODMAN: &str = "postroj-bench-exec";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let postroj = std::env::current_exe()?.with_file_name("postroj");
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["answer", ref options @ ..] => return answer(&postroj, options),
        ["again"] => return Bench { is_root: false, postroj }.again(),
        _ => {}
    }
    let runs = args.first().map_or(Ok(20), |n| n.parse()).context("RUNS")?;
    let bench = Bench::prepare()?;
    let who = if bench.is_root { "root" } else { "an ordinary user" };
    let measured = bench.execs().and_then(|list| alternate(&list, runs * 5));
    if let Ok(measured) = &measured {
        report(&format!("a command in a running machine, as {who}"), measured);
    }
    // A batch of its own: what podman leaves to be done slows who comes next by 10 ms.
    let slower = measured.and_then(|_| match bench.podman_runs() {
        true => alternate(&[bench.exec(), podman_exec()], runs),
        false => Ok(Vec::new()),
    });
    bench.clean();
    let slower = slower?;
    if !slower.is_empty() {
        report(&format!("the same, as {who}, beside podman"), &slower);
    }
    let measured = bench.pools(runs);
    bench.clean();
    report(&format!("until `exec` answers, as {who}"), &measured?);
    Ok(())
}

struct Bench {
    is_root: bool,
    postroj: PathBuf,
}

impl Bench {
    fn prepare() -> Result<Self> {
        let postroj = std::env::current_exe()?.with_file_name("postroj");
        ensure!(postroj.exists(), "{} is missing: cargo build --release", postroj.display());
        let bench = Self { is_root: rustix::process::getuid().is_root(), postroj };
        bench.postroj(&["pull", "--quiet", IMAGE])?;
        bench.clean();
        Ok(bench)
    }

    fn postroj(&self, args: &[&str]) -> Result<String> {
        set_up(self.postroj.to_str().context("a path that is not UTF-8")?, args)
    }

    fn execs(&self) -> Result<Vec<Candidate>> {
        self.postroj(&["boot", "-d", "--network=none", "--name", "bench-exec", IMAGE])?;
        let machines: serde_json::Value = serde_json::from_str(&self.postroj(&["ps", "--json"])?)?;
        let list = machines.as_array().context("`postroj ps` lists nothing")?;
        let machine = list.iter().find(|m| m["Name"] == "bench-exec").context("it is not up")?;
        let pid = machine["Pid"].as_u64().context("it has no process")?;
        let mut list = vec![self.exec()];
        if installed("nsenter") {
            let user =
                if self.is_root { "-a" } else { "-U -m -p -u -i -n -C --preserve-credentials" };
            list.push(Candidate::new("nsenter true", &format!("nsenter -t {pid} {user} true")));
        }
        Ok(list)
    }

    fn exec(&self) -> Candidate {
        let line = format!("{} exec bench-exec true", self.postroj.display());
        Candidate::new("postroj exec true", &line)
    }

    /// The same files, as root's podman can run them; see `--bin boot` for the options.
    fn podman_runs(&self) -> bool {
        let Ok(text) = self.postroj(&["inspect", IMAGE]) else { return false };
        let found: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let id = found[0]["RootFS"]["Layers"][0].as_str().unwrap_or_default();
        let id = id.trim_start_matches("sha256:");
        let rootfs = format!("/var/lib/postroj/layers/{id}/root:O");
        let options = "--runtime=runc --cgroup-manager=cgroupfs run --detach --replace --network=none \
                       --ulimit nofile=1024:1024 --ulimit nproc=5000:5000 --name";
        let options: Vec<&str> = options.split_ascii_whitespace().collect();
        let words = [&options, &[PODMAN, "--rootfs", &rootfs, "sleep", "600"][..]].concat();
        self.is_root && installed("podman") && set_up("podman", &words).is_ok()
    }

    fn pools(&self, runs: usize) -> Result<Vec<Measured>> {
        let pool = ["pool", "create", "--network=none", "--name", "bench", "--size", "2", IMAGE];
        self.postroj(&pool)?;
        let me = std::env::current_exe()?;
        let me = me.display();
        let answer = |name: &str, words: &str| {
            let line = format!("{me} answer --name bench-answer {words}");
            Candidate::new(name, &line).before(&format!("{me} again"))
        };
        let from_pool = answer("boot --from-pool, and exec", "--from-pool bench");
        let booted = answer("boot, and exec", &format!("--network=none {IMAGE}"));
        alternate(&[from_pool, booted], runs)
    }

    /// Before each: the last one is gone, and the pool is full, as it is for who comes now and then.
    fn again(&self) -> Result<()> {
        let _ = self.postroj(&["rm", "-f", "bench-answer"]);
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let pools = serde_json::from_str(&self.postroj(&["pool", "ls", "--json"])?);
            let pools: serde_json::Value = pools.context("`postroj pool ls`")?;
            if pools
                .as_array()
                .is_some_and(|all| all.iter().all(|pool| pool["Ready"] == pool["Size"]))
            {
                return Ok(());
            }
            ensure!(Instant::now() < until, "the pool does not fill");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn clean(&self) {
        let _ = self.postroj(&["pool", "rm", "bench"]);
        for name in ["bench-exec", "bench-answer"] {
            let _ = self.postroj(&["rm", "-f", name]);
        }
        if installed("podman") {
            let _ = set_up("podman", &["rm", "--force", "--ignore", "--time", "0", PODMAN]);
        }
    }
}

fn podman_exec() -> Candidate {
    Candidate::new("podman exec true", &format!("podman exec {PODMAN} true"))
}

/// A machine, and the answer of a command in it.
fn answer(postroj: &Path, options: &[&str]) -> Result<()> {
    let postroj = postroj.to_str().context("a path that is not UTF-8")?;
    set_up(postroj, &[&["boot", "--detach"], options].concat())?;
    let said = set_up(postroj, &["exec", "bench-answer", "echo", "here"])?;
    ensure!(said == "here\n", "it answers {said:?}");
    Ok(())
}
