//! What the program says: helps, errors and manual pages, as they are in `snapshots/`.
//!
//! After a wanted change: `POSTROJ_BLESS=1 cargo nextest run -p postroj --test snapshots`.

mod fixture;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use fixture::{Own, out, postroj, said};

fn snapshots() -> PathBuf {
    // Where tests run from an archive, the sources are elsewhere than when they were built.
    let sources = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    sources.join("tests/snapshots")
}

/// Compares with a file, or rewrites it.
#[track_caller]
fn compare(name: &str, text: &str) {
    let path = snapshots().join(name);
    if std::env::var_os("POSTROJ_BLESS").is_some() {
        std::fs::create_dir_all(snapshots()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    for (number, (ours, theirs)) in text.lines().zip(known.lines()).enumerate() {
        assert_eq!(ours, theirs, "{name}:{} (POSTROJ_BLESS=1 rewrites it)", number + 1);
    }
    assert_eq!(text.lines().count(), known.lines().count(), "{name} (POSTROJ_BLESS=1 rewrites it)");
}

/// Help names the value of a variable where it is set.
fn help(words: &[&str]) -> String {
    let mut command = postroj(words);
    for variable in ["POSTROJ_STORE", "POSTROJ_RUNROOT", "POSTROJ_NETWORK"] {
        command.env_remove(variable);
    }
    out(command.arg("--help"))
}

/// The verbs that a help lists.
fn verbs(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| line.starts_with("  "));
    listed.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

#[test]
fn helps() {
    let mut text = format!("$ postroj --help\n{}\n", help(&[]));
    let all = verbs(&text);
    assert!(all.iter().any(|verb| verb == "run") && all.len() > 8, "{all:?}");
    for verb in &all {
        let own = help(&[verb]);
        let _ = writeln!(text, "\n$ postroj {verb} --help\n{own}");
        // Below a verb that has verbs itself.
        for below in verbs(&own) {
            let _ = writeln!(text, "\n$ postroj {verb} {below} --help\n{}", help(&[verb, &below]));
        }
    }
    compare("help.txt", &text);
}

/// Each with its exit code.
const ERRORS: &[&[&str]] = &[
    &[],
    &["nosuch"],
    &["imagse"],
    &["run"],
    &["run", "--bogus", "x"],
    &["run", "--memory", "1x", "x"],
    &["run", "--cpus", "none", "x"],
    &["run", "--pids-limit", "0", "x"],
    &["run", "-v", "relative:/x", "x"],
    &["run", "-v", "/x", "x"],
    &["run", "--mount", "type=bind,src=/x", "x"],
    &["run", "--mount", "type=tape,dst=/x", "x"],
    &["run", "--tmpfs", "x", "x"],
    &["run", "--network", "fast!", "x"],
    &["run", "--ulimit", "x=1", "x"],
    &["run", "--security-opt", "apparmor=x", "x"],
    &["run", "--init", "--as-pid-1", "x"],
    &["run", "-e", "=x", "host", "true"],
    &["run", "--env-file", "/no/such", "host", "true"],
    &["run", "-it", "host", "true"],
    &["run", "--pull=never", "no/such:image", "true"],
    &["run", "Bad Image", "true"],
    &["run", "https://example.org/x", "true"],
    &["run", "os:nosuch", "true"],
    &["run", "tar:", "true"],
    &["run", "./no/such.tar", "true"],
    &["run", "host", "nosuch"],
    &["run", "host", "/etc"],
    &["run", "host", "/etc/passwd"],
    &["run", "-w", "relative", "host", "true"],
    &["run", "-w", "/etc/passwd", "host", "true"],
    &["run", "-u", "nosuch", "host", "true"],
    &["run", "-h", "a b", "host", "true"],
    &["run", "--name", "-x", "host", "true"],
    &["run", "--cap-add", "FLY", "host", "true"],
    &["run", "--mount", "type=bind,src=/no/such,dst=/y", "host", "true"],
    &["run", "-v", "/usr:/", "host", "true"],
    &["run", "-v", "/usr:/proc/x", "host", "true"],
    &["run", "-v", "/usr:/x/../y", "host", "true"],
    &["run", "-v", "/usr:/x", "--tmpfs", "/x/", "host", "true"],
    &["run", "--ulimit", "nofile=9:1", "host", "true"],
    &["pull", "host"],
    &["pull", "dir:/no/such"],
    &["pull", "tar:/no/such"],
    &["pull", "tar:/usr"],
    &["pull", "--keyring", "/no/such", "--mirror", "http://127.0.0.1:1/x", "debian-12"],
    &["inspect", "nosuch"],
    &["rmi", "nosuch"],
    &["tag", "nosuch", "x:1"],
    &["completion", "csh"],
];

#[test]
fn errors() {
    let own = Own::new("errors");
    let mut text = String::new();
    for words in ERRORS {
        let said = said(own.postroj(words).env_remove("POSTROJ_NETWORK").current_dir("/"));
        assert_eq!(said.out, "", "{words:?}");
        let shown = words.join(" ");
        let place = own.path("").display().to_string();
        let err = said.err.replace(&place, "$DIR/");
        let _ = writeln!(text, "$ postroj {shown}\n{}→ {}\n", err, said.code);
    }
    compare("errors.txt", &text);
}

#[test]
fn manual_pages() {
    let own = Own::new("man");
    let directory = own.path("man");
    out(&mut own.postroj(&["man", directory.to_str().unwrap()]));
    let pages = std::fs::read_dir(&directory).unwrap().flatten().map(|e| e.path());
    let mut names: Vec<String> =
        pages.map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    for verb in verbs(&help(&[])) {
        assert!(names.contains(&format!("postroj-{verb}.1")), "{verb}: {names:?}");
    }
    assert!(names.contains(&"postroj.1".to_owned()));
    let page = std::fs::read_to_string(directory.join("postroj-run.1")).unwrap();
    for part in [".TH", "SH NAME", "SH SYNOPSIS", "SH OPTIONS", "\\-\\-read\\-only"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    if Path::new("/usr/bin/man").exists() {
        let mut man = Command::new("man");
        man.args(["--warnings", "-l"])
            .arg(directory.join("postroj-run.1"))
            .env("MANPAGER", "cat")
            .env("LC_ALL", "C.UTF-8");
        let shown = said(&mut man);
        assert_eq!((shown.code, &shown.err[..]), (0, ""), "{shown:?}");
    }
}
