//! `test` on a source package: autopkgtest's tests without autopkgtest, which judges the same ones in `autopkgtest`.

#[path = "fixture/debs.rs"]
mod debs;
mod fixture;
#[path = "fixture/projects.rs"]
mod projects;

use std::fs;

use debs::Deb;
use fixture::debian;
use projects::{Place, expect, report};

const CONTROL: &str = "Source: greet
Section: misc
Priority: optional
Maintainer: A B <a@example.org>
Standards-Version: 4.6.2

Package: greet
Architecture: all
Description: greets

Package: greet-i386
Architecture: i386
Description: greets elsewhere
";

const TESTS: &str = r#"Test-Command: greet | grep hi
Features: test-name=installed

Tests: file, fails, says-errors, may-say-errors
Depends:

Tests: may-say-errors-2
Depends: @
Restrictions: allow-stderr, superficial

Tests: skips, not-skippable
Depends:

Tests: skips-2
Depends:
Restrictions: skippable

Test-Command: false
Features: test-name=flaky
Depends:
Restrictions: flaky

Test-Command: true
Features: test-name=missing
Depends: nowhere-to-be-found
Restrictions: skip-not-installable

Test-Command: true
Features: test-name=missing-2
Depends: nowhere-to-be-found

Test-Command: true
Features: test-name=alternatives
Depends: nowhere-to-be-found | greet (>= 1), greet-i386 [i386]

Test-Command: true
Features: test-name=virtual
Restrictions: isolation-machine

Test-Command: true
Features: test-name=s390x
Depends:
Architecture: s390x

Tests: restarts
Depends:
Restrictions: needs-root, needs-reboot

Tests: breaks
Depends:
Restrictions: needs-root, breaks-testbed

Tests: as-root
Depends:
Restrictions: needs-root
"#;

#[test]
fn a_source_package_is_tested() {
    let place = Place::new("source");
    let image = debian("debian-12");
    let greet = Deb {
        name: "greet",
        files: &[("/usr/bin/greet", "#!/bin/sh\necho hi\n")],
        ..Deb::default()
    };
    let deb = greet.build(&place.0);
    let deb = deb.to_str().unwrap();
    let put = |name: &str, text: &str| place.put(&format!("greet/debian/{name}"), text);
    put("control", CONTROL);
    put("tests/control", TESTS);
    put(
        "tests/file",
        "#!/bin/sh\nset -e\ntest -f debian/control\necho z >\"$AUTOPKGTEST_ARTIFACTS/kept\"\ntest -d \"$AUTOPKGTEST_TMP\"\n\
         test \"$(id -un):$USER:$HOME\" = test:test:/home/test\necho y >debian/own\necho x >\"$AUTOPKGTEST_TMP/x\"\ntest \"$LANG\" = C.UTF-8\ntest -z \"$LC_ALL\"\n",
    );
    put("tests/fails", "#!/bin/sh\necho out; exit 9\n");
    let errors = "#!/bin/sh\necho warning >&2\n";
    for name in ["says-errors", "may-say-errors", "may-say-errors-2"] {
        put(&format!("tests/{name}"), errors);
    }
    for name in ["skips", "skips-2"] {
        put(&format!("tests/{name}"), "#!/bin/sh\necho not today\nexit 77\n");
    }
    // It cannot be executed until it is to be.
    put("tests/not-skippable", "exit 0\n");
    put(
        "tests/restarts",
        "#!/bin/sh\nset -e\ncase \"$AUTOPKGTEST_REBOOT_MARK\" in\n\
         '') echo x >\"$AUTOPKGTEST_TMP/own\"; /tmp/autopkgtest-reboot next ;;\nnext) cat \"$AUTOPKGTEST_TMP/own\" ;;\nesac\n",
    );
    put("tests/breaks", "#!/bin/sh\nrm -rf /usr/bin/* /etc/passwd\n");
    put(
        "tests/as-root",
        "#!/bin/sh\nset -e\ntest \"$(id -u):$USER:$AUTOPKGTEST_NORMAL_USER\" = 0:root:test\n\
         test \"$(stat -c %U debian)\" = test\n",
    );
    let args = ["--image", &image, "--fast", "--package", deb, &place.path("greet")];
    let (code, told) = report(&place, &args);
    expect(
        &told,
        &[
            ("greet/installed", "pass", ""),
            ("greet/file", "pass", ""),
            ("greet/fails", "fail", "exit status 9"),
            ("greet/says-errors", "fail", "on standard error: warning"),
            ("greet/may-say-errors", "fail", "on standard error"),
            ("greet/may-say-errors-2", "pass", ""),
            ("greet/skips", "fail", "exit status 77"),
            ("greet/not-skippable", "pass", ""),
            ("greet/skips-2", "skipped", "not today"),
            ("greet/flaky", "flaky", "known to be flaky"),
            ("greet/missing", "skipped", "nowhere-to-be-found"),
            ("greet/missing-2", "fail", "dependency missing"),
            ("greet/alternatives", "pass", ""),
            ("greet/virtual", "skipped", "isolation-machine"),
            ("greet/s390x", "skipped", "s390x"),
            ("greet/restarts", "pass", ""),
            // Its machine is its own.
            ("greet/breaks", "pass", ""),
            ("greet/as-root", "pass", ""),
        ],
    );
    assert_eq!(code, 1);
    let kept = place.0.join("evidence/debian-12_file/artifacts/kept");
    assert_eq!(fs::read_to_string(kept).unwrap(), "z\n");
    // By another user where that is wanted.
    let args = ["--image", &image, "--fast", &place.path("greet"), "file", "--user", "root"];
    let (_, told) = report(&place, &args);
    expect(&told, &[("greet/file", "fail", "exit status 1")]);
    let again = fs::read_to_string(place.0.join("evidence/debian-12_file/command.txt")).unwrap();
    assert!(again.contains("--user root") && again.contains("--fast"), "{again}");
}
