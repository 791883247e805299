//! Partition tables as sgdisk and sfdisk write them, and trees that are put together from several partitions.

use disk::table::{Role, partitions};
use disk::tree::{Wishes, find};

use super::listing::of_tree;
use super::scene::Scene;

#[test]
fn gpt_and_its_backup() {
    let scene = Scene::new();
    scene.sh(
        "truncate -s 64M x; sgdisk -n1:2048:+1M -t1:ef00 -c1:'the esp' -n5:0:+8M -t5:8304 -u5:11111111-2222-3333-4444-555555555555 -n2:0:0 -t2:8e00 x
        cp x damaged; head -c 1024 /dev/zero | dd of=damaged bs=512 seek=1 conv=notrunc status=none
        cp x wrong; printf x | dd of=wrong bs=1 seek=1100 conv=notrunc status=none; printf x | dd of=wrong bs=1 seek=67108300 conv=notrunc status=none",
    );
    for name in ["x", "damaged"] {
        let found = partitions(&scene.open(name)).unwrap();
        let shown: Vec<_> = found.iter().map(|p| (p.number, p.role, &p.label[..])).collect();
        assert_eq!(shown[0], (1, Role::Esp, "the esp"), "{name}");
        assert_eq!((shown[1].1, shown[2].1), (Role::Lvm, Role::Root("amd64")));
        assert_eq!(found[2].uuid, "11111111-2222-3333-4444-555555555555");
        assert_eq!((found[0].blocks.size(), found[2].blocks.size()), (1 << 20, 8 << 20));
    }
    let error = format!("{:#}", partitions(&scene.open("wrong")).err().unwrap());
    assert_eq!(error, "reading the GPT: the checksum of its entries is wrong");
}

#[test]
fn mbr_with_logical_partitions() {
    let scene = Scene::new();
    scene.sh(
        "truncate -s 64M x; printf 'label: dos\\nlabel-id: 0xdeadbeef\\nstart=2048,size=2048,type=83\\nsize=40960,type=5\\ntype=ef\\nstart=8192,size=2048,type=83\\nsize=4096,type=8e\\nsize=2048\\n' | sfdisk -q x",
    );
    let found = partitions(&scene.open("x")).unwrap();
    let shown: Vec<_> = found.iter().map(|p| (p.number, p.role, p.blocks.size())).collect();
    assert_eq!(shown[0], (1, Role::Other, 1 << 20));
    assert_eq!(shown[1].0, 3);
    assert_eq!(shown[2..4], [(5, Role::Other, 1 << 20), (6, Role::Lvm, 2 << 20)]);
    assert_eq!(found[3].uuid, "deadbeef-06");
}

/// A disk with a root, /boot and /srv by fstab(5), /home by its type, and another root.
const DISK: &str = r#"
mkdir -p root/etc root/boot root/srv root/home root/mnt boot srv home
echo ID=test >root/etc/os-release; echo kernel >boot/vmlinuz; echo s >srv/s; echo h >home/h; echo hidden >root/srv/below
printf 'LABEL=root / ext4 defaults 0 1\nUUID=aaaaaaaa-0000-0000-0000-000000000001 /boot ext2 defaults\n/dev/vda4 /srv ext4\n/dev/vdb1 /mnt ext4 nofail\nLABEL=gone /mnt ext4\n' >root/etc/fstab
truncate -s 100M x; sgdisk -n1:2048:+10M -n2:0:+20M -n3:0:+10M -t3:8302 -n4:0:+10M $EXTRA x >/dev/null
put() { truncate -s $2 f; mkfs.ext4 -q -d $1 ${4-} f; dd if=f of=x bs=1M seek=$3 conv=notrunc status=none; }
put boot 10M 1 "-U aaaaaaaa-0000-0000-0000-000000000001"; put root 20M 11 "-L root"; put home 10M 31; put srv 10M 41
"#;

#[test]
fn a_tree_of_several_partitions() {
    let scene = Scene::new();
    scene.sh(&format!("EXTRA=\n{DISK}"));
    let disks = [scene.open("x")];
    let mut tree = find(&disks, &Wishes::default()).unwrap();
    let mut listing = of_tree(&mut tree).unwrap();
    listing.retain(|name, _| !name.ends_with(b"lost+found"));
    let names: Vec<String> =
        listing.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    assert_eq!(
        names.join(" "),
        " boot boot/vmlinuz etc etc/fstab etc/os-release home home/h mnt srv srv/s"
    );
    assert_eq!(tree.notes, ["/mnt is left out: LABEL=gone is not on the disk"]);
    let only = Wishes { partition: Some("4".into()) };
    let listing = of_tree(&mut find(&disks, &only).unwrap()).unwrap();
    assert!(listing.contains_key(&b"s"[..]) && listing.len() == 3);
}

#[test]
fn more_than_one_root() {
    let scene = Scene::new();
    scene.sh(&format!("EXTRA='-n5:0:+20M -c5:other'\n{DISK}\nput root 20M 51"));
    let disks = [scene.open("x")];
    let error = format!("{:#}", find(&disks, &Wishes::default()).err().unwrap());
    assert_eq!(
        error,
        "which partition is the root? Choose by --partition one of 2 (ext4, \"root\"), 5 (ext4, \"other\")"
    );
    for name in ["5", "other"] {
        assert!(find(&disks, &Wishes { partition: Some(name.into()) }).is_ok(), "{name}");
    }
    let error = find(&disks, &Wishes { partition: Some("9".into()) }).err().unwrap().to_string();
    assert!(error.starts_with("there is no partition \"9\"; there are 1 (ext4), 2 "), "{error}");
}
