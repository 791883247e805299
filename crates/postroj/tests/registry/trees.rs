//! The unpacked tree is what umoci and podman make of the same image.

use std::path::Path;
use std::process::Command;

use crate::fixture::{is_root, said};
use crate::images::{image, pack_files, push};
use crate::listing;
use crate::peers::Peers;
use crate::place::{Place, tool};
use crate::server::Registry;

/// Packs a directory that a script filled.
fn made_by(place: &Place, name: &str, script: &str) -> String {
    let root = place.path(&format!("{name}.d"));
    std::fs::create_dir_all(&root).unwrap();
    tool(Command::new("sh").args(["-ec", script]).current_dir(&root));
    let tar = place.text(name);
    let mut command = Command::new("tar");
    // Owners by the hand of tar: an ordinary user has no other files than its own.
    command.args([
        "--sort=name",
        "--format=pax",
        "--sparse",
        "--xattrs",
        "--xattrs-include=user.*",
    ]);
    command.args(["--owner=7", "--group=8", "--mtime=@1234567890", "-C"]).arg(&root);
    tool(command.args(["-cf", &tar, "."]));
    tar
}

/// Every feature that a layer can have, below `data`.
const NASTY: &str = "
    mkdir -p data/dir/sub data/sticky data/closed data/'with space' data/deep
    echo content >data/file; echo other >data/dir/sub/file
    chmod 4755 data/file; chmod 2711 data/dir; chmod 1777 data/sticky; chmod 500 data/closed
    ln data/file data/dir/hard; ln data/file data/hard2; ln -s ../file data/dir/link; ln -s /nowhere/at/all data/dangling
    ln data/dangling data/hardsymlink
    mkfifo data/fifo; chmod 600 data/fifo
    truncate -s 3M data/sparse; printf middle | dd of=data/sparse bs=1 seek=1500000 conv=notrunc status=none
    setfattr -n user.remark -v 'a value' data/dir/sub/file
    setfattr -n user.dir -v x data/dir
    p=data/deep; for i in 1 2 3 4 5; do p=$p/$(printf 'long-name-%060d' $i); mkdir -p $p; done; echo deep >$p/file
    ln $p/file data/deep/hard-to-deep
    printf x >\"data/with space/a
b\"; echo y >data/'naïve ü'; : >data/empty
    ln -s \"$(printf '%0300d' 0)\" data/long-link
    chmod u+w data/closed";

/// Things to be hidden, replaced, and added to.
const ABOVE: &str = "
    mkdir -p data/dir data/new data/closed
    : >data/.wh.hard2; : >data/dir/.wh.link; : >data/.wh.sticky
    echo replaced >data/dangling; mkdir data/empty; echo in >data/empty/now
    echo new >data/new/file; ln data/new/file data/new/link; chmod 750 data/dir";

fn compare(
    place: &Place,
    registry: &Registry,
    peers: Option<&Peers<'_>>,
    tag: &str,
    layers: &[&str],
) {
    let name = image(place, tag, layers);
    push(&name, &registry.image(&format!("tree:{tag}")));
    let bundle = place.path(&format!("bundle-{tag}"));
    let mut unpack = Command::new("umoci");
    unpack.args(["unpack", "--image", &name]);
    if !is_root() {
        unpack.arg("--rootless");
    }
    tool(unpack.arg(&bundle));
    let theirs = listing::of(&bundle.join("rootfs/data"), is_root());
    // umoci leaves directories that it may not enter.
    tool(Command::new("chmod").arg("-R").arg("u+rwX").arg(&bundle));
    let pulled = said(&mut place.postroj(&["pull", &registry.image(&format!("tree:{tag}"))]));
    assert_eq!(pulled.code, 0, "{pulled:?}");
    let name = registry.image(&format!("tree:{tag}"));
    let mut ours = listing::in_machine(place, &name, "/data");
    if let Some(peers) = peers {
        peers.podman(&["pull", "-q", "--tls-verify=false", &name]);
        // It copies symbolic links one by one, be they one file.
        let single = |lines: Vec<String>| -> Vec<String> {
            let single = |line: &String| match line.split_once(" same as ") {
                Some((link, _)) if link.contains(" -> ") => link.to_owned(),
                _ => line.clone(),
            };
            lines.iter().map(single).collect()
        };
        let mut podmans = single(peers.tree(&name, "/data"));
        let ours = single(ours.clone());
        // It leaves a directory the attributes that a layer above names it without.
        for line in &mut podmans {
            let without = line.replace(" user.dir=[78]", "");
            if ours.contains(&without) || ours.contains(&without.replace(" now", " 1234567890")) {
                *line = without;
            }
        }
        peers.podman(&["rmi", &name]);
        differ(tag, "podman", &entered_now(&ours, &podmans), &podmans);
    }
    if !is_root() {
        // umoci's ordinary user owns everything.
        for line in &mut ours {
            *line = line.replace(" 7:8", "").replace(" 0:0", "");
        }
    }
    assert!(ours.len() > 2, "{tag}: {ours:#?}");
    let through_links = ["links", "dangling"].contains(&tag);
    let ours = if through_links { entered_now(&ours, &theirs) } else { ours };
    differ(tag, "umoci", &ours, &theirs);
}

/// Directories that a layer goes into without a word keep their time with us. podman dates them by the
/// unpacking, umoci those that it reaches through links.
fn entered_now(ours: &[String], theirs: &[String]) -> Vec<String> {
    let entered = |line: &String| {
        let now = line.replace(" 1234567890", " now");
        if line.contains(" bytes ") || !theirs.contains(&now) { line.clone() } else { now }
    };
    ours.iter().map(entered).collect()
}

#[track_caller]
fn differ(tag: &str, who: &str, ours: &[String], theirs: &[String]) {
    let only = |a: &[String], b: &[String]| -> Vec<String> {
        a.iter().filter(|line| !b.contains(line)).cloned().collect()
    };
    assert!(theirs.len() > 2, "{tag}: {who}: {theirs:#?}");
    let (ours, theirs) = (only(ours, theirs), only(theirs, ours));
    assert_eq!(ours, theirs, "{tag}: only ours, and only {who}'s");
}

#[test]
fn they_are_umocis_and_podmans() {
    let place = Place::new();
    let registry = Registry::start(&place);
    let peers = Peers::new(&place);
    let nasty = made_by(&place, "nasty.tar", NASTY);
    let above = made_by(&place, "above.tar", ABOVE);
    let few = pack_files(
        &place,
        "few.tar",
        &[("data/dir/sub/added", "1"), ("data/closed/x", "2"), ("data/brand/new", "3")],
    );
    let opaque = pack_files(
        &place,
        "opaque.tar",
        &[("data/dir/.wh..wh..opq", ""), ("data/dir/only", "this")],
    );
    let back = pack_files(&place, "back.tar", &[("data/hard2", "back"), ("data/.wh.new", "")]);
    let linked = made_by(
        &place,
        "linked.tar",
        "mkdir -p data/usr/lib data/deep; echo old >data/usr/lib/old; ln -s usr/lib data/lib
         ln -s ../lib data/deep/up; ln -s /data/usr data/absolute; ln -s none/such data/dangling",
    );
    let through = pack_files(
        &place,
        "through.tar",
        &[
            ("data/lib/new", "n"),
            ("data/deep/up/more", "m"),
            ("data/absolute/lib/sub/file", "s"),
            ("data/usr/lib/new", "later"),
            ("data/deep/up/.wh.old", ""),
        ],
    );
    compare(&place, &registry, Some(&peers), "links", &[&linked, &through]);
    // podman refuses what leads to nothing.
    let nothing = pack_files(&place, "nothing.tar", &[("data/dangling/made", "d")]);
    compare(&place, &registry, None, "dangling", &[&linked, &nothing]);
    compare(&place, &registry, Some(&peers), "nasty", &[&nasty]);
    compare(&place, &registry, Some(&peers), "above", &[&nasty, &above]);
    compare(&place, &registry, Some(&peers), "implied", &[&nasty, &few]);
    compare(&place, &registry, Some(&peers), "opaque", &[&nasty, &few, &opaque]);
    compare(&place, &registry, Some(&peers), "back", &[&nasty, &above, &opaque, &back]);
    compare(&place, &registry, Some(&peers), "again", &[&nasty, &above, &nasty, &few]);
}

#[test]
fn devices_owners_and_capabilities_for_root_alone() {
    if !is_root() {
        return println!("skipped: only root can make devices");
    }
    let place = Place::new();
    let registry = Registry::start(&place);
    let peers = Peers::new(&place);
    let root = place.path("devices");
    let script =
        "mkdir -p data; cd data; mknod null c 1 3; mknod disk b 7 300; cp /bin/busybox capable
        setcap cap_net_bind_service+ep capable; echo x >someone; chown 12345:54321 someone
        setfacl -m u:1234:r someone; chown -h 3:4 . ; ln -s x link; chown -h 5:6 link";
    std::fs::create_dir_all(&root).unwrap();
    tool(Command::new("sh").args(["-ec", script]).current_dir(&root));
    let tar = place.text("devices.tar");
    let mut command = Command::new("tar");
    command.args(["--format=pax", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C"]);
    tool(command.arg(&root).args(["-cf", &tar, "."]));
    compare(&place, &registry, Some(&peers), "devices", &[&tar]);
    assert!(Path::new("/bin/busybox").exists());
}
