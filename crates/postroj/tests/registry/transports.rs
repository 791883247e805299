//! Images where other tools keep them on this machine.

use std::process::{Command, Stdio};

use crate::fixture::{fails, is_root, out, said};
use crate::http::{Server, respond};
use crate::images::{busybox, image, pack_files, push, skopeo, small};
use crate::listing;
use crate::peers::Peers;
use crate::place::{Place, tool};
use crate::server::Registry;

#[test]
fn directories_of_skopeo() {
    let place = Place::new();
    let from = format!("oci:{}", small(&place, "t", "kept"));
    let plain = format!("dir:{}", place.text("plain"));
    tool(&mut skopeo(&["copy", "-q", "--dest-decompress", &from, &plain]));
    let packed = format!("dir:{}", place.text("packed"));
    tool(&mut skopeo(&["copy", "-q", "--format=v2s2", &from, &packed]));
    for image in [&plain, &packed, &place.text("plain"), &"./packed".to_owned()] {
        assert_eq!(out(&mut place.postroj(&["run", image, "cat", "/etc/mark"])), "kept", "{image}");
        assert!(out(&mut place.postroj(&["pull", image])).contains("up to date"), "{image}");
    }
    assert_eq!(place.stored("layers").len(), 2, "both are of the same layers");
    // A root is still one, and what is damaged is not an image.
    std::fs::create_dir_all(place.path("root/bin")).unwrap();
    std::fs::copy("/bin/busybox", place.path("root/bin/sh")).unwrap();
    let root = format!("dir:{}", place.text("root"));
    assert_eq!(out(&mut place.postroj(&["run", &root, "/bin/sh", "-c", "echo root"])), "root");
    out(&mut place.postroj(&["rmi", &plain, &packed]));
    out(&mut place.postroj(&["system", "prune"]));
    let manifest = std::fs::read_to_string(place.path("packed/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let digest = manifest["layers"][0]["digest"].as_str().unwrap();
    let blob = place.path("packed").join(&digest[7..]);
    let mut content = std::fs::read(&blob).unwrap();
    content[1000] ^= 1;
    std::fs::write(blob, content).unwrap();
    fails(&mut place.postroj(&["pull", &packed]), 125, &[digest, "its digest is"]);
}

#[test]
fn the_store_of_podman_and_buildah() {
    let place = Place::new();
    let registry = Registry::start(&place);
    let name = registry.image("some/where:t");
    let base = busybox(&place);
    let one =
        pack_files(&place, "one.tar", &[("data/d/a", "a"), ("data/d/b", "b"), ("data/x", "")]);
    let two = pack_files(&place, "two.tar", &[("data/d/.wh.a", ""), ("data/naïve ü", "y")]);
    push(&image(&place, "t", &[&base, &one, &two]), &name);
    for driver in ["vfs", "overlay"] {
        let peers = Peers::with_driver(&place, driver);
        let postroj = |args: &[&str]| {
            let mut command = place.postroj(args);
            // What podman looks at, and nothing that tells of ours.
            for (key, value) in peers.environment() {
                command.env(key, value);
            }
            command
        };
        peers.podman(&["pull", "-q", "--tls-verify=false", &name]);
        let stored = format!("containers-storage:{name}");
        out(&mut postroj(&["pull", &name]));
        let ours = listing::in_machine(&place, &name, "/data");
        out(&mut place.postroj(&["rmi", &name]));
        out(&mut place.postroj(&["system", "prune"]));
        assert!(out(&mut postroj(&["pull", &stored])).contains("Downloaded"), "{driver}");
        out(&mut place.postroj(&["tag", &stored, "same:1"]));
        assert_eq!(listing::in_machine(&place, "same:1", "/data"), ours, "{driver}");
        assert!(out(&mut postroj(&["pull", &stored])).contains("up to date"), "{driver}");
        // What was made here, by its short name, its id, and the store's own words.
        let script = "echo made >/etc/mark; rm -r /data/d; chown 5:6 /etc/mark";
        peers.run(&["--name=c", "-q"], &name, &["sh", "-c", script]);
        peers.podman(&["commit", "-q", "c", "made"]);
        peers.podman(&["rm", "c"]);
        let id = peers.podman(&["image", "inspect", "--format={{.Id}}", "made"]);
        let root = peers.podman(&["info", "--format={{.Store.GraphRoot}}"]);
        for image in ["made", "localhost/made:latest", &id[..12], &format!("[{driver}@{root}]made")]
        {
            let image = format!("containers-storage:{image}");
            let script = "cat /etc/mark; stat -c %u:%g /etc/mark; echo /data/*";
            let said = out(&mut postroj(&["run", &image, "sh", "-c", script]));
            assert_eq!(said, "made\n5:6\n/data/naïve ü /data/x", "{driver}: {image}");
        }
        fails(&mut postroj(&["pull", "containers-storage:none"]), 125, &["no image \"none\" in /"]);
        out(&mut place.postroj(&["system", "prune", "--all"]));
        // Something is wrong with it: no layer of it becomes ours.
        if is_root() {
            let find = format!("find {root}/{driver} -name mark -path '*etc*'");
            let script = format!("{find} | while read -r f; do echo bade >\"$f\"; done");
            tool(Command::new("sh").args(["-ec", &script]));
            let bad = &mut postroj(&["pull", "containers-storage:made"]);
            fails(bad, 125, &["its digest is", "and should be"]);
        }
    }
}

#[test]
fn an_archive_on_standard_input() {
    let place = Place::new();
    let from = format!("oci:{}", small(&place, "t", "piped"));
    let archive = place.text("archive.tar");
    let to = format!("docker-archive:{archive}:localhost/piped:1");
    tool(&mut skopeo(&["copy", "-q", &from, &to]));
    let load = |file: &str| {
        let mut load = place.postroj(&["load"]);
        load.stdin(Stdio::from(std::fs::File::open(file).unwrap()));
        load
    };
    assert_eq!(out(&mut load(&archive)), "Loaded image: localhost/piped:1");
    assert_eq!(out(&mut place.postroj(&["run", "localhost/piped:1", "cat", "/etc/mark"])), "piped");
    let images = out(&mut place.postroj(&["images"]));
    assert_eq!(images.lines().count(), 2, "{images}");
    fails(&mut load("/dev/null"), 125, &["standard input is no archive of images"]);
}

/// Serves the files of a directory.
fn serve(place: &Place, directory: &str) -> Server {
    let directory = place.path(directory);
    Server::start(move |request, stream| {
        let file = directory.join(request.path.trim_start_matches('/'));
        let answer = match std::fs::read(file) {
            Ok(content) => respond("200 OK", &[], &content),
            Err(_) => respond("404 Not Found", &[], b""),
        };
        let _ = std::io::Write::write_all(stream, &answer);
    })
}

#[test]
fn archives_at_addresses() {
    let place = Place::new();
    std::fs::create_dir(place.path("web")).unwrap();
    let script = "xz -0 <busybox.tar >web/rootfs.tar.xz";
    busybox(&place);
    let shell = |script: &str| {
        let mut shell = Command::new("sh");
        tool(
            shell
                .args(["-ec", script])
                .env("GNUPGHOME", place.path("gpg"))
                .current_dir(place.path("")),
        )
    };
    shell(script);
    let server = serve(&place, "web");
    let address = format!("http://localhost:{}/rootfs.tar.xz", server.port);
    // On this machine, and with nothing that says what it should be: a warning.
    let said = said(&mut place.postroj(&["run", &address, "echo", "there"]));
    assert_eq!((said.code, &said.out[..]), (0, "there\n"), "{said:?}");
    assert!(said.err.contains("nothing says what rootfs.tar.xz should be"), "{said:?}");
    // With a list, what did not change is not fetched again.
    shell("cd web; sha256sum rootfs.tar.xz >SHA256SUMS");
    out(&mut place.postroj(&["pull", &address]));
    server.seen.lock().unwrap().clear();
    assert!(out(&mut place.postroj(&["pull", &address])).contains("up to date"));
    assert_eq!(server.requests(), ["GET /SHA256SUMS"]);
    // Who signed the list.
    let ring = place.text("ring.gpg");
    fails(
        &mut place.postroj(&["pull", "--keyring", "/dev/null", &address]),
        125,
        &["keyring /dev/null"],
    );
    let gpg = "gpg --batch -q --pinentry-mode loopback --passphrase ''";
    shell(&format!(
        "mkdir -m 700 gpg; {gpg} --quick-generate-key one@test ed25519 sign never
         {gpg} --quick-generate-key other@test ed25519 sign never
         gpg -q --export one@test >ring.gpg; gpg -q --export other@test >other.gpg"
    ));
    let with = |ring: &str| place.postroj(&["pull", "--keyring", ring, &address]);
    fails(&mut with(&ring), 125, &["there is no signature of http://localhost"]);
    shell(&format!("cd web; {gpg} -u one@test --detach-sign -o SHA256SUMS.gpg SHA256SUMS"));
    assert!(out(&mut with(&ring)).contains("up to date"));
    fails(&mut with(&place.text("other.gpg")), 125, &["checking the signature", "SHA256SUMS.gpg"]);
    shell("gpgconf --kill gpg-agent");
    // Another archive than the list says, and none that it names.
    out(&mut place.postroj(&["rmi", &address]));
    shell("cd web; printf x >>rootfs.tar.xz");
    fails(&mut place.postroj(&["pull", &address]), 125, &["rootfs.tar.xz"]);
    shell("cd web; sed -i s/rootfs/other/ SHA256SUMS");
    fails(&mut place.postroj(&["pull", &address]), 125, &["has no SHA-256 of rootfs.tar.xz"]);
    // Elsewhere nothing comes unprotected.
    for (text, parts) in [
        ("http://192.0.2.1/", "it names no file"),
        ("https://a:b@example.org/x.tar", "leave them out"),
        ("https://example.org", "it names no file"),
    ] {
        fails(&mut place.postroj(&["pull", text]), 125, &[parts]);
    }
    assert_eq!(place.stored("layers"), [""; 0]);
}

#[test]
fn images_of_lxd_and_incus() {
    let place = Place::new();
    busybox(&place);
    let script = "mkdir -p u/rootfs u/templates m; tar -xf busybox.tar -C u/rootfs; echo lxd >u/rootfs/etc/mark
        ln u/rootfs/etc/mark u/rootfs/etc/again; mkdir u/rootfs/templates u/rootfs/rootfs; chmod 751 u/rootfs
        echo 'architecture: x86_64' >u/metadata.yaml; cp u/metadata.yaml m
        tar -cJf unified.tar.xz -C u metadata.yaml templates rootfs; tar -cJf metadata.tar.xz -C m metadata.yaml
        printf 'hsqs and so on' >rootfs.squashfs";
    tool(Command::new("sh").args(["-ec", script]).current_dir(place.path("")));
    let script = "cat /etc/mark; ls -d /rootfs /templates; test ! -e /metadata.yaml; stat -c '%a %h' /etc/again";
    let said = out(&mut place.postroj(&["run", "./unified.tar.xz", "sh", "-ec", script]));
    assert_eq!(said, "lxd\n/rootfs\n/templates\n644 2");
    fails(&mut place.postroj(&["pull", "./metadata.tar.xz"]), 125, &["take the rootfs.tar.xz"]);
    fails(
        &mut place.postroj(&["pull", "./rootfs.squashfs"]),
        125,
        &["it is a squashfs", "unsquashfs"],
    );
}
