//! What a virtual machine consists of, as plain data; how QEMU is told is in `arguments`. Pure: nothing is
//! opened or started here.

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;

mod arguments;

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hardware {
    /// What the host's process list and QEMU's errors call it.
    pub name: String,
    /// The processor that it has.
    pub architecture: Architecture,
    /// Who executes its instructions.
    pub accelerator: Accelerator,
    /// The kind of board.
    pub board: Board,
    /// Processors: at least one.
    pub cpus: u32,
    /// Memory in bytes; a whole number of MiB is used.
    pub memory: u64,
    /// What it starts.
    pub boot: Boot,
    /// Disks; the guest sees them in this order, as `/dev/vda` and so on, and by their serial.
    pub disks: Vec<Disk>,
    /// The serial console, `/dev/ttyS0` (`/dev/ttyAMA0` of ARM).
    pub console: Option<Line>,
    /// Ports of virtio-serial: `/dev/virtio-ports/NAME`, in this order `/dev/vport0p1` and so on.
    pub ports: Vec<Port>,
    /// Network cards.
    pub nics: Vec<Nic>,
    /// Directories of the host's.
    pub shares: Vec<Share>,
    /// Where QEMU itself is spoken to (QMP).
    pub monitor: Line,
}

/// Kinds of processors that machines can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// amd64.
    X86_64,
    /// arm64.
    Aarch64,
}

/// Who executes a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The host's processor, through its kernel.
    Kvm,
    /// QEMU, by translating them.
    Tcg,
}

/// Kinds of boards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Board {
    /// With nothing that a guest that knows virtio does not need: starts soonest. It has no PCI.
    Microvm,
    /// A PC with PCI Express (of ARM, `virt`): for firmware, and devices that are on PCI only.
    Pci,
}

/// What a machine starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// A kernel, put into memory by QEMU.
    Kernel {
        /// A bzImage, or an ELF file with a PVH entry, which starts sooner as nothing is unpacked.
        kernel: PathBuf,
        /// Its first root.
        initramfs: Option<PathBuf>,
        /// Its command line.
        command_line: String,
    },
    /// The firmware that QEMU brings for a PC (BIOS), which starts the first disk's boot sector.
    Bios,
    /// Firmware (UEFI), which finds a boot loader on the disks.
    Firmware {
        /// Its code, which is only read.
        code: PathBuf,
        /// Its variables: this machine's own copy, which it writes to.
        variables: PathBuf,
    },
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// What holds its content: a file, or a block device.
    pub file: PathBuf,
    /// How.
    pub format: Format,
    /// What becomes of what is written.
    pub writes: Writes,
    /// By which the guest knows it (`/dev/disk/by-id/virtio-SERIAL`): 1 to 20 letters and digits.
    pub serial: String,
}

/// How a disk's content is laid out in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As it is.
    Raw,
    /// QEMU's own.
    Qcow2,
    /// VMware's.
    Vmdk,
    /// VirtualBox's.
    Vdi,
    /// Virtual PC's.
    Vpc,
    /// Hyper-V's.
    Vhdx,
}

impl Format {
    /// As QEMU calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vpc => "vpc",
            Self::Vhdx => "vhdx",
        }
    }
}

/// What becomes of what a guest writes to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// It cannot write.
    Refused,
    /// It is gone with the machine.
    Forgotten,
    /// It is in the file.
    Kept,
}

/// The host's end of something that carries bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A connected socket that QEMU inherits under this number.
    Descriptor(RawFd),
    /// QEMU listens on a socket here; one at a time may connect.
    Listen(PathBuf),
    /// What the guest says is appended to a file; it hears nothing.
    File(PathBuf),
}

/// A port of virtio-serial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name in the guest.
    pub name: String,
    /// Its other end.
    pub line: Line,
    /// It is a console: `/dev/hvcN` instead of a port.
    pub console: bool,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Its address.
    pub mac: [u8; 6],
    /// What it is connected to.
    pub link: Link,
}

/// What a network card is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// A network of its own, from which QEMU makes connections as this user (`-netdev user`).
    User {
        /// Ports of the host's that lead to the guest.
        forwards: Vec<Forward>,
        /// Whether the guest may reach nothing but what asks it (`restrict=on`).
        isolated: bool,
    },
    /// A tap device (`/dev/net/tun`), inherited under this number.
    Tap(RawFd),
    /// A connected socket that carries frames, each after its length, inherited under this number.
    Stream(RawFd),
}

/// A port of the host's that leads to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// `tcp`, else `udp`.
    pub tcp: bool,
    /// The host's address; IPv4 only, as QEMU knows no other.
    pub address: IpAddr,
    /// The host's port.
    pub host: u16,
    /// The guest's port.
    pub guest: u16,
}

/// A directory of the host's, which a virtiofsd of ours serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// What the guest mounts (`mount -t virtiofs TAG`).
    pub tag: String,
    /// The socket of its virtiofsd.
    pub line: Line,
}

impl Architecture {
    /// The one that this program was built for.
    #[must_use]
    pub fn host() -> Option<Self> {
        Self::of_oci(match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        })
    }

    /// By Go's word for it, as images have it.
    #[must_use]
    pub fn of_oci(word: &str) -> Option<Self> {
        match word {
            "amd64" => Some(Self::X86_64),
            "arm64" => Some(Self::Aarch64),
            _ => None,
        }
    }

    /// The program that emulates it.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86_64",
            Self::Aarch64 => "qemu-system-aarch64",
        }
    }

    /// What its kernel calls the serial console.
    #[must_use]
    pub fn console(self) -> &'static str {
        match self {
            Self::X86_64 => "ttyS0",
            Self::Aarch64 => "ttyAMA0",
        }
    }
}
