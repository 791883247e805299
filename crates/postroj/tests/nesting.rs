//! postroj in a machine of postroj.

mod fixture;

use fixture::{Machine, home, out, postroj};

#[test]
fn a_machine_in_a_machine() {
    fixture::image();
    let inner = home().join(format!("inner-{}", std::process::id()));
    fixture::busybox(&inner);
    let program = format!("{}:/usr/bin/postroj:ro", fixture::program().display());
    let image = format!("{}:/srv/image:ro", inner.display());
    let options = ["-d", "--privileged", "--network=none", "-v", &program, "-v", &image];
    // A store on the outer machine's root would be an overlay on an overlay.
    let store = ["--tmpfs", "/var/lib/postroj:exec,suid,dev"];
    let command = [fixture::IMAGE, "sleep", "1000"];
    let outer = Machine::start(&[&["run"], &options[..], &store, &command].concat());
    let run = |words: &[&str]| out(&mut outer.exec(&[], &[&["postroj"], words].concat()));
    run(&["pull", "-q", "dir:/srv/image"]);
    run(&["tag", "dir:/srv/image", "in:1"]);
    assert_eq!(run(&["run", "--network=none", "in:1", "echo", "nested"]), "nested");
    // In the background as well, and a command in that.
    let id = run(&["run", "-d", "--name", "deep", "--network=none", "in:1", "sleep", "1000"]);
    assert_eq!(id.len(), 64);
    assert_eq!(
        run(&["exec", "deep", "sh", "-c", "cat /proc/2/cmdline | tr '\\0' ' '"]),
        "sleep 1000 "
    );
    run(&["rm", "-f", "deep"]);
    out(&mut postroj(&["rm", "-f", &outer.name]));
    std::fs::remove_dir_all(inner).unwrap();
}
