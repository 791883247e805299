//! `cp`: files into machines and out of them.

mod fixture;

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Stdio;

use fixture::{Machine, fails, is_root, out, postroj, said};

/// A directory of one test's, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = fixture::home().join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn machine() -> Machine {
    fixture::image();
    Machine::start(&["run", "-d", fixture::IMAGE, "sleep", "1000"])
}

fn sh(machine: &Machine, script: &str) -> String {
    out(&mut machine.exec(&[], &["sh", "-c", script]))
}

fn cp(options: &[&str], from: &str, to: &str) -> std::process::Command {
    postroj(&[&["cp"], options, &[from, to]].concat())
}

#[test]
fn in_and_out() {
    let (machine, scratch) = (machine(), Scratch::new("in-and-out"));
    let inside = |path: &str| format!("{}:{path}", machine.name);
    let file = scratch.path("file");
    std::fs::write(&file, "content\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    // A file: as another name, into a directory, over a file; what goes in is root's.
    out(&mut cp(&[], &file, &inside("/srv/other")));
    out(&mut cp(&[], &file, &inside("srv")));
    out(&mut cp(&[], &file, &inside("/srv/other")));
    let listed = sh(&machine, "cd /srv && stat -c '%n %u:%g %a' *");
    assert_eq!(listed, "file 0:0 640\nother 0:0 640");
    // A directory with all sorts of things in it.
    let tree = "mkdir -p /srv/d/sub && cd /srv/d && echo x >sub/x && ln sub/x y && ln -s sub/x s \
                && chmod 700 sub && truncate -s 1000000 hole && chown 1000 y && mkfifo fifo && \
                echo odd > \"$(printf 'a\\nb')\"";
    sh(&machine, tree);
    out(&mut cp(&[], &inside("/srv/d"), &scratch.path("new")));
    out(&mut cp(&[], &inside("/srv/d"), &scratch.path("")));
    out(&mut cp(&[], &inside("/srv/d/."), &scratch.path("new")));
    for copy in ["new", "d"] {
        let path = |name: &str| scratch.0.join(copy).join(name);
        let look = |name: &str| std::fs::symlink_metadata(path(name)).unwrap();
        assert_eq!(std::fs::read(path("sub/x")).unwrap(), b"x\n");
        assert_eq!(look("sub").mode() & 0o7777, 0o700);
        assert_eq!(look("y").ino(), look("sub/x").ino());
        assert_eq!(look("y").uid(), rustix::process::geteuid().as_raw(), "what comes out is ours");
        assert_eq!(std::fs::read_link(path("s")).unwrap(), PathBuf::from("sub/x"));
        assert_eq!((look("hole").len(), look("hole").blocks()), (1_000_000, 0));
        assert!(look("a\nb").is_file());
    }
    assert!(!scratch.0.join("new/d").exists());
    // Into the machine and out of it again, it is the same.
    out(&mut cp(&[], &scratch.path("new"), &inside("/srv/back")));
    assert_eq!(sh(&machine, "cd /srv && diff -r d/sub back/sub && cat back/y"), "x");
    for (from, to, error) in [
        (inside("/nonesuch"), scratch.path(""), "there is no"),
        (inside("/srv/d"), file.clone(), "is a directory, and"),
        (file.clone(), inside("/no/where"), "/no"),
        (file.clone(), inside("/srv/none/"), "there is no directory"),
        (file.clone(), scratch.path("x"), "MACHINE:PATH"),
        (inside(""), scratch.path("x"), "there is no path after"),
        ("nonesuch:/x".into(), scratch.path("x"), "there is no machine"),
    ] {
        fails(&mut cp(&[], &from, &to), 125, &[error]);
    }
    // Nothing takes a directory's place.
    std::fs::write(scratch.path("sub"), "a file").unwrap();
    std::fs::create_dir(scratch.path("e")).unwrap();
    std::fs::rename(scratch.path("sub"), scratch.path("e/sub")).unwrap();
    let over = format!("{}/.", scratch.path("e"));
    fails(&mut cp(&[], &over, &inside("/srv/d")), 125, &["sub", "directory of that name"]);
    assert_eq!(sh(&machine, "cat /srv/d/sub/x"), "x");
}

#[test]
fn archives_and_owners() {
    let (machine, scratch) = (machine(), Scratch::new("archives"));
    let inside = |path: &str| format!("{}:{path}", machine.name);
    sh(&machine, "mkdir /srv/d && cd /srv/d && echo x >f && chown 1000:2000 f && chmod 4755 f");
    // Out as an archive, with owners, and in again.
    let archive = scratch.path("d.tar");
    let file = std::fs::File::create(&archive).unwrap();
    let status = cp(&["-a"], &inside("/srv/d"), "-").stdout(file).status().unwrap();
    assert!(status.success());
    let listed =
        std::process::Command::new("tar").args(["--numeric-owner", "-tvf", &archive]).output();
    let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
    assert!(listed.contains("-rwsr-xr-x 1000/2000") && listed.ends_with(" d/f\n"), "{listed}");
    sh(&machine, "mkdir /srv/again");
    for (options, owner) in [(&["-a"][..], "1000:2000 4755"), (&[], "0:0 4755")] {
        let input = std::fs::File::open(&archive).unwrap();
        assert!(cp(options, "-", &inside("/srv/again")).stdin(input).status().unwrap().success());
        assert_eq!(sh(&machine, "stat -c '%u:%g %a' /srv/again/d/f"), owner);
    }
    let input = std::fs::File::open(&archive).unwrap();
    fails(cp(&[], "-", &inside("/srv/d/f")).stdin(input), 125, &["is no directory"]);
    let mut garbage =
        cp(&[], "-", &inside("/srv")).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let garbage = garbage.as_mut().unwrap();
    garbage.stdin.take().unwrap().write_all(&[b'x'; 4096]).unwrap();
    assert_eq!(garbage.wait().unwrap().code(), Some(125));
    // On the host, what a machine made gives nobody a right.
    out(&mut cp(&[], &inside("/srv/d"), &scratch.path("plain")));
    assert_eq!(std::fs::metadata(scratch.path("plain/f")).unwrap().mode() & 0o7777, 0o755);
    let kept = said(&mut cp(&["-a"], &inside("/srv/d"), &scratch.path("kept")));
    if is_root() {
        assert_eq!(kept.code, 0, "{kept:?}");
        let stat = std::fs::metadata(scratch.path("kept/f")).unwrap();
        assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777), (1000, 2000, 0o4755));
    } else {
        assert!(kept.code == 125 && kept.err.contains("only root"), "{kept:?}");
    }
    // From one machine to another.
    let other = self::machine();
    out(&mut cp(&["-a"], &inside("/srv/d"), &format!("{}:/srv", other.name)));
    assert_eq!(sh(&other, "stat -c '%u:%g %a' /srv/d/f"), "1000:2000 4755");
}

#[test]
fn links_of_a_machine_lead_nowhere_else() {
    let (machine, scratch) = (machine(), Scratch::new("links"));
    let inside = |path: &str| format!("{}:{path}", machine.name);
    let secret = scratch.path("secret");
    std::fs::write(&secret, "of the host").unwrap();
    let up = "../".repeat(40);
    sh(
        &machine,
        &format!(
            "cd /srv && ln -s {secret} abs && ln -s {up}{secret} up && ln -s {} dir && \
         ln -s {up}{} updir && mkdir -p /srv/real && echo mine >/srv/real/f && ln -s real/f l && \
         ln -s /proc/1/root/etc proc",
            scratch.0.display(),
            scratch.0.display()
        ),
    );
    for link in ["/srv/abs", "/srv/up", "/srv/dir/secret", "/srv/updir/secret"] {
        fails(&mut cp(&["-L"], &inside(link), &scratch.path("stolen")), 125, &["there is no"]);
    }
    // As itself it is copied, and with -L what it leads to.
    out(&mut cp(&[], &inside("/srv/l"), &scratch.path("link")));
    assert_eq!(std::fs::read_link(scratch.path("link")).unwrap(), PathBuf::from("real/f"));
    out(&mut cp(&["-L"], &inside("/srv/l"), &scratch.path("file")));
    assert_eq!(std::fs::read(scratch.path("file")).unwrap(), b"mine\n");
    // A target that is a link does not lead out either.
    std::fs::write(scratch.path("bad"), "bad").unwrap();
    for link in ["/srv/abs", "/srv/up", "/srv/dir/x", "/srv/updir/secret"] {
        let _ = said(&mut cp(&[], &scratch.path("bad"), &inside(link)));
    }
    assert_eq!(std::fs::read(&secret).unwrap(), b"of the host");
    assert!(!scratch.0.join("x").exists());
    // The host's own links are the user's.
    symlink("file", scratch.path("mine")).unwrap();
    out(&mut cp(&["-L"], &scratch.path("mine"), &inside("/srv/got")));
    assert_eq!(sh(&machine, "cat /srv/got; test -L /srv/got || echo file"), "mine\nfile");
}

#[test]
fn much_and_mounts() {
    fixture::image();
    let scratch = Scratch::new("much");
    std::fs::write(scratch.path("seen"), "x").unwrap();
    let volume = format!("{}:/srv/volume", scratch.0.display());
    let machine = Machine::start(&["run", "-d", "-v", &volume, fixture::IMAGE, "sleep", "1000"]);
    let inside = |path: &str| format!("{}:{path}", machine.name);
    sh(&machine, "head -c 300000000 /dev/urandom >/srv/big && sha256sum </srv/big >/srv/sum");
    let mut command = cp(&[], &inside("/srv"), "-");
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let listed = std::process::Command::new("tar")
        .arg("-t")
        .stdin(child.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(child.wait().unwrap().success());
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("srv/volume/seen") && listed.contains("srv/big"), "{listed}");
    out(&mut cp(&[], &inside("/srv/big"), &inside("/srv/copy")));
    assert_eq!(sh(&machine, "sha256sum </srv/copy | diff - /srv/sum && echo same"), "same");
    // Whoever is stopped in between leaves nothing that runs.
    let mut child = cp(&[], &inside("/srv"), "-").stdout(Stdio::piped()).spawn().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(machine.exec(&[], &["true"]).status().unwrap().code(), Some(0));
    out(&mut postroj(&["rm", "-f", &machine.name]));
    fails(&mut cp(&[], &inside("/srv/big"), &scratch.path("x")), 125, &["there is no machine"]);
}
