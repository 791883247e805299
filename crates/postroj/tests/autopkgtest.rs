//! The real autopkgtest, driving a testbed of ours.

mod fixture;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use fixture::{Own, home, out, said};

/// A source package with four tests: on the system itself, one that fails, one that ruins its testbed, and one that
/// would see that.
fn source(own: &Own) -> String {
    for (path, text) in [
        (
            "debian/control",
            "Source: greet\nSection: misc\nPriority: optional\nMaintainer: A B <a@example.org>\n\
             Standards-Version: 4.6.2\n\nPackage: greet\nArchitecture: all\nDescription: greets\n",
        ),
        (
            "debian/changelog",
            "greet (1) unstable; urgency=low\n\n  * First.\n\n -- A B <a@example.org>  Mon, 01 Jan 2024 00:00:00 +0000\n",
        ),
        (
            "debian/tests/control",
            "Test-Command: systemctl is-system-running && echo up > \"$AUTOPKGTEST_ARTIFACTS/kept\"\n\
             Features: test-name=system\nDepends:\nRestrictions: needs-root, isolation-container\n\n\
             Test-Command: echo bad luck >&2; exit 3\nFeatures: test-name=bad\nDepends:\n\n\
             Test-Command: echo ruined > /etc/issue\nFeatures: test-name=ruins\nDepends:\n\
             Restrictions: needs-root, breaks-testbed\n\nTests: sees\nDepends:\n\n\
             Tests: restarts, restarts-itself\nDepends:\nRestrictions: needs-root, needs-reboot\n",
        ),
        ("debian/tests/restarts", &restarts("/tmp/autopkgtest-reboot next")),
        (
            "debian/tests/restarts-itself",
            &restarts("/tmp/autopkgtest-reboot-prepare next; systemctl reboot; sleep 100"),
        ),
        ("debian/tests/sees", "#!/bin/sh\n! grep ruined /etc/issue\n"),
    ] {
        let path = own.path("source").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    format!("{}/", own.path("source").display())
}

/// A test that goes on after a restart, and finds what it wrote on disk and among its own files.
fn restarts(how: &str) -> String {
    format!(
        "#!/bin/sh\nset -e\ncase \"$AUTOPKGTEST_REBOOT_MARK\" in\n\
         '') echo x >/srv/kept; echo y >\"$AUTOPKGTEST_TMP/own\"; {how} ;;\n\
         next) test \"$(cat /srv/kept \"$AUTOPKGTEST_TMP/own\" | tr -d '\\n')\" = xy ;;\n*) exit 9 ;;\nesac\n"
    )
}

#[test]
fn its_verdicts_are_right_and_a_ruined_testbed_is_reverted() {
    let own = Own::new("autopkgtest");
    let source = source(&own);
    // What its testbeds need to read a source package.
    let mut pull = own.postroj(&["pull", "-q", "--include", "dpkg-dev", "debian-12"]);
    let config = home().join("config/postroj");
    fs::create_dir_all(&config).unwrap();
    let text = "[bootstrap.debian]\ncheck-valid-until = false\n";
    fs::write(config.join("config.toml"), text).unwrap();
    out(pull.env("XDG_CONFIG_HOME", home().join("config")));
    let server = own.path("autopkgtest-virt-postroj");
    std::os::unix::fs::symlink(fixture::program(), &server).unwrap();
    let output = own.path("output");
    let mut autopkgtest = Command::new("autopkgtest");
    autopkgtest
        .args(["-B", "-o", output.to_str().unwrap(), &source, "--", server.to_str().unwrap()])
        .args(["--network", "none", "debian-12"])
        .env("POSTROJ_STORE", own.store())
        .env("POSTROJ_RUNROOT", own.path("run"))
        .env("TMPDIR", own.path("."));
    let told = said(&mut autopkgtest);
    // "at least one test failed" (autopkgtest(1), EXIT STATUS).
    assert_eq!(told.code, 4, "{told:?}");
    let summary = fs::read_to_string(output.join("summary")).unwrap();
    let verdicts: Vec<Vec<&str>> =
        summary.lines().map(|line| line.split_whitespace().take(2).collect()).collect();
    let expected = [
        ["system", "PASS"],
        ["bad", "FAIL"],
        ["ruins", "PASS"],
        ["sees", "PASS"],
        ["restarts", "PASS"],
        ["restarts-itself", "PASS"],
    ];
    assert_eq!(verdicts, expected, "{summary}: {told:?}");
    assert_eq!(fs::read_to_string(output.join("artifacts/kept")).unwrap(), "up\n");
    assert_eq!(out(&mut own.postroj(&["ps", "-aq"])), "");
}

#[test]
fn the_protocol_is_kept() {
    let own = Own::new("virt");
    let speak = |words: &[&str], said_to_it: &str| {
        use std::io::Write;
        let mut command = own.postroj(&[&["autopkgtest-virt"], words].concat());
        let piped = std::process::Stdio::piped;
        let mut child = command.stdin(piped()).stdout(piped()).stderr(piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(said_to_it.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, told, _) = speak(&["debian-12"], "capabilities\nclose\nquit\n");
    assert_eq!(code, Some(0));
    let expected =
        "ok\nok isolation-container reboot revert revert-full-system root-on-testbed\nok\n";
    assert_eq!(told, expected);
    for (said_to_it, part) in
        [("reboot\n", "not open"), ("copyup a b\n", "not open"), ("revert\n", "cannot do")]
    {
        let (code, told, why) = speak(&["debian-12"], said_to_it);
        assert_eq!((code, &told[..]), (Some(16), "ok\n"), "{why}");
        assert!(why.contains(part), "{why}");
    }
    let (code, _, why) = speak(&["dir:/no/where"], "open\n");
    assert!(
        code == Some(16) && why.contains("/no/where") && why.contains("does not boot"),
        "{why}"
    );
    assert_eq!(speak(&[], "").0, Some(16));
}
