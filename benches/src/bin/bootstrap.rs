//! How long Debian 12 takes to be made from its archive, by postroj and by its peers.
//!
//!     cargo build --release && cargo run --release -p benches --bin bootstrap -- [RUNS]
//!
//! All use the host's apt sources, so the same mirror, and the same package set:
//! mmdebstrap's `apt` variant with systemd, systemd-sysv and dbus. That the sets are equal, package
//! by package and version by version, is looked up in both results, and said at the end.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use benches::{Candidate, alternate, installed, report, set_up};

const PACKAGES: &str = "systemd,systemd-sysv,dbus";

fn main() -> Result<()> {
    let runs = std::env::args().nth(1).map_or(Ok(3), |n| n.parse()).context("RUNS")?;
    let postroj = std::env::current_exe()?.with_file_name("postroj");
    anyhow::ensure!(postroj.exists(), "{} is missing: cargo build --release", postroj.display());
    let work = format!("/var/tmp/postroj-bench-bootstrap-{}", rustix::process::getuid().as_raw());
    std::fs::create_dir_all(&work)?;
    let postroj = postroj.display();
    let pull = format!("{postroj} --store {work}/store pull -q debian-12");
    let stores = Stores::new(&work)?;
    let list = |warm: bool| {
        let ours = Candidate::new("postroj pull debian-12", &pull);
        let mut list = vec![ours.before(&stores.renewal(warm))];
        if installed("mmdebstrap") {
            list.push(Candidate::new(
                "mmdebstrap --variant=apt",
                &format!(
                    "mmdebstrap --quiet --variant=apt --include={PACKAGES} bookworm {work}/mm.tar"
                ),
            ));
        }
        if installed("debootstrap") && rustix::process::getuid().is_root() && !warm {
            let clean = format!("rm -rf {work}/debootstrap");
            list.push(
                Candidate::new(
                    "debootstrap --variant=minbase",
                    &format!(
                        "debootstrap --variant=minbase --include={PACKAGES} bookworm {work}/debootstrap"
                    ),
                )
                .before(&clean),
            );
        }
        list
    };
    report("bootstrap of Debian 12, nothing cached", &alternate(&list(false), runs)?);
    report(
        "bootstrap of Debian 12, packages in postroj's cache (mmdebstrap keeps none)",
        &alternate(&list(true), runs)?,
    );
    if installed("mmdebstrap") {
        compare(
            &set_up(
                &postroj.to_string(),
                &["--store", &format!("{work}/store"), "run", "debian-12", "cat", STATUS],
            )?,
            &set_up("tar", &["-xOf", &format!("{work}/mm.tar"), &format!(".{STATUS}")])?,
        );
    }
    Ok(())
}

/// A new store for each run, and none removed before the last: a file system without a journal
/// searches long for inodes that were not deleted in the last minutes (Linux,
/// `recently_deleted()` of fs/ext4/ialloc.c), and would charge one run for the clean-up after another.
struct Stores {
    work: String,
}

impl Stores {
    fn new(work: &str) -> Result<Self> {
        let stores = Self { work: work.to_owned() };
        // What an interrupted run has left.
        stores.remove()?;
        std::fs::write(stores.script(), SCRIPT)?;
        Ok(stores)
    }

    fn script(&self) -> String {
        format!("{}/renew.sh", self.work)
    }

    /// The command that makes `store` an empty one, or one with the packages that the last one had.
    fn renewal(&self, warm: bool) -> String {
        format!("sh {} {} {}", self.script(), self.work, if warm { "warm" } else { "cold" })
    }

    fn remove(&self) -> Result<()> {
        set_up("sh", &["-c", &format!("rm -rf {w}/store {w}/stores", w = self.work)])?;
        Ok(())
    }
}

impl Drop for Stores {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("{error:#}");
        }
    }
}

const SCRIPT: &str = r#"set -e
mkdir -p "$1/stores"
new=$(mktemp -d "$1/stores/XXXXXX")
if [ "$2" = warm ] && [ -e "$1/store/cache" ]; then
    cp -al "$1/store/cache" "$new"
fi
ln -sfn "$new" "$1/store"
"#;

/// dpkg's database of what is installed.
const STATUS: &str = "/var/lib/dpkg/status";

/// Prints what one has and the other has not.
fn compare(ours: &str, theirs: &str) {
    let (ours, theirs) = (packages(ours), packages(theirs));
    println!("\npackages: postroj {}, mmdebstrap {}", ours.len(), theirs.len());
    for (sign, here, there) in [('+', &ours, &theirs), ('-', &theirs, &ours)] {
        here.difference(there).for_each(|package| println!("{sign} {package}"));
    }
    if ours == theirs {
        println!("no difference");
    }
}

/// `NAME VERSION` of every installed package.
fn packages(status: &str) -> BTreeSet<String> {
    let field = |stanza: &str, name: &str| {
        let line = stanza.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim().to_owned())
    };
    let stanzas = status.split("\n\n").filter(|s| s.contains("\nStatus: install ok installed"));
    stanzas
        .filter_map(|s| Some(format!("{} {}", field(s, "Package:")?, field(s, "Version:")?)))
        .collect()
}
