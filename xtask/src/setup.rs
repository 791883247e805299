//! What the tests need on a machine, and how it gets there.

use anyhow::{Context, Result, bail};

use crate::account::Account;
use crate::command::{cargo, find, is_root, run, succeeds};

/// One package of Debian and Ubuntu.
struct Package {
    name: &'static str,
    /// A program in it, or an absolute path: where that is, the package is not asked for.
    evidence: &'static str,
    /// Why it is needed; shown to the user.
    why: &'static str,
}

const fn package(name: &'static str, evidence: &'static str, why: &'static str) -> Package {
    Package { name, evidence, why }
}

const FOR_TESTS: &[Package] = &[
    package("uidmap", "newuidmap", "id maps of an ordinary user's machines"),
    package(
        "debian-archive-keyring",
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "the keys of what is bootstrapped",
    ),
    package("busybox-static", "busybox", "an image that needs no network"),
    package("attr", "setfattr", "extended attributes that unpacking must keep"),
    package("acl", "setfacl", "access control lists that unpacking must keep"),
    package("xz-utils", "xz", "archives as others pack them"),
    package("zstd", "zstd", "archives as others pack them"),
    package("e2fsprogs", "mkfs.ext4", "a store on a small disk that gets full"),
    package("xfsprogs", "mkfs.xfs", "a store whose files can share blocks"),
    package("strace", "strace", "what a launch asks the kernel for"),
    package("docker-registry", "docker-registry", "a registry to pull from"),
    package("skopeo", "skopeo", "images in registries and archives as others write them"),
    package("umoci", "umoci", "images, and trees of them to compare with"),
    package("podman", "podman", "trees to compare with, and images in its store"),
    package("buildah", "buildah", "images as others make them, and take them"),
    package("runc", "runc", "podman's runs of what we push"),
    package("conmon", "conmon", "podman's containers on our runtime"),
    package("containerd", "containerd", "the same of containerd's"),
    package("apache2-utils", "htpasswd", "a registry with passwords"),
    package("gpg", "gpg", "a signed list of digests"),
    package("gpg-agent", "gpg-agent", "the key that signs it"),
    package("openssl", "openssl", "certificates and tokens of registries"),
    package("curl", "curl", "manifests that no tool pushes"),
    package("qemu-user-static", "qemu-aarch64-static", "images for other processors"),
    package("dpkg", "dpkg-deb", "packages that are installed in machines"),
    package("libxml2-utils", "xmllint", "reports against a schema"),
    package("gcc", "gcc", "programs that call the kernel as no shell does"),
    package("libc6-dev", "/usr/include/stdio.h", "the same"),
    package("iproute2", "/sbin/ip", "hosts of their own for tests of networks"),
    package("nftables", "/usr/sbin/nft", "what rules tests of networks leave"),
    package("nginx-light", "nginx", "a forking server in each mode of networks"),
    package("iputils-ping", "ping", "whether modes of networks carry it"),
    package("passt", "pasta", "networks of ordinary users"),
    package("slirp4netns", "slirp4netns", "networks of ordinary users, elsewhere"),
    package("autopkgtest", "autopkgtest", "tests of Debian packages on testbeds of ours"),
    package("chromium-driver", "chromedriver", "the report for browsers, in one"),
    package("libcap2-bin", "setcap", "file capabilities in layers"),
    package("tini", "tini", "an init to compare ours with"),
    package("catatonit", "catatonit", "an init to compare ours with"),
    package("dumb-init", "dumb-init", "an init to compare ours with"),
    package("bubblewrap", "bwrap", "a sandbox to compare ours with"),
    package("buildstream", "bst", "a builder on our bwrap"),
    package("flatpak", "flatpak", "applications on our bwrap"),
    package("dbus-daemon", "dbus-run-session", "a session for them"),
    package("qemu-system-x86", "qemu-system-x86_64", "machines with a kernel of their own"),
    package("ovmf", "/usr/share/OVMF/OVMF_CODE_4M.fd", "disks that boot by their own loader"),
    package("qemu-utils", "qemu-img", "images of disks as others make them"),
    package("erofs-utils", "mkfs.erofs", "file systems to read"),
    package("btrfs-progs", "mkfs.btrfs", "file systems to read"),
    package("squashfs-tools", "mksquashfs", "file systems to read"),
    package("dosfstools", "mkfs.vfat", "file systems to read"),
    package("mtools", "mcopy", "file systems to read"),
    package("xorriso", "xorriso", "file systems to read"),
    package("gdisk", "sgdisk", "disks that are divided"),
    package("fdisk", "sfdisk", "disks that are divided the old way"),
    package("lvm2", "pvs", "disks that LVM divides"),
];

const PEERS: &[Package] = &[
    package("bubblewrap", "bwrap", "benches/launch"),
    package("crun", "crun", "benches/launch"),
    package("systemd-container", "systemd-nspawn", "benches/launch"),
    package("mmdebstrap", "mmdebstrap", "benches/bootstrap"),
    package("iperf3", "iperf3", "benches/network"),
];

const FOR_FUZZING: &[Package] = &[package("g++", "c++", "libFuzzer is C++")];

/// Installs what `cargo xtask test` needs.
///
/// # Errors
/// Where something is missing that only root could install: with the line to be typed.
pub(crate) fn tests() -> Result<()> {
    packages(FOR_TESTS)?;
    for (tool, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if !succeeds(cargo().args([tool, "--version"])) {
            let mut rustup = std::process::Command::new("rustup");
            run(rustup.args(["component", "add", component]))
                .with_context(|| format!("cargo {tool} is missing"))?;
        }
    }
    if !succeeds(cargo().args(["nextest", "--version"])) {
        run(cargo().args(["install", "--locked", "cargo-nextest"]))?;
    }
    if is_root() {
        // Some of root's tests look from the side of an ordinary user.
        Account::ensure()?;
    }
    Ok(())
}

/// Installs what the benchmarks compare with.
///
/// # Errors
/// As [`tests`].
pub(crate) fn peers() -> Result<()> {
    packages(PEERS)
}

/// Installs what `cargo xtask fuzz` needs.
///
/// # Errors
/// As [`tests`].
pub(crate) fn fuzzing() -> Result<()> {
    packages(FOR_FUZZING)?;
    if !succeeds(cargo().args(["fuzz", "--version"])) {
        run(cargo().args(["install", "--locked", "cargo-fuzz"]))?;
    }
    Ok(())
}

fn packages(wanted: &[Package]) -> Result<()> {
    let missing: Vec<&Package> = wanted.iter().filter(|package| !is_there(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for Package { name, why, .. } in &missing {
        eprintln!("missing: {name} ({why})");
    }
    let names: Vec<String> = missing.iter().map(|package| package.name.into()).collect();
    if find("apt-get").is_none() {
        bail!("install what holds these on your system, by Debian's names: {}", names.join(" "));
    }
    if !is_root() {
        bail!("run this, then try again: sudo apt-get install {}", names.join(" "));
    }
    // A new machine has no package lists; on others they may be too old.
    if install(&names).is_err() {
        run(apt_get().arg("update"))?;
        install(&names).or_else(|_| install(&with_one_qemu(names)?))?;
    }
    match missing.iter().find(|package| !is_there(package)) {
        Some(package) => bail!("{} is installed, but lacks {}", package.name, package.evidence),
        None => Ok(()),
    }
}

fn is_there(package: &Package) -> bool {
    match package.evidence.strip_prefix('/') {
        Some(_) => std::path::Path::new(package.evidence).exists(),
        None => find(package.evidence).is_some(),
    }
}

fn install(names: &[String]) -> Result<()> {
    let options = ["install", "--yes", "--no-install-recommends", "--allow-downgrades"];
    run(apt_get().args(options).args(names))
}

/// QEMU's packages must be of one version, and an image of a machine may bring `qemu-utils` of a
/// newer one from an archive that the machine itself does not know: then it is set back.
fn with_one_qemu(mut names: Vec<String>) -> Result<Vec<String>> {
    if names.iter().any(|name| name == "qemu-system-x86") {
        let mut show = std::process::Command::new("apt-cache");
        let shown = show.args(["show", "--no-all-versions", "qemu-system-x86"]).output()?;
        let shown = String::from_utf8(shown.stdout)?;
        let version = shown.lines().find_map(|line| line.strip_prefix("Version: "));
        let version = version.context("apt knows no version of qemu-system-x86")?;
        names.push(format!("qemu-utils={version}"));
    }
    Ok(names)
}

fn apt_get() -> std::process::Command {
    let mut command = std::process::Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}
