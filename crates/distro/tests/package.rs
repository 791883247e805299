//! What each package manager is told, word by word.

use std::os::unix::fs::PermissionsExt;

use distro::package::{
    self, Cause, Operation, PACKAGE_MANAGERS, PackageManager, Repository, Work, work,
};

fn manager(name: &str) -> &'static dyn PackageManager {
    package::by_name(name).unwrap_or_else(|| panic!("no {name}"))
}

/// The commands of an operation, joined; `-` where the manager cannot.
fn said(name: &str, operation: &Operation<'_>) -> String {
    work(manager(name), operation).map_or("-".into(), |work| {
        let commands: Vec<String> = work.commands.iter().map(|words| words.join(" ")).collect();
        commands.join(" && ")
    })
}

const APT: &str = "-y -q -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef \
    -o Dpkg::Options::=--force-confold -o APT::Install-Recommends=0 -o APT::Cmd::Disable-Script-Warning=1";

#[test]
fn names_files_and_addresses_are_installed() {
    for (name, by_name, by_file) in [
        (
            "apt",
            &format!("apt-get {APT} install a b")[..],
            &format!("apt-get {APT} install /f")[..],
        ),
        ("dnf", "dnf -y install a b", "rpmkeys --checksig /f && dnf -y install /f"),
        ("dnf5", "dnf5 -y install a b", "rpmkeys --checksig /f && dnf5 -y install /f"),
        ("yum", "yum -y install a b", "rpmkeys --checksig /f && yum -y install /f"),
        ("microdnf", "microdnf -y install a b", "rpmkeys --checksig /f && rpm -U /f"),
        ("tdnf", "tdnf -y install a b", "rpmkeys --checksig /f && rpm -U /f"),
        (
            "zypper",
            "zypper --non-interactive install --auto-agree-with-licenses --no-recommends a b",
            "zypper --non-interactive install --auto-agree-with-licenses --no-recommends /f",
        ),
        (
            "rpm-ostree",
            "rpm-ostree install --assumeyes --idempotent a b",
            "rpmkeys --checksig /f && rpm-ostree install --assumeyes --idempotent /f",
        ),
        (
            "pacman",
            "pacman --noconfirm --noprogressbar -S --needed a b",
            "pacman --noconfirm --noprogressbar -U /f",
        ),
        ("apk", "apk add a b", "apk add /f"),
        ("xbps", "xbps-install --yes --update xbps && xbps-install --yes a b", "-"),
        ("emerge", "emerge --ask=n --color=n --quiet --getbinpkg --noreplace a b", "-"),
        ("kiss", "kiss build a b && kiss install a b", "kiss install /f"),
        ("nix", "nix-env --install --attr nixpkgs.a nixpkgs.b", "-"),
    ] {
        assert_eq!(said(name, &Operation::Install(&["a", "b"])), by_name);
        assert_eq!(said(name, &Operation::Install(&["/f"])), by_file);
    }
    let both = Operation::Install(&["a", "/f", "b"]);
    assert_eq!(
        said("pacman", &both),
        "pacman --noconfirm --noprogressbar -S --needed a b && pacman --noconfirm --noprogressbar -U /f"
    );
    assert_eq!(
        said("microdnf", &both),
        "microdnf -y install a b && rpmkeys --checksig /f && rpm -U /f"
    );
    let address = Operation::Install(&["https://x.example.org/a.rpm"]);
    assert_eq!(said("dnf", &address), "dnf -y install https://x.example.org/a.rpm");
    assert_eq!(said("apt", &address), "-");
}

#[test]
fn every_other_operation() {
    for (name, operation, wanted) in [
        ("apt", Operation::Refresh, format!("apt-get {APT} update")),
        ("apt", Operation::Upgrade(&[]), format!("apt-get {APT} dist-upgrade")),
        ("apt", Operation::Upgrade(&["a"]), format!("apt-get {APT} install --only-upgrade a")),
        ("apt", Operation::Reinstall(&["a"]), format!("apt-get {APT} install --reinstall a")),
        ("apt", Operation::Remove(&["a"]), format!("apt-get {APT} remove --autoremove a")),
        ("apt", Operation::Purge(&["a"]), format!("apt-get {APT} purge --autoremove a")),
        ("apt", Operation::InstallNoDeps(&["/f"]), "dpkg --force-depends --install /f".into()),
        ("apt", Operation::Owner("/bin/ls"), "dpkg-query --search /bin/ls".into()),
        ("apt", Operation::Version("a"), "dpkg-query --show --showformat=${Version}\\n a".into()),
        ("apt", Operation::Files("a"), "dpkg-query --listfiles a".into()),
        ("dnf", Operation::Refresh, "dnf -y --refresh makecache".into()),
        ("yum", Operation::Refresh, "yum -y clean expire-cache && yum -y makecache".into()),
        ("dnf", Operation::Upgrade(&[]), "dnf -y upgrade".into()),
        ("yum", Operation::Upgrade(&["a"]), "yum -y update a".into()),
        ("dnf5", Operation::Purge(&["a"]), "dnf5 -y remove a".into()),
        ("dnf", Operation::InstallNoDeps(&["/f"]), "rpm -U --nodeps /f".into()),
        ("microdnf", Operation::Owner("/x"), "rpm -q --queryformat %{NAME}\\n -f /x".into()),
        (
            "zypper",
            Operation::Version("a"),
            "rpm -q --queryformat %{VERSION}-%{RELEASE}\\n a".into(),
        ),
        (
            "zypper",
            Operation::Reinstall(&["a"]),
            "zypper --non-interactive install --force a".into(),
        ),
        ("rpm-ostree", Operation::Remove(&["a"]), "rpm-ostree uninstall --assumeyes a".into()),
        ("rpm-ostree", Operation::Reinstall(&["a"]), "-".into()),
        ("pacman", Operation::Upgrade(&[]), "pacman --noconfirm --noprogressbar -Syu".into()),
        ("pacman", Operation::Purge(&["a"]), "pacman --noconfirm --noprogressbar -Rns a".into()),
        ("pacman", Operation::Files("a"), "pacman -Qlq a".into()),
        ("apk", Operation::Reinstall(&["a"]), "apk fix --reinstall a".into()),
        ("apk", Operation::Owner("/x"), "apk info --quiet --who-owns /x".into()),
        (
            "xbps",
            Operation::Upgrade(&[]),
            "xbps-install --yes --update xbps && xbps-install --yes --update".into(),
        ),
        ("xbps", Operation::Version("a"), "xbps-uhelper version a".into()),
        ("rpm-ostree", Operation::Clean, "rpm-ostree cleanup --repomd".into()),
        ("xbps", Operation::Remove(&["a"]), "xbps-remove --yes --recursive a".into()),
        (
            "emerge",
            Operation::Remove(&["a"]),
            "emerge --ask=n --color=n --quiet --depclean a".into(),
        ),
        ("pkgtools", Operation::Remove(&["a"]), "removepkg a".into()),
        (
            "pkgtools",
            Operation::Install(&["/f"]),
            "upgradepkg --terse --install-new /f".into(),
        ),
        ("kiss", Operation::Refresh, "kiss update".into()),
        ("kiss", Operation::Upgrade(&[]), "kiss upgrade && kiss upgrade".into()),
        ("kiss", Operation::Upgrade(&["a"]), "kiss build a && kiss install a".into()),
        ("kiss", Operation::Install(&["a", "/f"]), "kiss build a && kiss install a /f".into()),
        ("kiss", Operation::Files("a"), "kiss manifest a".into()),
        (
            "apt",
            Operation::InstallFiles(&["/f"]),
            format!(
                "apt-get {APT} -o Dpkg::Options::=--force-unsafe-io -o Dir::Etc::SourceList=/dev/null \
                 -o Dir::Etc::SourceParts=/dev/null -o APT::Sandbox::User=root install /f"
            ),
        ),
        ("apt", Operation::MarkAutomatic(&["a"]), "apt-mark auto a".into()),
        (
            "dnf",
            Operation::InstallFiles(&["/f"]),
            "rpmkeys --checksig /f && dnf -y --disablerepo=* install /f".into(),
        ),
        (
            "dnf",
            Operation::ReinstallFiles(&["/f"]),
            "rpmkeys --checksig /f && dnf -y --disablerepo=* reinstall /f".into(),
        ),
        (
            "microdnf",
            Operation::ReinstallFiles(&["/f"]),
            "rpmkeys --checksig /f && rpm -U --replacepkgs /f".into(),
        ),
        (
            "zypper",
            Operation::InstallFiles(&["/f"]),
            "zypper --non-interactive --reposd-dir /nonexistent install --allow-unsigned-rpm --no-recommends /f".into(),
        ),
        (
            "zypper",
            Operation::Remove(&["a"]),
            "zypper --non-interactive remove --clean-deps a".into(),
        ),
        (
            "zypper",
            Operation::Describe("/f"),
            "rpm -q --queryformat %{NAME}\\t%{VERSION}-%{RELEASE}\\n -p /f".into(),
        ),
        (
            "pacman",
            Operation::InstallFiles(&["/f"]),
            "pacman --noconfirm --noprogressbar -U /f".into(),
        ),
        ("apk", Operation::InstallFiles(&["/f"]), "apk add --no-network /f".into()),
        ("nix", Operation::Remove(&["a"]), "nix-env --uninstall a".into()),
    ] {
        assert_eq!(said(name, &operation), wanted, "{name} {operation:?}");
    }
}

#[test]
fn a_repository_comes_with_its_key() {
    let repository = Repository {
        name: "mine",
        url: "https://x.example.org/repo",
        suite: Some("stable main"),
        key: Some("KEY\n"),
    };
    let add = Operation::AddRepository(&repository);
    let written = |name: &str| work(manager(name), &add).expect(name).files;
    let key = ("/etc/apt/keyrings/mine.asc".to_owned(), "KEY\n".to_owned());
    let sources = "Types: deb\nURIs: https://x.example.org/repo\nSuites: stable\nComponents: main\n\
        Signed-By: /etc/apt/keyrings/mine.asc\n";
    assert_eq!(
        written("apt"),
        [key, ("/etc/apt/sources.list.d/mine.sources".into(), sources.into())]
    );
    for name in ["dnf", "dnf5", "yum", "microdnf", "tdnf", "zypper", "rpm-ostree"] {
        let files = written(name);
        assert_eq!(
            files[0],
            ("/etc/pki/rpm-gpg/mine.asc".to_owned(), "KEY\n".to_owned()),
            "{name}"
        );
        assert!(files[1].0.ends_with("/mine.repo"), "{name}");
        assert!(files[1].1.contains("gpgcheck=1\ngpgkey=file:///etc/pki/rpm-gpg/mine.asc\n"));
        assert_eq!(said(name, &add), "rpm --import /etc/pki/rpm-gpg/mine.asc");
    }
    // Without a key, whatever it has is good; the address is all that a manager is told.
    let open = Repository { key: None, ..repository };
    let open = Operation::AddRepository(&open);
    for (name, part) in [
        ("apt", "Trusted: yes\n"),
        ("dnf", "gpgcheck=0\n"),
        ("zypper", "gpgcheck=0\n"),
        ("pacman", "SigLevel = Never\n"),
    ] {
        let Work { files, commands } = work(manager(name), &open).unwrap();
        assert_eq!(files.len(), 1, "{name}");
        assert!(files[0].1.contains(part) && !files[0].1.contains("gpgcheck=1"), "{files:?}");
        assert!(!commands.concat().concat().contains("key"), "{name}: {commands:?}");
    }
    assert!(work(manager("apk"), &open).is_err());
    for bad in ["", "../x", "a b", "a/b", "x\n"] {
        let repository = Repository { name: bad, ..repository };
        assert!(work(manager("apt"), &Operation::AddRepository(&repository)).is_err(), "{bad:?}");
    }
    let forged = Repository { url: "https://x\nTrusted: yes", ..repository };
    assert!(work(manager("apt"), &Operation::AddRepository(&forged)).is_err());
}

/// No name becomes an option, no operation on nothing becomes one on everything, and
/// dependencies are left out only where that is asked for of a file.
#[test]
fn the_contract_of_every_manager() {
    for kind in PACKAGE_MANAGERS {
        for bad in ["-y", "--nodeps", "", "a b", "a\nb"] {
            for operation in [
                Operation::Install(&[bad]),
                Operation::Remove(&["a", bad]),
                Operation::Owner(bad),
                Operation::Version(bad),
            ] {
                assert!(work(*kind, &operation).is_err(), "{}: {operation:?}", kind.name());
            }
        }
        for operation in [
            Operation::InstallNoDeps(&["a"]),
            Operation::InstallFiles(&["a"]),
            Operation::ReinstallFiles(&["a"]),
            Operation::Describe("a"),
        ] {
            assert!(work(*kind, &operation).is_err(), "{}: {operation:?}", kind.name());
        }
        assert!(work(*kind, &Operation::List).is_ok(), "{} lists its packages", kind.name());
        let full = kind.explain("cp: x: No space left on device").map(|e| e.cause);
        assert_eq!(full, Some(Cause::DiskFull), "{}", kind.name());
        for nothing in [Operation::Install(&[]), Operation::Remove(&[]), Operation::Purge(&[])] {
            assert!(work(*kind, &nothing).is_err(), "{}: {nothing:?}", kind.name());
        }
        let ordinary = [
            Operation::Refresh,
            Operation::Install(&["a"]),
            Operation::InstallFiles(&["/a"]),
            Operation::Upgrade(&["a"]),
            Operation::Remove(&["a"]),
        ];
        for operation in ordinary {
            let Ok(done) = work(*kind, &operation) else { continue };
            let words: Vec<&str> = done.commands.iter().flatten().map(String::as_str).collect();
            let lax = ["--nodeps", "--force-depends", "-Udd", "--allow-untrusted", "--nogpgcheck"];
            assert!(!words.iter().any(|word| lax.contains(word)), "{}: {words:?}", kind.name());
        }
    }
}

/// What managers print where they fail, word by word, and what is made of it.
#[test]
fn failures_are_explained() {
    for (name, output, cause, part) in [
        (
            "dnf",
            "Error: \n Problem: conflicting requests\n  - nothing provides nowhere needed by broken-1-1.noarch\n",
            Cause::Dependency,
            "nothing provides nowhere",
        ),
        (
            "dnf",
            "Error: Transaction test error:\n  file /usr/bin/x from install of b-1-1.noarch conflicts with file from package a-1-1.noarch\n",
            Cause::Conflict,
            "file /usr/bin/x",
        ),
        ("dnf5", "Package a-1-1.noarch is not signed\n", Cause::Signature, "is not signed"),
        (
            "microdnf",
            "error: Failed dependencies:\n\tx is needed by a-1-1.noarch\n",
            Cause::Dependency,
            "x is needed",
        ),
        (
            "zypper",
            "Problem: nothing provides 'nowhere' needed by the to be installed broken-1-1.noarch\n",
            Cause::Dependency,
            "nowhere",
        ),
        (
            "pacman",
            "error: failed to prepare transaction (could not satisfy dependencies)\n:: unable to satisfy dependency 'nowhere' required by broken\n",
            Cause::Dependency,
            "'nowhere' required by broken",
        ),
        (
            "pacman",
            "error: web: signature from \"N <n@example.org>\" is unknown trust\n",
            Cause::Signature,
            "unknown trust",
        ),
        (
            "apk",
            "ERROR: unable to select packages:\n  so:x (no such package):\n    required by: web-1\n",
            Cause::Dependency,
            "required by",
        ),
        ("apk", "ERROR: web.apk: UNTRUSTED signature\n", Cause::Signature, "UNTRUSTED"),
        ("xbps", "MISSING: nowhere>=0\n", Cause::Dependency, "nowhere"),
        ("apt", "E: Unable to locate package x\n", Cause::NotFound, "locate package x"),
    ] {
        let explained = manager(name).explain(output).unwrap_or_else(|| panic!("{name}: {output}"));
        assert_eq!(explained.cause, cause, "{name}: {explained:?}");
        assert!(explained.text.contains(part), "{name}: {explained:?}");
        assert_eq!(manager(name).explain("all is well"), None);
    }
    let script = "Running scriptlet\nno luck today\nwarning: %post(bad-1-1.noarch) scriptlet failed, exit status 3\n";
    let explained = manager("dnf").explain(script).unwrap();
    assert!(explained.text.ends_with("no luck today"), "{explained:?}");
    // Some succeed in spite of it.
    assert_eq!(manager("dnf").complaint(script), Some(explained));
    assert_eq!(manager("dnf").complaint("warning: x: Header V4 RSA: NOKEY\n"), None);
}

/// Does an operation with programs in the place of the manager's: name and script of each.
fn done(name: &str, operation: &Operation<'_>, programs: &[(&str, &str)]) -> (i32, String) {
    let temp = tempfile::tempdir().unwrap();
    for (program, script) in programs {
        let path = temp.path().join(program);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", temp.path().display(), std::env::var("PATH").unwrap());
    let (mut code, mut said) = (0, String::new());
    for words in work(manager(name), operation).unwrap().commands {
        let mut command = std::process::Command::new(&words[0]);
        command.args(&words[1..]).env("PATH", &path).current_dir(temp.path());
        let output = command.output().unwrap();
        said += &String::from_utf8_lossy(&output.stdout);
        code = output.status.code().unwrap();
        if code != 0 {
            break;
        }
    }
    (code, said)
}

#[test]
fn versions_are_told_by_the_list() {
    let kiss = [("kiss", "printf '%s\\n' 'a 1-1' 'ab 2-1'")];
    assert_eq!(done("kiss", &Operation::Version("ab"), &kiss), (0, "2-1\n".into()));
    assert_eq!(done("kiss", &Operation::Version("b"), &kiss), (1, String::new()));
    let apk = [("apk", "test \"$*\" = 'info -v' && printf '%s\\n' a-b-1.0-r0 b-2-r10")];
    assert_eq!(done("apk", &Operation::Version("a-b"), &apk), (0, "1.0-r0\n".into()));
    assert_eq!(done("apk", &Operation::Version("b"), &apk), (0, "2-r10\n".into()));
}

/// "20 No package found", "50 Slackpkg itself was upgraded" (slackpkg(8)).
#[test]
fn slackpkg_is_asked_once_more_and_nothing_to_do_is_no_failure() {
    let says = |script: &str| {
        let script = format!("echo \"$*\" >>said; {script}");
        done("pkgtools", &Operation::Upgrade(&[]), &[("slackpkg", &script)])
    };
    assert_eq!(says("exit 0").0, 0);
    assert_eq!(says("exit 20").0, 0);
    assert_eq!(says("exit 1").0, 1);
    // Once for itself, and once for the others.
    assert_eq!(says("test $(wc -l <said) = 2 || exit 50; cat said").1.lines().count(), 2);
    assert_eq!(says("exit 50").0, 50);
    let asked = says("cat said").1;
    assert_eq!(asked, "-batch=on -default_answer=y upgrade-all\n");
}

#[test]
fn a_file_of_apk_is_described_and_installed_again() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join(".PKGINFO"), "pkgname = a-b\npkgver = 1.0-r0\n").unwrap();
    let file = temp.path().join("x.apk");
    let mut tar = std::process::Command::new("tar");
    tar.arg("-C").arg(temp.path()).arg("-czf").arg(&file).arg(".PKGINFO");
    assert!(tar.status().unwrap().success());
    let file = file.to_str().unwrap();
    assert_eq!(done("apk", &Operation::Describe(file), &[]), (0, "a-b\t1.0-r0\n".into()));
    assert_ne!(done("apk", &Operation::Describe("/dev/null"), &[]).0, 0);
    let apk = "case $1 in --print-arch) echo any;; index) ls \"${5%/*}\";; *) echo \"$1\" \"${6##*/}\" \"$7\";; esac";
    let (code, said) = done("apk", &Operation::ReinstallFiles(&[file]), &[("apk", apk)]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("a-b-1.0-r0.apk\nfix ") && said.ends_with(" a-b\n"), "{said}");
}
