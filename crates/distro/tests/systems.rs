//! Real systems, told by what is in their own roots: what they say of themselves, and the files
//! by which a package manager and an init are known.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use distro::catalog::Catalog;
use distro::{facts, os_release};
use sys::rooted::Root;

const SYSTEMS: &str = include_str!("systems.txt");

struct System<'a> {
    name: &'a str,
    family: Option<&'a str>,
    manager: Option<&'a str>,
    init: Option<&'a str>,
    text: &'a str,
}

fn systems() -> Vec<System<'static>> {
    let blocks = SYSTEMS.split("\n\n").filter(|block| block.starts_with('['));
    let some = |word| Some(word).filter(|word: &&str| *word != "-");
    blocks
        .map(|block| {
            let (heading, text) = block.split_once('\n').expect("a heading and a text");
            let (name, wanted) = heading[1..].split_once("] ").expect("a name");
            let words: Vec<&str> = wanted.split(' ').collect();
            let [family, manager, init] = words[..] else { panic!("{heading}") };
            System { name, family: some(family), manager: some(manager), init: some(init), text }
        })
        .collect()
}

/// What its packages put there: `PATH`, or `LINK -> TARGET`. Those that come in
/// pairs are both there, as in the real systems.
fn files(manager: Option<&str>, init: Option<&str>) -> Vec<&'static str> {
    let mut files = match manager {
        None => vec![],
        Some("apt") => vec!["usr/bin/apt-get", "usr/bin/dpkg", "var/lib/dpkg/info/dpkg.list"],
        Some("dnf5") => {
            vec!["usr/bin/dnf5", "usr/bin/dnf -> dnf5", "usr/lib/sysimage/rpm/rpmdb.sqlite"]
        }
        Some("dnf") => {
            vec![
                "usr/bin/dnf-3",
                "usr/bin/dnf -> dnf-3",
                "usr/bin/yum -> dnf-3",
                "var/lib/rpm/Packages",
            ]
        }
        Some("yum") => vec!["usr/bin/yum", "usr/bin/rpm", "var/lib/rpm/Packages"],
        Some("microdnf") => vec!["usr/bin/microdnf", "var/lib/rpm/rpmdb.sqlite"],
        Some("tdnf") => vec!["usr/bin/tdnf", "usr/bin/yum -> tdnf", "var/lib/rpm/rpmdb.sqlite"],
        Some("rpm-ostree") => {
            vec!["usr/bin/rpm-ostree", "usr/share/rpm/rpmdb.sqlite", "sysroot/ostree/repo/config"]
        }
        Some("zypper") => vec!["usr/bin/zypper", "usr/lib/sysimage/rpm/Packages.db"],
        Some("pacman") => vec!["usr/bin/pacman", "var/lib/pacman/local/ALPM_DB_VERSION"],
        Some("apk") => vec!["sbin/apk", "lib/apk/db/installed"],
        Some("xbps") => vec!["usr/bin/xbps-install", "var/db/xbps/pkgdb-0.38.plist"],
        Some("emerge") => vec!["usr/bin/emerge", "var/db/pkg/sys-apps/portage-3/PF"],
        Some("pkgtools") => vec!["sbin/installpkg", "var/log/packages/pkgtools-14.2-noarch-13"],
        Some("kiss") => vec!["usr/bin/kiss", "var/db/kiss/installed/kiss/manifest"],
        Some("nix") => {
            vec!["nix/var/nix/db/db.sqlite", "nix/var/nix/profiles/default/bin/nix-env"]
        }
        Some(other) => panic!("{other}"),
    };
    files.extend(match init {
        None => vec![],
        Some("systemd") => vec!["usr/lib/systemd/systemd", "sbin/init -> /usr/lib/systemd/systemd"],
        Some("openrc") => {
            vec!["bin/busybox", "sbin/init -> /bin/busybox", "sbin/openrc", "etc/inittab"]
        }
        Some("busybox") => vec!["bin/busybox", "sbin/init -> /bin/busybox"],
        Some("runit") => vec!["usr/bin/runit-init", "sbin/init -> /usr/bin/runit-init"],
        Some("s6") => vec!["usr/bin/s6-svscan", "sbin/init -> /usr/bin/s6-svscan"],
        Some("finit") => vec!["sbin/finit", "sbin/init -> finit"],
        Some("sysvinit") => vec!["sbin/init", "etc/inittab"],
        Some(other) => panic!("{other}"),
    });
    files
}

fn make(root: &Path, system: &System<'_>, os_release: &str) {
    for entry in files(system.manager, system.init) {
        let (path, target) = entry.split_once(" -> ").unwrap_or((entry, ""));
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        if target.is_empty() {
            std::fs::write(&path, "x").expect("a file");
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&path, mode).expect("its mode");
        } else {
            symlink(target, &path).expect("a link");
        }
    }
    let path = root.join(os_release);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
    std::fs::write(path, system.text).expect("os-release");
}

#[test]
fn every_system_is_known_from_its_own_root() {
    let systems = systems();
    assert!(systems.len() >= 40, "{}", systems.len());
    for (number, system) in systems.iter().enumerate() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // Both places of the file are real.
        make(dir.path(), system, os_release::PATHS[number % 2].trim_start_matches('/'));
        let root = Root::open(dir.path()).expect("the root");
        let facts = facts::read(&root).expect("facts");
        let System { name, family, manager, init, text } = system;
        let wanted = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key}=")));
            line.map(|value| value.trim_matches(['"', '\'']).to_owned())
        };
        for key in ["ID", "ID_LIKE", "VERSION_ID", "PRETTY_NAME", "VARIANT_ID"] {
            assert_eq!(facts.os_release.get(key).cloned(), wanted(key), "{name}: {key}");
        }
        assert_eq!(facts.package_manager.as_deref(), *manager, "{name}");
        assert_eq!(facts.init_kind.as_deref(), *init, "{name}");
        let found = Catalog::builtin().family_of(&facts.os_release);
        assert_eq!(found.map(|family| &family.name[..]), *family, "{name}");
    }
}

/// Nothing of the host's comes in, though it is a Debian with apt and an init.
#[test]
fn links_to_the_host_tell_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for directory in ["etc", "usr/bin", "usr/lib", "var/lib", "sbin"] {
        std::fs::create_dir_all(dir.path().join(directory)).expect("directories");
    }
    for (link, target) in [
        ("etc/os-release", "/../../../../usr/lib/os-release"),
        ("usr/bin/apt-get", "../../../../../../usr/bin/apt-get"),
        ("var/lib/dpkg", "/proc/self/root/var/lib/dpkg"),
        ("sbin/init", "/proc/1/exe"),
    ] {
        symlink(target, dir.path().join(link)).expect("a link");
    }
    let facts = facts::read(&Root::open(dir.path()).expect("the root")).expect("facts");
    assert_eq!(facts, Default::default());
}
