//! Packages for images that have no package manager: UBI micro's kind and distroless ones, made here. The package
//! manager of another image of the same family installs them, into the image's own database.

mod fixture;
#[path = "fixture/mini.rs"]
mod mini;

use std::path::PathBuf;
use std::process::Command;

use fixture::{Machine, debian, fails, home, out, postroj, said, wait_until};
use mini::{DNF, DNF5, Mini, ZYPPER};

/// A file that is gone at the end.
struct Archive(PathBuf);

impl Drop for Archive {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Archive {
    /// What a script in an image prints.
    fn printed(name: &str, image: &str, script: &str) -> Self {
        let path = home().join(format!("{name}-{}.tar", std::process::id()));
        let file = std::fs::File::create(&path).unwrap();
        let words = ["run", "--network", "none", image, "sh", "-ec", script];
        let mut command = postroj(&words);
        let done = command.stdout(file).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Self(path)
    }

    fn image(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

/// A root of RPM's with nothing that could install a package: busybox, and a database of one package.
const MICRO: &str = "mkdir -p /out/usr/lib /out/proc /out/dev /out/tmp
rpm --root /out --initdb >&2
if rpm -qa --force-debian >/dev/null 2>&1; then force=--force-debian; else force=; fi
rpm --root /out -U --nodeps $force /srv/base.rpm >&2
mkdir -p /out/bin
cp /bin/dash /out/bin/sh
for program in /bin/dash /bin/cat; do
    cp $program /out/bin/
    ldd $program | sed -n 's,.* \\(/[^ ]*\\) (.*,\\1,p; s,^\\t\\(/[^ ]*\\) (.*,\\1,p'
done | sort -u | while read -r library; do
    mkdir -p /out$(dirname $library)
    cp -L $library /out$library
done
cp /usr/lib/os-release /out/usr/lib/os-release
tar -C /out -c .";

/// The same manager with a repository: an image of its own.
fn with_repository(mini: &Mini) -> String {
    use distro::package::{self, Operation, Repository};
    let image = mini.image();
    let name = format!("helper:{}", mini.manager);
    let machine = Machine::start(&["run", "-d", "--network", "none", &image, "sleep", "600"]);
    let key = out(&mut machine.exec(&[], &["cat", "/srv/mini.asc"])) + "\n";
    let repository =
        Repository { name: "mini", url: "file:///srv/repo", suite: None, key: Some(&key) };
    let work = package::work(mini.manager(), &Operation::AddRepository(&repository)).unwrap();
    for (path, content) in work.files {
        let script = "mkdir -p \"$(dirname \"$1\")\" && printf %s \"$2\" > \"$1\"";
        out(&mut machine.exec(&[], &["sh", "-c", script, "sh", &path, &content]));
    }
    for command in work.commands {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        out(&mut machine.exec(&[], &words));
    }
    out(&mut postroj(&["commit", &machine.name, &name]));
    name
}

/// `run` of an image with packages from a helper.
fn run(image: &str, helper: &str, packages: &str, command: &[&str]) -> Command {
    let options =
        ["run", "--network", "none", "--install", packages, "--install-with", helper, image];
    postroj(&[&options, command].concat())
}

fn is_served_from_outside(mini: &Mini) {
    let helper = with_repository(mini);
    let archive = Archive::printed(&format!("micro-{}", mini.manager), &mini.image(), MICRO);
    let micro = archive.image();
    assert_eq!(out(&mut postroj(&["run", micro, "sh", "-c", "echo $((6 * 7))"])), "42");
    let facts = postroj(&["inspect", &format!("tar:{micro}")]).output().unwrap();
    let facts: serde_json::Value = serde_json::from_slice(&facts.stdout).unwrap();
    assert_eq!(facts[0]["Facts"]["PackageManager"], serde_json::Value::Null);
    // With a dependency, and a script that runs in the image.
    let state = "/usr/share/scripted/state";
    assert_eq!(out(&mut run(micro, &helper, "scripted", &["cat", state])), "configured 1");
    let lib = ["cat", "/usr/share/lib/version"];
    assert_eq!(out(&mut run(micro, &helper, "scripted", &lib)), "lib 1.0");
    // It is written down in the image's own database, which the helper's rpm reads.
    let made = format!("{micro}@with=scripted");
    let inspected = postroj(&["inspect", &made]).output().unwrap();
    let inspected: serde_json::Value = serde_json::from_slice(&inspected.stdout).unwrap();
    let id = inspected[0]["Id"].as_str().unwrap().trim_start_matches("sha256:");
    let mount = format!("type=image,source={id},target=/mnt");
    let query = ["rpm", "--root", "/mnt", "-qa", "--queryformat", "%{NAME}\\n"];
    let list = out(&mut postroj(&[&["run", "--mount", &mount, &helper][..], &query].concat()));
    let mut list: Vec<&str> = list.lines().filter(|name| *name != "gpg-pubkey").collect();
    list.sort_unstable();
    assert_eq!(list, ["base", "lib", "scripted"]);
    // Nothing of the helper came along, and nothing is left of what only helped.
    for absent in ["/srv/repo", "/usr/bin/rpm", "/mnt/usr"] {
        let told =
            said(&mut run(micro, &helper, "scripted", &["sh", "-c", &format!("test -e {absent}")]));
        assert_eq!(told.code, 1, "{absent}: {told:?}");
    }
    for (name, part) in [
        ("broken", "dependency missing"),
        ("foreign", "not trusted"),
        ("tampered", "not trusted"),
        ("no-such-thing", "no such package"),
    ] {
        fails(&mut run(micro, &helper, name, &["true"]), 125, &["cannot provision", part]);
    }
    out(&mut postroj(&["rmi", "--force", &made]));
}

#[test]
fn by_dnf() {
    is_served_from_outside(&DNF);
}

#[test]
fn by_dnf5() {
    is_served_from_outside(&DNF5);
}

#[test]
fn by_zypper() {
    is_served_from_outside(&ZYPPER);
}

/// What distroless images of Debian have: files, and of dpkg's database a file a package that tells no state.
const DISTROLESS: &str = "mkdir -p /out/var/lib/dpkg/status.d /out/tmp
for name in bin lib lib64 sbin; do
    mkdir -p /out/usr/$name
    ln -s usr/$name /out/$name
done
for package in base-files libc6 libgcc-s1 gcc-12-base libcrypt1; do
    dpkg -L $package | grep -v '^/usr/share/' | while read -r path; do
        if test -d $path; then mkdir -p /out$path
        else mkdir -p /out$(dirname $path); cp -a $path /out$path; fi
    done
    dpkg -s $package | sed '/^Status:/d' > /out/var/lib/dpkg/status.d/$package
    echo 0123456789abcdef0123456789abcdef  usr/x > /out/var/lib/dpkg/status.d/$package.md5sums
done
tar -C /out -c .";

#[test]
fn by_apt() {
    // The image is made of what the catalog calls so.
    let helper = debian("debian-12");
    let archive = Archive::printed("distroless", &helper, DISTROLESS);
    let image = archive.image();
    let patient = |words: &[&str]| {
        let mut command = postroj(words);
        command.env("XDG_CONFIG_HOME", home().join("config"));
        command
    };
    let install = |packages: &str, command: &[&str]| {
        patient(&[&["run", "--install", packages, image], command].concat())
    };
    let nothing = said(&mut patient(&["run", image, "/bin/sh", "-c", "true"]));
    assert_eq!(nothing.code, 127, "{nothing:?}");
    assert_eq!(out(&mut install("hello", &["hello"])), "Hello, world!");
    // A script that nothing in the image could run, of a package that brings what runs scripts.
    assert_eq!(out(&mut install("dash,hello", &["sh", "-c", "hello -g x"])), "x");
    let absent = said(&mut install("dash,hello", &["apt-get"]));
    assert_eq!(absent.code, 127, "{absent:?}");
    fails(&mut install("no-such-thing", &["true"]), 125, &["no such package", "no-such-thing"]);
    for packages in ["hello", "dash,hello"] {
        out(&mut patient(&["rmi", "--force", &format!("{image}@with={packages}")]));
    }
}

#[test]
fn what_nobody_can_install_is_told() {
    fixture::image();
    fails(
        &mut postroj(&["run", "--install", "x", fixture::IMAGE, "true"]),
        125,
        &["has no package manager", "--install-with"],
    );
    fails(
        &mut run(fixture::IMAGE, fixture::IMAGE, "x", &["true"]),
        125,
        &["no package manager that could install"],
    );
}

/// An image's files, mounted in a machine of another.
#[test]
fn images_are_mounted() {
    fixture::image();
    let image = fixture::IMAGE;
    let mounted = |more: &str| format!("type=image,source={image},target=/other{more}");
    let script = "cat /other/etc/os-release | head -n 1; echo x > /other/etc/os-release";
    let told = said(&mut fixture::sh(&["--mount", &mounted("")], script));
    assert_eq!((told.code, &told.out[..]), (1, "ID=test\n"), "{told:?}");
    assert!(told.err.contains("Read-only file system"), "{told:?}");
    let script = "echo x > /other/etc/os-release; cat /other/etc/os-release; stat -c %u /other/bin/busybox /bin/busybox";
    let told = out(&mut fixture::sh(&["--mount", &mounted(",rw")], script));
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!((lines[0], lines[1]), ("x", lines[2]), "its owners are those of the image");
    // It is thrown away with the machine.
    assert_eq!(out(&mut fixture::sh(&[], "head -n 1 /etc/os-release")), "ID=test");
    fails(
        &mut postroj(&["run", "--mount", "type=image,source=host,target=/x", image, "true"]),
        125,
        &["host is no image that could be mounted"],
    );
    // In the background it holds the image, as the machine's own is held.
    let machine = Machine::start(&["run", "-d", "--mount", &mounted(",rw"), image, "sleep", "600"]);
    out(&mut machine.exec(&[], &["sh", "-c", "echo y > /other/new"]));
    wait_until("it is written", || {
        said(&mut machine.exec(&[], &["test", "-e", "/other/new"])).code == 0
    });
    let changed = out(&mut postroj(&["diff", &machine.name]));
    assert_eq!(changed.lines().filter(|line| line.contains("/other/new")).count(), 1, "{changed}");
}
