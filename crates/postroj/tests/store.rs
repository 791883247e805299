//! The verbs about images and the store, and those about this host.

mod fixture;

use std::process::Command;

use fixture::{Own, busybox, fails, is_root, out, said, tar, wait_until};
use serde_json::{Value, json};

/// A store with one image in it, named `mine:1`.
fn with_image(name: &str) -> (Own, String) {
    let own = Own::new(name);
    busybox(&own.path("root"));
    let file = own.path("root.tar");
    tar(&own.path("root"), &file);
    let image = format!("tar:{}", file.display());
    own.pull(&image);
    assert_eq!(out(&mut own.postroj(&["tag", &image, "mine:1"])), "");
    (own, image)
}

const MINE: &str = "docker.io/library/mine:1";

#[test]
fn images_are_listed_in_three_ways() {
    let (own, image) = with_image("listed");
    let listed = own.json(&["images", "--json"]);
    assert_eq!(listed[0]["Names"], json!([MINE, image]));
    assert_eq!(listed[0]["System"], "Test");
    let id = listed[0]["Id"].as_str().unwrap();
    assert!(listed[0]["Size"].as_u64().unwrap() > 100_000, "{listed}");
    assert_eq!(out(&mut own.postroj(&["images", "-q"])), id[..12]);
    let table = out(&mut own.postroj(&["images"]));
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("NAME") && lines.len() == 3, "{table}");
    assert!(lines[1].starts_with(MINE) && lines[1].contains(&id[..12]), "{table}");
    let none = Own::new("none");
    assert_eq!(none.json(&["images", "--json"]), json!([]));
    assert_eq!(out(&mut none.postroj(&["images"])).lines().count(), 1);
}

#[test]
fn an_image_is_found_by_any_of_its_names() {
    let (own, image) = with_image("found");
    let id = own.json(&["images", "--json"])[0]["Id"].as_str().unwrap().to_owned();
    for name in [&image[..], "mine:1", MINE, "library/mine:1", &id, &id[..12]] {
        let inspected = own.json(&["inspect", name]);
        assert_eq!(inspected[0]["Id"], format!("sha256:{id}"), "{name}");
        assert_eq!(out(&mut own.sh(name, "echo found")), "found", "{name}");
    }
    let inspected = own.json(&["inspect", &image, "mine:1"]);
    assert_eq!(inspected.as_array().unwrap().len(), 2);
    assert_eq!(inspected[0]["RepoTags"], json!([MINE, image]));
    assert_eq!(inspected[0]["Os"], "linux");
    assert_eq!(inspected[0]["Facts"]["OsRelease"]["ID"], "test");
    assert_eq!(inspected[0]["Facts"]["Users"], json!(["root", "app"]));
    fails(&mut own.postroj(&["inspect", "nosuch"]), 125, &["no image nosuch", "postroj pull"]);
    fails(&mut own.postroj(&["tag", &image, "debian-12"]), 125, &["a name of the catalog"]);
    fails(&mut own.postroj(&["tag", &image, "/"]), 125, &["/ is no name but a place"]);
    fails(&mut own.postroj(&["tag", "nosuch", "x:1"]), 125, &["no image nosuch"]);
}

#[test]
fn an_id_is_looked_for_here_only() {
    let (own, _) = with_image("ids");
    let id = own.json(&["images", "--json"])[0]["Id"].as_str().unwrap().to_owned();
    let full = format!("sha256:{id}");
    for name in [&full[..], &full[..19], &id, &id[..12]] {
        for policy in ["missing", "newer", "always", "never"] {
            let words = ["run", "--network", "none", "--pull", policy, name, "echo", "found"];
            assert_eq!(out(&mut own.postroj(&words)), "found", "{name} {policy}");
        }
        assert_eq!(own.json(&["inspect", name])[0]["Id"], full);
    }
    let other = "0123456789ab".repeat(6)[..64].to_owned();
    for name in [&format!("sha256:{other}"), "sha256:0123456789ab", &other] {
        for verb in ["run", "pull", "rmi", "inspect"] {
            fails(&mut own.postroj(&[verb, name]), 125, &[name, "it is an id", "postroj images"]);
        }
        assert_eq!(out(&mut own.postroj(&["rmi", "--force", name])), "");
    }
    out(&mut own.postroj(&["tag", &full, "third:1"]));
    fails(&mut own.postroj(&["rmi", &full]), 125, &["several names"]);
}

#[test]
fn the_last_name_takes_the_image_with_it() {
    let (own, image) = with_image("removed");
    let id = own.json(&["images", "--json"])[0]["Id"].as_str().unwrap().to_owned();
    fails(&mut own.postroj(&["rmi", &id]), 125, &[&id[..12], "names"]);
    assert_eq!(out(&mut own.postroj(&["rmi", &image])), format!("Untagged: {image}"));
    assert_eq!(out(&mut own.sh("mine:1", "echo still here")), "still here");
    assert_eq!(
        out(&mut own.postroj(&["rmi", "mine:1"])),
        format!("Untagged: {MINE}\nDeleted: {id}")
    );
    assert_eq!(own.json(&["images", "--json"]), json!([]));
    assert_eq!(std::fs::read_dir(own.store().join("layers")).unwrap().count(), 0);
    fails(&mut own.postroj(&["rmi", "mine:1"]), 125, &["no image mine:1", "postroj images"]);
    assert_eq!(out(&mut own.postroj(&["rmi", "--force", "mine:1"])), "");
    own.is_sound();
}

#[test]
fn what_a_machine_runs_from_stays() {
    let (own, image) = with_image("in-use");
    let id_file = own.path("cid");
    let mut machine = own
        .postroj(&["run", "--cidfile", id_file.to_str().unwrap(), "mine:1", "sleep", "1000"])
        .spawn()
        .unwrap();
    wait_until("the machine is up", || id_file.exists());
    out(&mut own.postroj(&["rmi", &image]));
    fails(&mut own.postroj(&["rmi", "mine:1"]), 125, &["in use"]);
    out(&mut own.postroj(&["system", "prune", "--all"]));
    assert_eq!(own.json(&["images", "--json"])[0]["Names"], json!([MINE]));
    machine.kill().unwrap();
    machine.wait().unwrap();
    out(&mut own.postroj(&["rmi", "mine:1"]));
    assert_eq!(own.json(&["images", "--json"]), json!([]));
}

#[test]
fn disk_usage_is_told_and_given_back() {
    let (own, _) = with_image("usage");
    let kinds = |usage: &Value| -> Vec<(String, u64, u64)> {
        let number = |v: &Value| v.as_u64().unwrap();
        let kind = |k: &Value| {
            (k["Type"].as_str().unwrap().to_owned(), number(&k["TotalCount"]), number(&k["Size"]))
        };
        usage.as_array().unwrap().iter().map(kind).collect()
    };
    let usage = kinds(&own.json(&["system", "df", "--json"]));
    let names: Vec<&str> = usage.iter().map(|(name, ..)| &name[..]).collect();
    assert_eq!(names, ["Images", "Layers", "Download cache", "Unfinished"]);
    assert!(usage[0].1 == 1 && usage[1].1 == 1 && usage[1].2 > 100_000, "{usage:?}");
    assert_eq!(out(&mut own.postroj(&["system", "df"])).lines().count(), 5);
    // A download, and what a killed process left.
    let cached = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";
    std::fs::write(own.store().join("cache/sha256").join(cached), "hello world").unwrap();
    std::fs::create_dir(own.store().join("tmp/left")).unwrap();
    std::fs::write(own.store().join("tmp/left/file"), vec![0; 1 << 20]).unwrap();
    let check = said(&mut own.postroj(&["system", "check"]));
    assert_eq!(check.code, 1);
    assert!(check.out.contains("tmp/left was left by a process that is dead"), "{check:?}");
    let pruned = out(&mut own.postroj(&["system", "prune"]));
    assert!(pruned.starts_with("Total reclaimed space: 1"), "{pruned}");
    let after = kinds(&own.json(&["system", "df", "--json"]));
    assert_eq!((after[0].1, after[2].1, after[3].1), (1, 0, 0), "{after:?}");
    own.is_sound();
    out(&mut own.postroj(&["system", "prune", "--all"]));
    let after = kinds(&own.json(&["system", "df", "--json"]));
    assert!(after.iter().all(|(_, count, _)| *count == 0), "{after:?}");
}

#[test]
fn damage_is_found() {
    let (own, _) = with_image("damage");
    assert_eq!(own.json(&["system", "check", "--json"]), json!([]));
    let id = own.json(&["images", "--json"])[0]["Id"].as_str().unwrap().to_owned();
    let record = own.store().join("images").join(format!("{id}.json"));
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, text.replacen("Test", "Tset", 1)).unwrap();
    let mut check = own.postroj(&["system", "check", "--json"]);
    let said = said(&mut check);
    assert_eq!(said.code, 1);
    let problems: Value = serde_json::from_str(&said.out).unwrap();
    assert!(problems[0].as_str().unwrap().contains("is damaged"), "{problems}");
    std::fs::write(&record, text).unwrap();
    own.is_sound();
}

#[test]
fn the_host_is_described() {
    let own = Own::new("host");
    let info = own.json(&["system", "info", "--json"]);
    assert_eq!(info["Store"], own.store().to_str().unwrap());
    assert_eq!(info["RunDirectory"], own.path("run").to_str().unwrap());
    assert_eq!(info["Rootless"], (!is_root()).to_string());
    assert!(info["Engines"].as_str().unwrap().contains("container"));
    let text = out(&mut own.postroj(&["system", "info"]));
    assert_eq!(text.lines().count(), info.as_object().unwrap().len());
    let version = own.json(&["version", "--json"]);
    assert_eq!(version["Version"], env!("CARGO_PKG_VERSION"));
    let short = out(&mut own.postroj(&["--version"]));
    assert_eq!(short, format!("postroj {}", env!("CARGO_PKG_VERSION")));
    assert!(out(&mut own.postroj(&["version"])).starts_with(&short));
}

#[test]
fn the_doctor_finds_this_host_good_enough() {
    let own = Own::new("doctor");
    let findings = own.json(&["doctor", "--json"]);
    let findings = findings.as_array().unwrap();
    let verdict = |check: &str| {
        let found = findings.iter().find(|f| f["Check"] == check);
        found.unwrap_or_else(|| panic!("{check} was not looked at"))["Verdict"].clone()
    };
    for check in ["kernel", "user namespaces", "overlay file system", "store"] {
        assert_eq!(verdict(check), "ok", "{findings:?}");
    }
    if !is_root() {
        assert_eq!(verdict("subordinate ids"), "ok");
        assert_eq!(verdict("newuidmap and newgidmap"), "ok");
        let mut poor = own.postroj(&["doctor"]);
        let said = out(poor.env("PATH", "/nonexistent"));
        assert!(said.contains("limited   newuidmap and newgidmap: newuidmap and newgidmap not found: `apt install uidmap`"), "{said}");
    }
    assert_eq!(out(&mut own.postroj(&["doctor"])).lines().count(), findings.len());
    let mut bad = own.postroj(&["--store", "/dev/null/store", "doctor"]);
    let said = said(&mut bad);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.out.contains("missing   store: "), "{said:?}");
}

#[test]
fn completions_are_scripts_of_their_shells() {
    let own = Own::new("completion");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = out(&mut own.postroj(&["completion", shell]));
        assert!(script.contains("postroj") && script.contains("inspect"), "{shell}");
        if shell == "bash" {
            let file = own.path("completion.bash");
            std::fs::write(&file, &script).unwrap();
            let complete = format!(
                ". {}; COMP_WORDS=(postroj imag); COMP_CWORD=1; _postroj postroj imag postroj; \
                 echo \"${{COMPREPLY[@]}}\"",
                file.display()
            );
            let said = out(Command::new("bash").args(["-c", &complete]));
            assert_eq!(said, "images");
        }
    }
    let unknown = said(&mut own.postroj(&["completion", "csh"]));
    assert_eq!(unknown.code, 2, "{unknown:?}");
}
