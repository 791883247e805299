//! Pulling from a registry that behaves.

use std::process::Command;

use crate::fixture::{fails, out, said};
use crate::images::{self, pack_files, push, skopeo, small};
use crate::place::{Place, tool};
use crate::server::{Counting, Registry};

#[test]
fn a_tag_is_pulled_run_renewed_and_pulled_by_digest() {
    let place = Place::new();
    let registry = Registry::start(&place);
    push(&small(&place, "t", "one"), &registry.image("a/b:t"));
    let name = registry.image("a/b:t");
    let status = |args: &[&str]| out(&mut place.postroj(args));
    let first = status(&["pull", &name]);
    assert!(first.contains(&format!("Status: Downloaded image for {name}")), "{first}");
    assert!(status(&["pull", &name]).contains("Status: Image is up to date"));
    assert_eq!(status(&["run", &name, "cat", "/etc/mark"]), "one");
    // The image's own command, and its environment.
    let mut shell = place.postroj(&["run", "-i", &name]);
    let shell = shell.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    std::io::Write::write_all(shell.stdin.as_mut().unwrap(), b"echo $PATH\n").unwrap();
    let output = shell.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "/bin:/usr/bin");

    push(&small(&place, "t2", "two"), &name);
    assert_eq!(status(&["run", &name, "cat", "/etc/mark"]), "one");
    let second = status(&["pull", &name]);
    assert!(second.contains("Status: Downloaded newer image"), "{second}");
    assert_eq!(status(&["run", &name, "cat", "/etc/mark"]), "two");
    let digest = first.lines().next().unwrap().strip_prefix("Digest: ").unwrap();
    let by_digest = format!("{}@{digest}", registry.image("a/b"));
    assert_eq!(status(&["run", &by_digest, "cat", "/etc/mark"]), "one");
    let inspected = tool(&mut skopeo(&[
        "inspect",
        "--tls-verify=false",
        "--format={{.Digest}}",
        &format!("docker://{name}"),
    ]));
    assert!(second.contains(&inspected), "{inspected}: {second}");
    // The base layer is there once, for both.
    assert_eq!(place.stored("layers").len(), 3);
    assert_eq!(status(&["system", "check"]), "The store is sound");
    fails(
        &mut place.postroj(&["pull", &registry.image("a/b:none")]),
        125,
        &["a/b:none", "does not have it"],
    );
    fails(&mut place.postroj(&["pull", &registry.image("none:t")]), 125, &["does not have it"]);
}

#[test]
fn what_did_not_change_costs_one_request_and_what_is_there_none() {
    let place = Place::new();
    let registry = Registry::start(&place);
    push(&small(&place, "t", "one"), &registry.image("a:t"));
    let proxy = Counting::before(&registry);
    let name = format!("localhost:{}/a:t", proxy.port);
    out(&mut place.postroj(&["pull", &name]));
    let cold = proxy.take();
    assert_eq!(cold.len(), 4, "manifest, configuration, two layers: {cold:?}");
    out(&mut place.postroj(&["pull", &name]));
    assert_eq!(proxy.take(), ["HEAD /v2/a/manifests/t"]);
    for policy in ["missing", "never"] {
        out(&mut place.postroj(&["pull", "--policy", policy, &name]));
    }
    out(&mut place.postroj(&["run", &name, "true"]));
    assert_eq!(proxy.take(), [""; 0]);
    out(&mut place.postroj(&["run", "--pull", "newer", &name, "true"]));
    assert_eq!(proxy.take().len(), 1);
    // Another image with the same base: only what is new.
    push(&small(&place, "t2", "two"), &registry.image("b:t"));
    out(&mut place.postroj(&["pull", &format!("localhost:{}/b:t", proxy.port)]));
    assert_eq!(proxy.take().len(), 3);
    let never = format!("localhost:{}/c:t", proxy.port);
    fails(&mut place.postroj(&["pull", "--policy", "never", &never]), 125, &["is not here"]);
    place.configure("[registry]\ntimeout = 1\n");
    // Without the registry: newer does with what is there, always does not.
    drop(registry);
    let newer = said(&mut place.postroj(&["pull", "--policy", "newer", &name]));
    assert_eq!(newer.code, 0, "{newer:?}");
    assert!(newer.err.contains("what is here already will do"), "{newer:?}");
    assert_ne!(said(&mut place.postroj(&["pull", &name])).code, 0);
}

#[test]
fn indexes_platforms_and_dockers_format() {
    let place = Place::new();
    let registry = Registry::start(&place);
    let docker = registry.image("docker:t");
    let from = format!("oci:{}", small(&place, "t", "docker"));
    tool(&mut skopeo(&[
        "copy",
        "--quiet",
        "--format=v2s2",
        "--dest-tls-verify=false",
        &from,
        &format!("docker://{docker}"),
    ]));
    assert_eq!(out(&mut place.postroj(&["run", &docker, "cat", "/etc/mark"])), "docker");

    // An index of two, put together by hand: skopeo 1.9 makes none.
    let layout = small(&place, "ours", "ours");
    let other = small(&place, "other", "other");
    for (image, architecture) in [(&layout, host()), (&other, "s390x")] {
        tool(Command::new("umoci").args([
            "config",
            "--image",
            image,
            "--architecture",
            architecture,
        ]));
    }
    push(&layout, &registry.image("multi:ours"));
    push(&other, &registry.image("multi:other"));
    let describe = |tag: &str, architecture: &str| {
        let url = format!("http://localhost:{}/v2/multi/manifests/{tag}", registry.port);
        let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
        let bytes = tool(Command::new("curl").args(["-sf", "-H", accept, &url]));
        let digest = tool(&mut skopeo(&[
            "inspect",
            "--tls-verify=false",
            "--format={{.Digest}}",
            &format!("docker://{}", registry.image(&format!("multi:{tag}"))),
        ]));
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#,
            bytes.len()
        )
    };
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{},{}]}}"#,
        describe("other", "s390x"),
        describe("ours", host())
    );
    let file = place.write("index.json", index);
    let url = format!("http://localhost:{}/v2/multi/manifests/both", registry.port);
    tool(
        Command::new("curl")
            .args([
                "-sf",
                "-X",
                "PUT",
                "-H",
                "Content-Type: application/vnd.oci.image.index.v1+json",
                "--data-binary",
            ])
            .arg(format!("@{}", file.display()))
            .arg(&url),
    );
    let both = registry.image("multi:both");
    assert_eq!(out(&mut place.postroj(&["run", &both, "cat", "/etc/mark"])), "ours");
    assert!(out(&mut place.postroj(&["pull", &both])).contains("up to date"));
    let pulled = out(&mut place.postroj(&["pull", "--platform", "linux/s390x", &both]));
    assert!(pulled.contains("newer"), "{pulled}");
    assert_eq!(out(&mut place.postroj(&["run", &both, "cat", "/etc/mark"])), "other");
    let s390x = format!("for linux/{}", host());
    fails(
        &mut place.postroj(&["pull", "--platform", "linux/riscv64", &both]),
        125,
        &["no image for linux/riscv64", "linux/s390x", &s390x[4..]],
    );
}

/// In Go's words.
fn host() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

#[test]
fn every_compression_and_no_layer_of_a_system() {
    let place = Place::new();
    let registry = Registry::start(&place);
    for (format, start) in [("zstd", "28b52ffd"), ("gzip", "1f8b"), ("none", "")] {
        // Different each time, since skopeo reuses what a registry has in another compression.
        let layout = small(&place, format, format);
        let (plain, image) = (place.text(&format!("plain-{format}")), format!("{format}:t"));
        let (plain, image) = (format!("dir:{plain}"), registry.image(&image));
        tool(&mut skopeo(&["copy", "-q", "--dest-decompress", &format!("oci:{layout}"), &plain]));
        if format == "none" {
            // skopeo compresses what it pushes.
            out(&mut place.postroj(&["pull", &format!("oci:{layout}")]));
            let from = format!("oci:{layout}");
            out(&mut place.postroj(&["push", "--compression", format, &from, &image]));
            out(&mut place.postroj(&["rmi", &from]));
            out(&mut place.postroj(&["system", "prune"]));
        } else {
            let to = format!("docker://{image}");
            let compress = ["--dest-tls-verify=false", "--dest-compress-format", format];
            tool(skopeo(&["copy", "-q", &plain, &to]).args(compress));
        }
        let raw = ["inspect", "--raw", "--tls-verify=false", &format!("docker://{image}")];
        let manifest: serde_json::Value = serde_json::from_str(&tool(&mut skopeo(&raw))).unwrap();
        let digest = manifest["layers"][1]["digest"].as_str().unwrap();
        let blob = format!("http://localhost:{}/v2/{format}/blobs/{digest}", registry.port);
        let script = "curl -sf \"$0\" | od -An -tx1 -N4 | tr -d ' '";
        let found = tool(Command::new("sh").args(["-ec", script, &blob]));
        let plain = found.starts_with("28b52ffd") || found.starts_with("1f8b");
        assert!(found.starts_with(start) && plain != start.is_empty(), "{format}: {found}");
        assert_eq!(out(&mut place.postroj(&["run", &image, "cat", "/etc/mark"])), format);
    }
    // The same base whatever its compression, and the one that we packed.
    assert_eq!(place.stored("layers").len(), 3 + 2);
    // One static binary, and nothing else: no os-release, no shell, no directory to mount on.
    let root = place.path("static");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::copy("/bin/busybox", root.join("busybox")).unwrap();
    let tar = images::pack(&place, "static.tar", &root);
    let name = images::image(&place, "static", &[&tar]);
    tool(Command::new("umoci").args([
        "config",
        "--image",
        &name,
        "--config.entrypoint",
        "/busybox",
        "--config.cmd",
        "echo",
        "--config.cmd",
        "hello world",
    ]));
    push(&name, &registry.image("static:t"));
    assert_eq!(out(&mut place.postroj(&["run", &registry.image("static:t")])), "hello world");
}

#[test]
fn layers_hide_what_is_below() {
    let place = Place::new();
    let registry = Registry::start(&place);
    let base = images::busybox(&place);
    let one =
        pack_files(&place, "one.tar", &[("d/a", "a"), ("d/b", "b"), ("e/x", "x"), ("f", "f")]);
    let two = pack_files(
        &place,
        "two.tar",
        &[("d/.wh.a", ""), ("e/.wh..wh..opq", ""), ("e/y", "y"), (".wh.f", "")],
    );
    let three = pack_files(&place, "three.tar", &[("d/a", "again")]);
    let name = images::image(&place, "t", &[&base, &one, &two, &three, &two, &one, &two]);
    push(&name, &registry.image("hide:t"));
    let script = "cd /; find d e f 2>/dev/null | sort | xargs echo; cat d/b e/y";
    let image = registry.image("hide:t");
    for user in [&["run", &image][..], &["run", "--userns=host", &image]] {
        if user.len() > 2 && !crate::fixture::is_root() {
            continue;
        }
        let script = [user, &["sh", "-c", script]].concat();
        assert_eq!(out(&mut place.postroj(&script)), "d d/b e e/y\nby");
    }
}

#[test]
fn short_names_and_mirrors_are_configured() {
    let place = Place::new();
    let registry = Registry::start(&place);
    push(&small(&place, "t", "mirrored"), &registry.image("hub/library/thing:1"));
    place.configure(&format!(
        "[registry.hosts.\"docker.io\"]\nmirrors = [\"localhost:1\", \"localhost:{0}/hub\"]\n\
         [registry.short-names]\nmine = \"localhost:{0}/hub/library/thing\"\n",
        registry.port
    ));
    let short = said(&mut place.postroj(&["run", "mine:1", "cat", "/etc/mark"]));
    assert_eq!((short.code, &short.out[..]), (0, "mirrored"), "{short:?}");
    let mirrored = said(&mut place.postroj(&["run", "thing:1", "cat", "/etc/mark"]));
    assert_eq!((mirrored.code, &mirrored.out[..]), (0, "mirrored"), "{mirrored:?}");
    assert!(mirrored.err.contains("the mirror is left out"), "{mirrored:?}");
    assert!(out(&mut place.postroj(&["images"])).contains("docker.io/library/thing:1"));
    place.configure("[registry]\nfoo = 1\n");
    fails(&mut place.postroj(&["pull", "thing:1"]), 125, &["config.toml", "foo"]);
}
