//! vfat as mtools write it, ISO 9660 as xorriso does, and LVM.

use std::fs;

use disk::tree::{Wishes, find, of_volume};

use super::listing::{Listing, compare, of_kernel, of_tree};
use super::scene::{NASTY, NASTY_OF_ROOT, Scene, is_root};

/// Of each row, the fields of these names alone: what the file system keeps.
fn only(listing: Listing, fields: &[&str]) -> Listing {
    let text = |row: &str| {
        let field = |name: &&str| {
            let (_, rest) = row.split_once(&format!("{name}: ")).unwrap();
            let ends =
                [", mode: ", ", owner: ", ", mtime: ", ", size: ", ", device: ", ", xattrs: "];
            let ends = ends.into_iter().chain([", target: ", ", content: ", ", same_as: "]);
            let end = ends.filter_map(|end| rest.find(end)).min().unwrap_or(rest.len());
            rest[..end].to_owned()
        };
        fields.iter().map(field).collect::<Vec<_>>().join(" ")
    };
    let named = listing.into_iter().filter(|(name, _)| !name.is_empty());
    named.map(|(name, row)| (name, text(&row))).collect()
}

#[test]
fn vfat() {
    let scene = Scene::new();
    for (bits, size) in [(12, "4M"), (16, "40M"), (32, "80M")] {
        scene.sh(&format!(
            "rm -rf x tree; truncate -s {size} x; mkfs.vfat -F {bits} -n LABEL -i abcd1234 x >/dev/null
            mkdir -p tree/EFI/BOOT tree/many; head -c 1000001 /dev/urandom >tree/EFI/BOOT/BOOTX64.EFI; : >tree/empty
            echo x >'tree/a long name with spaces, ümläuts.txt'; echo y >tree/lower.txt; echo z >tree/UPPER.TXT; echo w >tree/Mixed.Txt
            for i in $(seq 150); do echo $i >tree/many/a-file-with-a-long-name-$i; done; echo r >tree/ro; touch -d '2001-02-03 04:05:06 UTC' tree/ro
            export LC_ALL=C.UTF-8 TZ=UTC MTOOLS_SKIP_CHECK=1; mcopy -s -m -i x tree/* ::/; mattrib +r -i x ::/ro; mdel -i x ::/many/a-file-with-a-long-name-7*"
        ));
        let blocks = scene.open("x");
        let identity = disk::volume::recognise(&*blocks).unwrap().unwrap().identity(&*blocks);
        let identity = identity.unwrap();
        assert_eq!((&identity.uuid[..], &identity.label[..]), ("ABCD-1234", "LABEL"));
        let ours = of_tree(&mut of_volume(blocks).unwrap()).unwrap();
        assert!(ours.contains_key("a long name with spaces, ümläuts.txt".as_bytes()));
        assert!(ours[&b"ro"[..]].contains("mtime: (981173106, 0)"), "{}", ours[&b"ro"[..]]);
        // Not every kernel has this file system: it is compared with what went in.
        scene.sh("rm tree/many/a-file-with-a-long-name-7*");
        let source = of_kernel(&scene.path("tree"));
        let kept = ["kind", "size", "content"];
        compare(&only(ours, &kept), &only(source, &kept), &format!("FAT{bits}"));
    }
}

#[test]
fn iso_9660() {
    let scene = Scene::new();
    scene.sh(&format!("mkdir tree; set -- tree\n{NASTY}"));
    if is_root() {
        scene.sh(&format!("set -- tree\n{NASTY_OF_ROOT}"));
    }
    scene.sh(r#"cd tree; chmod u+r empty; rm -f socket far fits-not long; ln -s /abs/../x dots; setfacl -b small
        ln -s "$(printf '/%0100d' $(seq 3))" long"#);
    // Not every kernel has this file system: it is compared with what went in.
    for (what, options) in [("with Joliet, too", "-R -J -joliet-long"), ("Rock Ridge", "-R")] {
        scene.sh(&format!("xorriso -as mkisofs -quiet -V LABEL {options} -o x tree 2>/dev/null"));
        let blocks = scene.open("x");
        let identity = disk::volume::recognise(&*blocks).unwrap().unwrap().identity(&*blocks);
        assert_eq!(identity.unwrap().label, "LABEL");
        let ours = of_tree(&mut of_volume(blocks).unwrap()).unwrap();
        let source = of_kernel(&scene.path("tree"));
        let kept = ["kind", "mode", "owner", "size", "device", "target", "content", "same_as"];
        compare(&only(ours.clone(), &kept), &only(source.clone(), &kept), what);
        // To the second.
        let seconds = |listing| {
            let mut listing = only(listing, &["mtime"]);
            listing.values_mut().for_each(|row| row.truncate(row.find(',').unwrap()));
            listing.retain(|name, _| !matches!(&name[..], b"before" | b"old"));
            listing
        };
        compare(&seconds(ours), &seconds(source), what);
    }
}

#[test]
fn iso_9660_without_rock_ridge() {
    let scene = Scene::new();
    scene.sh("mkdir -p tree/Dir; echo x >tree/Dir/Long-name.txt; head -c 5000 /dev/urandom >tree/b.bin; : >tree/e");
    for (what, options, names) in [
        ("plain", "--norock", ["b.bin", "dir", "dir/long_nam.txt", "e"]),
        ("Joliet", "--norock -J", ["Dir", "Dir/Long-name.txt", "b.bin", "e"]),
    ] {
        scene.sh(&format!("xorriso -as mkisofs -quiet {options} -o x tree 2>/dev/null"));
        let ours = of_tree(&mut of_volume(scene.open("x")).unwrap()).unwrap();
        let source = of_kernel(&scene.path("tree"));
        let ours = only(ours, &["kind", "size", "content"]);
        let source = only(source, &["kind", "size", "content"]);
        let found: Vec<String> =
            ours.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        assert_eq!(found, names, "{what}");
        assert_eq!(ours[&b"b.bin"[..]], source[&b"b.bin"[..]]);
    }
}

#[test]
fn zisofs() {
    let scene = Scene::new();
    scene.sh(
        "mkdir tree; yes postroj | head -c 300000 >tree/packed; truncate -s 200000 tree/zeros
        xorriso -as mkisofs -quiet -R -z -o x tree 2>/dev/null
        xorriso -outdev y -blank as_needed -map tree / -set_filter_r --zisofs / -- -commit 2>/dev/null",
    );
    let ours = of_tree(&mut of_volume(scene.open("y")).unwrap()).unwrap();
    let source = of_kernel(&scene.path("tree"));
    assert_eq!(only(ours, &["size", "content"]), only(source, &["size", "content"]));
    assert!(fs::metadata(scene.path("y")).unwrap().len() < 500_000 + 400_000);
}

/// A physical volume by hand, with the text that lvm2 writes: two segments, the second one before the first.
const LVM: &str = r#"
mkdir -p root/etc; echo ID=lvm >root/etc/os-release; head -c 3000000 /dev/urandom >root/data
truncate -s 16M fs; mkfs.ext4 -q -L root -d root fs
export LVM_SYSTEM_DIR=$PWD/lvm; mkdir lvm
truncate -s 40M pv
python3 - <<'PY'
import struct, zlib
def crc(data):
    # LVM's: CRC-32 from a start of its own, without the last complement (lib/misc/crc.c).
    value = 0xf597a6cf
    for byte in data:
        value ^= byte
        for _ in range(8): value = value >> 1 ^ (0xedb88320 if value & 1 else 0)
    return value
ident = b'abcdefghijklmnopqrstuvwxyz012345'
dashed = 'abcdef-ghij-klmn-opqr-stuv-wxyz-012345'
text = ('vg {\nid = "AAAAAA-BBBB-CCCC-DDDD-EEEE-FFFF-GGGGGG"\nseqno = 3\nformat = "lvm2"\nstatus = ["RESIZEABLE", "READ", "WRITE"]\nflags = []\n'
 'extent_size = 2048\nmax_lv = 0\nmax_pv = 0\nmetadata_copies = 0\n\nphysical_volumes {\n\npv0 {\nid = "%s"\ndevice = "/dev/x"\t# Hint only\n\nstatus = ["ALLOCATABLE"]\nflags = []\ndev_size = 81920\npe_start = 2048\npe_count = 39\n}\n}\n\n'
 'logical_volumes {\n\nro-ot {\nid = "x"\nstatus = ["READ", "WRITE", "VISIBLE"]\nflags = []\nsegment_count = 2\n\n'
 'segment1 {\nstart_extent = 0\nextent_count = 10\n\ntype = "striped"\nstripe_count = 1\t# linear\n\nstripes = [\n"pv0", 20\n]\n}\n'
 'segment2 {\nstart_extent = 10\nextent_count = 6\n\ntype = "striped"\nstripe_count = 1\t# linear\n\nstripes = [\n"pv0", 2\n]\n}\n}\n'
 'thin {\nstatus = ["READ", "VISIBLE"]\nsegment_count = 1\nsegment1 {\nstart_extent = 0\nextent_count = 1\ntype = "thin"\n}\n}\n}\n}\n# Generated by LVM2\n\ncontents = "Text Format Volume Group"\nversion = 1\n' % dashed).encode() + b'\0'
disk = open('pv', 'r+b')
fs = open('fs', 'rb').read()
M = 1 << 20
for start, end, at in [(0, 10, 20), (10, 16, 2)]:
    disk.seek(M + at * M); disk.write(fs[start * M:end * M])
area = M - 4096
header = struct.pack('<16sIQQ', b' LVM2 x[5A%r0N*>', 1, 4096, area)
# The text goes round: it begins near the end of its area.
offset = area - 512
header += struct.pack('<QQII', offset, len(text), crc(text), 0)
header = header.ljust(508, b'\0')
disk.seek(4096); disk.write(struct.pack('<I', crc(header)) + header)
disk.seek(4096 + offset); disk.write(text[:512]); disk.seek(4096 + 512); disk.write(text[512:])
pv = ident + struct.pack('<Q', 40 * M) + struct.pack('<QQQQ', M, 0, 0, 0) + struct.pack('<QQQQ', 4096, area, 0, 0)
label = struct.pack('<I8s', 32, b'LVM2 001') + pv
label = label.ljust(512 - 20, b'\0')
disk.seek(512); disk.write(b'LABELONE' + struct.pack('<QI', 1, crc(label)) + label)
PY
truncate -s 48M x; sgdisk -n1:2048:+4M -n2:0:0 -t2:8e00 x >/dev/null; dd if=pv of=x bs=1M seek=5 conv=notrunc status=none
"#;

#[test]
fn logical_volumes() {
    let scene = Scene::new();
    scene.sh(LVM);
    // That the label is such as lvm2 takes it.
    let seen = scene.sh(
        "pvs --config 'devices { dir=\"'$PWD'\" scan=[\"'$PWD'\"] } global { locking_type=0 use_lvmpolld=0 }' --version | head -1",
    );
    assert!(seen.contains("LVM version"), "{seen}");
    let disks = [scene.open("x")];
    let mut expected = of_tree(&mut of_volume(scene.open("fs")).unwrap()).unwrap();
    for name in [None, Some("vg/ro-ot")] {
        let wishes = Wishes { partition: name.map(str::to_owned) };
        let ours = of_tree(&mut find(&disks, &wishes).unwrap()).unwrap();
        compare(&ours, &expected, "LVM");
    }
    // A whole disk may be one, too.
    let ours = of_tree(&mut find(&[scene.open("pv")], &Wishes::default()).unwrap()).unwrap();
    expected.retain(|name, _| name == b"data");
    assert_eq!(ours.get(&b"data"[..]), expected.get(&b"data"[..]));
}
