//! How long `true` takes in a container: created, started and deleted by separate commands, as podman and
//! containerd do it, by the face `oci`, by crun and by runc.
//!
//!     cargo build --release && cargo run --release -p benches --bin oci -- [RUNS]
//!
//! All are given the same bundle, in alternation. crun 1.8 refuses a hybrid layout of control groups, and is
//! left out there, but for the first table; `unshare -m sh -c 'umount /sys/fs/cgroup/unified; exec …'` helps.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use benches::{Candidate, alternate, report};

/// The wait in between is the container's end, which `delete` may not come before.
const LIFE: &str = "set -e
$@ create --bundle $BUNDLE --pid-file $BUNDLE/pid bench >/dev/null </dev/null
$@ start bench
while kill -0 $(cat $BUNDLE/pid) 2>/dev/null && ! grep -q '^State:.Z' /proc/$(cat $BUNDLE/pid)/status; do :; done
$@ delete bench
";

fn main() -> Result<()> {
    let runs = std::env::args().nth(1).map_or(Ok(100), |n| n.parse()).context("RUNS")?;
    let me = std::env::current_exe().context("cannot find this program")?;
    let postroj = me.with_file_name("postroj");
    let place = std::env::temp_dir().join(format!("bench-oci-{}", std::process::id()));
    bundle(&place, &postroj)?;
    let done = tables(&place, &postroj, runs);
    std::fs::remove_dir_all(&place)?;
    done
}

fn tables(place: &Path, postroj: &Path, runs: usize) -> Result<()> {
    let (script, here) = (place.join("life"), place.display());
    std::fs::write(&script, LIFE.replace("$BUNDLE", &here.to_string()))?;
    for (name, global) in
        [("without control groups", "--cgroup-manager=disabled"), ("with control groups", "")]
    {
        let line = |program: &str, root: &str| {
            format!("sh {} {program} --root {here}/{root} {global}", script.display())
        };
        let mut candidates = vec![
            Candidate::new("postroj oci", &line(&format!("{} oci", postroj.display()), "ours")),
            Candidate::new("crun", &line("crun", "crun")),
        ];
        if global.is_empty() {
            candidates.push(Candidate::new("runc", &line("runc", "runc")));
        }
        report(&format!("create, start, delete {name}"), &alternate(&candidates, runs)?);
    }
    let run = |program: &str, root: &str| {
        format!(
            "{program} --root {here}/{root} --cgroup-manager=disabled run --bundle {here} bench"
        )
    };
    let candidates = [
        Candidate::new("postroj oci", &run(&format!("{} oci", postroj.display()), "ours")),
        Candidate::new("crun", &run("crun", "crun")),
    ];
    report("run without control groups", &alternate(&candidates, runs)?);
    Ok(())
}

/// A static busybox, and the configuration that `spec` writes.
fn bundle(place: &Path, postroj: &Path) -> Result<()> {
    let bin = place.join("rootfs/bin");
    std::fs::create_dir_all(&bin)?;
    for name in ["dev", "proc", "sys"] {
        std::fs::create_dir_all(place.join("rootfs").join(name))?;
    }
    std::fs::copy("/bin/busybox", bin.join("true")).context("busybox-static is not installed")?;
    let mut spec = Command::new(postroj);
    let made = spec.args(["oci", "spec", "--bundle"]).arg(place).status()?;
    if !made.success() {
        bail!("cannot make a configuration");
    }
    let file = place.join("config.json");
    let text = std::fs::read_to_string(&file)?;
    // crun 1.8 knows no later version.
    let text = text
        .replace("\"terminal\": true", "\"terminal\": false")
        .replace("\"sh\"", "\"/bin/true\"")
        .replace("\"ociVersion\": \"1.2.0\"", "\"ociVersion\": \"1.0.2\"");
    Ok(std::fs::write(file, text)?)
}
