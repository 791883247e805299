//! The built-in catalog says what is so, and a file with a fault is told its place.

use std::collections::{BTreeMap, BTreeSet};

use distro::catalog::{Catalog, Family, NONE, Quirk, Release, check};
use distro::os_release;
use spec::reference::Reference;

fn find(label: &str) -> (&'static Family, &'static Release) {
    Catalog::builtin().find_with_family(label).unwrap_or_else(|| panic!("no {label}"))
}

#[test]
fn every_built_in_file_is_sound() {
    for text in Catalog::texts() {
        let family = check(text).unwrap_or_else(|faults| panic!("{faults:?}: {text}"));
        assert!(!family.package_manager.is_empty() && !family.init.is_empty(), "{}", family.name);
        for release in &family.releases {
            let (kind, init) = (release.package_manager(&family), release.init(&family));
            assert!(
                kind != NONE || init == NONE,
                "{}: what has no packages has no init",
                release.label
            );
        }
    }
    let catalog = Catalog::builtin();
    let mut names: Vec<&str> = catalog.names().collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "a name is there twice");
    assert!(catalog.releases().count() >= 60);
}

/// What the predecessor called its systems, by both of its spellings of each.
#[test]
fn the_labels_of_racker_in_both_spellings() {
    for (release, version) in [
        ("debian-stretch", "debian-9"),
        ("debian-buster", "debian-10"),
        ("debian-bullseye", "debian-11"),
        ("debian-bookworm", "debian-12"),
        ("debian-sid", "debian-unstable"),
        ("ubuntu-focal", "ubuntu-20"),
        ("ubuntu-jammy", "ubuntu-22"),
        ("fedora-35", "fedora-35"),
        ("fedora-36", "fedora-36"),
        ("fedora-37", "fedora-37"),
        ("rhel-8", "rhel-8"),
        ("rhel-9", "rhel-9"),
        ("opensuse-leap", "opensuse-15"),
        ("opensuse-tumbleweed", "opensuse-latest"),
        ("sles-15", "sles-15"),
        ("sles-bci", "sles-latest"),
        ("centos-7", "centos-7"),
        ("centos-8", "centos-8"),
        ("centos-9", "centos-9"),
        ("rockylinux-8", "rockylinux-8"),
        ("amazonlinux-2022", "amazonlinux-2022"),
        ("oraclelinux-8", "oraclelinux-8"),
        ("archlinux-20220501", "archlinux-20220501"),
    ] {
        let catalog = Catalog::builtin();
        assert!(distro::catalog::is_label(release) && distro::catalog::is_label(version));
        assert_eq!(catalog.find(release), catalog.find(version), "{release} {version}");
    }
}

#[test]
fn every_spelling_means_its_release() {
    for (name, label, package_manager, init) in [
        ("debian-forky", "debian-testing", "apt", "systemd"),
        ("ubuntu-noble", "ubuntu-24.04", "apt", "systemd"),
        ("fedora-coreos", "fedora-coreos", "rpm-ostree", "systemd"),
        ("fedora-37", "fedora-37", "dnf", "systemd"),
        ("fedora-rawhide", "fedora-rawhide", "dnf5", "systemd"),
        ("centos-7", "centos-7", "yum", "systemd"),
        ("centos-stream9", "centos-stream-9", "dnf", "systemd"),
        ("ubi-9-minimal", "ubi-9-minimal", "microdnf", "systemd"),
        ("ubi-10-micro", "ubi-10-micro", "none", "none"),
        ("rocky-10", "rockylinux-10", "dnf", "systemd"),
        ("opensuse-kubic", "opensuse-microos", "zypper", "systemd"),
        ("arch-latest", "archlinux-latest", "pacman", "systemd"),
        ("alpine-3.24", "alpine-3.24", "apk", "openrc"),
        ("void-linux", "void-glibc", "xbps", "runit"),
        ("gentoo-systemd", "gentoo-systemd", "emerge", "systemd"),
        ("gentoo-openrc", "gentoo-openrc", "emerge", "openrc"),
        ("slackware-15", "slackware-15.0", "pkgtools", "sysvinit"),
        ("nix-latest", "nixos-nix", "nix", "none"),
        ("kiss-linux", "kiss-24.12.18", "kiss", "busybox"),
        ("photon-5.0", "photon-5.0", "tdnf", "systemd"),
        ("mageia-cauldron", "mageia-cauldron", "dnf", "systemd"),
        ("chainguard-static", "chainguard-static", "none", "none"),
    ] {
        let (family, release) = find(name);
        assert_eq!(release.label, label);
        assert_eq!(release.package_manager(family), package_manager, "{name}");
        assert_eq!(release.init(family), init, "{name}");
    }
    assert!(Catalog::builtin().find("debian-7").is_none());
}

#[test]
fn places_by_architecture_in_order_of_preference() {
    for (label, architecture, addresses) in [
        (
            "debian-12",
            "arm64",
            &[
                "docker.io/library/debian:bookworm-slim",
                "https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-arm64.qcow2",
            ][..],
        ),
        ("debian-12", "ppc64le", &["docker.io/library/debian:bookworm-slim"]),
        ("debian-12", "riscv64", &[]),
        (
            "fedora-44",
            "s390x",
            &[
                "registry.fedoraproject.org/fedora:44",
                "quay.io/fedora/fedora:44",
                "docker.io/library/fedora:44",
            ],
        ),
        ("fedora-44", "riscv64", &[]),
        (
            "alpine-3.24",
            "arm",
            &[
                "docker.io/library/alpine:3.24",
                "https://dl-cdn.alpinelinux.org/alpine/v3.24/releases/armv7/alpine-minirootfs-3.24.1-armv7.tar.gz",
            ],
        ),
        (
            "void-musl",
            "arm64",
            &[
                "ghcr.io/void-linux/void-musl-full:latest",
                "https://repo-default.voidlinux.org/live/20250202/void-aarch64-musl-ROOTFS-20250202.tar.xz",
            ],
        ),
        ("archlinux-latest", "arm64", &[]),
        ("gentoo-openrc", "loong64", &["docker.io/gentoo/stage3:latest"]),
        ("rockylinux-8", "s390x", &[]),
        (
            "rockylinux-9",
            "s390x",
            &["quay.io/rockylinux/rockylinux:9", "docker.io/rockylinux/rockylinux:9"],
        ),
    ] {
        let (family, release) = find(label);
        let found: Vec<String> = release
            .places(family, architecture)
            .map(|place| family.with_architecture(place.address(), architecture))
            .collect();
        assert_eq!(found, addresses, "{label} {architecture}");
    }
}

#[test]
fn every_registry_name_is_a_full_one_and_every_address_has_no_gap() {
    for (family, release) in Catalog::builtin().releases() {
        for place in &release.from {
            if let Some(name) = &place.registry {
                let parsed = Reference::parse(&format!("docker://{name}"), |_| false);
                let Ok(Reference::Registry(parsed)) = parsed else { panic!("{name}") };
                let full = parsed.to_string();
                assert!(full == *name || full == format!("{name}:latest"), "{name}: {full}");
            }
            let addresses = [&place.tarball, &place.disk, &place.checksum, &place.signature];
            for architecture in family.architectures.keys() {
                for address in addresses.into_iter().flatten() {
                    let address = family.with_architecture(address, architecture);
                    assert!(
                        address.starts_with("https://") && !address.contains(['{', '}']),
                        "{address}"
                    );
                }
            }
        }
    }
}

/// Ends that have come and ends that have not, on one day.
#[test]
fn ends_of_life_and_archives() {
    let today = "2026-09-01";
    for (label, over, archive) in [
        ("debian-9", true, Some("http://archive.debian.org/debian")),
        ("debian-10", true, Some("http://archive.debian.org/debian")),
        ("debian-11", true, None),
        ("debian-12", false, None),
        ("debian-sid", false, None),
        ("centos-7", true, Some("https://vault.centos.org/7.9.2009/")),
        ("centos-8", true, Some("https://vault.centos.org/8.5.2111/")),
        ("centos-stream-9", false, None),
        (
            "fedora-35",
            true,
            Some("https://archives.fedoraproject.org/pub/archive/fedora/linux/releases/35/"),
        ),
        ("fedora-43", false, None),
        ("fedora-rawhide", false, None),
        ("alpine-3.20", true, None),
        ("archlinux-20220501", false, Some("https://archive.archlinux.org/repos/2022/05/01/")),
    ] {
        let (_, release) = find(label);
        assert_eq!(release.is_over(today), over, "{label}");
        assert_eq!(release.archive.as_deref(), archive, "{label}");
    }
    let (_, bullseye) = find("debian-11");
    assert!(!bullseye.is_over("2026-08-31"), "the last day counts");
    let old = |label: &str| find(label).1.quirks.contains(&Quirk::CgroupV1);
    assert!(old("centos-7") && old("amazonlinux-2") && !old("centos-8"));
}

const GOOD: &str = r#"family = "x"
package-manager = "apk"
init = "openrc"

[architectures]
amd64 = "x86_64"

[[release]]
label = "x-1"
aliases = ["x-one"]
end-of-life = "2030-01-01"

[[release.from]]
registry = "quay.io/x/x:1"
"#;

#[test]
fn faults_have_a_line_and_a_column() {
    assert!(check(GOOD).is_ok());
    for (old, new, line, column, part) in [
        ("family = \"x\"", "family = 3", 1, 10, "invalid type"),
        ("family = \"x\"", "family = \"x y\"", 1, 10, "os-release"),
        ("family = \"x\"", "family = \"x", 1, 12, ""),
        ("\"apk\"", "\"paludis\"", 2, 19, "no package manager is called \"paludis\""),
        ("\"openrc\"", "\"upstart\"", 3, 8, "no init is called \"upstart\""),
        ("[architectures]", "colour = \"red\"\n[architectures]", 5, 1, "unknown field `colour`"),
        ("\"x-1\"", "\"X-1\"", 9, 9, "no label"),
        ("\"x-1\"", "\"x\"", 9, 9, "no label"),
        ("\"x-one\"", "\"x-two\", \"x-1\"", 10, 21, "twice"),
        ("\"2030-01-01\"", "\"soon\"", 11, 15, "no day"),
        ("\"2030-01-01\"", "\"2030-13-01\"", 11, 15, "no day"),
        ("quay.io/x/x:1", "x:1", 14, 12, "registry's host name"),
        ("quay.io/x/x:1", "quay.io/X//x", 14, 12, "no repository name"),
        ("registry = ", "registri = ", 14, 1, "unknown field `registri`"),
        ("registry = \"quay.io/x/x:1\"", "", 13, 1, "exactly one of"),
        (
            "registry = \"quay.io/x/x:1\"",
            "tarball = \"https://x.example.org/x.tar\"",
            14,
            11,
            "needs a sha256",
        ),
        (
            "registry = \"quay.io/x/x:1\"",
            "tarball = \"./x.tar\"\nsha256 = \"12\"",
            15,
            10,
            "64 lower-case hex",
        ),
        ("registry = \"quay.io/x/x:1\"", "disk = \"ftp://x/x\"", 14, 8, "no https:// or http://"),
        ("[[release.from]]\nregistry = \"quay.io/x/x:1\"", "", 8, 1, "neither bootstrap nor from"),
    ] {
        let text = GOOD.replacen(old, new, 1);
        let faults = check(&text).expect_err(new);
        let fault = &faults[0];
        assert_eq!((fault.line, fault.column), (line, column), "{new}: {fault}");
        assert!(fault.what.contains(part), "{new}: {fault}");
        assert!(!fault.to_string().contains('\n'));
    }
}

#[test]
fn all_faults_are_told_in_the_order_of_the_file() {
    let text = GOOD.replace("\"apk\"", "\"p\"").replace("x-1", "1").replace("2030-", "30-");
    let faults = check(&text).expect_err("three faults");
    assert_eq!(faults.iter().map(|fault| fault.line).collect::<Vec<_>>(), [2, 9, 11]);
    let hostile = "[[release]]\n".repeat(5000);
    assert_eq!(check(&hostile).expect_err("no family").len(), 1);
}

#[test]
fn a_system_belongs_to_the_family_that_it_names_or_is_like() {
    for (text, family) in [
        ("ID=debian", Some("debian")),
        ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"", Some("ubuntu")),
        ("ID=kali\nID_LIKE=debian", Some("debian")),
        ("ID=\"centos\"\nID_LIKE=\"rhel fedora\"", Some("centos")),
        ("ID=clearos\nID_LIKE=\"rhel fedora\"", Some("rhel")),
        ("ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"", Some("opensuse")),
        ("ID=manjaro\nID_LIKE=arch", Some("arch")),
        ("ID=buildroot", None),
        ("NAME=debian", None),
    ] {
        let fields: BTreeMap<String, String> = os_release::parse(text.as_bytes());
        let found = Catalog::builtin().family_of(&fields).map(|family| &family.name[..]);
        assert_eq!(found, family, "{text}");
    }
}

#[test]
fn families_are_named_as_systems_name_themselves() {
    let names: BTreeSet<&str> =
        Catalog::builtin().families().iter().map(|family| &family.name[..]).collect();
    assert_eq!(names.len(), Catalog::builtin().families().len());
    for id in ["debian", "ubuntu", "fedora", "ol", "amzn", "rhel", "almalinux", "sles", "void"] {
        assert!(names.contains(id), "{id}");
    }
}

#[test]
fn a_system_says_which_release_it_is() {
    let catalog = Catalog::load().unwrap();
    let release = |id: &str, version: &str| {
        let fields = [("ID", id), ("VERSION_ID", version)];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        catalog.release_of(&fields).map(|release| release.label.clone())
    };
    for (id, version, label) in [
        ("debian", "12", "debian-12"),
        ("centos", "7", "centos-7"),
        ("amzn", "2", "amazonlinux-2"),
        ("ol", "7.9", "oraclelinux-7"),
        ("rhel", "7.9", "rhel-7"),
        ("ubuntu", "22.04", "ubuntu-22.04"),
    ] {
        assert_eq!(release(id, version).as_deref(), Some(label), "{id} {version}");
    }
    assert_eq!(release("debian", "2"), None);
    assert_eq!(release("nobody", "1"), None);
}
