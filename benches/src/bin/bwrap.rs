//! How long `true` takes in a sandbox, by the face `bwrap` and by bubblewrap.
//!
//!     cargo build --release && cargo run --release -p benches --bin bwrap -- [RUNS]
//!
//! Run it as root and as an ordinary user. Both are given the same arguments, in alternation.

use anyhow::{Context, Result};
use benches::{Candidate, alternate, report};

/// What sandboxes are made of, from nearly nothing to what an application's launcher asks for.
const LISTS: [(&str, &str); 3] = [
    ("a root as it is", "--bind / / true"),
    ("all namespaces", "--ro-bind / / --unshare-all --proc /proc --dev /dev --tmpfs /tmp true"),
    (
        "a root of pieces",
        "--ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 \
         --ro-bind /etc /etc --proc /proc --dev /dev --tmpfs /tmp --dir /run --dir /home/user \
         --unshare-all --die-with-parent --new-session --setenv HOME /home/user --chdir / true",
    ),
];

fn main() -> Result<()> {
    let runs = std::env::args().nth(1).map_or(Ok(100), |n| n.parse()).context("RUNS")?;
    let me = std::env::current_exe().context("cannot find this program")?;
    let postroj = me.with_file_name("postroj");
    let root = rustix::process::getuid().is_root();
    let who = if root { "root" } else { "an ordinary user" };
    for (name, list) in LISTS {
        let candidates = [
            Candidate::new("postroj bwrap", &format!("{} bwrap {list}", postroj.display())),
            Candidate::new("bwrap", &format!("bwrap {list}")),
        ];
        report(&format!("{name}, as {who}"), &alternate(&candidates, runs)?);
    }
    Ok(())
}
