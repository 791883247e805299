//! Debian from the archive that this host's apt uses: every release is whole, and runs.

mod fixture;

use fixture::{Own, out, said};

/// Pulls a release and looks at it from inside.
fn release(label: &str, codename: &str) {
    let own = Own::new(label);
    assert_eq!(own.pull(label), format!("Status: Downloaded image for {label}"));
    let os_release = out(&mut own.postroj(&["run", label, "--", "cat", "/etc/os-release"]));
    assert!(os_release.contains("ID=debian") && os_release.contains(codename), "{os_release}");
    // Neither half-installed packages nor ones that were never configured.
    assert_eq!(out(&mut own.postroj(&["run", label, "dpkg", "--audit"])), "");
    assert_eq!(out(&mut own.postroj(&["run", label, "apt-get", "-qq", "check"])), "");
    let states = out(&mut own.sh(label, "dpkg-query -W -f '${db:Status-Abbrev}\\n' | sort -u"));
    assert_eq!(states.trim(), "ii");
    // What dpkg knows of its files is so.
    let verified = said(&mut own.sh(label, "dpkg --verify"));
    assert_eq!((verified.code, &verified.out[..]), (0, ""), "{verified:?}");
    let script = "hostnamectl --version | head -n1; id -un; ls /sbin/init";
    let told = said(&mut own.sh(label, script));
    assert!(
        told.out.starts_with("systemd ") && told.out.ends_with("root\n/sbin/init\n"),
        "{told:?}"
    );
    // Each system is its own, and its downloads stay in the store.
    let script = "find /tmp /var/cache/apt/archives -type f ! -name lock";
    assert_eq!(out(&mut own.sh(label, script)), "");
    assert_eq!(own.pull(label), format!("Status: Image is up to date for {label}"));
    own.is_sound();
}

#[test]
fn debian_11() {
    release("debian-11", "bullseye");
}

#[test]
fn debian_12() {
    release("debian-12", "bookworm");
}

#[test]
fn debian_13() {
    release("debian-13", "trixie");
}

#[test]
fn debian_sid() {
    release("debian-sid", "sid");
}

#[test]
fn the_first_command_of_the_readme() {
    let own = Own::new("readme");
    let command = ["run", "debian-12", "--", "cat", "/etc/os-release"];
    let told = said(&mut own.postroj(&command));
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.out.contains("VERSION_CODENAME=bookworm"), "{told:?}");
    assert!(
        told.out.starts_with("PRETTY_NAME="),
        "only the payload's on standard output: {told:?}"
    );
    assert_eq!(told.err, "", "no progress where there is no terminal");
    // Other names of the same.
    for name in ["debian-bookworm", "os:debian-12"] {
        let told = said(&mut own.postroj(&["run", "--pull=never", name, "true"]));
        assert_eq!(told.code, 0, "{name}: {told:?}");
    }
}

/// kill -9 while packages come, are unpacked, and are configured by a machine.
#[test]
fn a_killed_pull_is_taken_up_again() {
    let own = Own::new("killed-debian");
    let mut killed = 0;
    for moment in [100, 300, 700, 1200, 1800, 2400, 3000, 3600, 4400] {
        let mut pull = own.postroj(&["pull", "--quiet", "debian-12"]);
        let mut child = pull.stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(moment));
        if child.try_wait().unwrap().is_some_and(|status| status.success()) {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
    }
    assert!(killed > 2);
    assert!(own.pull("debian-12").ends_with("for debian-12"));
    let machines = std::fs::read_dir(own.path("run/machines")).unwrap().count();
    assert_eq!(machines, 0, "the record of a machine is left");
    assert_eq!(out(&mut own.postroj(&["run", "debian-12", "dpkg", "--audit"])), "");
    own.is_sound();
}
