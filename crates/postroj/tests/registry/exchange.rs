//! What podman and buildah make runs here, and what we push and save runs there.

use crate::fixture::out;
use crate::images::{busybox, image, pack_files, push, small};
use crate::peers::Peers;
use crate::place::Place;
use crate::server::Registry;

#[test]
fn what_podman_and_buildah_push_and_save_runs_here() {
    let place = Place::new();
    let registry = Registry::start(&place);
    let peers = Peers::new(&place);
    let base = registry.image("base:t");
    push(&small(&place, "t", "base"), &base);
    // podman: a container's changes, committed.
    peers.podman(&["pull", "-q", "--tls-verify=false", &base]);
    let script = "echo podman >/etc/mark; mkdir -p /srv/d; chown 5:6 /srv/d; rm /etc/passwd";
    peers.run(&["--name=c", "-q"], &base, &["sh", "-c", script]);
    let name = registry.image("podman:t");
    peers.podman(&["commit", "-q", "--change=CMD cat /etc/mark", "c", &name]);
    peers.podman(&["rm", "c"]);
    for format in ["oci", "v2s2"] {
        peers.podman(&["push", "-q", "--tls-verify=false", "--format", format, &name]);
        assert_eq!(out(&mut place.postroj(&["run", "--pull", "always", &name])), "podman");
        let script = "stat -c %u:%g /srv/d; test ! -e /etc/passwd && echo gone";
        assert_eq!(out(&mut place.postroj(&["run", &name, "sh", "-c", script])), "5:6\ngone");
    }
    for format in ["oci-archive", "docker-archive"] {
        let archive = place.text(&format!("podman-{format}"));
        peers.podman(&["save", "-q", "--format", format, "-o", &archive, &name]);
        out(&mut place.postroj(&["rmi", &name]));
        let loaded = out(&mut place.postroj(&["load", "-i", &archive]));
        assert_eq!(loaded, format!("Loaded image: {name}"), "{format}");
        assert_eq!(out(&mut place.postroj(&["run", &name])), "podman");
    }
    // buildah: from nothing, with a layer of a directory.
    let name = registry.image("buildah:t");
    let container = peers.buildah(&["from", "scratch"]);
    peers.buildah(&["add", "-q", &container, &busybox(&place), "/"]);
    let mark = place.write("buildah-mark", "buildah\n");
    peers.buildah(&["copy", "-q", &container, mark.to_str().unwrap(), "/etc/mark"]);
    peers.buildah(&["config", "--cmd", "cat /etc/mark", &container]);
    peers.buildah(&["config", "--env", "A=b c", "--workingdir", "/etc", &container]);
    peers.buildah(&["commit", "-q", "--rm", &container, &name]);
    peers.buildah(&["push", "-q", "--tls-verify=false", &name]);
    assert_eq!(out(&mut place.postroj(&["run", &name])), "buildah");
    assert_eq!(out(&mut place.postroj(&["run", &name, "sh", "-c", "echo $A; pwd"])), "b c\n/etc");
}

#[test]
fn what_we_push_and_save_runs_with_podman_and_buildah() {
    let place = Place::new();
    let registry = Registry::start(&place);
    let peers = Peers::new(&place);
    let base = busybox(&place);
    let one = pack_files(&place, "one.tar", &[("d/a", "a"), ("d/b", "b"), ("e/x", "x")]);
    let two =
        pack_files(&place, "two.tar", &[("d/.wh.a", ""), ("e/.wh..wh..opq", ""), ("e/y", "y")]);
    let from = registry.image("from:t");
    push(&image(&place, "t", &[&base, &one, &two]), &from);
    out(&mut place.postroj(&["pull", &from]));
    let sees = ["sh", "-c", "cd /; echo d/* e/*; cat d/b e/y"];
    let all = "d/b e/y\nby";
    for compression in ["gzip", "zstd"] {
        let name = registry.image(&format!("{compression}:t"));
        out(&mut place.postroj(&["push", "--compression", compression, &from, &name]));
        peers.podman(&["pull", "-q", "--tls-verify=false", &name]);
        assert_eq!(peers.run(&["--rm"], &name, &sees), all, "podman, {compression}");
        peers.podman(&["rmi", "-f", &name]);
        let container = peers.buildah(&["from", "-q", "--tls-verify=false", &name]);
        // By its exit code: buildah 1.28 loses output now and then.
        let script = format!("test \"$({})\" = '{all}'", sees[2]);
        peers.buildah(&["run", "--isolation=chroot", &container, "sh", "-ec", &script]);
        peers.buildah(&["rm", &container]);
        peers.buildah(&["rmi", "-f", &name]);
    }
    for form in ["oci-archive", "docker-archive"] {
        let archive = place.text(form);
        out(&mut place.postroj(&["save", "--as", form, "-o", &archive, &from]));
        assert!(peers.podman(&["load", "-q", "-i", &archive]).contains(&from), "{form}");
        assert_eq!(peers.run(&["--rm"], &from, &sees), all, "{form}");
        // And back again.
        let again = place.text(&format!("{form}-again"));
        peers.podman(&["save", "-q", "--format", form, "-o", &again, &from]);
        peers.podman(&["rmi", "-f", &from]);
        out(&mut place.postroj(&["rmi", &from]));
        out(&mut place.postroj(&["load", "-i", &again]));
        assert_eq!(out(&mut place.postroj(&[&["run", &from], &sees[..]].concat())), all, "{form}");
    }
}
