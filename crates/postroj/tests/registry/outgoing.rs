//! Images on their way out: pushed, saved, loaded again, by us and by others.

use std::path::PathBuf;
use std::process::Command;

use crate::fixture::{fails, is_root, out};
use crate::images::{self, image, pack_files, push, skopeo, small};
use crate::listing;
use crate::place::{Place, tool};
use crate::server::{Counting, Registry};

fn digest_of(text: &str) -> String {
    let found = text.split("digest: ").nth(1).or_else(|| text.split("Digest: ").nth(1));
    found.unwrap_or_else(|| panic!("no digest: {text}")).lines().next().unwrap().to_owned()
}

fn inspected(name: &str, what: &str) -> String {
    let format = format!("--format={{{{.{what}}}}}");
    tool(&mut skopeo(&["inspect", "--tls-verify=false", &format, &format!("docker://{name}")]))
}

#[test]
fn what_was_pulled_is_pushed_unchanged_where_its_layers_are() {
    let place = Place::new();
    let registry = Registry::start(&place);
    let name = registry.image("a:t");
    push(&small(&place, "t", "same"), &name);
    let pulled = digest_of(&out(&mut place.postroj(&["pull", &name])));
    let other = registry.image("a:other");
    assert_eq!(digest_of(&out(&mut place.postroj(&["push", &name, &other]))), pulled);
    assert_eq!(inspected(&other, "Digest"), pulled);
    // Another repository of the same registry takes the layers over.
    let proxy = Counting::before(&registry);
    let near = format!("localhost:{}/near/by:t", proxy.port);
    let through = format!("localhost:{}/a:t", proxy.port);
    out(&mut place.postroj(&["pull", &through]));
    proxy.take();
    assert_eq!(digest_of(&out(&mut place.postroj(&["push", &through, &near]))), pulled);
    let sent = proxy.take();
    let mounted = sent.iter().filter(|r| r.contains("?mount=sha256:") && r.contains("&from=a"));
    let uploaded = sent.iter().filter(|r| r.starts_with("PUT") && r.contains("/blobs/"));
    // The configuration is small, and sent.
    assert_eq!((mounted.count(), uploaded.count()), (2, 1), "{sent:?}");
    assert_eq!(inspected(&registry.image("near/by:t"), "Digest"), pulled);
    // Elsewhere it is packed anew, the same each time.
    let far = Registry::start(&place);
    let elsewhere = far.image("b/c:t");
    let first = digest_of(&out(&mut place.postroj(&["push", &name, &elsewhere])));
    assert_ne!(first, pulled);
    let again = digest_of(&out(&mut place.postroj(&["push", &name, &far.image("b/d:t")])));
    assert_eq!(first, again);
    out(&mut place.postroj(&["tag", &name, &elsewhere]));
    assert_eq!(digest_of(&out(&mut place.postroj(&["push", &elsewhere]))), first);
    let pulled = out(&mut place.postroj(&["pull", &elsewhere]));
    assert_eq!(digest_of(&pulled), first);
    assert_eq!(out(&mut place.postroj(&["run", &elsewhere, "cat", "/etc/mark"])), "same");
    fails(&mut place.postroj(&["push", "./oci"]), 125, &["no name in a registry"]);
    fails(&mut place.postroj(&["push", "nothing:1"]), 125, &["there is no image"]);
}

#[test]
fn layers_go_out_as_they_came_in() {
    let place = Place::new();
    let registry = Registry::start(&place);
    let base = images::busybox(&place);
    let one = pack_files(
        &place,
        "one.tar",
        &[("data/d/a", "a"), ("data/d/b", "b"), ("data/e/x", "x"), ("data/f", "f")],
    );
    let two = pack_files(
        &place,
        "two.tar",
        &[("data/d/.wh.a", ""), ("data/e/.wh..wh..opq", ""), ("data/e/y", "y"), ("data/.wh.f", "")],
    );
    let name = registry.image("hide:t");
    push(&image(&place, "t", &[&base, &one, &two]), &name);
    let ours = {
        out(&mut place.postroj(&["pull", &name]));
        listing::in_machine(&place, &name, "/data")
    };
    for compression in ["gzip", "zstd", "none"] {
        let to = registry.image(&format!("out-{compression}:t"));
        out(&mut place.postroj(&["push", "--compression", compression, &name, &to]));
        // skopeo makes a layout that umoci 0.4 understands of each of them.
        let layout = place.text(&format!("layout-{compression}"));
        let plain = place.text(&format!("plain-{compression}"));
        let from = format!("docker://{to}");
        tool(&mut skopeo(&[
            "copy",
            "-q",
            "--src-tls-verify=false",
            "--dest-decompress",
            &from,
            &format!("dir:{plain}"),
        ]));
        tool(&mut skopeo(&[
            "copy",
            "-q",
            "--dest-compress-format=gzip",
            &format!("dir:{plain}"),
            &format!("oci:{layout}:x"),
        ]));
        let bundle = place.path(&format!("bundle-{compression}"));
        let mut unpack = Command::new("umoci");
        unpack.args(["unpack", "--image", &format!("{layout}:x")]);
        if !is_root() {
            unpack.arg("--rootless");
        }
        tool(unpack.arg(&bundle));
        let strip = |lines: Vec<String>| -> Vec<String> {
            lines
                .into_iter()
                .map(|line| if is_root() { line } else { line.replace(" 0:0", "") })
                .collect()
        };
        let theirs = listing::of(&bundle.join("rootfs/data"), is_root());
        // What was dated by its unpacking is dated by the image now.
        let undated = |lines: Vec<String>| -> Vec<String> {
            strip(lines)
                .into_iter()
                .map(|l| l.replace(" now", " 1").replace(&created(&place, &name), "1"))
                .collect()
        };
        assert_eq!(undated(theirs), undated(ours.clone()), "{compression}");
        out(&mut place.postroj(&["pull", &to]));
        assert_eq!(out(&mut place.postroj(&["run", &to, "cat", "/data/d/b", "/data/e/y"])), "by");
    }
}

fn created(place: &Place, name: &str) -> String {
    let text = out(&mut place.postroj(&["inspect", name]));
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    tool(Command::new("date").args(["-u", "+%s", "-d", json[0]["Created"].as_str().unwrap()]))
}

#[test]
fn others_take_what_we_push_and_save() {
    let place = Place::new();
    let registry = Registry::start(&place);
    let tar = images::busybox(&place);
    out(&mut place.postroj(&["import", &tar, "mine:1"]));
    let to = registry.image("mine:1");
    let digest = digest_of(&out(&mut place.postroj(&["push", "mine:1", &to])));
    assert_eq!(inspected(&to, "Digest"), digest);
    assert_eq!(inspected(&to, "Os"), "linux");
    let mut paths: Vec<(String, PathBuf)> = Vec::new();
    for form in ["docker-archive", "oci-archive", "oci"] {
        let path = place.path(&format!("saved-{form}"));
        out(&mut place.postroj(&["save", "--as", form, "-o", path.to_str().unwrap(), "mine:1"]));
        let again = place.path(&format!("again-{form}"));
        out(&mut place.postroj(&["save", "--as", form, "-o", again.to_str().unwrap(), "mine:1"]));
        if form != "oci" {
            assert!(
                std::fs::read(&path).unwrap() == std::fs::read(&again).unwrap(),
                "{form} differs"
            );
        }
        paths.push((form.to_owned(), path.clone()));
        // skopeo 1.9 wants to give what it unpacks to root, whoever it is itself.
        if form == "oci-archive" && !is_root() {
            continue;
        }
        let from = format!("{form}:{}", path.display());
        tool(&mut skopeo(&[
            "copy",
            "-q",
            "--dest-tls-verify=false",
            &from,
            &format!("docker://{}", registry.image(&format!("{form}:t"))),
        ]));
        assert_eq!(
            out(&mut place.postroj(&["run", &registry.image(&format!("{form}:t")), "echo", form])),
            form
        );
    }
    fails(
        &mut place.postroj(&["save", "--as", "oci", "-o", &place.text("saved-oci"), "mine:1"]),
        125,
        &["is not empty"],
    );
    // And back.
    out(&mut place.postroj(&["rmi", "mine:1"]));
    for (form, path) in &paths {
        let loaded = out(&mut place.postroj(&["load", "-i", path.to_str().unwrap()]));
        assert_eq!(loaded, "Loaded image: docker.io/library/mine:1", "{form}");
        assert_eq!(out(&mut place.postroj(&["run", "mine:1", "echo", form])), *form);
        out(&mut place.postroj(&["rmi", "mine:1"]));
    }
    fails(&mut place.postroj(&["load", "-i", &tar]), 125, &["no archive of images", "import"]);
}

#[test]
fn roots_histories_and_docker_words() {
    let place = Place::new();
    let registry = Registry::start(&place);
    let name = registry.image("a:t");
    push(&small(&place, "t", "told"), &name);
    let digest = digest_of(&out(&mut place.postroj(&["pull", &name])));
    let inspected: serde_json::Value =
        serde_json::from_str(&out(&mut place.postroj(&["inspect", &name]))).unwrap();
    let one = &inspected[0];
    assert_eq!(one["RepoTags"][0], *name);
    assert_eq!(one["RepoDigests"][0], format!("{}@{digest}", registry.image("a")));
    assert_eq!(one["Os"], "linux");
    assert_eq!(one["Config"]["Cmd"][0], "/bin/sh");
    assert_eq!(one["RootFS"]["Layers"].as_array().unwrap().len(), 2);
    assert!(one["Created"].as_str().unwrap().ends_with('Z'));
    let history: serde_json::Value =
        serde_json::from_str(&out(&mut place.postroj(&["history", "--json", &name]))).unwrap();
    assert!(history.as_array().unwrap().len() >= 2, "{history}");
    assert!(out(&mut place.postroj(&["history", &name])).starts_with("CREATED"));
    // The root alone, on standard output.
    let mut save = place.postroj(&["save", "--as", "tar", &name]);
    let archive = place.write("root.tar", save.output().unwrap().stdout);
    let mark = tool(Command::new("tar").arg("-xOf").arg(&archive).arg("./etc/mark"));
    assert_eq!(mark, "told");
    assert_eq!(
        out(&mut place.postroj(&["run", archive.to_str().unwrap(), "cat", "/etc/mark"])),
        "told"
    );
}
