//! `boot --firmware`: a disk that is built here, with systemd-boot, Debian and cloud-init, starts by its own
//! loader in UEFI.

mod fixture;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use engine::vm::initramfs::{self, Archive};
use fixture::kernel::{kernel, root_of};
use fixture::{Own, fails, is_root, out, postroj, said};
use sys::rooted::Root;

/// Loads what finds the root, and goes on there.
const INIT: &str = r"#!/busybox sh
/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /busybox insmod $module; done
/busybox mkdir /root
/busybox mount -t ext4 /dev/vda2 /root
exec /busybox switch_root /root /lib/systemd/systemd
";

/// What Debian needs to be one that cloud-init sets up.
const PACKAGES: &str = "systemd,systemd-sysv,udev,dbus,systemd-boot-efi,cloud-init";

const MIB: u64 = 1 << 20;
const SYSTEM_PARTITION: u64 = 64 * MIB;
const ROOT: u64 = 768 * MIB;

fn done(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// The only layer in a store.
fn layer(own: &Own) -> PathBuf {
    let layers: Vec<_> = std::fs::read_dir(own.store().join("layers")).unwrap().collect();
    assert_eq!(layers.len(), 1);
    layers[0].as_ref().unwrap().path().join("root")
}

/// What the loader starts: a kernel, and a first root that mounts the second partition.
fn boot_files(own: &Own) -> Vec<(PathBuf, &'static str)> {
    let kernel = kernel();
    let root = Root::open(&root_of(&kernel)).unwrap();
    let wanted =
        [initramfs::NEEDED, initramfs::VOLUMES, &["isofs", "vfat", "nls_ascii", "button", "evdev"]]
            .concat();
    let modules =
        initramfs::modules(&root, &kernel.release, &wanted, &bakery::kernel::module).unwrap();
    let path = own.path("initrd");
    let mut initrd = File::create(&path).unwrap();
    initramfs::write(&mut initrd, INIT.as_bytes(), &modules).unwrap();
    let mut more = Archive::new(&mut initrd).unwrap();
    more.file("busybox", 0o755, &std::fs::read("/bin/busybox").unwrap()).unwrap();
    more.finish().unwrap();
    let entry = own.path("debian.conf");
    let tcg = engine::vm::hardware::Accelerator::Tcg;
    let host = engine::vm::hardware::Architecture::X86_64;
    let words = engine::vm::accelerator::command_line(tcg, host);
    let text =
        format!("title Debian\nlinux /vmlinuz\ninitrd /initrd\noptions console=ttyS0 {words}\n");
    std::fs::write(&entry, text).unwrap();
    let packed = kernel.file.to_str().unwrap().replace("vmlinux", "vmlinuz");
    vec![
        (packed.into(), "::/vmlinuz"),
        (path, "::/initrd"),
        (entry, "::/loader/entries/debian.conf"),
    ]
}

fn system_partition(own: &Own, tree: &Path) -> PathBuf {
    let image = own.path("system-partition");
    File::create(&image).unwrap().set_len(SYSTEM_PARTITION).unwrap();
    done(Command::new("mkfs.vfat").args(["-F", "32"]).arg(&image));
    let tool = |name: &str| {
        let mut command = Command::new(name);
        command.arg("-i").arg(&image);
        command
    };
    done(tool("mmd").args(["::/EFI", "::/EFI/BOOT", "::/loader", "::/loader/entries"]));
    let loader = tree.join("usr/lib/systemd/boot/efi/systemd-bootx64.efi");
    for (file, to) in boot_files(own).into_iter().chain([(loader, "::/EFI/BOOT/BOOTX64.EFI")]) {
        done(tool("mcopy").arg(file).arg(to));
    }
    image
}

/// A disk with two partitions. No tool that makes it needs to be root's; for a user, `unshare` gives files
/// the owners that they have in the image.
fn disk(own: &Own) -> PathBuf {
    said(&mut own.postroj(&["pull", "debian-12", "--include", PACKAGES]));
    let tree = layer(own);
    let root = own.path("root");
    File::create(&root).unwrap().set_len(ROOT).unwrap();
    let make = ["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d"];
    let mut command = match is_root() {
        true => Command::new(make[0]),
        false => {
            let mut command = postroj(&["unshare", make[0]]);
            command.env("POSTROJ_STORE", own.store());
            command
        }
    };
    done(command.args(&make[1..]).arg(&tree).arg(&root));
    let disk = own.path("disk.img");
    File::create(&disk).unwrap().set_len(SYSTEM_PARTITION + ROOT + 4 * MIB).unwrap();
    let partitions = ["-n", "1:2048:+64M", "-t", "1:ef00", "-n", "2:0:+768M", "-t", "2:8304"];
    done(Command::new("sgdisk").args(partitions).arg(&disk));
    let into = File::options().write(true).open(&disk).unwrap();
    copy(&system_partition(own, &tree), &into, MIB);
    copy(&root, &into, MIB + SYSTEM_PARTITION);
    for part in ["root", "system-partition"] {
        std::fs::remove_file(own.path(part)).unwrap();
    }
    disk
}

/// What is not empty.
fn copy(from: &Path, to: &File, at: u64) {
    let from = File::open(from).unwrap();
    let mut buffer = vec![0; MIB as usize];
    for number in 0..from.metadata().unwrap().len() / MIB {
        from.read_exact_at(&mut buffer, number * MIB).unwrap();
        if buffer.iter().any(|byte| *byte != 0) {
            to.write_all_at(&buffer, at + number * MIB).unwrap();
        }
    }
}

fn boot(own: &Own, disk: &Path, user_data: &str) -> Command {
    let settings = own.path("settings");
    std::fs::create_dir_all(&settings).unwrap();
    std::fs::write(settings.join("user-data"), user_data).unwrap();
    let mut command = own.postroj(&["boot", "--firmware", "uefi", "--until", "cloud-init"]);
    command.args(["--timeout", "900", "--cloud-init"]).arg(settings).arg(disk);
    command
}

/// Settings under which nothing fails that this small system lacks, and these.
fn user_data(more: &str) -> String {
    format!(
        "#cloud-config\nlocale: false\nresize_rootfs: false\ngrowpart: {{mode: 'off'}}\n\
         ssh_deletekeys: false\nssh_genkeytypes: []\n{more}\n"
    )
}

#[test]
#[ignore = "minutes of emulation"]
fn a_disk_boots_by_its_own_loader_and_runs_its_user_data() {
    let own = Own::new("whole-disk");
    let disk = disk(&own);
    let before = std::fs::metadata(&disk).unwrap().modified().unwrap();
    let run = |code: u8| {
        user_data(&format!("runcmd:\n- [sh, -c, 'echo user data ran >/dev/console; exit {code}']"))
    };
    let shown = out(&mut boot(&own, &disk, &run(0)));
    assert!(shown.contains("user data ran"), "{shown}");
    let failed = boot(&own, &disk, &run(3)).output().unwrap();
    let error = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(1), "cloud-init's own status: {error}");
    assert!(error.contains("cloud-init failed: ") && error.contains("status: error"), "{error}");
    let ended = std::fs::metadata(&disk).unwrap().modified().unwrap();
    assert_eq!(ended, before, "what was written is forgotten");
    // As qcow2 it is the same disk; it keeps what is written, and ends by itself.
    let qcow2 = own.path("disk.qcow2");
    done(Command::new("qemu-img").args(["convert", "-O", "qcow2"]).args([&disk, &qcow2]));
    let off = user_data("runcmd:\n- [sh, -c, 'echo kept >/kept; sync; systemctl poweroff']");
    let mut command = own.postroj(&["boot", "--firmware", "uefi", "--keep-writes"]);
    let settings = own.path("settings/user-data");
    std::fs::write(&settings, off).unwrap();
    command.args(["--timeout", "900", "--user-data"]).arg(&settings).arg(&qcow2);
    said(&mut command);
    let raw = own.path("disk.raw");
    done(Command::new("qemu-img").args(["convert", "-O", "raw"]).args([&qcow2, &raw]));
    let root = own.path("root");
    let from = File::open(&raw).unwrap();
    let into = File::create(&root).unwrap();
    let mut buffer = vec![0; MIB as usize];
    for number in 0..ROOT / MIB {
        from.read_exact_at(&mut buffer, MIB + SYSTEM_PARTITION + number * MIB).unwrap();
        into.write_all_at(&buffer, number * MIB).unwrap();
    }
    let kept = Command::new("debugfs").args(["-R", "cat /kept"]).arg(&root).output().unwrap();
    assert_eq!(kept.stdout, b"kept\n", "{kept:?}");
}

#[test]
fn what_cannot_be_booted_is_said() {
    let own = Own::new("whole-disk-refused");
    let missing = own.path("missing");
    let of = |words: &[&str]| own.postroj(&[&["boot", "--firmware", "uefi"][..], words].concat());
    fails(&mut of(&[missing.to_str().unwrap()]), 125, &["cannot boot", "missing"]);
    let empty = own.path("empty");
    std::fs::write(&empty, "").unwrap();
    let empty = empty.to_str().unwrap();
    fails(&mut of(&[empty, "single"]), 125, &["takes no arguments"]);
    let unfit = of(&["-d", empty]).output().unwrap();
    assert_eq!(unfit.status.code(), Some(125), "{unfit:?}");
    assert!(String::from_utf8_lossy(&unfit.stderr).contains("cannot be used with"), "{unfit:?}");
    fails(&mut of(&["--network", "host", empty]), 125, &["the network user, or none"]);
    let settings = own.path("settings");
    std::fs::create_dir(&settings).unwrap();
    std::fs::write(settings.join("vendor-data"), "").unwrap();
    let settings = settings.to_str().unwrap();
    let until = ["--until", "cloud-init", "--cloud-init", settings, empty];
    fails(&mut of(&until), 125, &["vendor-data"]);
    std::fs::write(own.path("settings/other"), "").unwrap();
    fails(&mut of(&["--cloud-init", settings, empty]), 125, &["\"other\"", "meta-data"]);
    let nothing = std::fs::read_dir(own.path("run")).into_iter().flatten().flatten();
    let left: Vec<_> = nothing.map(|entry| entry.file_name()).collect();
    assert!(left.len() <= 2, "{left:?}");
}
