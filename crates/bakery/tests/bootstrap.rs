//! The bootstrap source, from an archive on the loopback device up to the draft of an
//! image. What the image's own dpkg does then is tested where there is an engine.

mod archive;

use std::path::PathBuf;
use std::sync::Mutex;

use archive::{Entry, Files, Key, Package, Server, Suite};
use bakery::source::{Content, Context, Draft, Options, Pulled, find};
use spec::event::Event;
use spec::image::{Config, Facts, Image, Origin};
use spec::recipe::Recipe;
use spec::reference::Reference;
use store::{NewLayer, Store};

const INRELEASE: &str = "/debian/dists/bookworm/InRelease";

/// What a system consists of at least, all made up.
fn packages() -> Vec<Package> {
    let base_files = Package::new("base-files", "Essential: yes\nPriority: required\n")
        .with_data(&[
            Entry::directory("./"),
            Entry { mode: 0o1777, ..Entry::directory("./tmp/") },
            Entry::directory("./etc/"),
            Entry::file("./etc/issue", b"made up\n"),
            Entry::file("./usr/share/base-files/x", b"x"),
        ])
        .with_control("conffiles", "/etc/issue\n")
        .with_control("preinst", "#!/bin/sh\n")
        .with_control("md5sums", "9dd4e461268c8034f5c8564e155c67a6  usr/share/base-files/x\n");
    let shell = Package::new("dash", "Essential: yes\nPre-Depends: libc\n").with_data(&[
        Entry::directory("./"),
        Entry::directory("./bin/"),
        Entry { mode: 0o755, ..Entry::file("./bin/dash", b"#!") },
        Entry::symlink("./bin/sh", "dash"),
    ]);
    let libc = Package::new("libc", "Multi-Arch: same\n").with_control(
        "triggers",
        "# comment\nactivate-noawait ldconfig\ninterest-noawait /usr/lib/x\ninterest ldconfig\n",
    );
    vec![
        base_files,
        shell,
        libc,
        Package::new("apt", "Depends: libapt (>= 1), dash\n"),
        Package::new("libapt", ""),
        Package::new("systemd", "Depends: libc, logind | elogind\n"),
        Package::new("elogind", ""),
        Package::new("systemd-sysv", "Depends: systemd (= 1.0)\n"),
        Package::new("dbus", "Depends: libdbus\n"),
        Package::new("libdbus", ""),
        Package::new("hello", "Depends: libhello (>= 1.0)\n"),
        Package::new("libhello", ""),
        Package::new("broken", "Depends: libhello (>= 2)\n"),
    ]
}

/// A store, a keyring and a server with a signed suite.
struct Bench {
    directory: tempfile::TempDir,
    key: Key,
    server: Server,
    options: Options,
    news: Mutex<Vec<Event>>,
}

impl Bench {
    fn new() -> Self {
        Self::of(&Suite::new("bookworm", packages()))
    }

    fn of(suite: &Suite) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = Key::new("archive");
        let mut files = Files::default();
        let text = suite.publish(&mut files);
        files.content.insert(INRELEASE.into(), key.clearsign(&text));
        let keyring = directory.path().join("keyring.gpg");
        std::fs::write(&keyring, key.public()).unwrap();
        let server = Server::new(files);
        let options = Options {
            mirror: Some(server.url("/debian")),
            keyring: Some(keyring),
            ..Options::default()
        };
        Self { directory, key, server, options, news: Mutex::default() }
    }

    fn store(&self) -> Store {
        Store::open(&self.directory.path().join("store")).unwrap()
    }

    fn pull(&self) -> anyhow::Result<Pulled> {
        self.pull_again(None)
    }

    fn pull_again(&self, previous: Option<&Image>) -> anyhow::Result<Pulled> {
        let reference = Reference::Catalog("debian-bookworm".into());
        let tell = |event| self.news.lock().unwrap().push(event);
        let store = self.store();
        let context = Context { store: &store, tell: &tell, options: &self.options, previous };
        find(&reference).unwrap().pull(&reference, &context)
    }

    fn draft(&self) -> Draft {
        match self.pull() {
            Ok(Pulled::Draft(draft)) => *draft,
            Ok(_) => panic!("not a draft"),
            Err(error) => panic!("{error:#}"),
        }
    }

    #[track_caller]
    fn fails(&self, part: &str) {
        let error = match self.pull() {
            Err(error) => format!("{error:#}"),
            Ok(_) => panic!("it should fail: {part}"),
        };
        assert!(error.contains(part), "{part:?} is not in: {error}");
        let left = std::fs::read_dir(self.directory.path().join("store/tmp")).unwrap().count();
        assert_eq!(left, 0, "half a layer is left");
    }

    fn change(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        change(self.server.files.lock().unwrap().content.get_mut(path).expect(path));
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.server.files.lock().unwrap().log)
    }
}

/// An image that was made of a draft's origin.
fn image_of(origin: Origin) -> Image {
    Image {
        id: "x".into(),
        layers: Vec::new(),
        config: Config::default(),
        facts: Facts::default(),
        origin,
        created: 0,
        size: 0,
    }
}

fn parts(draft: &Draft) -> (&NewLayer, &Recipe) {
    match &draft.content {
        Content::Root(layer, recipe) => (layer, recipe),
        Content::Layers(_) => panic!("a bootstrap makes a root"),
    }
}

fn read(draft: &Draft, path: &str) -> String {
    let path = parts(draft).0.path().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_suite_becomes_a_draft() {
    let mut bench = Bench::new();
    bench.options.include = vec!["hello".into()];
    let draft = bench.draft();
    let root = parts(&draft).0.path().to_owned();
    assert_eq!(std::fs::read_link(root.join("bin")).unwrap(), PathBuf::from("usr/bin"));
    assert_eq!(std::fs::read_link(root.join("usr/bin/sh")).unwrap(), PathBuf::from("dash"));
    assert_eq!(read(&draft, "etc/issue"), "made up\n");
    assert!(
        draft.names.contains(&"debian-12".into())
            && draft.names.contains(&"debian-bookworm".into())
    );

    let Origin::Bootstrap(origin) = &draft.origin else { panic!("{:?}", draft.origin) };
    assert_eq!(origin.label, "debian-12");
    assert_eq!(origin.snapshot, 1_754_730_990);
    assert_eq!(origin.include, ["hello"]);
    assert_eq!(origin.sources.len(), 1);
    assert!(origin.sources[0].ends_with("/debian bookworm main"));
    let arch = archive::architecture();
    let names = [
        "apt",
        "base-files",
        "dash",
        "dbus",
        "elogind",
        "hello",
        "libapt",
        "libc",
        "libdbus",
        "libhello",
        "systemd-sysv",
        "systemd",
    ];
    let expected: Vec<String> = names.iter().map(|name| format!("{name}=1.0:{arch}")).collect();
    assert_eq!(origin.packages, expected);

    let status = read(&draft, "var/lib/dpkg/status");
    assert_eq!(status.matches("Status: install ok unpacked\n").count(), names.len());
    assert!(status.contains("Conffiles:\n /etc/issue 2804c7f2e40aba39c6215d8f2bf153e8\n"));
    assert_eq!(read(&draft, "var/lib/dpkg/arch"), format!("{arch}\n"));
    assert_eq!(read(&draft, "var/lib/dpkg/info/format"), "1\n");
    assert_eq!(
        read(&draft, "var/lib/dpkg/info/base-files.list"),
        "/.\n/tmp\n/etc\n/etc/issue\n/usr/share/base-files/x\n"
    );
    assert!(root.join(format!("var/lib/dpkg/info/libc:{arch}.list")).exists());
    let generated = read(&draft, "var/lib/dpkg/info/dash.md5sums");
    assert_eq!(generated, "ad540a4cc5c410795131d4d8db7a6d91  bin/dash\n");
    assert_eq!(
        read(&draft, "var/lib/dpkg/triggers/File"),
        format!("/usr/lib/x libc:{arch}/noawait\n")
    );
    assert_eq!(read(&draft, "var/lib/dpkg/triggers/ldconfig"), format!("libc:{arch}\n"));
    assert_eq!(read(&draft, "etc/apt/sources.list"), origin.sources[0].clone() + "\n");
    let automatic = read(&draft, "var/lib/apt/extended_states");
    assert!(automatic.contains("Package: libhello\n") && automatic.contains("Package: elogind\n"));
    assert!(!automatic.contains("Package: hello\n") && !automatic.contains("Package: libapt\n"));

    let steps = &parts(&draft).1.steps;
    assert_eq!(steps.len(), 3);
    assert_eq!(steps[0].args[4..], ["base-files", arch]);
    let order: Vec<&str> = steps[1].args.iter().map(String::as_str).collect();
    let at = |name: &str| order.iter().position(|arg| *arg == name).expect(name);
    assert_eq!(order[0], "dpkg");
    assert!(
        at(&format!("libc:{arch}")) < at("dash")
            && at("dash") < at("apt")
            && at("apt") < at("systemd")
    );
    drop(draft);
    assert!(!root.exists(), "a draft that is dropped leaves nothing");
    let news = bench.news.lock().unwrap();
    let last = news.iter().rev().find_map(|event| match event {
        Event::Step { done, total, .. } => Some((*done, *total)),
        _ => None,
    });
    assert_eq!(last, Some((12, 12)));
}

#[test]
fn the_same_again_is_up_to_date() {
    let bench = Bench::new();
    let image = image_of(bench.draft().origin);
    bench.requests();
    assert!(matches!(bench.pull_again(Some(&image)).unwrap(), Pulled::UpToDate));
    let requests = bench.requests();
    assert!(
        requests.iter().all(|r| r.contains("Release")),
        "only Release files were asked for: {requests:?}"
    );

    // Another Release of the same packages.
    let mut suite = Suite::new("bookworm", packages());
    suite.fields = suite.fields.replace("09:16:30", "10:16:30");
    let text = suite.publish(&mut Files::default());
    bench.change(INRELEASE, |content| *content = bench.key.clearsign(&text));
    assert!(matches!(bench.pull_again(Some(&image)).unwrap(), Pulled::UpToDate));

    // A newer package.
    let mut packages = packages();
    packages[4].version = "1.1".into();
    let suite = Suite::new("bookworm", packages);
    {
        let mut files = bench.server.files.lock().unwrap();
        let text = suite.publish(&mut files);
        files.content.insert(INRELEASE.into(), bench.key.clearsign(&text));
    }
    let Pulled::Draft(draft) = bench.pull_again(Some(&image)).unwrap() else { panic!("it is new") };
    let Origin::Bootstrap(origin) = &draft.origin else { panic!() };
    assert!(origin.packages.iter().any(|p| p.starts_with("libapt=1.1:")));

    let forced = Bench { options: Options { force: true, ..bench.options.clone() }, ..bench };
    let image = image_of(draft.origin.clone());
    assert!(matches!(forced.pull_again(Some(&image)).unwrap(), Pulled::Draft(_)));
}

#[test]
fn updates_are_merged_in_where_there_are_any() {
    let bench = Bench::new();
    let mut newer = Package::new("libdbus", "");
    newer.version = "1.0+u1".into();
    let suite = Suite::new("bookworm-updates", vec![newer]);
    {
        let mut files = bench.server.files.lock().unwrap();
        let text = suite.publish(&mut files);
        files
            .content
            .insert("/debian/dists/bookworm-updates/InRelease".into(), bench.key.clearsign(&text));
    }
    let Origin::Bootstrap(origin) = bench.draft().origin else { panic!() };
    assert_eq!(origin.sources.len(), 2);
    assert!(origin.packages.iter().any(|p| p.starts_with("libdbus=1.0+u1:")));
}

#[test]
fn only_a_known_key_will_do() {
    let bench = Bench::new();
    let other = Key::new("other");
    std::fs::write(bench.options.keyring.as_ref().unwrap(), other.public()).unwrap();
    bench.fails("is in no keyring that is used");
    std::fs::write(
        bench.options.keyring.as_ref().unwrap(),
        [other.public(), bench.key.public()].concat(),
    )
    .unwrap();
    bench.draft();
    std::fs::write(bench.options.keyring.as_ref().unwrap(), "no key at all").unwrap();
    bench.fails("keyring.gpg");
}

#[test]
fn a_changed_release_is_refused() {
    let bench = Bench::new();
    let good = bench.server.files.lock().unwrap().content[INRELEASE].clone();
    let text = String::from_utf8(good.clone()).unwrap();
    let set = |text: String| bench.change(INRELEASE, |content| *content = text.into_bytes());
    set(text.replacen("Components: main", "Components: mean", 1));
    bench.fails("does not fit the content");
    set(format!("Suite: evil\n{text}"));
    bench.fails("no OpenPGP clearsigned message");
    set(format!("{text}\nSuite: evil\n"));
    bench.fails("clearsigned");
    set(text[..text.len() / 2].to_owned());
    bench.fails("clearsigned");
    set(text.replacen(
        "-----BEGIN PGP SIGNED MESSAGE-----\n",
        "-----BEGIN PGP SIGNED MESSAGE-----\nSuite: evil\n",
        1,
    ));
    bench.fails("clearsigned");
    set(String::new());
    bench.fails("no OpenPGP clearsigned message");
    set(text);
    bench.draft();
}

#[test]
fn a_detached_signature_does_as_well() {
    let bench = Bench::new();
    let text = Suite::new("bookworm", packages()).publish(&mut Files::default());
    let set = |signature: Vec<u8>| {
        let mut files = bench.server.files.lock().unwrap();
        files.content.remove(INRELEASE);
        files.content.insert("/debian/dists/bookworm/Release".into(), text.clone().into_bytes());
        files.content.insert("/debian/dists/bookworm/Release.gpg".into(), signature);
    };
    set(bench.key.detach(&text));
    bench.draft();
    set(bench.key.detach("another text"));
    bench.fails("does not fit the content");
    set(Key::new("other").detach(&text));
    bench.fails("is in no keyring that is used");
    bench.server.files.lock().unwrap().content.remove("/debian/dists/bookworm/Release.gpg");
    bench.fails("it is not signed");
    bench.server.files.lock().unwrap().content.remove("/debian/dists/bookworm/Release");
    bench.fails("has no suite bookworm");
}

#[test]
fn dates_and_names_of_a_release_are_checked() {
    let bench = Bench::new();
    for (from, to, part) in [
        (
            "Codename: bookworm\n",
            "Codename: bookworm\nValid-Until: Sat, 16 Aug 2025 09:16:30 UTC\n",
            "expired",
        ),
        ("Sat, 09 Aug 2025", "Sat, 09 Aug 2225", "in the future"),
        ("bookworm", "trixie", "is for trixie or trixie, not for bookworm"),
    ] {
        let mut suite = Suite::new("bookworm", packages());
        suite.fields = suite.fields.replace(from, to);
        let text = suite.publish(&mut Files::default());
        bench.change(INRELEASE, |content| *content = bench.key.clearsign(&text));
        bench.fails(part);
    }
}

fn index_path(bench: &Bench) -> (String, String) {
    let files = bench.server.files.lock().unwrap();
    let find = |part: &str| files.content.keys().find(|path| path.contains(part)).unwrap().clone();
    (find("by-hash"), find("Packages.xz"))
}

#[test]
fn a_damaged_index_is_refused_and_a_missing_one_looked_for_elsewhere() {
    let bench = Bench::new();
    let (by_hash, plain) = index_path(&bench);
    let good = bench.server.files.lock().unwrap().content[&by_hash].clone();
    bench.change(&by_hash, |content| content[60] ^= 1);
    bench.fails("SHA-256");
    bench.server.files.lock().unwrap().content.remove(&by_hash);
    bench.draft();
    let requests = bench.requests();
    assert!(requests.contains(&format!("{by_hash} 0")) && requests.contains(&format!("{plain} 0")));
    let other = Bench::new();
    let (by_hash, plain) = index_path(&other);
    other.server.files.lock().unwrap().content.remove(&by_hash);
    other.server.files.lock().unwrap().content.remove(&plain);
    other.fails("the archive does not have");
    let longer = Bench::new();
    longer.change(&index_path(&longer).0, |content| *content = [&good[..], b"more"].concat());
    longer.fails("is larger than");
}

#[test]
fn an_index_that_unpacks_to_more_than_it_may_is_refused() {
    let suite = Suite::new("bookworm", packages());
    let bench = Bench::of(&suite);
    let text = suite.publish(&mut Files::default());
    let line = text.lines().find(|line| line.ends_with("/Packages")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    let smaller = text.replacen(line, &format!(" {} 100 {}", words[0], words[2]), 1);
    bench.change(INRELEASE, |content| *content = bench.key.clearsign(&smaller));
    bench.fails("unpacks to more than 100 bytes");
}

#[test]
fn a_damaged_package_is_refused() {
    let bench = Bench::new();
    let path = "/debian/pool/libdbus_1.0.deb";
    let good = bench.server.files.lock().unwrap().content[path].clone();
    bench.change(path, |content| *content.last_mut().unwrap() ^= 1);
    bench.fails("libdbus 1.0");
    bench.change(path, |content| *content = good[..good.len() - 10].to_vec());
    bench.fails("libdbus 1.0");
    bench.change(path, |content| *content = [&good[..], b"x"].concat());
    bench.fails("is larger than");
    bench.change(path, |content| *content = good.clone());
    bench.draft();
    bench.server.files.lock().unwrap().content.remove(path);
    bench.draft();
}

#[test]
fn a_package_that_is_missing_is_named() {
    let bench = Bench::new();
    bench.server.files.lock().unwrap().content.remove("/debian/pool/apt_1.0.deb");
    bench.fails("fetching apt 1.0: the archive does not have");
}

#[test]
fn a_connection_that_breaks_is_resumed() {
    let bench = Bench::new();
    let path = "/debian/pool/systemd_1.0.deb";
    bench.server.files.lock().unwrap().cut.insert(path.into(), 100);
    bench.draft();
    let requests = bench.requests();
    assert!(
        requests.contains(&format!("{path} 0")) && requests.contains(&format!("{path} 100")),
        "{requests:?}"
    );
    let warned =
        |event: &Event| matches!(event, Event::Warning { text } if text.contains("trying again"));
    assert!(bench.news.lock().unwrap().iter().any(warned));
}

#[test]
fn what_was_fetched_is_not_fetched_again() {
    let bench = Bench::new();
    bench.draft();
    bench.requests();
    bench.draft();
    let requests = bench.requests();
    assert!(requests.iter().all(|request| request.contains("Release")), "{requests:?}");
}

#[test]
fn hostile_packages_write_nothing_outside() {
    let outside = tempfile::tempdir().unwrap();
    let escape = format!("{}/escaped", outside.path().display());
    for (entries, part) in [
        (vec![Entry::file("../../../escaped", b"x")], "evil"),
        (vec![Entry::file("./usr/../../../escaped", b"x")], "evil"),
    ] {
        let mut all = packages();
        all.push(Package::new("evil", "Essential: yes\n").with_data(&entries));
        let bench = Bench::of(&Suite::new("bookworm", all));
        bench.fails(part);
    }
    let mut all = packages();
    all.push(Package::new("evil", "Essential: yes\n").with_data(&[
        Entry::symlink("./way", &outside.path().display().to_string()),
        Entry::file("./way/escaped", b"x"),
        Entry::symlink("./var/lib/dpkg", &outside.path().display().to_string()),
    ]));
    let bench = Bench::of(&Suite::new("bookworm", all));
    // Inside the image the absolute link leads to a directory of the image, if to any.
    let _ = bench.pull();
    assert!(!std::path::Path::new(&escape).exists());
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn a_package_that_is_another_is_refused() {
    let bench = Bench::new();
    let mut all = packages();
    all[4].name = "libevil".into();
    let deb = all[4].deb();
    let mut files = Files::default();
    let mut text = Suite::new("bookworm", packages()).publish(&mut files);
    // A signed index that gives the wrong package's digest for a name.
    let path = "/debian/pool/libapt_1.0.deb";
    let good = files.content[path].clone();
    let old = (archive::sha256(&good), good.len());
    let (by_hash, _) = index_path(&bench);
    let mut plain = Vec::new();
    std::io::Read::read_to_end(
        &mut liblzma::read::XzDecoder::new(&files.content[&by_hash][..]),
        &mut plain,
    )
    .unwrap();
    let plain = String::from_utf8(plain).unwrap().replace(&old.0, &archive::sha256(&deb)).replace(
        &format!("libapt_1.0.deb\nSize: {}", old.1),
        &format!("libapt_1.0.deb\nSize: {}", deb.len()),
    );
    let directory = format!("main/binary-{}", archive::architecture());
    let head = text.split("SHA256:").next().unwrap().to_owned();
    text = format!(
        "{head}SHA256:\n {} {} {directory}/Packages\n",
        archive::sha256(plain.as_bytes()),
        plain.len()
    );
    {
        let mut files = bench.server.files.lock().unwrap();
        files
            .content
            .insert(format!("/debian/dists/bookworm/{directory}/Packages"), plain.into_bytes());
        files.content.insert(path.into(), deb);
        files.content.insert(INRELEASE.into(), bench.key.clearsign(&text));
    }
    bench.fails("the package says that it is libevil 1.0");
}

#[test]
fn wishes_that_cannot_be_met_are_explained() {
    let mut bench = Bench::new();
    bench.options.include = vec!["broken".into()];
    bench.fails("libhello (>= 2)");
    bench.options.include = vec!["no-such-package".into()];
    bench.fails("no suite that is used has a package no-such-package");
    bench.options.include = Vec::new();
    bench.options.platform = Some("linux/riscv64".into());
    bench.fails("has no packages of main for riscv64");
    bench.options.platform = Some("plan9/amd64".into());
    bench.fails("is no platform");
    bench.options.platform = None;
    bench.options.mirror = Some(bench.server.url("/nowhere"));
    bench.fails("has no suite bookworm");
}

#[test]
fn a_directory_is_an_archive_too() {
    let mut bench = Bench::new();
    let base = bench.directory.path().join("served");
    for (path, content) in &bench.server.files.lock().unwrap().content {
        let path = base.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    bench.options.mirror = Some(format!("file://{}/debian", base.display()));
    let draft = bench.draft();
    assert_eq!(read(&draft, "etc/issue"), "made up\n");
    assert!(bench.requests().is_empty());
}

#[test]
fn two_packages_with_one_file_need_a_rule() {
    let file = [Entry::directory("./"), Entry::file("./usr/bin/tool", b"old")];
    let newer = [Entry::directory("./"), Entry::file("./usr/bin/tool", b"new")];
    let mut all = packages();
    all.push(Package::new("tool-old", "Essential: yes\n").with_data(&file));
    all.push(Package::new("tool-new", "Essential: yes\n").with_data(&newer));
    Bench::of(&Suite::new("bookworm", all.clone())).fails("have the file /usr/bin/tool");
    let last = all.len() - 1;
    all[last].fields.push_str("Replaces: tool-old (<< 2)\n");
    let bench = Bench::of(&Suite::new("bookworm", all));
    let draft = bench.draft();
    assert_eq!(read(&draft, "usr/bin/tool"), "new");
    assert_eq!(read(&draft, "var/lib/dpkg/info/tool-old.list"), "/.\n");
    assert_eq!(read(&draft, "var/lib/dpkg/info/tool-new.list"), "/.\n/usr/bin/tool\n");
}
