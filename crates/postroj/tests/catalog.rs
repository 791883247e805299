//! The catalog from outside: what it lists, files of the user's, and a distribution that somebody
//! made up.

mod fixture;

use std::path::Path;
use std::process::Command;

use fixture::{Own, busybox, debian, fails, out, postroj, said, tar, wait_until};

#[test]
fn it_is_listed_and_sound() {
    let own = Own::new("catalog-list");
    let config = own.path("config");
    let with = |args: &[&str]| {
        let mut command = own.postroj(args);
        command.env("XDG_CONFIG_HOME", &config);
        command
    };
    let list: serde_json::Value =
        serde_json::from_str(&out(&mut with(&["images", "--catalog", "--json"]))).unwrap();
    let list = list.as_array().unwrap();
    assert!(list.len() >= 60, "{}", list.len());
    let of = |name: &str| list.iter().find(|entry| entry["Name"] == name).unwrap();
    assert_eq!(of("debian-12")["Aliases"][0], "debian-bookworm");
    assert_eq!(of("debian-12")["From"][0]["Bootstrap"], "bookworm");
    assert_eq!(of("centos-7")["Quirks"][0], "cgroup-v1");
    assert_eq!(of("ubi-9-micro")["PackageManager"], "none");
    let table = out(&mut with(&["images", "--catalog"]));
    assert_eq!(table.lines().count(), list.len() + 1);
    assert!(table.starts_with("NAME "), "{table}");
    let names = out(&mut with(&["images", "--catalog", "--quiet"]));
    assert_eq!(names.lines().count(), list.len());
    let sound = out(&mut with(&["catalog", "check"]));
    assert!(sound.starts_with(&format!("{} releases in ", list.len())), "{sound}");
}

const MINE: &str = "family = \"mine\"\npackage-manager = \"none\"\ninit = \"busybox\"\n\n\
    [[release]]\nlabel = \"mine-1\"\naliases = [\"mine-one\"]\n\n\
    [[release.from]]\ntarball = \"./mine.tar\"\n";

/// A configuration directory with files of the catalog in it.
fn configure(own: &Own, files: &[(&str, &str)]) {
    let directory = own.path("config/postroj/distro.d");
    std::fs::create_dir_all(&directory).unwrap();
    for (name, text) in files {
        std::fs::write(directory.join(name), text).unwrap();
    }
}

fn configured(own: &Own, args: &[&str]) -> Command {
    let mut command = own.postroj(args);
    command.env("XDG_CONFIG_HOME", own.path("config"));
    command
}

#[test]
fn a_file_of_the_user_s_adds_and_overrides() {
    let own = Own::new("catalog-own");
    let root = own.path("root");
    busybox(&root);
    configure(&own, &[("mine.toml", MINE), ("ignored.txt", "x")]);
    tar(&root, &own.path("config/postroj/distro.d/mine.tar"));
    let pulled = out(&mut configured(&own, &["pull", "mine-1"]));
    assert!(pulled.ends_with("Status: Downloaded image for mine-1"), "{pulled}");
    assert!(out(&mut configured(&own, &["pull", "mine-1"])).ends_with("up to date for mine-1"));
    // By its other name, and as a label said outright; neither asks a registry.
    for name in ["mine-one", "os:mine-1"] {
        assert_eq!(out(&mut configured(&own, &["run", "--pull=never", name, "echo", "x"])), "x");
    }
    // What is built in is overridden.
    let text = MINE.replace("mine-1", "debian-12").replace("mine-one", "debian-bookworm");
    configure(&own, &[("other.toml", &text.replace("\"mine\"", "\"other\""))]);
    let names = out(&mut configured(&own, &["images", "--catalog", "-q"]));
    assert_eq!(names.lines().filter(|name| *name == "debian-12").count(), 1);
    assert!(names.lines().any(|name| name == "mine-1"));
    assert_eq!(
        out(&mut configured(&own, &["run", "debian-12", "cat", "/etc/os-release"])),
        "ID=test\nPRETTY_NAME=\"Test\""
    );
    // Options for what is made from an archive are refused, not ignored.
    fails(
        &mut configured(&own, &["pull", "--include", "vim", "mine-1"]),
        125,
        &["--include", "mine-1"],
    );
    let text = MINE.replace(
        "tarball = \"./mine.tar\"",
        &format!("tarball = \"./mine.tar\"\nsha256 = \"{}\"", "0".repeat(64)),
    );
    configure(&own, &[("mine.toml", &text)]);
    fails(
        &mut configured(&own, &["pull", "--force", "mine-1"]),
        125,
        &["mine.tar", "its digest is sha256:", "0000"],
    );
    own.is_sound();
}

#[test]
fn a_fault_is_told_with_its_file_line_and_column() {
    let own = Own::new("catalog-fault");
    let text = MINE.replace("busybox", "upstart").replace("mine-one", "One");
    configure(&own, &[("mine.toml", &text)]);
    let path = own.path("config/postroj/distro.d/mine.toml");
    let place = path.to_str().unwrap();
    let checked = said(&mut configured(&own, &["catalog", "check", place]));
    assert_eq!(checked.code, 1, "{checked:?}");
    let lines: Vec<&str> = checked.err.lines().collect();
    assert_eq!(lines.len(), 2, "{checked:?}");
    assert!(
        lines[0].starts_with(&format!("{place}:3:8: no init is called \"upstart\"")),
        "{checked:?}"
    );
    assert!(lines[1].starts_with(&format!("{place}:7:12: \"One\" is no label")), "{checked:?}");
    assert_eq!(said(&mut configured(&own, &["catalog", "check"])).code, 1);
    // Whoever asks for what is in it is told so, instead of a registry being asked.
    fails(&mut configured(&own, &["run", "mine-1", "true"]), 125, &["mine.toml:3:8:"]);
    fails(&mut configured(&own, &["images", "--catalog"]), 125, &["mine.toml:3:8:"]);
    fails(&mut own.postroj(&["catalog", "check", "/nonexistent"]), 125, &["/nonexistent"]);
}

#[test]
fn what_cannot_be_had_is_told_why() {
    let own = Own::new("catalog-nowhere");
    configure(&own, &[]);
    fails(
        &mut configured(&own, &["pull", "fedora-cloud-44"]),
        125,
        &["fedora-cloud-44", "disk image https://", "dir:PATH"],
    );
    fails(
        &mut configured(&own, &["pull", "--platform", "linux/s390x", "photon-5.0"]),
        125,
        &["not there for linux/s390x", "amd64, arm64"],
    );
    fails(
        &mut configured(&own, &["pull", "os:debian-5"]),
        125,
        &["the catalog has no \"debian-5\""],
    );
}

/// The root of a release of Debian under another name, as an archive.
fn made_up_root(own: &Own, to: &Path) {
    let label = debian("debian-12");
    let file = std::fs::File::create(to).unwrap();
    let script = "printf 'ID=madeup\\nID_LIKE=debian\\nVERSION_ID=7\\nPRETTY_NAME=\"Made up 7\"\\n' > /usr/lib/os-release\n\
        exec tar -C / --one-file-system --numeric-owner -c .";
    let mut pack = postroj(&["run", &label, "sh", "-c", script]);
    let packed = pack.stdout(file).status().unwrap();
    assert!(packed.success() && own.store().parent().unwrap().exists());
}

/// A package, made with nothing but dpkg-deb(1).
fn package(directory: &Path) {
    let root = directory.join("hello-made-up");
    std::fs::create_dir_all(root.join("DEBIAN")).unwrap();
    std::fs::create_dir_all(root.join("usr/bin")).unwrap();
    let control = "Package: hello-made-up\nVersion: 1.0\nArchitecture: all\nMaintainer: N <n@example.org>\n\
        Depends: dpkg\nDescription: says hello\n";
    std::fs::write(root.join("DEBIAN/control"), control).unwrap();
    std::fs::write(root.join("usr/bin/hello-made-up"), "#!/bin/sh\necho hello from 7\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(root.join("usr/bin/hello-made-up"), mode).unwrap();
    let mut build = Command::new("dpkg-deb");
    build.args(["--root-owner-group", "--build"]).arg(&root).arg(directory.join("hello.deb"));
    assert!(out(&mut build).contains("building package"));
}

/// One file and an archive are a distribution: it pulls, boots, and installs a package.
#[test]
fn a_made_up_distribution() {
    let own = Own::new("catalog-made-up");
    let text = "family = \"madeup\"\npackage-manager = \"apt\"\ninit = \"systemd\"\n\
        [architectures]\namd64 = \"x86-64\"\narm64 = \"aarch64\"\n\
        [[release]]\nlabel = \"madeup-7\"\naliases = [\"madeup-seven\"]\nend-of-life = \"2999-12-31\"\n\
        [[release.from]]\ntarball = \"madeup-{architecture}.tar\"\n";
    configure(&own, &[("madeup.toml", text)]);
    let architecture = if cfg!(target_arch = "x86_64") { "x86-64" } else { "aarch64" };
    let directory = own.path("config/postroj/distro.d");
    made_up_root(&own, &directory.join(format!("madeup-{architecture}.tar")));
    let file = directory.join("madeup.toml");
    let checked = out(&mut configured(&own, &["catalog", "check", file.to_str().unwrap()]));
    assert_eq!(checked, "1 releases in 1 files are sound");
    let pulled = out(&mut configured(&own, &["pull", "madeup-seven"]));
    assert!(pulled.ends_with("Status: Downloaded image for madeup-seven"), "{pulled}");
    let facts = own.json(&["inspect", "madeup-7"])[0]["Facts"].clone();
    assert_eq!(facts["OsRelease"]["PRETTY_NAME"], "Made up 7");
    assert_eq!(facts["PackageManager"], "apt");
    assert_eq!(facts["Init"], "/usr/lib/systemd/systemd");

    package(&directory);
    let share = format!("{}:/srv:ro", directory.display());
    let said_file = own.path("boot.out");
    let said_to = std::fs::File::create(&said_file).unwrap();
    let words = ["boot", "-d", "--name", "madeup", "-v", &share, "madeup-7"];
    let mut boot = configured(&own, &words);
    let status = boot.stdout(said_to.try_clone().unwrap()).stderr(said_to).status().unwrap();
    assert!(status.success(), "{}", std::fs::read_to_string(&said_file).unwrap());
    let install = ["exec", "madeup", "apt-get", "install", "-qq", "-y", "/srv/hello.deb"];
    let installed = said(&mut own.postroj(&install));
    assert_eq!(installed.code, 0, "{installed:?}");
    assert_eq!(out(&mut own.postroj(&["exec", "madeup", "hello-made-up"])), "hello from 7");
    let state = out(&mut own.postroj(&["exec", "madeup", "systemctl", "is-system-running"]));
    assert_eq!(state, "running");
    out(&mut own.postroj(&["stop", "madeup"]));
    wait_until("the machine is gone", || !out(&mut own.postroj(&["ps", "-q"])).contains("madeup"));
    let _ = said(&mut own.postroj(&["rm", "-f", "madeup"]));
    own.is_sound();
}
