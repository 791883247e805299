//! `pull` of archives and directories: what they become, what is refused, and that nothing half-made remains.

mod fixture;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use fixture::{Own, busybox, fails, is_root, out, said, tar};

/// A root with a marker, and its archive.
fn archive(own: &Own, marker: &str) -> String {
    let root = own.path("root");
    if !root.exists() {
        busybox(&root);
    }
    fs::write(root.join("etc/marker"), marker).unwrap();
    let file = own.path("root.tar");
    tar(&root, &file);
    file.to_str().unwrap().to_owned()
}

/// A file that a program made of another one.
fn piped(program: &[&str], from: &str, to: &Path) {
    let done = Command::new(program[0])
        .args(&program[1..])
        .stdin(fs::File::open(from).unwrap())
        .stdout(fs::File::create(to).unwrap())
        .stderr(Stdio::inherit())
        .status();
    assert!(done.expect("`cargo xtask setup` installs it").success(), "{program:?}");
}

const COMPRESSORS: [&[&str]; 4] =
    [&["cat"], &["gzip", "-1"], &["xz", "-0", "-T1"], &["zstd", "-q", "-1"]];

#[test]
fn archives_are_told_by_their_content() {
    let own = Own::new("content");
    let plain = archive(&own, "packed");
    for compressor in COMPRESSORS {
        // A name that says nothing, and one that lies.
        let file = own.path(&format!("of-{}.gz", compressor[0]));
        piped(compressor, &plain, &file);
        let image = format!("tar:{}", file.display());
        assert_eq!(own.pull(&image), format!("Status: Downloaded image for {image}"));
        assert_eq!(out(&mut own.sh(&image, "cat /etc/marker")), "packed");
        let path = file.to_str().unwrap();
        assert_eq!(out(&mut own.sh(path, "cat /etc/marker")), "packed", "as a bare path");
    }
    own.is_sound();
}

#[test]
fn what_is_new_is_told_from_what_is_not() {
    let own = Own::new("newer");
    let file = archive(&own, "first");
    let image = format!("tar:{file}");
    assert_eq!(own.pull(&file), format!("Status: Downloaded image for {image}"));
    assert_eq!(own.pull(&file), format!("Status: Image is up to date for {image}"));
    let id = own.json(&["inspect", &image])[0]["Id"].clone();
    // Touched, but not changed.
    fs::File::options()
        .append(true)
        .open(&file)
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();
    assert_eq!(own.pull(&file), format!("Status: Image is up to date for {image}"));
    archive(&own, "second");
    // `run` sees for itself that the file has changed.
    assert_eq!(out(&mut own.sh(&file, "cat /etc/marker")), "second");
    assert_eq!(own.pull(&file), format!("Status: Image is up to date for {image}"));
    archive(&own, "third");
    assert_eq!(own.pull(&file), format!("Status: Downloaded newer image for {image}"));
    assert_ne!(own.json(&["inspect", &image])[0]["Id"], id);
    assert_eq!(out(&mut own.sh(&file, "cat /etc/marker")), "third");
    let listed = own.json(&["images", "--json"]);
    let named: Vec<bool> =
        listed.as_array().unwrap().iter().map(|i| i["Names"] != serde_json::json!([])).collect();
    assert_eq!(named, [true, false, false], "older ones stay, without a name");
    own.is_sound();
}

#[test]
fn damaged_archives_are_named_and_leave_nothing() {
    let own = Own::new("damaged");
    let plain = archive(&own, "");
    for compressor in COMPRESSORS {
        let file = own.path(&format!("cut-{}", compressor[0]));
        piped(compressor, &plain, &file);
        let length = fs::metadata(&file).unwrap().len();
        fs::File::options().write(true).open(&file).unwrap().set_len(length / 2).unwrap();
        let path = file.to_str().unwrap();
        fails(&mut own.postroj(&["pull", path]), 125, &["reading the archive", path]);
        fails(&mut own.postroj(&["run", path, "true"]), 125, &["reading the archive", path]);
    }
    for (name, content, part) in [
        (
            "text",
            &b"no archive at all, but rather more than a block of text\n".repeat(40)[..],
            "reading the archive",
        ),
        ("empty", b"", "the archive is empty"),
        ("zeros", &[0; 4096], "the archive is empty"),
        ("gzip of nothing", b"\x1f\x8b", "reading the archive"),
    ] {
        let file = own.path(name);
        fs::write(&file, content).unwrap();
        let path = file.to_str().unwrap();
        fails(&mut own.postroj(&["pull", path]), 125, &[part, path]);
    }
    assert_eq!(own.json(&["images", "--json"]), serde_json::json!([]));
    own.is_sound();
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let own = Own::new("nofile");
    let fifo = own.path("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let tar = |path: &Path| format!("tar:{}", path.display());
    fails(&mut own.postroj(&["pull", &tar(&fifo)]), 125, &["fifo is no regular file"]);
    let directory = own.path("directory");
    fs::create_dir(&directory).unwrap();
    fails(&mut own.postroj(&["pull", &tar(&directory)]), 125, &["directory is no regular file"]);
    fails(&mut own.postroj(&["pull", &tar(&own.path("none"))]), 125, &["none", "no such file"]);
    fails(&mut own.postroj(&["pull", "/no/such/file"]), 125, &["/no/such/file", "no such file"]);
    fails(&mut own.postroj(&["pull", "dir:/no/such/dir"]), 125, &["/no/such/dir", "no such file"]);
    let file = own.path("file");
    fs::write(&file, "").unwrap();
    let image = format!("dir:{}", file.display());
    fails(&mut own.postroj(&["pull", &image]), 125, &["file", "not a directory"]);
}

#[test]
fn hostile_archives_write_nothing_outside() {
    let own = Own::new("hostile");
    let tree = own.path("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("evil"), "x").unwrap();
    let target = own.path("target");
    fs::create_dir(&target).unwrap();
    let outside = target.to_str().unwrap();
    std::os::unix::fs::symlink(outside, tree.join("link")).unwrap();
    let file = own.path("hostile.tar");
    for (rename, refused) in [
        (r"s,^evil$,../../../../../../tmp/postroj-evil,", true),
        // In the root, the link leads nowhere.
        (r"s,^evil$,link/evil,", true),
        (r"s,^evil$,/etc/postroj-evil,", false),
    ] {
        let made = Command::new("tar")
            .args(["-P", "--transform", rename, "-C"])
            .arg(&tree)
            .arg("-cf")
            .arg(&file)
            .args(["link", "evil"])
            .status();
        assert!(made.unwrap().success());
        let said = said(&mut own.postroj(&["pull", file.to_str().unwrap()]));
        assert_eq!(said.code, if refused { 125 } else { 0 }, "{rename}: {said:?}");
        if refused {
            assert!(said.err.contains("evil: "), "{said:?}");
        }
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "{rename}");
        assert!(!Path::new("/tmp/postroj-evil").exists(), "{rename}");
        assert!(!Path::new("/etc/postroj-evil").exists(), "{rename}");
    }
    own.is_sound();
}

#[test]
fn owners_and_modes_are_those_of_the_archive() {
    let own = Own::new("owners");
    archive(&own, "");
    let file = own.path("owned.tar");
    let made = Command::new("tar")
        .args(["--owner=app:1000", "--group=extra:2000", "--numeric-owner", "--mode=u+s,g+s,o="])
        .arg("-C")
        .arg(own.path("root"))
        .arg("-cf")
        .arg(&file)
        .args(["--transform", "s,etc/marker,srv/mine,", "etc/marker"])
        .status();
    assert!(made.unwrap().success());
    let joined = Command::new("tar").arg("-Af").args([own.path("root.tar"), file]).status();
    assert!(joined.unwrap().success());
    let image = own.path("root.tar");
    let image = image.to_str().unwrap();
    own.pull(image);
    assert_eq!(out(&mut own.sh(image, "stat -c '%u:%g %a' /srv/mine")), "1000:2000 6640");
    own.is_sound();
}

#[test]
fn directories_are_copied_as_they_are_now() {
    let own = Own::new("directory");
    let root = own.path("root");
    busybox(&root);
    fs::write(root.join("etc/marker"), "first").unwrap();
    fs::set_permissions(root.join("srv"), PermissionsExt::from_mode(0o2771)).unwrap();
    fs::hard_link(root.join("etc/marker"), root.join("srv/hard")).unwrap();
    fs::File::create(root.join("srv/hole")).unwrap().set_len(16 << 20).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("srv/socket")).unwrap();
    let image = format!("dir:{}", root.display());
    assert_eq!(own.pull(&image), format!("Status: Downloaded image for {image}"));
    fs::write(root.join("etc/marker"), "second").unwrap();
    let copied = own.json(&["inspect", &image]);
    let layer = copied[0]["RootFS"]["Layers"][0].as_str().unwrap().trim_start_matches("sha256:");
    let layer = own.store().join("layers").join(layer).join("root");
    // The copy stays what it was; `run dir:` uses the directory itself.
    assert_eq!(fs::read_to_string(layer.join("etc/marker")).unwrap(), "first");
    assert_eq!(out(&mut own.sh(&image, "cat /etc/marker")), "second");
    let srv = fs::metadata(layer.join("srv")).unwrap();
    assert_eq!(srv.mode() & 0o7777, 0o2771);
    let stat = |name: &str| fs::metadata(layer.join(name)).unwrap();
    assert_eq!(stat("srv/hard").ino(), stat("etc/marker").ino());
    assert!(stat("srv/hole").len() == 16 << 20 && stat("srv/hole").blocks() < 100);
    assert!(!layer.join("srv/socket").exists());
    let status = own.pull(&image);
    assert_eq!(status, format!("Status: Downloaded newer image for {image}"));
    own.is_sound();
}

#[test]
fn a_store_below_the_directory_is_not_copied_into_itself() {
    let own = Own::new("below");
    let root = own.path("root");
    busybox(&root);
    let store = root.join("srv/store");
    let image = format!("dir:{}", root.display());
    let mut pull = own.postroj(&["pull", "--quiet", &image]);
    assert_eq!(out(pull.env("POSTROJ_STORE", &store)), "");
    let mut list = own.postroj(&["inspect", &image]);
    let text = out(list.env("POSTROJ_STORE", &store));
    let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
    let layer = parsed[0]["RootFS"]["Layers"][0].as_str().unwrap().trim_start_matches("sha256:");
    let copy = store.join("layers").join(layer).join("root/srv/store");
    assert_eq!(fs::read_dir(copy).unwrap().count(), 0);
    let mut prune = own.postroj(&["system", "prune", "--all"]);
    out(prune.env("POSTROJ_STORE", &store));
}

#[test]
fn device_nodes_are_left_out_with_a_word_where_they_cannot_be_made() {
    // 'c' of a header made by hand: nobody but root could pack one.
    let own = Own::new("devices");
    let file = own.path("devices.tar");
    let mut header = [0; 512];
    header[..4].copy_from_slice(b"null");
    for (at, text) in [(100, "0000666"), (108, "0000000"), (116, "0000000"), (124, "00000000000")] {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    header[136..147].copy_from_slice(b"00000000000");
    header[156] = b'3';
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[329..336].copy_from_slice(b"0000001");
    header[337..344].copy_from_slice(b"0000003");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    fs::write(&file, [&header[..], &[0; 1024]].concat()).unwrap();
    let said = said(&mut own.postroj(&["pull", file.to_str().unwrap()]));
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.err.contains("null"), !is_root(), "{said:?}");
}
