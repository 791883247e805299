//! What is found in roots, ordinary ones and hostile ones.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use distro::{facts, init, package};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use spec::image::{Facts, Group, User};
use sys::rooted::Root;

/// A root file system that is made of a few words, removed at the end.
struct Fake {
    dir: tempfile::TempDir,
}

impl Fake {
    /// Each entry is `PATH` (an executable with an x86-64 header), `PATH=TEXT` (a file),
    /// `PATH -> TARGET` (a symbolic link), `PATH => OTHER` (a hard link) or `PATH/` (a directory).
    fn new(entries: &[&str]) -> Self {
        let fake = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        fs::create_dir(fake.path("")).expect("an empty root");
        for entry in entries {
            fake.add(entry).unwrap_or_else(|error| panic!("{entry}: {error}"));
        }
        fake
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.dir.path().join("root").join(inside.trim_start_matches('/'))
    }

    fn outside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn add(&self, entry: &str) -> std::io::Result<()> {
        let parent = |path: &str| fs::create_dir_all(self.path(path).parent().expect("a parent"));
        if let Some((path, target)) = entry.split_once(" -> ") {
            parent(path)?;
            symlink(target, self.path(path))
        } else if let Some((path, other)) = entry.split_once(" => ") {
            parent(path)?;
            fs::hard_link(self.path(other), self.path(path))
        } else if let Some((path, text)) = entry.split_once('=') {
            parent(path)?;
            fs::write(self.path(path), text)
        } else if let Some(path) = entry.strip_suffix('/') {
            fs::create_dir_all(self.path(path))
        } else {
            parent(entry)?;
            fs::write(self.path(entry), elf(62))?;
            fs::set_permissions(self.path(entry), fs::Permissions::from_mode(0o755))
        }
    }

    fn root(&self) -> Root {
        Root::open(&self.path("")).expect("the fake root opens")
    }

    fn facts(&self) -> Facts {
        facts::read(&self.root()).expect("facts")
    }
}

fn elf(machine: u8) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    header.extend([2, 0, machine, 0]);
    header.resize(4096, 0);
    header
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

const OS_RELEASE: &str = "usr/lib/os-release=ID=debian\nVERSION_ID=\"12\"\n";

#[test]
fn a_debian_system() {
    let fake = Fake::new(&[
        OS_RELEASE,
        "etc/os-release -> ../usr/lib/os-release",
        "bin -> usr/bin",
        "lib -> usr/lib",
        "sbin -> /usr/sbin",
        "usr/bin/dash",
        "usr/bin/sh -> dash",
        "usr/sbin/init -> /lib/systemd/systemd",
        "usr/lib/systemd/systemd",
        "usr/bin/apt-get",
        "var/lib/dpkg/info/dpkg.list=/.\n",
        "etc/passwd=root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000:,,,:/home/ann:/bin/sh\n",
        "etc/group=root:x:0:\nsudo:x:27:ann\n",
    ]);
    let user =
        |name: &str, uid, home: &str| User { name: name.into(), uid, gid: uid, home: home.into() };
    let group = |name: &str, gid, members: &[&str]| Group {
        name: name.into(),
        gid,
        members: members.iter().map(|&m| m.into()).collect(),
    };
    assert_eq!(
        fake.facts(),
        Facts {
            os_release: [("ID", "debian"), ("VERSION_ID", "12")]
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
            init: Some("/usr/lib/systemd/systemd".into()),
            init_kind: Some("systemd".into()),
            package_manager: Some("apt".into()),
            architecture: Some("amd64".into()),
            users: vec![user("root", 0, "/root"), user("ann", 1000, "/home/ann")],
            groups: vec![group("root", 0, &[]), group("sudo", 27, &["ann"])],
        }
    );
}

#[test]
fn an_empty_root_has_no_facts() {
    assert_eq!(Fake::new(&[]).facts(), Facts::default());
}

#[test]
fn the_file_in_etc_counts_before_the_one_in_usr() {
    let fake = Fake::new(&[OS_RELEASE, "etc/os-release=ID=mine\n"]);
    assert_eq!(fake.facts().os_release["ID"], "mine");
}

/// The entries of a root, and the name and the path of the init to be found.
type InitCase<'a> = (&'a [&'a str], Option<(Option<&'a str>, &'a str)>);

#[test]
fn inits() {
    let cases: &[InitCase<'_>] = &[
        // Debian 11 without merged /usr; Debian with systemd but not systemd-sysv.
        (
            &["lib/systemd/systemd", "sbin/init -> /lib/systemd/systemd"],
            Some((Some("systemd"), "/lib/systemd/systemd")),
        ),
        (&["usr/lib/systemd/systemd"], Some((Some("systemd"), "/usr/lib/systemd/systemd"))),
        // Installed beside the one that boots.
        (
            &["lib/systemd/systemd", "sbin/openrc", "sbin/init -> ../lib/systemd/systemd"],
            Some((Some("systemd"), "/lib/systemd/systemd")),
        ),
        (
            &["lib/systemd/systemd", "sbin/init", "etc/inittab="],
            Some((Some("sysvinit"), "/sbin/init")),
        ),
        // Debian's packages.
        (&["sbin/finit", "sbin/init -> finit"], Some((Some("finit"), "/sbin/finit"))),
        (
            &["lib/runit/runit-init", "sbin/init -> /lib/runit/runit-init"],
            Some((Some("runit"), "/sbin/init")),
        ),
        (
            &["sbin/init", "sbin/openrc", "sbin/openrc-init", "etc/inittab="],
            Some((Some("openrc"), "/sbin/init")),
        ),
        (&["sbin/openrc-init", "sbin/init -> openrc-init"], Some((Some("openrc"), "/sbin/init"))),
        (&["sbin/openrc-init"], Some((Some("openrc"), "/sbin/openrc-init"))),
        (&["sbin/init", "etc/inittab="], Some((Some("sysvinit"), "/sbin/init"))),
        // Alpine's image for docker, the whole Alpine, docker's busybox.
        (
            &["bin/busybox", "sbin/init -> /bin/busybox", "etc/inittab="],
            Some((Some("busybox"), "/sbin/init")),
        ),
        (
            &["bin/busybox", "sbin/init -> /bin/busybox", "etc/inittab=", "sbin/openrc"],
            Some((Some("openrc"), "/sbin/init")),
        ),
        (&["bin/busybox", "bin/init => bin/busybox"], Some((Some("busybox"), "/bin/init"))),
        // s6.
        (
            &["usr/bin/s6-svscan", "sbin/init -> /usr/bin/s6-svscan"],
            Some((Some("s6"), "/sbin/init")),
        ),
        (&["etc/s6-linux-init/current/bin/init", "sbin/init"], Some((Some("s6"), "/sbin/init"))),
        // Not known, and none.
        (&["sbin/init"], Some((None, "/sbin/init"))),
        (&["bin/busybox", "usr/bin/s6-svscan", "lib/runit/runit-init"], None),
        (&["sbin/init=not executable", "etc/inittab="], None),
        (&["sbin/init -> /nowhere", "etc/inittab="], None),
        (&["sbin/init -> init"], None),
        (&["sbin/init/"], None),
    ];
    for (entries, wanted) in cases {
        let found = init::find(&Fake::new(entries).root());
        let found = found.map(|found| (found.init.map(|init| init.name()), found.path));
        assert_eq!(found, *wanted, "{entries:?}");
    }
}

#[test]
fn every_init_is_recognised_by_some_root() {
    let roots: &[&[&str]] = &[
        &["lib/systemd/systemd", "sbin/init -> /lib/systemd/systemd"],
        &["sbin/finit", "sbin/init -> finit"],
        &["sbin/runit-init", "sbin/init -> runit-init"],
        &["bin/s6-svscan", "sbin/init -> /bin/s6-svscan"],
        &["sbin/openrc-init", "sbin/init -> openrc-init"],
        &["bin/busybox", "sbin/init -> /bin/busybox"],
        &["sbin/init", "etc/inittab="],
    ];
    let names: Vec<_> = roots
        .iter()
        .filter_map(|entries| init::find(&Fake::new(entries).root())?.init.map(|init| init.name()))
        .collect();
    assert_eq!(names, init::INITS.iter().map(|init| init.name()).collect::<Vec<_>>());
}

#[test]
fn every_package_manager_alone() {
    for kind in package::PACKAGE_MANAGERS {
        for program in kind.programs() {
            for database in kind.databases() {
                let program = program.trim_start_matches('/');
                let database = format!("{}=x", database.trim_start_matches('/'));
                let both = Fake::new(&[program, &database]);
                let found = package::find(&both.root()).map(|found| found.name());
                assert_eq!(found, Some(kind.name()), "{program} {database}");
                assert!(package::find(&Fake::new(&[program]).root()).is_none(), "{program}");
                assert!(package::find(&Fake::new(&[&database]).root()).is_none(), "{database}");
            }
        }
    }
}

#[test]
fn of_several_package_managers_the_one_that_manages_the_system() {
    let rpm = "usr/lib/sysimage/rpm/rpmdb.sqlite=x";
    let dpkg = "var/lib/dpkg/info/dpkg.list=x";
    let cases: &[(&[&str], &str)] = &[
        (&["usr/bin/apt-get", "usr/bin/dnf", "usr/bin/pacman", "var/lib/rpm/", dpkg], "apt"),
        (&["usr/bin/apt-get", "var/lib/dpkg/status=", "usr/bin/dnf", rpm], "dnf"),
        (&["usr/bin/dnf5", "usr/bin/dnf -> dnf5", "usr/bin/yum -> dnf5", rpm], "dnf5"),
        (&["usr/bin/dnf-3", "usr/bin/dnf -> dnf-3", "usr/bin/yum -> dnf-3", rpm], "dnf"),
        (&["usr/bin/rpm-ostree", "usr/bin/dnf", rpm], "dnf"),
        (&["usr/bin/rpm-ostree", "usr/bin/dnf", rpm, "sysroot/ostree/repo/config=x"], "rpm-ostree"),
        (
            &[
                "usr/bin/apt-get",
                dpkg,
                "nix/var/nix/db/db.sqlite=",
                "root/.nix-profile/bin/nix-env",
            ],
            "apt",
        ),
    ];
    for (entries, wanted) in cases {
        let found = package::find(&Fake::new(entries).root()).map(|found| found.name());
        assert_eq!(found, Some(*wanted), "{entries:?}");
    }
}

#[test]
fn the_architecture_is_the_own_programs() {
    let foreign = Fake::new(&["lib/ld-linux-aarch64.so.1", "bin/sh"]);
    fs::write(foreign.path("lib/ld-linux-aarch64.so.1"), elf(183)).expect("written");
    assert_eq!(foreign.facts().architecture.as_deref(), Some("amd64"));
    fs::write(foreign.path("bin/sh"), "#!/bin/sh").expect("written");
    assert_eq!(foreign.facts().architecture.as_deref(), Some("arm64"));
    fs::write(foreign.path("lib/ld-linux-aarch64.so.1"), "\x7fELF").expect("written");
    assert_eq!(foreign.facts().architecture, None);
}

/// Puts one hostile thing at `etc/os-release`, `etc/passwd`, `sbin/init` and `bin/sh` in turn.
fn with_hostile(make: impl Fn(&Fake, &Path)) -> Facts {
    let fake = Fake::new(&["etc/", "bin/", "sbin/"]);
    fs::write(fake.outside("secret"), "ID=secret\nroot:x:0:0::/secret:\n").expect("a secret");
    fs::set_permissions(fake.outside("secret"), fs::Permissions::from_mode(0o755)).expect("chmod");
    for path in ["etc/os-release", "etc/passwd", "etc/group", "sbin/init", "bin/sh"] {
        make(&fake, &fake.path(path));
    }
    fake.facts()
}

#[test]
fn links_out_of_the_root_lead_nowhere() {
    let up = "../".repeat(40);
    for target in ["/etc/os-release", "/proc/self/exe", "/proc/self/root/etc/os-release"] {
        let facts = with_hostile(|_, path| symlink(target, path).expect("a link"));
        assert_eq!(facts, Facts::default(), "{target}");
    }
    let facts = with_hostile(|fake, path| {
        symlink(fake.outside("secret"), path).expect("an absolute link");
    });
    assert_eq!(facts, Facts::default());
    let facts = with_hostile(|fake, path| {
        let secret = fake.outside("secret");
        symlink(format!("{up}{}", secret.display()), path).expect("a climbing link");
    });
    assert_eq!(facts, Facts::default());
}

#[test]
fn directories_that_are_links_stay_inside() {
    let fake = Fake::new(&["inner/os-release=ID=inner\n", "etc -> /inner"]);
    assert_eq!(fake.facts().os_release["ID"], "inner");

    let fake = Fake::new(&[]);
    fs::create_dir(fake.outside("etc")).expect("a directory outside");
    fs::write(fake.outside("etc/os-release"), "ID=outside\n").expect("a file outside");
    for target in [fake.outside("etc").display().to_string(), "../etc".to_owned()] {
        symlink(&target, fake.path("etc")).expect("a link");
        assert_eq!(fake.facts(), Facts::default(), "{target}");
        fs::remove_file(fake.path("etc")).expect("removed");
    }
}

#[test]
fn loops_and_things_that_are_no_files_count_as_absent() {
    let facts =
        with_hostile(|_, path| symlink(path.file_name().expect("a name"), path).expect("a loop"));
    assert_eq!(facts, Facts::default());
    let facts = with_hostile(|_, path| fs::create_dir(path).expect("a directory"));
    assert_eq!(facts, Facts::default());
    // Opening it for reading would wait for ever.
    let facts = with_hostile(|_, path| {
        mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o777), 0).expect("a fifo");
    });
    assert_eq!(facts, Facts::default());
    let facts = with_hostile(|_, path| {
        std::os::unix::net::UnixListener::bind(path).expect("a socket");
    });
    assert_eq!(facts, Facts::default());
}

/// Only root may make the node; who may not finds out with the kernel that nobody else can.
#[test]
fn a_device_is_not_opened() {
    let facts = with_hostile(|_, path| {
        // full(4): reading it yields zeros without end.
        let made = mknodat(
            CWD,
            path,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o777),
            makedev(1, 7),
        );
        assert!(made.is_ok() || !is_root() || in_user_namespace(), "{made:?}");
    });
    assert_eq!(facts, Facts::default());
}

fn in_user_namespace() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !map.contains("4294967295"))
}

#[test]
fn of_a_huge_file_only_the_start_is_read() {
    let fake = Fake::new(&[
        "etc/os-release=ID=huge\n",
        "etc/passwd=root:x:0:0::/root:\n",
        "etc/group=root:x:0:\n",
        "bin/sh",
    ]);
    for path in ["etc/os-release", "etc/passwd", "etc/group", "bin/sh"] {
        let file = fs::OpenOptions::new().write(true).open(fake.path(path)).expect("opened");
        file.set_len(1 << 30).expect("a sparse file of 1 GiB");
    }
    let before = peak_memory_kib();
    let facts = fake.facts();
    assert_eq!(facts.os_release["ID"], "huge");
    assert_eq!((facts.users.len(), facts.groups.len()), (1, 1));
    assert_eq!(facts.architecture.as_deref(), Some("amd64"));
    assert!(peak_memory_kib() - before < 64 << 10, "it read the whole files");
}

fn peak_memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("the own status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn what_may_not_be_read_is_an_error_that_names_it() {
    let fake = Fake::new(&["etc/os-release=ID=x\n", "bin/sh"]);
    for path in ["etc/os-release", "bin/sh"] {
        fs::set_permissions(fake.path(path), fs::Permissions::from_mode(0o000)).expect("chmod");
    }
    match facts::read(&fake.root()) {
        Ok(facts) => {
            assert!(is_root(), "an ordinary user read a file without permission");
            assert_eq!(facts.os_release["ID"], "x");
        }
        Err(error) => {
            assert!(!is_root(), "{error:#}");
            let text = format!("{error:#}");
            assert!(
                text.contains("/etc/os-release") && text.contains("ermission denied"),
                "{text}"
            );
        }
    }
    // A program that cannot be read only leaves the architecture open.
    fs::remove_file(fake.path("etc/os-release")).expect("removed");
    assert_eq!(fake.facts().architecture.is_some(), is_root());
}

/// A busy file system must not make a difference: this host's own facts, whatever they are.
#[test]
fn the_running_host() {
    let root = Root::open(Path::new("/")).expect("the root opens");
    let facts = facts::read(&root).expect("facts");
    assert!(facts.architecture.is_some());
    assert!(facts.users.iter().any(|user| user.uid == 0 && user.name == "root"));
    assert!(facts.groups.iter().any(|group| group.gid == 0));
}
