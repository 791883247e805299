//! Archives that try to get out, to exhaust, or to confuse.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use store::unpack::{Limits, Style};

use crate::build::{Tar, item};
use crate::place::Place;

/// What is to come of an archive.
enum Outcome {
    /// An error that says this.
    Refused(&'static str),
    /// These paths and no others.
    Leaves(&'static [&'static str]),
}
use Outcome::{Leaves, Refused};

type Case = (&'static str, fn(&str) -> Vec<u8>, Outcome);

/// Each archive is made by a function that is given the absolute path of `outside`.
#[rustfmt::skip]
const CASES: &[Case] = &[
    // Names.
    ("dot dot", |_| Tar::new().file("../evil", "").end(),
        Refused("unpacking ../evil: its name leads out of the root")),
    ("dot dot below", |_| Tar::new().dir("a").file("a/../../evil", "").end(),
        Refused("unpacking a/../../evil: its name leads out of the root")),
    ("absolute dot dot", |_| Tar::new().file("/../evil", "").end(),
        Refused("unpacking /../evil: its name leads out of the root")),
    ("dot dot directory", |_| Tar::new().dir("..").end(), Refused("its name leads out of the root")),
    ("dot dot in the middle", |_| Tar::new().file("a/b/../c", "x").end(), Leaves(&["a", "a/c"])),
    ("absolute", |_| Tar::new().file("/evil", "").end(), Leaves(&["evil"])),
    ("absolute canary", |out| Tar::new().file(&format!("{out}/canary"), "x").end(),
        Leaves(&["(the canary)"])),
    ("slashes and dots", |_| Tar::new().file(".//./a///b", "").end(), Leaves(&["a", "a/b"])),
    ("no name", |_| Tar::new().file("", "").end(), Refused("it has no name")),
    ("root as a file", |_| Tar::new().file("/.", "").end(), Refused("take the place of the root")),
    ("root as a link", |_| Tar::new().symlink(".", "../outside").end(), Refused("take the place of the root")),
    ("root as a link by dot dot", |_| Tar::new().symlink("a/..", "../outside").end(),
        Refused("take the place of the root")),
    ("NUL in a PAX name", |_| Tar::new().pax(b'x', &[("path", b"a\0b")]).file("c", "").end(),
        Refused("contains a NUL byte")),
    ("NUL in a PAX link", |_| Tar::new().pax(b'x', &[("linkpath", b"a\0b")]).symlink("c", "d").end(),
        Refused("contains a NUL byte")),
    ("PAX name out", |_| Tar::new().pax(b'x', &[("path", b"../evil")]).file("harmless", "").end(),
        Refused("unpacking ../evil: its name leads out of the root")),
    ("GNU name out", |_| Tar::new().add(item(b'L', "x").content("../evil\0")).file("harmless", "").end(),
        Refused("unpacking ../evil: its name leads out of the root")),
    ("ustar prefix out", |_| Tar::new().add_with(item(b'0', "evil"), |h| {
            h[257..265].copy_from_slice(b"ustar\x0000");
            h[345..347].copy_from_slice(b"..");
        }).end(), Refused("unpacking ../evil: its name leads out of the root")),
    ("a component too long", |_| Tar::new().file(&"n".repeat(256), "").end(), Refused("File name too long")),
    ("a path too long", |_| Tar::new().file(&"n/".repeat(2100), "").end(), Refused("its name has 4200 bytes")),
    ("a target too long", |_| Tar::new().symlink("a", &"n/".repeat(2100)).end(), Refused("its target has 4200 bytes")),
    ("control characters in errors", |_| Tar::new().file("../\x1b[2J\nevil", "").end(),
        Refused(r"unpacking ../\u{1b}[2J\nevil: its")),
    ("global header renames", |_| Tar::new().pax(b'g', &[("path", b"evil")]).file("a", "").end(),
        Refused("for every member")),

    // Symbolic links.
    ("through a relative link", |_| Tar::new().symlink("l", "../outside").file("l/evil", "").end(),
        Refused("unpacking l/evil: making its directory l")),
    ("through an absolute link", |out| Tar::new().symlink("l", out).file("l/evil", "").end(),
        Refused("unpacking l/evil: making its directory l")),
    ("through a link to a link", |out| Tar::new().symlink("a", out).symlink("b", "a").file("b/canary", "").end(),
        Refused("unpacking b/canary: making its directory b")),
    ("through a link below a link", |_| Tar::new().dir("d").symlink("d/l", "../../outside").symlink("m", "d/l")
        .file("m/evil", "").end(), Refused("making its directory m")),
    ("an absolute link stays inside", |_| Tar::new().dir("outside").symlink("l", "/../outside").file("l/evil", "").end(),
        Leaves(&["l", "outside", "outside/evil"])),
    ("a file over a link", |_| Tar::new().symlink("l", "../outside/canary").file("l", "x").end(), Leaves(&["l"])),
    ("a directory over a link", |_| Tar::new().symlink("l", "../outside").add(item(b'5', "l").mode(0o777))
        .file("l/x", "").end(), Leaves(&["l", "l/x"])),
    ("a link over a full directory", |_| Tar::new().dir("d").file("d/x", "").symlink("d", "../outside")
        .file("d/evil", "").end(), Refused("unpacking d/evil: making its directory d")),
    ("a link over the directory being filled", |_| Tar::new().dir("d").file("d/x", "").dir("d/e")
        .file("d/e/x", "").symlink("d", "../outside").file("d/dir/evil", "").end(),
        Refused("unpacking d/dir/evil: making its directory d/dir")),
    ("a directory's mode through a link", |_| Tar::new().add(item(b'5', "d").mode(0o777))
        .symlink("d", "../outside").end(), Leaves(&["d"])),
    ("a directory's mode through a link above", |_| Tar::new().dir("d").add(item(b'5', "d/dir").mode(0o777))
        .symlink("d", "../outside").end(), Leaves(&["d"])),
    ("a directory's mode through a link inside", |out| Tar::new().dir("d").add(item(b'5', "d/dir").mode(0o777))
        .symlink("d", out).end(), Leaves(&["d"])),
    ("a loop", |_| Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", "").end(), Refused("opening its directory a")),
    ("a link to itself", |_| Tar::new().symlink("a", "a/a").file("a/x", "").end(), Refused("opening its directory a")),
    ("an empty link", |_| Tar::new().symlink("a", "").end(), Refused("a symbolic link to nothing")),
    ("modes of links", |_| Tar::new().add(item(b'2', "l").link("../outside/canary").mode(0o4777)).end(), Leaves(&["l"])),
    ("below a file", |_| Tar::new().file("f", "").file("f/x", "").end(), Refused("opening its directory f: Not a directory")),
    ("below a device", |_| Tar::new().add(item(b'6', "f")).file("f/x", "").end(), Refused("Not a directory")),

    // Hard links.
    ("hard link out", |_| Tar::new().hard_link("h", "../outside/canary").end(),
        Refused("unpacking h: its target ../outside/canary: its name leads out of the root")),
    ("absolute hard link", |out| Tar::new().hard_link("h", &format!("{out}/canary")).end(),
        Refused("No such file or directory")),
    ("hard link through a link", |_| Tar::new().symlink("l", "../outside").hard_link("h", "l/canary").end(),
        Refused("looking for its target l")),
    ("hard link to a link to the canary, then written", |_| Tar::new().symlink("l", "../outside/canary")
        .hard_link("h", "l").file("h", "overwritten").end(), Leaves(&["h", "l"])),
    ("hard link to a link out, used as a directory", |_| Tar::new().symlink("l", "../outside").hard_link("h", "l")
        .file("h/evil", "").end(), Refused("making its directory h")),
    ("hard link to nothing", |_| Tar::new().hard_link("h", "nothing").end(), Refused("its target nothing does not exist")),
    ("hard link to a directory", |_| Tar::new().dir("d").hard_link("h", "d").end(), Refused("unpacking h: its target d")),
    ("hard link to a directory over a file", |_| Tar::new().dir("d").file("h", "").hard_link("h", "d").end(),
        Refused("unpacking h: its target d")),
    ("hard link to the root", |_| Tar::new().hard_link("h", "/").end(), Refused("it is a hard link to the root")),
    ("hard link to itself", |_| Tar::new().file("h", "x").hard_link("h", "./h").end(), Leaves(&["h"])),
    ("hard link with a size and no content", |_| Tar::new().file("f", "x").add(item(b'1', "h").link("f").size(700))
        .end(), Leaves(&["f", "h"])),
    ("hard link to nothing keeps what is there", |_| Tar::new().file("h", "x").hard_link("h", "nothing").end(),
        Refused("does not exist")),

    // Sizes and damage.
    ("8 EiB", |_| Tar::new().add(item(b'0', "big").size(1 << 62)).end(), Refused("entry big: the archive claims 4611686018427387904 bytes")),
    ("beyond 8 EiB", |_| Tar::new().add(item(b'0', "big").size(u64::MAX)).end(), Refused("its size field is no number in range")),
    ("a size of 96 bits", |_| Tar::new().add_with(item(b'0', "big"), |h| {
            h[124..136].copy_from_slice(b"\x80\x00\x00\x01\0\0\0\0\0\0\0\x01");
        }).end(), Refused("its size field is no number in range")),
    ("many of half the limit", |_| Tar::new().add(item(b'0', "a").size(1 << 39)).end(), Refused("truncated within a at byte")),
    ("a PAX size", |_| Tar::new().pax(b'x', &[("size", b"99999999999999")]).file("big", "").end(), Refused("entry big: the archive claims")),
    ("a large PAX header", |_| Tar::new().add(item(b'x', "x").size(1 << 30)).end(), Refused("extended headers of 1073741824 bytes")),
    ("a large GNU name", |_| Tar::new().add(item(b'L', "x").size(1 << 40)).end(), Refused("extended headers of 1099511627776 bytes")),
    ("many PAX headers", |_| {
            let record: Vec<u8> = vec![b'c'; 600_000];
            Tar::new().pax(b'x', &[("comment", &record)]).pax(b'x', &[("comment", &record)]).file("a", "").end()
        }, Refused("extended headers of 600")),
    ("many attributes", |_| {
            let names: Vec<String> = (0..300).map(|i| format!("SCHILY.xattr.user.{i}")).collect();
            let records: Vec<(&str, &[u8])> = names.iter().map(|n| (&n[..], &b"x"[..])).collect();
            Tar::new().pax(b'x', &records).file("a", "").end()
        }, Refused("more than 256 attributes")),
    ("a malformed PAX header", |_| Tar::new().add(item(b'x', "x").content("99 path=a\n")).file("b", "").end(),
        Refused("at the beginning of the archive: a malformed extended header")),
    ("an empty archive", |_| Vec::new(), Refused("the archive is empty: 0 bytes")),
    ("no archive", |_| vec![b'x'; 4096], Refused("this is no tar archive")),
    ("half a header", |_| Tar::new().file("a", "").unended()[..300].to_vec(), Refused("truncated: it ends at byte 300")),
    ("no end mark", |_| Tar::new().file("a", "x").unended(), Refused("without an end mark, in the header that follows a")),
    ("half a content", |_| Tar::new().file("dir/a", &"x".repeat(9000)).unended()[..5000].to_vec(),
        Refused("truncated within dir/a at byte 5000")),
    ("an end after a PAX header", |_| Tar::new().pax(b'x', &[("path", b"a")]).end(), Refused("ends after an extended header")),
    ("a flipped bit", |_| {
            let mut bytes = Tar::new().file("a", "").file("b", "").end();
            bytes[512 + 3] ^= 1;
            bytes
        }, Refused("damaged at byte 512: wrong checksum in the header that follows a")),
    ("a user id too large", |_| Tar::new().add(item(b'0', "a").owner(1 << 32, 0)).end(),
        Refused("entry a: its user id 4294967296 is beyond")),
    ("the user id that means unchanged", |_| Tar::new().add(item(b'0', "a").owner(0xffff_ffff, 0)).end(),
        Refused("its user id 4294967295 is beyond")),
    ("a PAX group id too large", |_| Tar::new().pax(b'x', &[("gid", b"4294967295")]).file("a", "").end(),
        Refused("its group id 4294967295 is beyond")),
    ("a mode that is no number", |_| Tar::new().add_with(item(b'0', "a"), |h| h[100] = b'9').end(),
        Refused("entry a: its mode field is no number")),
    ("an unknown type", |_| Tar::new().add(item(b'Q', "a")).end(), Refused("entry a: its type 'Q' is not known")),
    ("a second volume", |_| Tar::new().add(item(b'M', "a")).end(), Refused("continuation of an archive of several volumes")),

    // Sparse files.
    ("extents that overlap", |_| pax_sparse("0,4,2,4", "9", "12345678"), Refused("overlap or are out of order")),
    ("an extent beyond the end", |_| pax_sparse("6,4", "9", "1234"), Refused("reaches beyond the file's 9 bytes")),
    ("an extent beyond all numbers", |_| pax_sparse("18446744073709551615,4", "9", "1234"), Refused("reaches beyond")),
    ("extents without content", |_| pax_sparse("0,4", "9", "123"), Refused("its extents have 4 bytes, and the archive 3")),
    ("a vast sparse file", |_| pax_sparse("0,4", "9223372036854775807", "1234"), Refused("it claims 9223372036854775807 bytes")),
    ("a map of endless length", |_| Tar::new().pax(b'x', &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"9")]).file("a", &format!("99999999999\n{}", " ".repeat(512))).end(), Refused("its sparse map: more than 1048576 extents")),
    ("a map of no numbers", |_| Tar::new().pax(b'x', &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"9")]).file("a", &"x".repeat(600)).end(), Refused("something that is no number")),
    ("a map without an end", |_| Tar::new().pax(b'x', &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"9")]).file("a", "2\n1\n").end(), Refused("its sparse map")),
    ("a sparse file of the future", |_| Tar::new().pax(b'x', &[("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0")])
        .file("a", "").end(), Refused("this version is not known")),
    ("a sparse name out", |_| Tar::new().pax(b'x', &[("GNU.sparse.name", b"../evil"), ("GNU.sparse.map", b""),
            ("GNU.sparse.size", b"9")]).file("a", "").end(), Refused("unpacking ../evil: its name leads out")),
    ("old sparse blocks without an end", |_| Tar::new().add_with(item(b'S', "a"), |h| h[482] = 1).unended(),
        Refused("truncated within a")),

    // Devices.
    ("a device number beyond Linux", |_| Tar::new().add(item(b'3', "a").device(4096, 1)).end(), Refused("4096:1 is beyond")),
    ("overlayfs's whiteout", |_| Tar::new().file("a", "").add(item(b'3', "a").device(0, 0)).end(), Leaves(&["a"])),
    ("a file over a fifo", |_| Tar::new().add(item(b'6', "a")).file("a", "x").end(), Leaves(&["a"])),
];

/// Whiteouts, over a tree that holds `l -> ../outside`, `d/x` and `d/y`.
#[rustfmt::skip]
const WHITEOUTS: &[Case] = &[
    ("of nothing", |_| Tar::new().file(".wh.", "").end(), Refused("unpacking .wh.: it is a whiteout of no name")),
    ("of dot", |_| Tar::new().file("d/.wh..", "").end(), Refused("it is a whiteout of no name")),
    ("of dot dot", |_| Tar::new().file("d/.wh...", "").end(), Refused("it is a whiteout of no name")),
    ("as a directory", |_| Tar::new().file(".wh.d/x", "").end(), Refused("a whiteout is no directory")),
    ("out", |_| Tar::new().file("../.wh.outside", "").end(), Refused("its name leads out of the root")),
    ("through a link", |_| Tar::new().file("l/.wh.canary", "").end(), Leaves(&["d", "d/x", "d/y", "l"])),
    ("opaque through a link", |_| Tar::new().file("l/.wh..wh..opq", "").end(), Leaves(&["d", "d/x", "d/y", "l"])),
    ("of a link", |_| Tar::new().file(".wh.l", "").end(), Leaves(&["d", "d/x", "d/y"])),
    ("of a directory", |_| Tar::new().file(".wh.d", "").end(), Leaves(&["l"])),
    ("opaque root", |_| Tar::new().file(".wh..wh..opq", "").end(), Leaves(&[])),
    ("opaque", |_| Tar::new().file("d/.wh..wh..opq", "").end(), Leaves(&["d", "l"])),
    ("of what is missing", |_| Tar::new().file("n/.wh.x", "").end(), Leaves(&["d", "d/x", "d/y", "l"])),
    ("below a file", |_| Tar::new().file("d/x/.wh.y", "").end(), Leaves(&["d", "d/x", "d/y", "l"])),
    ("of AUFS", |_| Tar::new().file(".wh..wh.plnk", "").end(), Leaves(&["d", "d/x", "d/y", "l"])),
    ("and again a file", |_| Tar::new().file("d/.wh.x", "").file("d/x", "new").end(), Leaves(&["d", "d/x", "d/y", "l"])),
    ("after the layer's own file", |_| Tar::new().file("d/z", "").file("d/.wh.z", "").end(),
        Leaves(&["d", "d/x", "d/y", "d/z", "l"])),
    ("opaque after the layer's own file", |_| Tar::new().file("d/z", "").file("d/.wh..wh..opq", "").end(),
        Leaves(&["d", "d/z", "l"])),
    ("of a directory after the layer's own file", |_| Tar::new().file("d/z/w", "").file(".wh.d", "").end(),
        Leaves(&["d", "d/z", "d/z/w", "l"])),
    ("of the directory being filled", |_| Tar::new().file("d/.wh.x", "").file(".wh.d", "").file("d/n", "").end(),
        Leaves(&["d", "d/n", "l"])),
    ("a link out in its place", |_| Tar::new().file(".wh.d", "").symlink("d", "../outside").file("d/.wh.canary", "").end(),
        Leaves(&["d", "l"])),
];

fn pax_sparse(map: &str, size: &str, content: &str) -> Vec<u8> {
    let records: &[(&str, &[u8])] =
        &[("GNU.sparse.map", map.as_bytes()), ("GNU.sparse.size", size.as_bytes())];
    Tar::new().pax(b'x', records).file("a", content).end()
}

fn run(case: &Case, place: &Place, style: Style) {
    let (name, make, outcome) = case;
    let way = if place.user_space { "user space" } else { "kernel" };
    let case = format!("{name} ({way}, {style:?})");
    let result = place.unpack(&make(&place.outside_path()), style);
    place.check_outside(&case);
    match (result, outcome) {
        (Err(error), Refused(text)) => {
            let error = format!("{error:#}");
            assert!(error.contains(text), "{case}: {error:?} lacks {text:?}");
        }
        (Ok(_), Leaves(names)) if names.contains(&"(the canary)") => {
            assert!(place.has(&format!("{}/canary", &place.outside_path()[1..])), "{case}");
        }
        (Ok(_), Leaves(names)) => assert_eq!(place.names(), *names, "{case}"),
        (Err(error), Leaves(_)) => panic!("{case}: {error:#}"),
        (Ok(_), Refused(text)) => panic!("{case}: not refused with {text:?}"),
    }
}

#[test]
fn nothing_gets_out() {
    for case in CASES {
        for style in [Style::Plain, Style::Layer] {
            for user_space in [false, true] {
                let place = Place::resolving(user_space);
                run(case, &place, style);
            }
        }
    }
}

#[test]
fn packages_get_no_further() {
    for case in CASES {
        // Where the others replace, a package is refused: only that nothing changes outside counts.
        let place = Place::new();
        let result = place.unpack(&case.1(&place.outside_path()), Style::Package);
        place.check_outside(case.0);
        if let (Ok(_), Refused(text)) = (&result, &case.2) {
            let manners = ["a directory over a link", "take the place of the root"];
            assert!(manners.contains(text), "{}: not refused with {text:?}", case.0);
        }
    }
}

#[test]
fn whiteouts_stay_inside() {
    for case in WHITEOUTS {
        for user_space in [false, true] {
            let place = Place::resolving(user_space);
            let below =
                Tar::new().dir("d").file("d/x", "").file("d/y", "").symlink("l", "../outside");
            place.unpack(&below.end(), Style::Layer).unwrap();
            run(case, &place, Style::Layer);
        }
    }
}

#[test]
fn in_a_plain_archive_a_whiteout_is_a_file() {
    let place = Place::new();
    let archive = Tar::new().file("a", "").file(".wh.a", "").file(".wh..wh..opq", "").end();
    place.unpack(&archive, Style::Plain).unwrap();
    assert_eq!(place.names(), [".wh..wh..opq", ".wh.a", "a"]);
}

#[test]
fn devices_are_made_or_counted_and_never_written_to() {
    let place = Place::new();
    let archive = Tar::new()
        .add(item(b'3', "null").device(1, 3).mode(0o666))
        .add(item(b'4', "loop").device(7, 200))
        .add(item(b'6', "fifo").mode(0o622))
        .end();
    let summary = place.unpack(&archive, Style::Plain).unwrap();
    assert!(place.stat("fifo").file_type().is_fifo());
    assert_eq!(place.stat("fifo").mode() & 0o7777, 0o622);
    if place.has("null") {
        assert_eq!(summary.skipped_devices, 0);
        assert!(place.stat("null").file_type().is_char_device());
        assert_eq!(place.stat("null").rdev(), rustix::fs::makedev(1, 3));
        assert_eq!(place.stat("null").mode() & 0o7777, 0o666);
        assert!(place.stat("loop").file_type().is_block_device());
        let over = Tar::new().file("null", "a file").end();
        place.unpack(&over, Style::Plain).unwrap();
        assert_eq!(place.read("null"), "a file");
    } else {
        assert_eq!(summary.skipped_devices, 2);
        assert_eq!(summary.notes.len(), 2);
        assert!(summary.notes[0].contains("null: device left out"), "{:?}", summary.notes);
    }
}

#[test]
fn limits_hold() {
    let many = (0..50).fold(Tar::new(), |tar, i| tar.file(&i.to_string(), "0123456789")).end();
    let dirs = (0..50).fold(Tar::new(), |tar, i| tar.dir(&format!("{i}"))).end();
    for (limits, archive, text) in [
        (Limits { max_entries: 20, ..Limits::default() }, &many, "more than 20 entries"),
        (
            Limits { max_bytes: 200, ..Limits::default() },
            &many,
            "claims 210 bytes up to here, of which 200",
        ),
        (Limits { max_file: 9, ..Limits::default() }, &many, "it claims 10 bytes, of which 9"),
        (Limits { max_remembered: 999, ..Limits::default() }, &dirs, "too many directories"),
    ] {
        let place = Place::new();
        let error =
            format!("{:#}", place.unpack_limited(archive, Style::Plain, limits).unwrap_err());
        assert!(error.contains(text), "{error}");
    }
    let place = Place::new();
    place.unpack(&Tar::new().file("below", "").end(), Style::Layer).unwrap();
    let limits = Limits { max_remembered: 999, ..Limits::default() };
    let error = place.unpack_limited(&many, Style::Layer, limits).unwrap_err();
    assert!(format!("{error:#}").contains("too many names"), "{error:#}");
}

#[test]
fn truncation_at_every_byte_is_an_error() {
    let whole = Tar::new()
        .pax(b'x', &[("path", b"a long/name")])
        .file("x", "some content")
        .dir("d")
        .symlink("d/l", "t")
        .unended();
    for length in 0..whole.len() {
        let place = Place::new();
        let error = place.unpack(&whole[..length], Style::Plain).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("truncated") || error.contains("is empty"), "{length}: {error}");
    }
}

#[test]
fn what_the_host_owns_is_left_out() {
    let place = Place::new();
    let records: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/../../etc"),
        ("SCHILY.xattr.user.overlay.metacopy", b""),
        ("SCHILY.xattr.security.selinux", b"label"),
    ];
    let archive = Tar::new().pax(b'x', records).dir("d").pax(b'x', records).file("f", "").end();
    let summary = place.unpack(&archive, Style::Layer).unwrap();
    assert_eq!((summary.skipped_xattrs, summary.refused_capabilities), (8, 0));
    for path in ["d", "f"] {
        let mut names = vec![0; 1000];
        let length = rustix::fs::listxattr(place.root().join(path), &mut names[..]).unwrap();
        let names = String::from_utf8_lossy(&names[..length]);
        // A host with a policy of its own labels everything itself.
        assert!(!names.contains("overlay"), "{names}");
    }
    assert!(fs::read_dir(place.root().join("d")).unwrap().next().is_none());
}
