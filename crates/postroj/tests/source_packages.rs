//! The real autopkgtest on real source packages of Debian 12, through our testbed and through its own `unshare`,
//! as an ordinary user: the verdicts have to be the same. Also without autopkgtest, by `test`.
//!
//! Half an hour, by hand; `POSTROJ_SOURCE_PACKAGES="hello an"` takes those only:
//!
//!     cargo nextest run -p postroj --test source_packages --run-ignored only --no-capture

mod fixture;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fixture::{home, is_root, out, postroj, said};

/// Small ones, of which the tests take seconds.
const PACKAGES: &str = "hello an delay disk-filltest doschk fcrackzip forensics-colorize galleta ioping memo morsegen pasco";

/// The first mirror of the host's own sources.
fn mirror() -> String {
    let files = fs::read_dir("/etc/apt/sources.list.d").unwrap().flatten();
    let mut paths: Vec<PathBuf> = files.map(|entry| entry.path()).collect();
    paths.push("/etc/apt/sources.list".into());
    let texts = paths.iter().filter_map(|path| fs::read_to_string(path).ok());
    let words: Vec<String> = texts
        .flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    words
        .into_iter()
        .find(|word| word.contains("://") && word.ends_with("/debian"))
        .expect("a mirror")
}

/// Unpacks a source package; its tree.
fn source(directory: &Path, name: &str) -> PathBuf {
    let own = directory.join("apt");
    let list = own.join("sources.list");
    let option = |name: &str, path: &Path| format!("{name}={}", path.display());
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-qq", "-o", "Acquire::Check-Valid-Until=false", "-o"]);
        command.arg(option("Dir::Etc::SourceList", &list)).args([
            "-o",
            "Dir::Etc::SourceParts=/dev/null",
            "-o",
        ]);
        command.arg(option("Dir::State::Lists", &own.join("lists"))).arg("-o");
        command.arg(option("Dir::Cache", &own.join("cache"))).args(words).current_dir(directory);
        out(&mut command);
    };
    if !list.exists() {
        fs::create_dir_all(own.join("lists/partial")).unwrap();
        fs::create_dir_all(own.join("cache/archives/partial")).unwrap();
        let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
        fs::write(&list, format!("deb-src [signed-by={keys}] {} bookworm main\n", mirror()))
            .unwrap();
        apt(&["update"]);
    }
    apt(&["source", name]);
    let trees = fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path());
    let begins = format!("{name}-");
    let named = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(&begins);
    trees.filter(named).find(|path| path.is_dir()).expect("a tree")
}

/// What autopkgtest says of a tree in that testbed: test and verdict, and its exit status.
fn judged(directory: &Path, tree: &Path, kind: &str, testbed: &[&str]) -> (i32, Vec<String>) {
    let output = directory.join(format!("{}-{kind}", tree.file_name().unwrap().to_str().unwrap()));
    let late = "echo 'Acquire::Check-Valid-Until false;' > /etc/apt/apt.conf.d/99snapshot";
    let mut command = Command::new("autopkgtest");
    command.args(["-B", "-U", "--setup-commands", late, "-o"]).arg(&output);
    command.arg(format!("{}/", tree.display())).arg("--").args(testbed);
    command.env("POSTROJ_STORE", home().join("store")).env("POSTROJ_RUNROOT", home().join("run"));
    let told = said(command.env("TMPDIR", directory));
    let summary = fs::read_to_string(output.join("summary")).unwrap_or_else(|_| panic!("{told:?}"));
    (
        told.code,
        summary.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect(),
    )
}

#[test]
#[ignore = "half an hour; by hand"]
fn verdicts_are_those_of_a_clean_chroot() {
    if is_root() {
        println!("skipped: this is about ordinary users");
        return;
    }
    let directory = home().join(format!("sources-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let config = home().join("config");
    fs::create_dir_all(config.join("postroj")).unwrap();
    let text = "[bootstrap.debian]\ncheck-valid-until = false\n";
    fs::write(config.join("postroj/config.toml"), text).unwrap();
    let mut pull = postroj(&["pull", "-q", "--include", "dpkg-dev", "debian-12"]);
    out(pull.env("XDG_CONFIG_HOME", &config));
    let server = directory.join("autopkgtest-virt-postroj");
    std::os::unix::fs::symlink(fixture::program(), &server).unwrap();
    let server = [server.to_str().unwrap(), "--network", "host", "debian-12"];
    let chroot = directory.join("bookworm.tar");
    let mut make = Command::new("mmdebstrap");
    make.args(["--mode=unshare", "--variant=apt", "--include=dpkg-dev", "--quiet"]);
    make.args(["--aptopt=Acquire::Check-Valid-Until \"false\"", "bookworm"]).arg(&chroot);
    out(make.arg(mirror()).env("TMPDIR", &directory));
    let unshare = ["unshare", "--release", "bookworm", "--tarball", chroot.to_str().unwrap()];
    let chosen = std::env::var("POSTROJ_SOURCE_PACKAGES").unwrap_or_else(|_| PACKAGES.into());
    for name in chosen.split_whitespace() {
        let tree = source(&directory, name);
        let ours = judged(&directory, &tree, "postroj", &server);
        let theirs = judged(&directory, &tree, "unshare", &unshare);
        assert_eq!(ours, theirs, "{name}");
        let mut native = postroj(&["test", "--image", "debian-12", tree.to_str().unwrap()]);
        let native = said(native.env("XDG_CONFIG_HOME", &config));
        println!(
            "{} exit {} {}; postroj test: {}",
            tree.display(),
            ours.0,
            ours.1.join(", "),
            native.code
        );
        let good = ours.1.iter().all(|line| line.contains(" PASS"));
        assert_eq!(native.code == 0, good, "{name}: {native:?}");
    }
    fs::remove_dir_all(&directory).unwrap();
}
