//! `--cache`: what passed is not probed again, until something about it changes.

#[path = "fixture/debs.rs"]
mod debs;
mod fixture;

use std::path::Path;

use debs::Deb;
use fixture::{debian, home, postroj, said};
use serde_json::Value;

/// Probes a package, and gives the verdict and its reason.
fn probe(label: &str, package: &Path, more: &[&str]) -> (String, String) {
    let package = package.to_str().unwrap();
    let words = [
        "probe",
        "--image",
        label,
        "--package",
        package,
        "--without",
        "errors",
        "--report",
        "json",
    ];
    let mut command = postroj(&[&words, more].concat());
    let ran = said(command.env("XDG_CONFIG_HOME", home().join("config")));
    let report: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{ran:?}"));
    let cell = &report["cells"][0];
    let text = |name: &str| cell[name].as_str().unwrap().to_owned();
    (text("verdict"), text("reason"))
}

#[test]
fn what_passed_is_probed_again_only_where_something_changed() {
    let label = debian("debian-12");
    let place = home().join(format!("probe-cache-{}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    let package = |content: &str| {
        Deb { name: "plain", files: &[("/usr/share/plain/file", content)], ..Deb::default() }
            .build(&place)
    };
    let first = package("one");
    let unchanged = |(verdict, reason): (String, String)| {
        assert_eq!(verdict, "pass", "{reason}");
        reason.starts_with("nothing has changed since it passed")
    };
    let file: &[&str] = &["--cache", "--check-file", "/usr/share/plain/file"];
    assert!(!unchanged(probe(&label, &first, file)), "it was never probed");
    assert!(unchanged(probe(&label, &first, file)));
    assert!(!unchanged(probe(&label, &first, &file[1..])), "nobody asked for it");
    assert!(!unchanged(probe(&label, &first, &[file, &["--check-cmd", "true"]].concat())));
    let second = package("two");
    assert_eq!(first, second);
    assert!(!unchanged(probe(&label, &second, file)), "another file of that name");
    let fails = [file, &["--check-cmd", "false"]].concat();
    for _ in 0..2 {
        let (verdict, reason) = probe(&label, &second, &fails);
        assert_eq!(verdict, "fail", "what failed is tried again: {reason}");
        assert!(!reason.contains("nothing has changed"), "{reason}");
    }
    std::fs::remove_dir_all(&place).unwrap();
}
