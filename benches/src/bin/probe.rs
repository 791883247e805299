//! How long a probe takes: of nothing but a unit; of a small package, against `apt-get install` of it in
//! a machine that runs already; and a matrix of eight cells, against podman and a shell script.
//!
//!     cargo build --release && cargo run --release -p benches --bin probe -- [RUNS]

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use benches::{Candidate, alternate, installed, load, median, report, set_up};

const IMAGE: &str = "debian-12";
const CELLS: usize = 8;

fn main() -> Result<()> {
    let runs = std::env::args().nth(1).map_or(Ok(10), |n| n.parse()).context("RUNS")?;
    let bench = Bench::prepare()?;
    let who = if bench.is_root { "root" } else { "an ordinary user" };
    let unit = bench.probe("postroj probe --check-unit", "--check-unit systemd-journald");
    let fast = bench.probe("the same, --fast", "--fast --check-unit systemd-journald");
    report(&format!("a warm probe of a unit, as {who}"), &alternate(&[unit, fast], runs)?);
    let package = bench.package();
    bench.clean();
    package?;
    let measured = bench.matrix(runs.div_ceil(4));
    bench.clean();
    report(&format!("{CELLS} cells that install a package, as {who}"), &measured?);
    Ok(())
}

struct Bench {
    is_root: bool,
    work: PathBuf,
    postroj: PathBuf,
    deb: PathBuf,
}

impl Bench {
    fn prepare() -> Result<Self> {
        let uid = rustix::process::getuid();
        let work = PathBuf::from(format!("/var/tmp/postroj-bench-{}", uid.as_raw()));
        std::fs::create_dir_all(&work)?;
        let postroj = std::env::current_exe()?.with_file_name("postroj");
        ensure!(postroj.exists(), "{} is missing: cargo build --release", postroj.display());
        let deb = small(&work)?;
        let bench = Self { is_root: uid.is_root(), work, postroj, deb };
        bench.postroj(&["pull", "--quiet", IMAGE])?;
        bench.clean();
        Ok(bench)
    }

    fn postroj(&self, args: &[&str]) -> Result<String> {
        set_up(self.postroj.to_str().context("a path that is not UTF-8")?, args)
    }

    fn probe(&self, name: &str, options: &str) -> Candidate {
        let line = format!("{} probe --image {IMAGE} {options}", self.postroj.display());
        Candidate::new(name, &line)
    }

    /// What a probe adds to apt: both in seconds of the same minutes.
    fn package(&self) -> Result<()> {
        self.postroj(&["boot", "-d", "--name", "bench-apt", "--network", "none", IMAGE])?;
        let deb = self.deb.display().to_string();
        let directory = self.work.join("probe.json");
        let json = format!("json={}", directory.display());
        let file = std::fs::read(&self.deb)?;
        let inside = "cat > /tmp/small.deb";
        let mut copy = Command::new(&self.postroj);
        copy.args(["exec", "-i", "bench-apt", "sh", "-c", inside])
            .stdin(std::process::Stdio::piped());
        let mut child = copy.spawn()?;
        std::io::Write::write_all(&mut child.stdin.take().context("no input")?, &file)?;
        ensure!(child.wait()?.success(), "cannot copy the package");
        let (mut apt, mut ours, mut whole) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let start = std::time::Instant::now();
            let install =
                ["exec", "-e", "DEBIAN_FRONTEND=noninteractive", "bench-apt", "apt-get", "-qy"];
            self.postroj(&[&install[..], &["install", "/tmp/small.deb"]].concat())?;
            apt.push(start.elapsed().as_secs_f64());
            self.postroj(&[&install[..], &["purge", "small"]].concat())?;
            let start = std::time::Instant::now();
            let checks = ["--check-unit", "small", "--check-network", "tcp://localhost:8099"];
            let args = ["probe", "--image", IMAGE, "--package", &deb, "--report", &json];
            self.postroj(&[&args[..], &checks].concat())?;
            whole.push(start.elapsed().as_secs_f64());
            let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&directory)?)?;
            let steps = told["cells"][0]["steps"].as_array().context("no steps")?;
            let seconds = |step: &serde_json::Value| step["seconds"].as_f64().unwrap_or_default();
            ours.push(steps.iter().filter(|step| step["phase"] == "install").map(seconds).sum());
        }
        println!("\na small package ({ROUNDS} rounds, in alternation; load {})", load());
        println!("apt-get install in a running machine       {:>7.0} ms", median(&apt) * 1e3);
        println!("a probe's fetch, install and six checks    {:>7.0} ms", median(&ours) * 1e3);
        println!("the whole probe, boot and end included     {:>7.0} ms", median(&whole) * 1e3);
        println!(
            "install and checks / apt-get install       {:>7.2}",
            median(&ours) / median(&apt)
        );
        Ok(())
    }

    fn matrix(&self, runs: usize) -> Result<Vec<benches::Measured>> {
        let deb = self.deb.display();
        let probes: String = (0..CELLS)
            .map(|_| {
                format!("[[probe]]\nimage = [{IMAGE:?}]\npackage = [\"{deb}\"]\ncheck-unit = [\"small\"]\ncheck-network = [\"tcp://localhost:8099\"]\n\n")
            })
            .collect();
        let file = self.work.join("postroj.toml");
        std::fs::write(&file, probes)?;
        let line = format!("{} matrix {}", self.postroj.display(), file.display());
        let mut list = vec![Candidate::new("postroj matrix", &line)];
        if installed("podman") && self.podman_image().is_ok() {
            for runtime in ["runc", "crun"].into_iter().filter(|runtime| Self::podman_runs(runtime))
            {
                let script = self.work.join(format!("podman-{runtime}.sh"));
                std::fs::write(&script, SCRIPT)?;
                let line = format!("sh {} {runtime} {CELLS} {deb}", script.display());
                list.push(Candidate::new(&format!("podman ({runtime}), two at once"), &line));
            }
        }
        alternate(&list, runs)
    }

    fn podman_image(&self) -> Result<()> {
        if set_up("podman", &["image", "exists", PODMAN_IMAGE]).is_err() {
            let tar = self.work.join("system.tar");
            let tar = tar.to_str().context("a path that is not UTF-8")?;
            self.postroj(&["save", "--as", "oci-archive", "-o", tar, IMAGE])?;
            let loaded = set_up("podman", &["pull", "-q", &format!("oci-archive:{tar}")])?;
            set_up("podman", &["tag", loaded.trim(), PODMAN_IMAGE])?;
        }
        Ok(())
    }

    /// Not every runtime takes every host's control groups.
    fn podman_runs(runtime: &str) -> bool {
        let line = format!(
            "p=\"podman --runtime={runtime} --cgroup-manager=cgroupfs\"; n=$(ulimit -Hn); \
             $p run --rm --ulimit nofile=$n:$n --ulimit nproc=4096:4096 --network=none {PODMAN_IMAGE} true"
        );
        installed(runtime) && set_up("sh", &["-c", &line]).is_ok()
    }

    fn clean(&self) {
        let _ = self.postroj(&["rm", "-f", "bench-apt"]);
    }
}

const ROUNDS: usize = 8;

const PODMAN_IMAGE: &str = "localhost/postroj-bench-system";

/// What people write: boot, wait, copy, install, check, remove; two at once, as there are processors.
const SCRIPT: &str = r#"set -e
p="podman --runtime=$1 --cgroup-manager=cgroupfs"
one() {
    n=postroj-bench-$2
    trap '$p rm -f -t 0 $n > /dev/null 2>&1' EXIT
    # podman's own limits take a right that not everybody has.
    l=$(ulimit -Hn)
    $p run -d --ulimit nofile=$l:$l --ulimit nproc=4096:4096 --systemd=always --network=none --name $n localhost/postroj-bench-system /sbin/init
    for i in $(seq 200); do
        s=$($p exec $n systemctl is-system-running 2>&1 || true)
        case $s in running|degraded) break;; esac
        sleep 0.05
    done
    $p cp $3 $n:/tmp/small.deb
    $p exec $n apt-get -qy install /tmp/small.deb
    $p exec $n systemctl is-active small
    $p exec $n perl -MIO::Socket::INET -e 'for (1..100) { exit 0 if IO::Socket::INET->new("127.0.0.1:8099"); select undef, undef, undef, 0.05 } exit 1'
}
if [ "$4" = one ]; then one $1 $2 $3; exit; fi
seq $2 | xargs -P 2 -I{} sh $0 $1 {} $3 one
"#;

/// A package with a service that listens.
fn small(work: &Path) -> Result<PathBuf> {
    let root = work.join("small");
    let put = |path: &str, text: &str, mode: u32| -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().context("no directory")?)?;
        std::fs::write(&path, text)?;
        Ok(std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?)
    };
    put(
        "DEBIAN/control",
        "Package: small\nVersion: 1\nArchitecture: all\nMaintainer: A B <a@example.org>\nDescription: small\n",
        0o644,
    )?;
    put(
        "DEBIAN/postinst",
        "#!/bin/sh\nset -e\nsystemctl daemon-reload\nsystemctl start small\n",
        0o755,
    )?;
    put("DEBIAN/prerm", "#!/bin/sh\nsystemctl stop small\n", 0o755)?;
    let server =
        "my $s = IO::Socket::INET->new(LocalPort => 8099, Listen => 5) or die; $s->accept while 1";
    put(
        "lib/systemd/system/small.service",
        &format!("[Service]\nExecStart=/usr/bin/perl -MIO::Socket::INET -e '{server}'\n"),
        0o644,
    )?;
    let deb = work.join("small_1_all.deb");
    let (from, to) = (root.to_str().context("not UTF-8")?, deb.to_str().context("not UTF-8")?);
    set_up("dpkg-deb", &["-Zgzip", "--root-owner-group", "--build", from, to])?;
    Ok(deb)
}
