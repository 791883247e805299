//! Packages that an image gets from its own package manager before anything runs in it: from Debian's
//! archive, as layers that are made once.

mod fixture;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fixture::{Own, fails, out, said, wait_until};

/// Debian with nothing that could boot it, described by a file of the catalog.
const BARE: &str = "family = \"bare\"\npackage-manager = \"apt\"\ninit = \"none\"\n\
    archives = [\"debian\", \"debian-security\"]\nkeyrings = [\"debian-archive-keyring\"]\n\
    signed-by = \"/usr/share/keyrings/debian-archive-keyring.gpg\"\n\
    [bootable]\nsystemd = [\"debian-archive-keyring\"]\n\
    [architectures]\namd64 = \"amd64\"\narm64 = \"arm64\"\n\
    [[release]]\nlabel = \"bare-12\"\n[release.bootstrap]\nsuite = \"bookworm\"\n\
    components = [\"main\"]\nextras = []\nusr = \"links-first\"\nsources = \"one-line\"\n";

struct Place {
    own: Own,
    config: PathBuf,
}

impl Place {
    /// With that Debian in its store.
    fn new(name: &str) -> Self {
        let own = Own::new(name);
        let config = own.path("config");
        std::fs::create_dir_all(config.join("postroj/distro.d")).unwrap();
        std::fs::write(config.join("postroj/distro.d/bare.toml"), BARE).unwrap();
        let text = "[bootstrap.bare]\ncheck-valid-until = false\n";
        std::fs::write(config.join("postroj/config.toml"), text).unwrap();
        let place = Self { own, config };
        out(&mut place.postroj(&["pull", "bare-12"]));
        assert_eq!(place.facts("bare-12")["Init"], serde_json::Value::Null);
        place
    }

    fn postroj(&self, args: &[&str]) -> Command {
        let mut command = self.own.postroj(args);
        command.env("XDG_CONFIG_HOME", &self.config);
        command
    }

    fn facts(&self, image: &str) -> serde_json::Value {
        self.own.json(&["inspect", image])[0]["Facts"].clone()
    }

    /// Ids of all images, sorted.
    fn ids(&self) -> Vec<String> {
        let text = out(&mut self.postroj(&["images", "-q"]));
        let mut ids: Vec<String> = text.lines().map(str::to_owned).collect();
        ids.sort();
        ids
    }

    fn layers(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.own.store().join("layers")).unwrap();
        let name = |entry: std::fs::DirEntry| entry.file_name().into_string().unwrap();
        let mut names: Vec<String> = entries.map(|entry| name(entry.unwrap())).collect();
        names.sort();
        names
    }

    /// Starts them all before it waits for any; each must succeed and print this.
    fn all(&self, commands: &[Vec<&str>], expected: &str) {
        let start = |args: &Vec<&str>| -> Child {
            let mut command = self.postroj(args);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let children: Vec<Child> = commands.iter().map(start).collect();
        let ended: Vec<_> = children.into_iter().map(|c| c.wait_with_output().unwrap()).collect();
        for output in ended {
            assert!(output.status.success(), "{output:?}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{output:?}");
        }
    }
}

/// An image that differs from the other in one file.
fn variant(place: &Place, number: usize) -> String {
    let (machine, image) = (format!("variant-{number}"), format!("variant:{number}"));
    let script = format!("echo {number} > /etc/variant; exec sleep 600");
    let words =
        ["run", "-d", "--name", &machine, "--network", "none", "bare-12", "sh", "-c", &script];
    out(&mut place.postroj(&words));
    wait_until("the file is written", || {
        said(&mut place.postroj(&["exec", &machine, "test", "-s", "/etc/variant"])).code == 0
    });
    out(&mut place.postroj(&["commit", &machine, &image]));
    out(&mut place.postroj(&["rm", "-f", &machine]));
    image
}

#[test]
fn eight_images_at_once_and_the_second_time_costs_nothing() {
    let place = Place::new("provision-8");
    let images: Vec<String> = (1..=8).map(|number| variant(&place, number)).collect();
    // Each twice: of two that want the same, one works and the other waits.
    let install: Vec<Vec<&str>> = images
        .iter()
        .chain(&images)
        .map(|image| vec!["run", "--install", "hello", "--network", "none", image, "hello"])
        .collect();
    place.all(&install, "Hello, world!\n");
    let ids = place.ids();
    assert_eq!(ids.len(), 1 + 8 + 8, "{ids:?}");
    let before = place.layers();
    for args in &install {
        assert_eq!(out(&mut place.postroj(args)), "Hello, world!");
    }
    // Made anew they would be others: apt logs when it did what.
    assert_eq!((place.ids(), place.layers()), (ids, before));
    // Each kept what is its own, and the image itself stayed as it was.
    for (number, image) in images.iter().enumerate() {
        let words = ["run", "--install", "hello", image, "cat", "/etc/variant"];
        assert_eq!(out(&mut place.postroj(&words)), (number + 1).to_string());
        let without = said(&mut place.postroj(&["run", image, "hello"]));
        assert_eq!(without.code, 127, "{without:?}");
    }
    assert_eq!(out(&mut place.postroj(&["ps", "-aq"])), "");
    place.own.is_sound();
}

#[test]
fn what_cannot_boot_becomes_bootable() {
    let place = Place::new("provision-boot");
    let said_to = place.own.path("boot.out");
    let file = std::fs::File::create(&said_to).unwrap();
    let mut boot = place.postroj(&["boot", "-d", "--name", "bare", "bare-12"]);
    let status = boot.stdout(file.try_clone().unwrap()).stderr(file).status().unwrap();
    assert!(status.success(), "{}", std::fs::read_to_string(&said_to).unwrap());
    let state = ["exec", "bare", "systemctl", "is-system-running"];
    assert_eq!(out(&mut place.postroj(&state)), "running");
    out(&mut place.postroj(&["stop", "bare"]));
    let _ = said(&mut place.postroj(&["rm", "-f", "bare"]));
    // A pull says so beforehand, and finds what a boot has made.
    let ids = place.ids();
    out(&mut place.postroj(&["pull", "--bootable", "--policy", "missing", "bare-12"]));
    assert_eq!(place.ids(), ids);
    let with = "bare-12@with=dbus,systemd,systemd-sysv";
    assert_eq!(place.facts(with)["Init"], "/usr/lib/systemd/systemd");
    assert_eq!(place.facts("bare-12")["Init"], serde_json::Value::Null);
    place.own.is_sound();
}

#[test]
fn what_cannot_be_installed_is_told_and_leaves_nothing() {
    let place = Place::new("provision-bad");
    let ids = place.ids();
    let install =
        |packages: &str| place.postroj(&["run", "--install", packages, "bare-12", "true"]);
    fails(
        &mut install("no-such-thing"),
        125,
        &["cannot provision bare-12", "no such package", "no-such-thing"],
    );
    fails(&mut install("a b"), 125, &["\"a b\" is no package"]);
    fails(
        &mut place.postroj(&["run", "--install", "x", "host", "true"]),
        125,
        &["pull host first"],
    );
    assert_eq!(place.ids(), ids);
    // Killed in the middle of it, it leaves nothing either.
    let mut child = install("hello").stdout(Stdio::null()).spawn().unwrap();
    let machines = || out(&mut place.postroj(&["ps", "-q"]));
    wait_until("there is a machine", || !machines().is_empty());
    let helper = provisioner(child.id());
    for pid in [helper, child.id()] {
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    child.wait().unwrap();
    wait_until("the machine is gone", || machines().is_empty());
    assert_eq!(place.ids(), ids);
    let words = ["run", "--install", "hello", "bare-12", "hello"];
    assert_eq!(out(&mut place.postroj(&words)), "Hello, world!");
    place.own.is_sound();
}

/// The child that installs.
fn provisioner(of: u32) -> u32 {
    let children = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap();
    let is_it = |pid: &&str| {
        let line = std::fs::read(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
        line.split(|&b| b == 0).any(|word| word == b"provision")
    };
    children.split_whitespace().find(is_it).expect("somebody installs").parse().unwrap()
}
