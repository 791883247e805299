//! `probe --repo`: packages by name out of repositories that the user names, with each package manager.

#[path = "fixture/debs.rs"]
mod debs;
mod fixture;
#[path = "fixture/mini.rs"]
mod mini;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use debs::Deb;
use fixture::{Said, debian, home, out, postroj, said};
use mini::{DNF, Mini, PACMAN, ZYPPER};
use serde_json::Value;

/// A directory that is gone at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = home().join(format!("probe-repo-{name}-{}", std::process::id()));
        fs::create_dir_all(path.join("repo")).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// Probes a package; gives how it ended, and the cell.
    fn probe(&self, image: &str, package: &str, more: &[&str]) -> (Said, Value) {
        let report = self.path("report.json");
        let json = format!("json={report}");
        let evidence = self.path("evidence");
        let args = ["probe", "--image", image, "--package", package, "--report", &json];
        let more = [more, &["--evidence", &evidence]].concat();
        let mut command = postroj(&[&args[..], &more].concat());
        for proxy in ["http_proxy", "HTTP_PROXY"] {
            command.env_remove(proxy);
        }
        let told = said(command.env("XDG_CONFIG_HOME", home().join("config")));
        let text = fs::read(&report).unwrap_or_else(|_| panic!("{told:?}"));
        let report: Value = serde_json::from_slice(&text).unwrap();
        (told, report["cells"][0].clone())
    }

    #[track_caller]
    fn passes(&self, image: &str, package: &str, more: &[&str]) {
        let (told, cell) = self.probe(image, package, more);
        assert_eq!(told.code, 0, "{cell:#}");
    }

    #[track_caller]
    fn fails(&self, image: &str, package: &str, more: &[&str], part: &str) {
        let (told, cell) = self.probe(image, package, more);
        assert_ne!(told.code, 0, "{cell:#}");
        assert!(cell.to_string().contains(part), "{part:?} is not in {cell:#}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let removed = fs::remove_dir_all(&self.0);
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// Serves the files of a directory until this process ends; gives its address.
fn serve(directory: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let directory = directory.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(stream, &directory);
        }
    });
    url
}

fn answer(mut stream: TcpStream, directory: &Path) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let (status, body) = match fs::read(directory.join(path.trim_start_matches('/'))) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)
}

/// An index as dpkg-scanpackages(1) makes one.
fn index(directory: &Path, debs: &[PathBuf]) {
    let mut text = String::new();
    for deb in debs {
        let control = out(Command::new("dpkg-deb").arg("-f").arg(deb));
        let digest = out(Command::new("sha256sum").arg(deb));
        let (digest, _) = digest.split_once(' ').unwrap();
        let (name, size) =
            (deb.file_name().unwrap().to_str().unwrap(), deb.metadata().unwrap().len());
        text += &format!("{control}\nFilename: ./{name}\nSize: {size}\nSHA256: {digest}\n\n");
    }
    fs::write(directory.join("Packages"), text).unwrap();
}

#[test]
fn apt() {
    let place = Place::new("apt");
    let image = debian("debian-12");
    let repo = place.0.join("repo");
    let lib =
        Deb { name: "mini-lib", files: &[("/usr/share/mini-lib/x", "x\n")], ..Deb::default() };
    let web = Deb {
        name: "mini-web",
        control: "Depends: mini-lib\n",
        files: &[("/usr/share/mini-web/x", "x\n")],
        ..Deb::default()
    };
    index(&repo, &[web.build(&repo), lib.build(&repo)]);
    let there = [
        "--fast",
        "--check-file",
        "/usr/share/mini-web/x",
        "--check-file",
        "/usr/share/mini-lib/x",
    ];
    // A directory of this host, and a server that only this host can reach: the machine has no network.
    for address in [place.path("repo"), serve(&repo)] {
        let line = format!("deb [trusted=yes] {address} ./");
        place.passes(&image, "mini-web", &[&there[..], &["--repo", &line]].concat());
    }
    let again =
        fs::read_to_string(place.0.join("evidence/debian-12_mini-web/command.txt")).unwrap();
    assert!(again.contains("--repo '[trusted=yes] http://127.0.0.1:"), "{again}");
    place.fails(&image, "mini-web", &["--fast"], "mini-web");
    let trusted = format!("[trusted=yes] {}", place.path("repo"));
    place.fails(&image, "mini-web", &["--fast", "--repo", &trusted], "has no suite");
    for (repo, part) in [
        (place.path("repo"), "has no key: give --repo-key"),
        ("[trusted=yes] /nowhere/at/all ./".into(), "/nowhere/at/all"),
    ] {
        let args = ["probe", "--image", &image, "--package", "mini-web", "--repo", &repo];
        let told = said(&mut postroj(&args));
        assert!(told.code == 2 && told.err.contains(part), "{told:?}");
    }
    let told =
        said(&mut postroj(&["probe", "--image", &image, "--repo", "https://x.example.org/y"]));
    assert!(told.code == 2 && told.err.contains("--repo is for packages"), "{told:?}");
}

/// The repository of a mini distribution, on this host.
fn repository(mini: &Mini, place: &Place) -> (String, String) {
    let tar = place.path("repo.tar");
    let words =
        ["run", "--network", "none", &mini.image(), "tar", "-C", "/srv", "-c", "repo", "mini.asc"];
    let status = postroj(&words).stdout(fs::File::create(&tar).unwrap()).status().unwrap();
    assert!(status.success());
    out(Command::new("tar").args([
        "-C",
        place.0.to_str().unwrap(),
        "--no-same-owner",
        "-xf",
        &tar,
    ]));
    (place.path("repo"), place.path("mini.asc"))
}

fn of(mini: &Mini) {
    let place = Place::new(mini.manager);
    let image = mini.image();
    let (repo, key) = repository(mini, &place);
    let signed = ["--fast", "--repo", &repo, "--repo-key", &key];
    let there =
        ["--check-file", "/usr/share/web/version", "--check-file", "/usr/share/lib/version"];
    place.passes(&image, "web", &[&signed[..], &there].concat());
    place.fails(&image, "web", &["--fast"], "web");
    // Signed by somebody else, which only counts where everybody is believed.
    place.fails(&image, "foreign", &signed, "not trusted");
    let trusted = format!("[trusted=yes] {repo}");
    let there = ["--check-file", "/usr/share/foreign/version"];
    place.passes(&image, "foreign", &[&["--fast", "--repo", &trusted][..], &there].concat());
}

#[test]
fn dnf() {
    of(&DNF);
    // Over the network that the machine has.
    let place = Place::new("dnf-http");
    let (repo, key) = repository(&DNF, &place);
    let url = serve(Path::new(&repo));
    let options = ["--fast", "--network", "host", "--repo", &url, "--repo-key", &key];
    place.passes(&DNF.image(), "web", &options);
    let alone = ["--fast", "--repo", &url, "--repo-key", &key];
    place.fails(&DNF.image(), "web", &alone, "--network gives the machine a network");
}

#[test]
fn zypper() {
    of(&ZYPPER);
}

#[test]
fn pacman() {
    of(&PACMAN);
}
