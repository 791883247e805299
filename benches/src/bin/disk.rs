//! How long the tree on a disk takes from an image into a store, by postroj and by what others have without root.
//!
//!     cargo build --release && cargo run --release -p benches --bin disk -- [RUNS]
//!
//! The disk: 1 GiB of files of all sizes on ext4 in a qcow2, as it is and compressed. The peers: `qemu-img convert` and
//! `debugfs rdump`, which loses owners, and `qemu-img convert` alone. Needs root, whom debugfs can write owners for.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use benches::{Candidate, alternate, report, set_up};

const WORK: &str = "/var/tmp/postroj-bench-disk";

fn main() -> Result<()> {
    let runs = std::env::args().nth(1).map_or(Ok(3), |n| n.parse()).context("RUNS")?;
    ensure!(rustix::process::getuid().is_root(), "run this as root");
    let postroj = std::env::current_exe()?.with_file_name("postroj");
    ensure!(postroj.exists(), "{} is missing: cargo build --release", postroj.display());
    fs::create_dir_all(WORK)?;
    make_disks()?;
    for disk in ["plain", "packed"] {
        let clean = script("clean", "rm -rf out x.raw store; mkdir out; sync -f .")?;
        let pull =
            format!("{} --store {WORK}/store pull -q disk:{WORK}/{disk}.qcow2", postroj.display());
        let convert = format!("qemu-img convert -O raw {disk}.qcow2 x.raw");
        // What a pull has written is on the disk; so theirs has to be.
        let dump = script(
            "dump",
            &format!("{convert}; debugfs -R 'rdump / out' x.raw 2>/dev/null; sync -f ."),
        )?;
        let list = [
            Candidate::new("postroj pull", &pull).before(&clean),
            Candidate::new("qemu-img convert + debugfs rdump", &dump).before(&clean),
            Candidate::new("qemu-img convert alone", &script("convert", &convert)?).before(&clean),
        ];
        report(&format!("{disk}.qcow2"), &alternate(&list, runs)?);
    }
    set_up(
        "rm",
        &["-rf", &format!("{WORK}/store"), &format!("{WORK}/out"), &format!("{WORK}/x.raw")],
    )?;
    Ok(())
}

/// A script's command line.
fn script(name: &str, text: &str) -> Result<String> {
    let path = format!("{WORK}/{name}.sh");
    fs::write(&path, format!("set -e; cd {WORK}; {text}\n"))?;
    Ok(format!("bash {path}"))
}

/// Once; the next benchmark finds them.
fn make_disks() -> Result<()> {
    let done = format!("{WORK}/made");
    if Path::new(&done).exists() {
        return Ok(());
    }
    let script = format!(
        "set -e; cd {WORK}; rm -rf tree; mkdir tree; cd tree
        for i in $(seq 40); do head -c 16M /dev/urandom >large-$i; done
        for d in $(seq 200); do mkdir d$d; head -c 1500000 /dev/urandom | split -b 15000 - d$d/f; done
        mkdir etc; echo ID=bench >etc/os-release; cd ..
        truncate -s 1500M fs; mkfs.ext4 -q -d tree fs; rm -r tree
        qemu-img convert -f raw -O qcow2 fs plain.qcow2; qemu-img convert -f raw -c -O qcow2 fs packed.qcow2; rm fs; touch {done}"
    );
    set_up("bash", &["-c", &script]).map(drop)
}
