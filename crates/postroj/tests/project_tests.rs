//! `test`: our own tests, on a real system, as root and as an ordinary user.

#[path = "fixture/debs.rs"]
mod debs;
mod fixture;
#[path = "fixture/projects.rs"]
mod projects;

use std::fs;
use std::path::Path;

use debs::Deb;
use fixture::{debian, out, postroj, said};
use projects::{Place, expect, report, test, verdicts};
use serde_json::Value;

/// The examples of the documentation.
fn examples() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/test.md");
    let text = fs::read_to_string(path).unwrap();
    let blocks = text.split("```toml\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_documented_examples_run() {
    let place = Place::new("examples");
    debian("debian-12");
    let examples = examples();
    assert_eq!(examples.len(), 2);
    let first = place.put("greet.test.toml", &examples[0]);
    let (code, told) = report(&place, &[&first]);
    expect(&told, &[("greet", "pass", "")]);
    assert_eq!(code, 0);
    // Booting, a file, three steps and five checks, a restart, and in the end the units.
    let steps = told["cells"][0]["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 11, "{steps:#?}");
    let second = place.put("pair.test.toml", &examples[1].replace("debian-13", "debian-12"));
    let (code, told) = report(&place, &[&second]);
    expect(&told, &[("pair", "pass", "")]);
    assert_eq!(code, 0, "{told:#}");
    assert_eq!(out(&mut postroj(&["network", "ls", "-q"])).lines().count(), 2);
}

#[test]
fn steps_fail_and_skip_and_say_why() {
    let place = Place::new("steps");
    let image = debian("debian-12");
    let deb = Deb {
        name: "greet",
        files: &[("/usr/bin/greet", "#!/bin/sh\necho hi\n")],
        ..Deb::default()
    };
    let deb = deb.build(&place.0);
    let deb = deb.file_name().unwrap().to_str().unwrap();
    place.put(
        "a-run.test.toml",
        "[[step]]\nrun = \"echo no luck; exit 4\"\n[[step]]\nrun = \"true\"\n",
    );
    place.put("b-check.test.toml", "[[step]]\ncheck-unit = \"nothing\"\n");
    place.put("c-skip.test.toml", "[[step]]\nrun = \"echo not here; exit 77\"\n");
    place.put("d-output.test.toml", "[[step]]\nrun = \"echo a\"\noutput = \"b\"\n");
    place.put("e-never.test.toml", "skip = \"it is too early\"\n[[step]]\nrun = \"x\"\n");
    let install = format!(
        "[[file]]\npath = \"/srv/new/tree\"\nsource = \"data\"\n[[step]]\ninstall = \"./{deb}\"\n\
         [[step]]\nrun = \"greet; cat /srv/new/tree/x; id -un\"\nuser = \"nobody\"\noutput = \"hi\\nthere\\nnobody\"\n"
    );
    place.put("f-install.test.toml", &install);
    place.put("data/x", "there\n");
    place.put("g-may.test.toml", "may-fail = \"broken\"\n[[step]]\nrun = \"false\"\n");
    place.put("h-late.test.toml", "[[step]]\nrun = \"sleep 100\"\ntimeout = 1\n");
    let (code, told) = report(&place, &["--image", &image, "--fast", &place.path(".")]);
    assert_eq!(code, 1);
    expect(
        &told,
        &[
            ("a-run", "fail", "exit status 4"),
            ("b-check", "fail", "unit nothing.service"),
            ("c-skip", "skipped", "not here"),
            ("d-output", "fail", "output that does not match"),
            ("e-never", "skipped", "it is too early"),
            ("f-install", "pass", ""),
            ("g-may", "fail", ""),
            ("h-late", "fail", "not done after 1 s"),
        ],
    );
    let first = &told["cells"][0]["steps"];
    assert!(first[1]["cause"].as_str().unwrap().contains("no luck"), "{first:#}");
    assert_eq!(first.as_array().unwrap().len(), 2, "what follows a failure is not done: {first:#}");
    let again = fs::read_to_string(place.0.join("evidence/debian-12_a-run/command.txt")).unwrap();
    assert!(
        again.contains("a-run.test.toml") && again.starts_with("postroj test --image"),
        "{again}"
    );
    let (code, told) =
        report(&place, &["--image", &image, "--fast", &place.path("."), "g-may", "e-*"]);
    assert_eq!((code, verdicts(&told).len()), (0, 2), "what may fail may fail: {told:#}");
}

#[test]
fn tests_are_listed_chosen_and_refused() {
    let place = Place::new("list");
    place.put("one.test.toml", "tags = [\"fast\"]\n[[step]]\nrun = \"x\"\n");
    place.put("deep/two.test.toml", "description = \"second\"\n[[step]]\nrun = \"x\"\n");
    let names = |args: &[&str]| -> Vec<String> {
        let here = place.path(".");
        let all = [&[&here[..], "--list", "--json"], args].concat();
        let list: Value = serde_json::from_str(&out(&mut test(&all))).unwrap();
        list.as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&[]), ["two", "one"]);
    assert_eq!(names(&["t*"]), ["two"]);
    assert_eq!(names(&["!two"]), ["one"]);
    assert_eq!(names(&["--tag", "fast"]), ["one"]);
    assert_eq!(names(&["--tag", "!fast"]), ["two"]);
    assert!(out(&mut test(&[&place.path("."), "--list"])).contains("second"));
    let bad = place.put("bad.test.toml", "[[step]]\nrun = 1\n");
    for (args, part) in [
        (&[&bad[..]][..], "bad.test.toml:2:7: "),
        (&[&place.path("one.test.toml")], "one names no image: give --image"),
        (&[&place.path("one.test.toml"), "three"], "none of the tests is asked for: there are one"),
    ] {
        let told = said(&mut test(args));
        assert!(told.code == 2 && told.err.contains(part), "{args:?}: {told:?}");
    }
}

/// A server with a certificate of an authority that was made just now.
const TLS: &str = r#"
[[step]]
install = "openssl"
[[step]]
run = """
mkdir /srv/tls; cd /srv/tls
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=authority -days 2 2>/dev/null
openssl req -newkey rsa:2048 -nodes -keyout key.pem -out csr.pem -subj /CN=localhost 2>/dev/null
echo subjectAltName=DNS:localhost >ext
openssl x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile ext 2>/dev/null
mkdir -p /etc/ssl/certs
cp ca.pem /etc/ssl/certs/ca-certificates.crt
systemd-run --quiet --unit tls --working-directory=/srv/tls openssl s_server -accept 8443 -www -key key.pem -cert cert.pem
"""
"#;

#[test]
fn servers_with_certificates_are_checked() {
    let place = Place::new("tls");
    let image = debian("debian-12");
    let check = |url: &str| format!("{TLS}[[step]]\ncheck-network = \"{url}\"\n");
    let distrust = "[[step]]\nrun = \"openssl req -x509 -newkey rsa:2048 -nodes -keyout /dev/null -subj /CN=x -out /etc/ssl/certs/ca-certificates.crt 2>/dev/null\"\n";
    let untrusted =
        format!("{TLS}{distrust}[[step]]\ncheck-network = \"https://localhost:8443/\"\n");
    let none = format!(
        "{TLS}[[step]]\nrun = \"rm /etc/ssl/certs/ca-certificates.crt\"\n[[step]]\ncheck-network = \"https://localhost:8443/\"\n"
    );
    place.put("a-trusted.test.toml", &check("https://localhost:8443/?status=200&body~=s_server"));
    place.put("b-other-name.test.toml", &check("https://127.0.0.1:8443/"));
    place.put("c-insecure.test.toml", &check("https://127.0.0.1:8443/?insecure&status=200"));
    place.put("d-untrusted.test.toml", &untrusted);
    place.put("e-none.test.toml", &none);
    let (code, told) = report(&place, &["--image", &image, "--fast", &place.path(".")]);
    expect(
        &told,
        &[
            ("a-trusted", "pass", ""),
            ("b-other-name", "fail", "it is for another name"),
            ("c-insecure", "pass", ""),
            ("d-untrusted", "fail", "nobody whom the machine trusts has signed it"),
            ("e-none", "fail", "has no certificates to verify by"),
        ],
    );
    assert_eq!(code, 1);
}
