//! How long a command for another processor takes in a machine, beside the same emulator in a plain chroot, which
//! has no namespaces, no limits of rights and nothing to clean up; and beside a command for the host's processor.
//!
//!     cargo build --release && cargo run --release -p benches --bin foreign -- [RUNS]

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use benches::{Candidate, alternate, report, set_up};

const IMAGE: &str = "debian-12";
const PLATFORM: &str = "linux/arm64";
const EMULATOR: &str = "/usr/bin/qemu-aarch64-static";

/// What `true` of Debian needs.
const FILES: [&str; 3] =
    ["usr/bin/true", "usr/lib/ld-linux-aarch64.so.1", "usr/lib/aarch64-linux-gnu/libc.so.6"];

fn main() -> Result<()> {
    let runs = std::env::args().nth(1).map_or(Ok(50), |n| n.parse()).context("RUNS")?;
    let is_root = rustix::process::getuid().is_root();
    let postroj = std::env::current_exe()?.with_file_name("postroj");
    ensure!(postroj.exists(), "{} is missing: cargo build --release", postroj.display());
    let postroj = postroj.to_str().context("a path that is not UTF-8")?;
    set_up(postroj, &["pull", "--quiet", IMAGE])?;
    // Pulls it, where it is not there.
    set_up(postroj, &["run", "--platform", PLATFORM, IMAGE, "true"])?;
    let root = Chroot::new(postroj)?;
    // An ordinary user may change its root in a user namespace.
    let before = if is_root { "" } else { "unshare -r " };
    let chroot = format!("{before}chroot {} /emulator /usr/bin/true", root.0.display());
    let candidates = [
        Candidate::new(
            "postroj run --platform linux/arm64",
            &format!("{postroj} run --network=none --platform {PLATFORM} {IMAGE} true"),
        ),
        Candidate::new("chroot with qemu-user", &chroot),
        Candidate::new(
            "postroj run, for the host's own",
            &format!("{postroj} run --network=none {IMAGE} true"),
        ),
    ];
    let who = if is_root { "root" } else { "an ordinary user" };
    report(&format!("`true` for another processor, as {who}"), &alternate(&candidates, runs)?);
    Ok(())
}

/// The directory of a root, gone at the end.
struct Chroot(PathBuf);

impl Chroot {
    fn new(postroj: &str) -> Result<Self> {
        let chroot =
            Self(std::env::temp_dir().join(format!("postroj-bench-{}", std::process::id())));
        std::fs::create_dir_all(&chroot.0)?;
        std::fs::copy(EMULATOR, chroot.0.join("emulator"))
            .with_context(|| format!("{EMULATOR} (package qemu-user-static)"))?;
        let text = set_up(postroj, &["inspect", &format!("{IMAGE}@{PLATFORM}")])?;
        let found: serde_json::Value = serde_json::from_str(&text)?;
        let id = found[0]["RootFS"]["Layers"][0].as_str().context("it has no layer")?;
        let text = set_up(postroj, &["system", "info", "--json"])?;
        let info: serde_json::Value = serde_json::from_str(&text)?;
        let store = info["Store"].as_str().context("nobody tells where the store is")?;
        let layer = Path::new(store).join("layers").join(id.trim_start_matches("sha256:"));
        for file in FILES {
            let to = chroot.0.join(file);
            std::fs::create_dir_all(to.parent().unwrap_or(&chroot.0))?;
            std::fs::copy(layer.join("root").join(file), &to).with_context(|| file.to_owned())?;
        }
        std::os::unix::fs::symlink("usr/lib", chroot.0.join("lib"))?;
        Ok(chroot)
    }
}

impl Drop for Chroot {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
