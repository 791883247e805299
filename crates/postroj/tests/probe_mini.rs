//! Packages of RPM's and pacman's that are broken on purpose, each in one way, on systems with those managers.

mod fixture;
#[path = "fixture/mini.rs"]
mod mini;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fixture::{home, out, postroj, said};
use mini::{DNF, Mini, PACMAN, ZYPPER};
use serde_json::Value;

/// One package, and what has to be said of it.
#[derive(Default)]
struct Case {
    name: &'static str,
    requires: &'static str,
    /// By RPM's names.
    scripts: &'static [(&'static str, &'static str)],
    files: &'static [(&'static str, &'static str)],
    options: &'static [&'static str],
    /// The first step that is bad, and parts of what it says; none where nothing is.
    step: &'static str,
    says: &'static [&'static str],
}

const ALL: [&str; 2] = ["--phase", "install,reinstall,remove,purge"];
const SLEEPS: &str = "[Service]\nExecStart=/bin/sleep 100000\n";

fn cases() -> Vec<Case> {
    let case = Case::default;
    vec![
        Case {
            name: "good",
            scripts: &[
                ("post", "systemctl daemon-reload\nsystemctl start good"),
                // RPM runs it for the older package of an upgrade too, with a 1, after the newer one's `post`.
                ("preun", "test \"$1\" = 1 || systemctl stop good"),
                ("postun", "systemctl daemon-reload"),
            ],
            files: &[("usr/lib/systemd/system/good.service", SLEEPS)],
            options: &["--check-unit", "good", ALL[0], ALL[1]],
            ..case()
        },
        Case {
            name: "no-install",
            scripts: &[("pre", "echo there is no luck today\nexit 3")],
            step: "install",
            says: &["there is no luck today"],
            ..case()
        },
        Case {
            name: "no-configuration",
            scripts: &[("post", "echo the configuration is odd\nexit 3")],
            step: "install",
            says: &["the configuration is odd"],
            ..case()
        },
        Case {
            name: "needy",
            requires: "nowhere",
            step: "install",
            says: &["dependency missing", "nowhere"],
            ..case()
        },
        Case {
            name: "clash",
            files: &[("usr/share/base/version", "mine\n")],
            step: "install",
            says: &["file conflict"],
            ..case()
        },
        Case {
            name: "unit-fails",
            scripts: &[("post", "systemctl daemon-reload\nsystemctl start --no-block unit-fails")],
            files: &[
                ("usr/lib/unit-fails/daemon", "#!/bin/sh\necho the weather is bad\nexit 4\n"),
                (
                    "usr/lib/systemd/system/unit-fails.service",
                    "[Service]\nExecStart=/usr/lib/unit-fails/daemon\n",
                ),
            ],
            options: &["--check-unit", "unit-fails"],
            step: "unit unit-fails.service",
            says: &["failed", "the weather is bad"],
            ..case()
        },
        Case {
            name: "leaves-file",
            scripts: &[(
                "post",
                "mkdir -p /var/lib/leaves-file\necho x > /var/lib/leaves-file/junk",
            )],
            options: &ALL,
            step: "files",
            says: &["/var/lib/leaves-file/junk"],
            ..case()
        },
        Case {
            name: "leaves-process",
            scripts: &[("post", "setsid sleep 4711 >/dev/null 2>&1 </dev/null &")],
            options: &ALL,
            step: "processes",
            says: &["sleep 4711"],
            ..case()
        },
    ]
}

/// A directory that is gone at the end.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Place {
    fn new(name: &str) -> Self {
        let path = home().join(format!("probe-mini-{name}-{}", std::process::id()));
        std::fs::create_dir_all(path.join("out")).unwrap();
        Self(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join("work").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Builds the packages in a machine of the image.
    fn build(&self, cases: &[Case], image: &str, script: &str) {
        for Case { name, requires, scripts, files, .. } in cases {
            std::fs::create_dir_all(self.0.join("work").join(name).join("root")).unwrap();
            self.write(&format!("{name}/root/usr/share/doc/{name}/copyright"), "x\n");
            if !requires.is_empty() {
                self.write(&format!("{name}/requires"), requires);
            }
            for (script, text) in *scripts {
                self.write(&format!("{name}/{script}"), text);
            }
            for (path, text) in *files {
                self.write(&format!("{name}/root/{path}"), text);
            }
        }
        let volume = |name: &str| format!("{}:/{name}", self.0.join(name).display());
        let words = ["run", "-v", &volume("work"), "-v", &volume("out"), image, "sh", "-c", script];
        out(&mut postroj(&words));
    }

    /// The file of a package.
    fn package(&self, name: &str) -> String {
        let entries = std::fs::read_dir(self.0.join("out")).unwrap();
        let file = entries
            .map(|entry| entry.unwrap().path())
            .find(|path| file_name(path).starts_with(&format!("{name}-1-1")));
        file.unwrap().to_str().unwrap().to_owned()
    }
}

fn file_name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn explained_on(system: &Mini, builder: &Mini, script: &str) {
    let place = Place::new(system.manager);
    let cases = cases();
    place.build(&cases, &builder.image(), script);
    let image = system.image();
    for case in &cases {
        let (package, report) = (place.package(case.name), place.0.join("report.json"));
        let evidence = place.0.join("evidence").join(case.name);
        let json = format!("json={}", report.display());
        let words = ["probe", "--image", &image, "--package", &package, "--report", &json];
        let more = ["--evidence", evidence.to_str().unwrap()];
        let told = said(&mut postroj(&[&words[..], &more, case.options].concat()));
        let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        let cell = &report["cells"][0];
        let steps = cell["steps"].as_array().unwrap();
        let bad = steps.iter().find(|step| step["verdict"] != "pass");
        let Some(bad) = bad else {
            assert_eq!((told.code, case.step), (0, ""), "{}: {cell:#}", case.name);
            continue;
        };
        assert_eq!(told.code, 1, "{}: {told:?}", case.name);
        assert_eq!(bad["name"], case.step, "{}: {cell:#}", case.name);
        let text = |name: &str| bad[name].as_str().unwrap_or_default();
        let told = [text("expected"), text("seen"), text("cause")].join("\n");
        for part in case.says {
            assert!(told.contains(part), "{} does not say {part:?}: {told}", case.name);
        }
    }
}

#[test]
fn broken_packages_are_explained_by_dnf() {
    explained_on(&DNF, &DNF, include_str!("fixture/mini/build-rpm.sh"));
}

#[test]
fn broken_packages_are_explained_by_zypper() {
    explained_on(&ZYPPER, &DNF, include_str!("fixture/mini/build-rpm.sh"));
}

#[test]
fn broken_packages_are_explained_by_pacman() {
    explained_on(&PACMAN, &PACMAN, include_str!("fixture/mini/build-pacman.sh"));
}
