//! How long an image takes from a registry on this machine into a store, cold, by postroj and its peers.
//!
//!     cargo build --release && cargo run --release -p benches --bin pull -- [RUNS]
//!
//! Debian's docker-registry serves, on the loopback: a Debian 12 in two layers, the same in 20,
//! and 50,000 small files in one; each compressed by gzip and by zstd. Needs root, whom all
//! peers can unpack for, and skopeo and umoci to make the images.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use benches::{Candidate, alternate, installed, report, set_up};

const WORK: &str = "/var/tmp/postroj-bench-pull";
const PORT: u16 = 5077;

/// Ended with the benchmark.
struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> Result<()> {
    let runs = std::env::args().nth(1).map_or(Ok(3), |n| n.parse()).context("RUNS")?;
    ensure!(rustix::process::getuid().is_root(), "run this as root");
    let postroj = std::env::current_exe()?.with_file_name("postroj");
    ensure!(postroj.exists(), "{} is missing: cargo build --release", postroj.display());
    fs::create_dir_all(WORK)?;
    let _registry = start()?;
    make_images(&postroj)?;
    for image in ["two", "twenty", "files"] {
        for compression in ["gzip", "zstd"] {
            let list = candidates(&postroj, image, compression)?;
            let title = format!("{image}:{compression}, cold");
            report(&title, &alternate(&list, runs)?);
        }
    }
    let warm =
        format!("{} --store {WORK}/store pull -q localhost:{PORT}/two-gzip:t", postroj.display());
    set_up("rm", &["-rf", &format!("{WORK}/old")])?;
    let list = [
        Candidate::new("postroj pull, nothing new", &warm),
        Candidate::new(
            "curl of the manifest's head",
            &format!("curl -sI localhost:{PORT}/v2/two-gzip/manifests/t"),
        ),
    ];
    report("two:gzip, warm", &alternate(&list, runs.max(10))?);
    Ok(())
}

fn start() -> Result<Registry> {
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {WORK}/registry}}}}\n\
         http: {{addr: '127.0.0.1:{PORT}'}}\n"
    );
    fs::write(format!("{WORK}/registry.yml"), text)?;
    let child = Command::new("docker-registry")
        .args(["serve", &format!("{WORK}/registry.yml")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start docker-registry")?;
    let registry = Registry(child);
    for _ in 0..200 {
        if std::net::TcpStream::connect(("127.0.0.1", PORT)).is_ok() {
            return Ok(registry);
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    bail!("docker-registry does not answer")
}

/// Once; the next benchmark finds them.
fn make_images(postroj: &Path) -> Result<()> {
    let done = format!("{WORK}/made");
    if Path::new(&done).exists() {
        return Ok(());
    }
    let store = format!("{WORK}/source");
    let postroj = postroj.to_str().context("the program's path")?;
    set_up(postroj, &["--store", &store, "pull", "-q", "debian-12"])?;
    let script = format!(
        r#"set -e; cd {WORK}; rm -rf oci tars; mkdir tars
        root=$(echo {store}/layers/*/root)
        tar -C $root --sort=name -cf tars/two-1.tar --exclude=./usr/share --exclude=./usr/lib/x86_64-linux-gnu .
        tar -C $root --sort=name -cf tars/two-2.tar --no-recursion ./usr --recursion ./usr/share $(cd $root && ls -d ./usr/lib/x86_64-linux-gnu)
        (cd $root && find . | LC_ALL=C sort) >names
        split -n l/20 -d names part-
        for part in part-*; do tar -C $root --no-recursion -T $part -cf tars/twenty-$part.tar; done
        mkdir -p files; for d in $(seq 500); do mkdir -p files/d$d; for f in $(seq 100); do
            printf '%0900d' $f >files/d$d/f$f; done; done
        tar --sort=name -cf tars/files-1.tar files; rm -rf files names part-*
        umoci init --layout oci
        for image in two twenty files; do
            umoci new --image oci:$image
            for tar in tars/$image-*; do umoci raw add-layer --image oci:$image $tar; done
            umoci config --image oci:$image --config.cmd /bin/sh
            # Only what is not compressed is compressed as asked for, and only where it is not there yet.
            rm -rf plain; skopeo --insecure-policy copy -q --dest-decompress oci:oci:$image dir:plain
            for compression in gzip zstd; do
                skopeo --insecure-policy copy -q --dest-tls-verify=false --dest-compress-format $compression \
                    dir:plain docker://localhost:{PORT}/$image-$compression:t
            done
        done
        rm -rf tars oci plain; touch {done}"#
    );
    set_up("bash", &["-c", &script]).map(drop)
}

fn candidates(postroj: &Path, image: &str, compression: &str) -> Result<Vec<Candidate>> {
    let from = format!("localhost:{PORT}/{image}-{compression}:t");
    // Not removed before the end: ext4 is slow to make files where many were just removed
    // (fs/ext4/ialloc.c, recently_deleted). And what others left to be written, they write themselves.
    let clean = |name: &str| -> Result<String> {
        let text = format!(
            "mkdir -p {WORK}/old; umount {WORK}/{name}/overlay 2>/dev/null\n\
             [ ! -e {WORK}/{name} ] || mv {WORK}/{name} $(mktemp -d {WORK}/old/XXXXXX); sync -f {WORK}"
        );
        write("clean", name, &text)
    };
    let pull = format!("{} --store {WORK}/store pull -q {from}", postroj.display());
    let mut list = vec![Candidate::new("postroj pull", &pull).before(&clean("store")?)];
    let script = layers_by_hand(image, compression)?;
    list.push(Candidate::new("curl | (un)compress | tar x", &script).before(&clean("hand")?));
    for tool in ["podman", "buildah"].into_iter().filter(|tool| installed(tool)) {
        let root = format!("{WORK}/{tool}");
        let line =
            format!("{tool} --root {root} --runroot {root}/run pull -q --tls-verify=false {from}");
        list.push(Candidate::new(&format!("{tool} pull"), &line).before(&clean(tool)?));
    }
    if compression == "gzip" && installed("umoci") {
        let script = write(
            "umoci",
            image,
            &format!(
                "mkdir {WORK}/umoci\nskopeo --insecure-policy copy -q --src-tls-verify=false docker://{from} oci:{WORK}/umoci/oci:x\n\
                 umoci unpack --image {WORK}/umoci/oci:x {WORK}/umoci/bundle"
            ),
        )?;
        list.push(Candidate::new("skopeo copy, umoci unpack", &script).before(&clean("umoci")?));
    }
    Ok(list)
}

/// Each layer in its own directory, one after the other.
fn layers_by_hand(image: &str, compression: &str) -> Result<String> {
    let manifest = set_up(
        "skopeo",
        &[
            "inspect",
            "--raw",
            "--tls-verify=false",
            &format!("docker://localhost:{PORT}/{image}-{compression}:t"),
        ],
    )?;
    let manifest: serde_json::Value = serde_json::from_str(&manifest)?;
    let mut text = format!("mkdir -p {WORK}/hand\n");
    for layer in manifest["layers"].as_array().context("no layers")? {
        let digest = layer["digest"].as_str().context("no digest")?;
        let url = format!("http://localhost:{PORT}/v2/{image}-{compression}/blobs/{digest}");
        text += &format!(
            "mkdir {WORK}/hand/{digest}\ncurl -sf {url} | {compression} -dc | tar -C {WORK}/hand/{digest} -x\n"
        );
    }
    write(compression, image, &text)
}

/// Writes a script; returns the line that runs it.
fn write(kind: &str, name: &str, text: &str) -> Result<String> {
    let path = format!("{WORK}/{kind}-{name}.sh");
    fs::write(&path, format!("{text}\n"))?;
    Ok(format!("sh {path}"))
}
