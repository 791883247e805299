//! Virtual machines from below: the kernel, the first root, QEMU and its devices, with a small init that
//! stands for ours. Emulated, so that it is the same on every host.

mod fixture;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bakery::source::Options;
use engine::vm::accelerator;
use engine::vm::hardware::{
    Accelerator, Architecture, Board, Boot, Disk, Format, Hardware, Line, Link, Nic, Port, Writes,
};
use engine::vm::initramfs::{self, Archive};
use engine::vm::qemu::{self, Ended, Qemu};
use fixture::kernel::{Silent, find, kernel, root_of};
use harness::kernel::{self, Kernel, Wish};
use serde_json::{Value, json};
use store::Store;
use sys::rooted::Root;

/// What an emulated machine may take on a host that has much else to do.
const LONG: Duration = Duration::from_secs(100);

/// Loads the modules, waits for its port, and does what it reads there, a line at a time; each line that is
/// answered ends with `.`.
const INIT: &str = r#"#!/busybox sh
/busybox mount -t devtmpfs dev /dev
/busybox mkdir /proc /sys /mnt
/busybox mount -t proc proc /proc
/busybox mount -t sysfs sys /sys
for module in /modules/*; do /busybox insmod $module; done
for try in 1 2 3 4 5 6 7 8 9; do
    for port in /sys/class/virtio-ports/*; do
        if [ "$(/busybox cat $port/name)" = test ]; then found=/dev/${port##*/}; fi
    done
    if [ "$found" ]; then break; fi
    /busybox sleep 1
done
exec 3<>$found
echo "$(/busybox uname -r)." >&3
while read -r line <&3; do eval "$line" >&3 2>&3; echo . >&3; done
"#;

/// A machine that does what it is told on its port.
struct Guest {
    qemu: Qemu,
    port: BufReader<UnixStream>,
}

fn archive(kernel: &Kernel, wanted: &[&str], at: &Path) {
    let root = Root::open(&root_of(kernel)).unwrap();
    let modules =
        initramfs::modules(&root, &kernel.release, wanted, &bakery::kernel::module).unwrap();
    let mut file = File::create(at).unwrap();
    initramfs::write(&mut file, INIT.as_bytes(), &modules).unwrap();
    let mut more = Archive::new(&mut file).unwrap();
    more.file("busybox", 0o755, &std::fs::read("/bin/busybox").unwrap()).unwrap();
    more.finish().unwrap();
}

fn hardware(kernel: &Kernel, initramfs: Option<&Path>, board: Board) -> Hardware {
    let (tcg, host) = (Accelerator::Tcg, Architecture::X86_64);
    let words = accelerator::command_line(tcg, host);
    Hardware {
        name: "postroj-test".into(),
        architecture: host,
        accelerator: tcg,
        board,
        cpus: 1,
        memory: 256 << 20,
        boot: Boot::Kernel {
            kernel: kernel.file.clone(),
            initramfs: initramfs.map(Path::to_owned),
            command_line: format!("console=ttyS0 quiet {words}"),
        },
        disks: Vec::new(),
        console: None,
        ports: Vec::new(),
        nics: Vec::new(),
        shares: Vec::new(),
        monitor: Line::Descriptor(-1),
    }
}

impl Guest {
    fn start(mut hardware: Hardware, mut inherited: Vec<OwnedFd>) -> Self {
        let (ours, theirs, line) = qemu::line().unwrap();
        hardware.ports.push(Port { name: "test".into(), line, console: false });
        inherited.push(theirs);
        let qemu = Qemu::start(hardware, inherited).unwrap();
        ours.set_read_timeout(Some(LONG)).unwrap();
        Self { qemu, port: BufReader::new(ours) }
    }

    /// Everything up to a line that ends with a full stop.
    fn hear(&mut self) -> String {
        let mut heard = String::new();
        loop {
            let before = heard.len();
            self.port.read_line(&mut heard).unwrap();
            assert!(heard.len() > before, "the guest has ended after {heard:?}");
            if let Some(all) = heard.trim_end().strip_suffix('.') {
                return all.trim_end().to_owned();
            }
        }
    }

    fn does(&mut self, line: &str) -> String {
        self.port.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        self.hear()
    }

    fn power_off(mut self) -> Ended {
        self.port.get_mut().write_all(b"/busybox poweroff -f\n").unwrap();
        self.qemu.wait().unwrap()
    }
}

fn disk(file: PathBuf, writes: Writes, serial: &str) -> Disk {
    Disk { file, format: Format::Raw, writes, serial: serial.into() }
}

fn of_mebibytes(file: &Path, text: &str, mebibytes: u64) {
    std::fs::write(file, text).unwrap();
    File::options().write(true).open(file).unwrap().set_len(mebibytes << 20).unwrap();
}

#[test]
fn a_kernel_is_fetched_once_and_kept() {
    let first = kernel();
    assert!(first.release.contains("cloud"), "{}", first.release);
    assert!(first.file.to_str().unwrap().contains("/boot/vmlinux-"), "{}", first.file.display());
    // It is not asked for again: nobody is there.
    let nowhere =
        Options { mirror: Some("http://127.0.0.1:1/debian".into()), ..Options::default() };
    assert_eq!(find(&nowhere).file, first.file);
    // By its path it is found with its modules, and our own program is its init.
    let store = Store::open(&fixture::home().join("store")).unwrap();
    let (options, own) = (Options::default(), fixture::Own::new("kernel"));
    let packed = PathBuf::from(first.file.to_str().unwrap().replace("vmlinux", "vmlinuz"));
    let given = |file: &Path| {
        let wish =
            Wish { file: Some(file), image: None, store: &store, options: &options, tell: &Silent };
        kernel::find(&wish)
    };
    let given_one = given(&packed).unwrap();
    assert_eq!(given_one.release, first.release);
    let directory = own.path("kept");
    std::fs::create_dir(&directory).unwrap();
    let made = given_one.initramfs(&directory, initramfs::NEEDED).unwrap();
    let again = given_one.initramfs(&directory, initramfs::NEEDED).unwrap();
    let inode = |file: &File| std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap());
    assert_eq!(inode(&made), inode(&again), "it is made once");
    assert!(made.metadata().unwrap().len() > 1 << 20);
    let error = given_one.initramfs(&directory, &["no_such_module"]).unwrap_err();
    assert!(format!("{error:#}").contains("no module no_such_module"), "{error:#}");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "nothing half-written is left");
    let error = given(Path::new("/nonexistent/vmlinuz")).unwrap_err();
    assert!(format!("{error:#}").starts_with("cannot use the kernel /nonexistent/vmlinuz: "));
}

#[test]
fn a_microvm_has_its_disks_ports_and_network() {
    let (kernel, own) = (kernel(), fixture::Own::new("microvm"));
    let (image, volume) = (own.path("a,b.img"), own.path("volume"));
    of_mebibytes(&image, "the root\n", 1);
    of_mebibytes(&volume, "the volume\n", 1);
    let initramfs = own.path("initramfs");
    let wanted = [initramfs::NEEDED, initramfs::NETWORK].concat();
    archive(&kernel, &wanted, &initramfs);
    let mut hardware = hardware(&kernel, Some(&initramfs), Board::Microvm);
    hardware.cpus = 2;
    hardware.disks = vec![
        disk(image.clone(), Writes::Refused, "root"),
        disk(volume.clone(), Writes::Kept, "volume"),
    ];
    let link = Link::User { forwards: Vec::new(), isolated: true };
    hardware.nics = vec![Nic { mac: [2, 0, 0, 0, 0, 7], link }];
    let mut guest = Guest::start(hardware, Vec::new());
    assert_eq!(guest.hear(), kernel.release);
    assert_eq!(guest.does("/busybox nproc"), "2");
    assert_eq!(guest.does("/busybox head -n1 /dev/vda"), "the root");
    assert_eq!(guest.does("/busybox cat /sys/block/vda/serial"), "root");
    assert_eq!(guest.does("/busybox cat /sys/block/vda/ro /sys/block/vdb/ro"), "1\n0");
    assert_eq!(guest.does("/busybox cat /sys/class/net/eth0/address"), "02:00:00:00:00:07");
    assert_eq!(guest.does("echo written | /busybox dd of=/dev/vdb conv=fsync 2>/dev/null"), "");
    assert!(guest.does("/busybox grep -E 'overlay|erofs' /proc/filesystems").contains("erofs"));
    // It is spoken to meanwhile.
    let until = Instant::now() + LONG;
    let status = guest.qemu.tell("query-status", Value::Null, until).unwrap();
    assert_eq!(status["status"], "running");
    let error = guest.qemu.tell("device_del", json!({"id": "nothing"}), until).unwrap_err();
    assert!(error.to_string().contains("refuses device_del"), "{error:#}");
    assert_eq!(guest.power_off(), Ended::PoweredOff);
    assert!(std::fs::read(&volume).unwrap().starts_with(b"written\n"));
    assert!(std::fs::read(&image).unwrap().starts_with(b"the root\n"));
}

#[test]
fn a_pc_forgets_what_is_written_where_it_shall() {
    let (kernel, own) = (kernel(), fixture::Own::new("pc"));
    let (image, initramfs) = (own.path("image"), own.path("initramfs"));
    of_mebibytes(&image, "the root\n", 1);
    archive(&kernel, initramfs::NEEDED, &initramfs);
    let mut hardware = hardware(&kernel, Some(&initramfs), Board::Pci);
    hardware.disks = vec![disk(image.clone(), Writes::Forgotten, "root")];
    let console = own.path("console");
    hardware.console = Some(Line::File(console.clone()));
    let mut guest = Guest::start(hardware, Vec::new());
    assert_eq!(guest.hear(), kernel.release);
    guest.does("echo written | /busybox dd of=/dev/vda conv=fsync 2>/dev/null");
    assert_eq!(guest.does("/busybox head -n1 /dev/vda"), "written");
    guest.does("echo to the console >/dev/console");
    assert_eq!(guest.power_off(), Ended::PoweredOff);
    assert!(std::fs::read(&image).unwrap().starts_with(b"the root\n"));
    let said = std::fs::read_to_string(&console).unwrap();
    assert!(said.contains("to the console"), "{said:?}");
}

#[test]
fn every_end_is_told() {
    let (kernel, own) = (kernel(), fixture::Own::new("ends"));
    // A kernel without a root gives up.
    let start = |hardware| Qemu::start(hardware, Vec::new());
    let qemu = start(hardware(&kernel, None, Board::Microvm)).unwrap();
    assert_eq!(qemu.wait().unwrap(), Ended::Reset);
    let mut qemu = start(hardware(&kernel, None, Board::Microvm)).unwrap();
    qemu.tell("quit", Value::Null, Instant::now() + LONG).unwrap();
    assert_eq!(qemu.wait().unwrap(), Ended::Told);
    let qemu = start(hardware(&kernel, None, Board::Microvm)).unwrap();
    qemu.signal(9).unwrap();
    assert_eq!(qemu.wait().unwrap(), Ended::Killed(9));
    let qemu = start(hardware(&kernel, None, Board::Microvm)).unwrap();
    let pid = qemu.pid();
    drop(qemu);
    assert!(sys::process::start_time(pid).is_err(), "it is killed with its owner");
    let mut without = hardware(&kernel, None, Board::Microvm);
    without.disks = vec![disk(own.path("missing"), Writes::Refused, "root")];
    let error = format!("{:#}", start(without).unwrap_err());
    assert!(error.contains("missing") && error.contains("No such file"), "{error}");
    assert!(!error.contains('\n'), "{error}");
    let mut bad = hardware(&kernel, None, Board::Microvm);
    bad.disks = vec![Disk { format: Format::Qcow2, ..disk(own.path("no"), Writes::Refused, "no") }];
    std::fs::write(own.path("no"), "no image").unwrap();
    let error = format!("{:#}", start(bad).unwrap_err());
    assert!(error.contains("not in qcow2 format"), "{error}");
}

/// An end of QEMU's by its parent's: a process that starts one, and is killed.
#[test]
fn nothing_outlives_who_started_it() {
    const WORD: &str = "POSTROJ_TEST_STARTS_QEMU";
    let kernel = kernel();
    if std::env::var_os(WORD).is_some() {
        let qemu = Qemu::start(hardware(&kernel, None, Board::Microvm), Vec::new()).unwrap();
        println!("pid {}", qemu.pid().as_raw_nonzero());
        loop {
            std::thread::park();
        }
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "nothing_outlives_who_started_it", "--nocapture"]).env(WORD, "1");
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let pid = lines.find_map(|line| line.unwrap().split_once("pid ")?.1.parse().ok()).unwrap();
    let qemu = rustix::process::Pid::from_raw(pid).unwrap();
    let started = sys::process::start_time(qemu).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    fixture::wait_until("QEMU is gone", || {
        sys::process::start_time(qemu).map_or(true, |now| now != started)
    });
}

#[test]
fn kvm_is_used_where_a_kernel_comes_to_its_end_in_it() {
    let (kernel, own) = (kernel(), fixture::Own::new("kvm"));
    let directory = own.path("found");
    std::fs::create_dir(&directory).unwrap();
    let find = || accelerator::find(&directory, Architecture::X86_64, &kernel.file).unwrap();
    let first = find();
    println!("{first:?}");
    assert_eq!(first.remark.is_some(), first.accelerator == Accelerator::Tcg);
    let second = find();
    assert_eq!((second.accelerator, second.remark), (first.accelerator, None), "it is said once");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "and nothing else is left");
    if first.accelerator == Accelerator::Kvm {
        let mut hardware = hardware(&kernel, None, Board::Microvm);
        hardware.accelerator = Accelerator::Kvm;
        assert_eq!(Qemu::start(hardware, Vec::new()).unwrap().wait().unwrap(), Ended::Reset);
    }
}
