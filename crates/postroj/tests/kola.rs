//! `test --kola`: trees of external tests as upstream projects have them, and kola's documented examples.

mod fixture;
#[path = "fixture/projects.rs"]
mod projects;

use std::fs;

use fixture::{debian, out};
use projects::{Place, expect, report, test};
use serde_json::Value;

/// The example of a test that reboots (coreos-assembler, `docs/kola/external-tests.md`).
const REBOOTS: &str = r#"#!/bin/bash
# Copy of the reboot example from https://salsa.debian.org/ci-team/autopkgtest/raw/master/doc/README.package-tests.rst
set -xeuo pipefail
case "${AUTOPKGTEST_REBOOT_MARK:-}" in
  "") echo "test beginning"; /tmp/autopkgtest-reboot mark1 ;;
  mark1) echo "test in mark1"; /tmp/autopkgtest-reboot mark2 ;;
  mark2) echo "test in mark2" ;;
  *) echo "unexpected mark: ${AUTOPKGTEST_REBOOT_MARK}"; exit 1;;
esac
echo "ok autopkgtest rebooting"
"#;

/// The example of a quick start there.
const NOOP: &str = r#"#!/bin/bash
set -xeuo pipefail
# kola: { "architectures": "x86_64", "platforms": "qemu", "tags": "sometag", "description": "test" }
# Test: I'm a NOOP!
test 2 -gt 1
"#;

/// The example of a configuration there, but for the program that it starts, which is kola's own.
const CONFIG: &str = "variant: fcos
version: 1.1.0
passwd:
  users:
    - name: core
systemd:
  units:
    - name: my-httpd.service
      enabled: true
      contents: |
        [Service]
        ExecStart=/usr/bin/sleep infinity
        [Install]
        WantedBy=kola-runext.service
storage:
  files:
    - path: /var/www/my-kola-test-data
      contents:
        inline: Hello, world!
      mode: 0644
      user:
        name: core
      group:
        name: core
";

#[test]
fn documented_examples_run_unchanged() {
    let place = Place::new("kola-docs");
    let image = debian("debian-12");
    place.put("my-project/tests/kola/basic/noop", NOOP);
    place.put("my-project/tests/kola/reboots/test.sh", REBOOTS);
    place.put("my-project/tests/kola/yaml/only", "#!/bin/bash\nset -xeuo pipefail\n## kola:\n##   architectures: x86_64\n##   platforms: \"aws gcp\"  # azure support is pending\n##   tags: needs-internet\n##   description: test description\ntrue\n");
    place.put("my-project/tests/kola/config/config.bu", CONFIG);
    place.put(
        "my-project/tests/kola/config/test.sh",
        "#!/bin/bash\nset -xeuo pipefail\nsystemctl is-active my-httpd\ntest \"$(cat /var/www/my-kola-test-data)\" = 'Hello, world!'\n\
         test \"$(stat -c %U:%a /var/www/my-kola-test-data)\" = core:644\n",
    );
    let project = place.path("my-project");
    let (code, told) = report(&place, &["-E", &project, "--image", &image, "--fast"]);
    expect(
        &told,
        &[
            ("ext.my-project.basic.noop", "pass", ""),
            ("ext.my-project.config", "pass", ""),
            ("ext.my-project.reboots", "pass", ""),
            ("ext.my-project.yaml.only", "skipped", "platforms aws gcp"),
        ],
    );
    assert_eq!(code, 0);
    let output = place.0.join("evidence/debian-12_ext.my-project.reboots/output.txt");
    let text = fs::read_to_string(output).unwrap();
    assert!(
        text.contains("test in mark1\n") && text.contains("ok autopkgtest rebooting"),
        "{text}"
    );
    // As the documentation names it on kola's command line.
    let listed = out(&mut test(&["-E", &project, "ext.my-project.basic", "--list"]));
    assert!(listed.contains("noop") && listed.lines().count() == 2, "{listed}");
}

/// A tree as an upstream project's: directories that share data, metadata of both kinds, binaries, things that fail.
#[test]
fn a_tree_has_the_right_verdicts() {
    let place = Place::new("kola-tree");
    let image = debian("debian-12");
    let put = |name: &str, text: &str| place.put(&format!("up/tests/kola/{name}"), text);
    put(
        "nondestructive/kola.json",
        r#"{"exclusive": false, "tags": "quick", "isolation": "readonly"}"#,
    );
    // Shared as projects share it: by a link that leads out of the data.
    put("data/commands.sh", "ok() { echo \"ok $*\"; }\n");
    let link = put("nondestructive/data/commands.sh", "");
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("../../data/commands.sh", &link).unwrap();
    put(
        "nondestructive/env.sh",
        "#!/bin/bash\nset -e\n. ${KOLA_EXT_DATA}/commands.sh\ntest $KOLA_UNIT = kola-runext.service\n\
         test $KOLA_TEST = ext.up.nondestructive.env.sh\ntest $KOLA_TEST_EXE = env.sh\n! touch /usr/x\nok env\n",
    );
    put(
        "nondestructive/user.sh",
        "#!/bin/bash\n# kola: {\"isolation\": \"dynamicuser\"}\nset -e\ntest \"$(id -u)\" != 0\n",
    );
    put("nondestructive/README.md", "no test\n");
    put("bad/fails", "#!/bin/sh\necho that is wrong >&2\nexit 5\n");
    put("bad/killed", "#!/bin/sh\nkill -KILL $$\n");
    put("bad/terminated", "#!/bin/sh\nkill -TERM $$\n");
    put("bad/late", "#!/bin/sh\n# kola: {\"timeoutMin\": 1}\nexec sleep 1\n");
    put("bad/breaks", "#!/bin/sh\nsystemctl start broken\ntrue\n");
    put(
        "bad/config.ign",
        r#"{"ignition": {"version": "3.0.0"}, "systemd": {"units": [{"name": "broken.service", "contents": "[Service]\nType=oneshot\nExecStart=/bin/false\n"}]}}"#,
    );
    put("elsewhere/fcos", "#!/bin/sh\n# kola: {\"distros\": \"fcos\"}\ntrue\n");
    put("elsewhere/disks", "#!/bin/sh\n# kola: {\"additionalDisks\": [\"5G\"]}\ntrue\n");
    put("elsewhere/s390x", "#!/bin/sh\n# kola: {\"architectures\": \"s390x\"}\ntrue\n");
    put("elsewhere/special", "#!/bin/sh\n# kola: {\"requiredTag\": \"special\"}\ntrue\n");
    put("denied/now", "#!/bin/sh\nfalse\n");
    put("denied/then", "#!/bin/sh\ntrue\n");
    put("denied/warned", "#!/bin/sh\nfalse\n");
    put(
        "reboot/self.sh",
        "#!/bin/bash\nset -e\ncase \"$AUTOPKGTEST_REBOOT_MARK\" in\n\
         '') echo kept >/srv/kept; /tmp/autopkgtest-reboot-prepare second; systemctl reboot; sleep 100 ;;\n\
         second) grep kept /srv/kept ;;\n*) exit 1 ;;\nesac\n",
    );
    place.put(
        "up/kola-denylist.yaml",
        "- pattern: ext.up.denied.now\n  tracker: https://example.org/1\n- pattern: ext.up.denied.then\n  snooze: 2020-01-01\n\
         - pattern: ext.up.denied.warned\n  warn: true\n- pattern: ext.up.*\n  streams: [rawhide]\n",
    );
    let (code, told) = report(&place, &["--image", &image, "--fast", &place.path("up")]);
    expect(
        &told,
        &[
            ("ext.up.bad.breaks", "fail", "broken.service"),
            ("ext.up.bad.fails", "fail", "exit status 5"),
            ("ext.up.bad.killed", "fail", "signal 9"),
            ("ext.up.bad.late", "pass", ""),
            ("ext.up.bad.terminated", "pass", ""),
            ("ext.up.denied.now", "skipped", "https://example.org/1"),
            ("ext.up.denied.then", "pass", ""),
            ("ext.up.denied.warned", "fail", ""),
            ("ext.up.elsewhere.disks", "skipped", "additionalDisks"),
            ("ext.up.elsewhere.fcos", "skipped", "it is for fcos, and this is debian"),
            ("ext.up.elsewhere.s390x", "skipped", "s390x"),
            ("ext.up.nondestructive.env.sh", "pass", ""),
            ("ext.up.nondestructive.user.sh", "pass", ""),
            ("ext.up.reboot.self.sh", "pass", ""),
        ],
    );
    assert_eq!(code, 1);
    let cause =
        told["cells"][1]["steps"].as_array().unwrap().iter().find(|s| s["verdict"] == "fail");
    assert!(cause.unwrap()["cause"].as_str().unwrap().contains("that is wrong"), "{cause:#?}");
    let list = |args: &[&str]| -> usize {
        let up = place.path("up");
        let all = [&[&up[..], "--list", "--json"], args].concat();
        let list: Value = serde_json::from_str(&out(&mut test(&all))).unwrap();
        list.as_array().unwrap().len()
    };
    assert_eq!(list(&["--tag", "quick"]), 1);
    // A stream that is named, and another list.
    let skipped = |args: &[&str]| -> usize {
        let up = place.path("up");
        let all = [&[&up[..], "--list", "--json"], args].concat();
        let list: Value = serde_json::from_str(&out(&mut test(&all))).unwrap();
        let denied =
            |test: &&Value| test["skip"].as_str().is_some_and(|why| why.contains("denylist"));
        list.as_array().unwrap().iter().filter(denied).count()
    };
    assert_eq!(skipped(&[]), 1);
    assert_eq!(skipped(&["--denylist-stream", "stable"]), 1);
    let all = list(&[]);
    assert_eq!(skipped(&["--denylist-stream", "rawhide"]), all);
    let own =
        place.put("own.yaml", "- pattern: ext.up.bad.*\n  snooze: 2999-12-31\n  warn: true\n");
    assert_eq!(skipped(&["--denylist", &own]), 5);
    assert_eq!(list(&["--tag", "special"]), 1);
    assert_eq!(list(&["ext.up.denied.*"]), 3);
    assert_eq!(list(&["--tag", "!quick", "ext.up.nondestructive"]), 1);
    // What the image is taken for can be said; what fails twice fails.
    let args = [
        "--image",
        &image,
        "--fast",
        &place.path("up"),
        "ext.up.elsewhere.fcos",
        "--distro",
        "fcos",
    ];
    expect(&report(&place, &args).1, &[("ext.up.elsewhere.fcos", "pass", "")]);
    let args = ["--image", &image, "--fast", &place.path("up"), "ext.up.bad.fails", "--rerun"];
    let (code, told) = report(&place, &args);
    assert_eq!((code, told["cells"][0]["attempts"].as_u64()), (1, Some(2)));
}
