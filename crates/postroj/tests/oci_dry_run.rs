//! `postroj oci run --dry-run`: the line that it prints is given to Debian's bubblewrap, and what runs by
//! it sees what the container's process sees.

mod fixture;

use std::process::{Command, Stdio};

use fixture::bundle::{Bundle, refused};
use fixture::{is_root, said};
use serde_json::json;

const LOOK: &str = "
    echo $$ $(id -u) $(id -g) $(hostname) $(pwd) $(ulimit -Sn) $(ulimit -Hn); env | sort
    grep -E '^(CapEff|CapPrm|NoNewPrivs)' /proc/self/status
    ls -A /; grep : /proc/net/dev | cut -d: -f1; ls -A /dev | grep -v -e core -e console
    for at in /x /w/x /r/x /t/x /small/x /dev/shm/x /proc/sys/kernel/panic /proc/irq/x; do
        touch $at 2>&1 || echo fails; done
    stat -c '%n %a %F' /w /r /t /small /dev/shm; cat '/r/it is'\\''s'; wc -c < /proc/keys; ls /hidden | wc -l
    for at in / /w /r /t /small /proc /dev/pts /dev/shm /dev/mqueue; do
        grep \" $at \" /proc/mounts | tail -1 | sed 's/.* \\(proc\\|tmpfs\\|devpts\\|mqueue\\) .*/\\1/;s/.* r\\([wo]\\),.*/\\1/'; done
    df -k /small | tail -1 | tr -s ' ' | cut -d' ' -f2; readlink /proc/self/fd/0; umask; exit 7";

#[test]
fn bubblewrap_does_the_same() {
    let mut bundle = Bundle::new("dry");
    for directory in ["w", "r", "rootfs/hidden"] {
        std::fs::create_dir(bundle.dir.join(directory)).unwrap();
    }
    std::fs::write(bundle.dir.join("r/it is's"), "read\n").unwrap();
    std::fs::write(bundle.dir.join("rootfs/hidden/secret"), "").unwrap();
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.extend([
        json!({ "destination": "/w", "source": "w", "options": ["bind"] }),
        json!({ "destination": "/r", "source": bundle.dir.join("r"), "options": ["rbind", "ro"] }),
        json!({ "destination": "/t", "type": "tmpfs", "options": ["mode=0700", "ro"] }),
        json!({ "destination": "/small", "type": "tmpfs", "options": ["size=64k", "mode=711"] }),
    ]);
    bundle.config["linux"]["maskedPaths"].as_array_mut().unwrap().push("/hidden".into());
    bundle.config["process"]["cwd"] = "/tmp".into();
    let env = ["PATH=/bin", "QUOTED=it's a \"word\" of $HOME", "EMPTY=", "HOME=/root"];
    bundle.config["process"]["env"] = json!(env);
    std::fs::write(bundle.dir.join("rootfs/look"), LOOK).unwrap();
    let bundle = bundle.sh(". /look");

    let ours = said(&mut bundle.oci(&["run", "ours"]));
    assert_eq!(ours.code, 7, "{ours:?}");
    let told = said(&mut bundle.oci(&["run", "--dry-run"]));
    assert_eq!((told.code, told.out.lines().next()), (0, told.out.strip_suffix('\n')), "{told:?}");
    assert!(!bundle.dir.join("state/ours").exists());
    let mut theirs = Command::new("sh");
    theirs.args(["-c", &told.out]).current_dir(&bundle.dir).stdin(Stdio::null());
    let theirs = said(&mut theirs);
    // Its own view of the shell's variables; bubblewrap sets one.
    let plain = |text: &str| {
        let lines =
            text.lines().filter(|line| !line.starts_with("PWD=") && !line.starts_with("SHLVL="));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    assert_eq!(
        (theirs.code, plain(&theirs.out)),
        (7, plain(&ours.out)),
        "{}\n{}",
        told.out,
        theirs.err
    );
}

/// What bubblewrap cannot do is said, or refused where something else would run.
#[test]
fn what_it_cannot_do_is_told() {
    let mut bundle = Bundle::new("drywarn");
    bundle.config["linux"]["resources"] = json!({ "pids": { "limit": 5 } });
    bundle.config["hooks"] = json!({ "poststop": [{ "path": "/bin/true" }] });
    bundle.config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
    bundle = bundle.sh("true");
    let told = said(&mut bundle.oci(&["run", "--dry-run", "--bundle", ".", "id"]));
    assert_eq!(told.code, 0);
    for what in ["hooks", "linux.resources", "linux.seccomp"] {
        assert!(told.err.contains(&format!("no option for this: {what}\n")), "{told:?}");
    }
    bundle.config["linux"]["namespaces"][0]["path"] = "/proc/1/ns/pid".into();
    bundle = bundle.written();
    refused(&mut bundle.oci(&["run", "--dry-run"]), "cannot join the namespace Pid");
    refused(&mut bundle.oci(&["create", "--dry-run", "a"]), "an option of run");
    if is_root() {
        bundle.config["linux"]["namespaces"] = json!([{ "type": "mount" }]);
        bundle.config["process"]["user"] = json!({ "uid": 5, "gid": 5 });
        bundle = bundle.written();
        refused(&mut bundle.oci(&["run", "--dry-run"]), "only in a user namespace");
    }
}
