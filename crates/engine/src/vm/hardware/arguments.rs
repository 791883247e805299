//! A virtual machine as QEMU is told of it.
//!
//! Options are QEMU's (qemu-system-x86_64(1), "QEMU User Documentation", Invocation), as of 7.2.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    Accelerator, Architecture, Board, Boot, Disk, Hardware, Line, Link, Nic, Share, Writes,
};

const MIB: u64 = 1 << 20;

impl Hardware {
    /// The name of the program that runs it, as it is on `PATH`.
    #[must_use]
    pub fn program(&self) -> &'static str {
        self.architecture.program()
    }

    /// QEMU's arguments, without its own name.
    ///
    /// # Errors
    /// What cannot be: no processor, a path or name that QEMU's syntax cannot hold, a device that the
    /// board has no place for.
    pub fn arguments(&self) -> Result<Vec<String>> {
        self.check()?;
        let mut list = Arguments::default();
        list.option("-name", format!("{},process={}", escape(&self.name)?, escape(&self.name)?));
        // Nothing that was not asked for, and nothing of the host's configuration.
        for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            list.flag(flag);
        }
        list.option("-display", "none".into());
        // Whoever takes QEMU over can start no program and get no right from it.
        list.option(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into(),
        );
        self.board(&mut list);
        self.boot(&mut list)?;
        self.monitor(&mut list)?;
        self.console(&mut list)?;
        for (number, disk) in self.disks.iter().enumerate() {
            self.disk(&mut list, number, disk)?;
        }
        self.ports(&mut list)?;
        for (number, nic) in self.nics.iter().enumerate() {
            self.nic(&mut list, number, nic)?;
        }
        for (number, share) in self.shares.iter().enumerate() {
            self.share(&mut list, number, share)?;
        }
        Ok(list.0)
    }

    fn check(&self) -> Result<()> {
        ensure!(self.cpus > 0, "a virtual machine needs a processor");
        ensure!(
            self.memory >= 64 * MIB,
            "a virtual machine needs at least 64 MiB of memory, not {} bytes",
            self.memory
        );
        if self.board == Board::Microvm {
            ensure!(
                matches!(self.boot, Boot::Kernel { .. }),
                "firmware and boot loaders need a board with PCI"
            );
            ensure!(
                self.architecture == Architecture::X86_64,
                "there is a microvm for x86_64 only"
            );
            // 24 places for virtio devices, in QEMU since 5.2 with ACPI and a second IOAPIC.
            let devices = self.disks.len() + self.nics.len() + self.shares.len() + 1;
            ensure!(devices <= 24, "a microvm has places for 24 devices, not for {devices}");
        }
        Ok(())
    }

    fn board(&self, list: &mut Arguments) {
        let shared = if self.shares.is_empty() { "" } else { ",memory-backend=memory" };
        let machine = match (self.architecture, self.board) {
            (Architecture::X86_64, Board::Microvm) => "microvm,rtc=on",
            (Architecture::X86_64, Board::Pci) => "q35,usb=off,vmport=off,smbus=off,hpet=off",
            (Architecture::Aarch64, _) => "virt",
        };
        list.option("-machine", format!("{machine}{shared}"));
        let mebibytes = self.memory / MIB;
        list.option("-m", mebibytes.to_string());
        if !self.shares.is_empty() {
            // What virtiofsd reads and writes is the guest's memory itself.
            list.option(
                "-object",
                format!("memory-backend-memfd,id=memory,size={mebibytes}M,share=on"),
            );
        }
        let (accelerator, cpu) = match self.accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            // One translation cache of 256 MiB: the default is a quarter of the guest's memory or less,
            // and is thrown away whole when it is full.
            Accelerator::Tcg => ("tcg,thread=multi,tb-size=256", "max"),
        };
        list.option("-accel", accelerator.into());
        list.option("-cpu", cpu.into());
        list.option("-smp", self.cpus.to_string());
        // The modern form of virtio, as virtio-mmio has the old one unless told.
        list.option("-global", "virtio-mmio.force-legacy=false".into());
    }

    fn boot(&self, list: &mut Arguments) -> Result<()> {
        match &self.boot {
            Boot::Kernel { kernel, initramfs, command_line } => {
                list.option("-kernel", text(kernel)?.into());
                if let Some(initramfs) = initramfs {
                    // A comma separates the modules of a multiboot kernel here.
                    list.option("-initrd", text(initramfs)?.into());
                }
                list.option("-append", command_line.clone());
            }
            Boot::Bios => {}
            Boot::Firmware { code, variables } => {
                for (number, file, read_only) in [(0, code, "on"), (1, variables, "off")] {
                    let file = escape(text(file)?)?;
                    list.option(
                        "-drive",
                        format!(
                            "if=pflash,unit={number},format=raw,readonly={read_only},file={file}"
                        ),
                    );
                }
            }
        }
        Ok(())
    }

    fn monitor(&self, list: &mut Arguments) -> Result<()> {
        list.line("monitor", &self.monitor)?;
        list.option("-mon", "chardev=monitor,mode=control".into());
        Ok(())
    }

    fn console(&self, list: &mut Arguments) -> Result<()> {
        if let Some(line) = &self.console {
            list.line("console", line)?;
            list.option("-serial", "chardev:console".into());
        }
        Ok(())
    }

    fn disk(&self, list: &mut Arguments, number: usize, disk: &Disk) -> Result<()> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        ensure!(
            (1..=20).contains(&disk.serial.len()) && disk.serial.bytes().all(good),
            "{:?} cannot be a disk's serial: it takes 1 to 20 letters and digits (virtio, 5.2)",
            disk.serial
        );
        let file = escape(text(&disk.file)?)?;
        let format = disk.format.name();
        let writes = match disk.writes {
            Writes::Refused => ",readonly=on",
            // A qcow2 file without a name, over this one.
            Writes::Forgotten => ",snapshot=on",
            Writes::Kept => "",
        };
        // What is forgotten need not be flushed.
        let cache = match disk.writes {
            Writes::Forgotten => ",cache=unsafe",
            _ => "",
        };
        list.option(
            "-drive",
            format!(
                "if=none,id=disk{number},format={format},file={file}{writes}{cache},discard=unmap"
            ),
        );
        let device = self.device("virtio-blk");
        let boots = !matches!(self.boot, Boot::Kernel { .. });
        let order = if boots { format!(",bootindex={number}") } else { String::new() };
        list.option(
            "-device",
            format!("{device},drive=disk{number},serial={}{order}", disk.serial),
        );
        Ok(())
    }

    fn ports(&self, list: &mut Arguments) -> Result<()> {
        if self.ports.is_empty() {
            return Ok(());
        }
        // Port 0 is a console's by the standard (virtio 1.2, 5.3).
        ensure!(self.ports.len() < 31, "a virtual machine has at most 30 ports");
        list.option("-device", format!("{},id=serial", self.device("virtio-serial")));
        for (number, port) in self.ports.iter().enumerate() {
            let id = format!("port{number}");
            list.line(&id, &port.line)?;
            let kind = if port.console { "virtconsole" } else { "virtserialport" };
            let name = escape(&port.name)?;
            let nr = number + 1;
            list.option("-device", format!("{kind},bus=serial.0,nr={nr},chardev={id},name={name}"));
        }
        Ok(())
    }

    fn nic(&self, list: &mut Arguments, number: usize, nic: &Nic) -> Result<()> {
        let mut backend = match &nic.link {
            Link::Tap(descriptor) => format!("tap,id=net{number},fd={descriptor}"),
            Link::Stream(descriptor) => format!("socket,id=net{number},fd={descriptor}"),
            Link::User { isolated: true, .. } => format!("user,id=net{number},restrict=on"),
            Link::User { .. } => format!("user,id=net{number}"),
        };
        if let Link::User { forwards, .. } = &nic.link {
            for forward in forwards {
                let IpAddr::V4(address) = forward.address else {
                    bail!(
                        "a virtual machine's port cannot be published at {}: its network knows IPv4 only",
                        forward.address
                    )
                };
                let (protocol, host, guest) =
                    (if forward.tcp { "tcp" } else { "udp" }, forward.host, forward.guest);
                backend.push_str(&format!(",hostfwd={protocol}:{address}:{host}-:{guest}"));
            }
        }
        list.option("-netdev", backend);
        let mac: Vec<String> = nic.mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let device = self.device("virtio-net");
        // Nobody boots from it, and its boot program would have to be there.
        let rom = if self.board == Board::Pci { ",romfile=" } else { "" };
        list.option("-device", format!("{device},netdev=net{number},mac={}{rom}", mac.join(":")));
        Ok(())
    }

    fn share(&self, list: &mut Arguments, number: usize, share: &Share) -> Result<()> {
        let id = format!("share{number}");
        list.line(&id, &share.line)?;
        // virtio 1.2, 5.11.4: a tag has at most 36 bytes.
        ensure!(
            (1..=36).contains(&share.tag.len()),
            "{:?} cannot be a share's tag: it takes 1 to 36 bytes",
            share.tag
        );
        let tag = escape(&share.tag)?;
        list.option("-device", format!("{},chardev={id},tag={tag}", self.device("vhost-user-fs")));
        Ok(())
    }

    /// The name of a virtio device for this board's bus.
    fn device(&self, kind: &str) -> String {
        match self.board {
            Board::Microvm => format!("{kind}-device"),
            Board::Pci => format!("{kind}-pci"),
        }
    }
}

#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn flag(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn option(&mut self, name: &str, value: String) {
        self.0.extend([name.to_owned(), value]);
    }

    fn line(&mut self, id: &str, line: &Line) -> Result<()> {
        let what = match line {
            Line::Descriptor(number) => format!("socket,id={id},fd={number}"),
            Line::Listen(path) => {
                format!("socket,id={id},server=on,wait=off,path={}", escape(text(path)?)?)
            }
            Line::File(path) => format!("file,id={id},append=on,path={}", escape(text(path)?)?),
        };
        self.option("-chardev", what);
        Ok(())
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| {
        format!("QEMU cannot be told of {}: the path is not UTF-8", path.display())
    })
}

/// A comma ends a value unless it is doubled ("Invocation": "escape commas").
fn escape(value: &str) -> Result<String> {
    ensure!(!value.contains('\0'), "QEMU cannot be told of {value:?}: it contains a NUL byte");
    Ok(value.replace(',', ",,"))
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Forward, Port};
    use super::*;

    fn small() -> Hardware {
        Hardware {
            name: "box".into(),
            architecture: Architecture::X86_64,
            accelerator: Accelerator::Tcg,
            board: Board::Microvm,
            cpus: 2,
            memory: 512 * MIB,
            boot: Boot::Kernel {
                kernel: "/k/vmlinux".into(),
                initramfs: Some("/k/initramfs".into()),
                command_line: "console=ttyS0 quiet".into(),
            },
            disks: vec![Disk {
                file: "/images/a,b.erofs".into(),
                format: Format::Raw,
                writes: Writes::Refused,
                serial: "root".into(),
            }],
            console: Some(Line::File("/run/console".into())),
            ports: vec![Port { name: "postroj".into(), line: Line::Descriptor(7), console: false }],
            nics: Vec::new(),
            shares: Vec::new(),
            monitor: Line::Descriptor(5),
        }
    }

    fn shown(hardware: &Hardware) -> String {
        hardware.arguments().unwrap().join(" ").replace(" -", "\n-")
    }

    #[test]
    fn a_microvm() {
        assert_eq!(
            shown(&small()),
            "-name box,process=box\n-nodefaults\n-no-user-config\n-no-reboot\n-display none\n\
             -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny\n\
             -machine microvm,rtc=on\n-m 512\n-accel tcg,thread=multi,tb-size=256\n-cpu max\n-smp 2\n\
             -global virtio-mmio.force-legacy=false\n\
             -kernel /k/vmlinux\n-initrd /k/initramfs\n-append console=ttyS0 quiet\n\
             -chardev socket,id=monitor,fd=5\n-mon chardev=monitor,mode=control\n\
             -chardev file,id=console,append=on,path=/run/console\n-serial chardev:console\n\
             -drive if=none,id=disk0,format=raw,file=/images/a,,b.erofs,readonly=on,discard=unmap\n\
             -device virtio-blk-device,drive=disk0,serial=root\n\
             -device virtio-serial-device,id=serial\n-chardev socket,id=port0,fd=7\n\
             -device virtserialport,bus=serial.0,nr=1,chardev=port0,name=postroj"
        );
    }

    #[test]
    fn a_pc_with_everything() {
        let mut pc = small();
        pc.board = Board::Pci;
        pc.accelerator = Accelerator::Kvm;
        pc.boot = Boot::Firmware { code: "/fw/code".into(), variables: "/run/vars".into() };
        pc.disks[0] = Disk {
            file: "/images/x.qcow2".into(),
            format: Format::Qcow2,
            writes: Writes::Forgotten,
            serial: "disk".into(),
        };
        pc.ports[0] =
            Port { name: "log".into(), line: Line::Listen("/run/log".into()), console: true };
        let forward =
            Forward { tcp: true, address: IpAddr::from([127, 0, 0, 1]), host: 8080, guest: 80 };
        pc.nics = vec![
            Nic {
                mac: [2, 0, 0, 0, 0, 1],
                link: Link::User { forwards: vec![forward], isolated: false },
            },
            Nic { mac: [2, 0, 0, 0, 0, 2], link: Link::Tap(9) },
            Nic { mac: [2, 0, 0, 0, 0, 3], link: Link::Stream(11) },
        ];
        pc.shares = vec![Share { tag: "v0".into(), line: Line::Descriptor(13) }];
        let shown = shown(&pc);
        for part in [
            "-machine q35,usb=off,vmport=off,smbus=off,hpet=off,memory-backend=memory\n-m 512\n\
             -object memory-backend-memfd,id=memory,size=512M,share=on\n-accel kvm\n-cpu host\n",
            "-drive if=pflash,unit=0,format=raw,readonly=on,file=/fw/code\n\
             -drive if=pflash,unit=1,format=raw,readonly=off,file=/run/vars\n",
            "file=/images/x.qcow2,snapshot=on,cache=unsafe,discard=unmap\n\
             -device virtio-blk-pci,drive=disk0,serial=disk,bootindex=0\n",
            "-chardev socket,id=port0,server=on,wait=off,path=/run/log\n-device virtconsole,bus=serial.0,nr=1,",
            "-netdev user,id=net0,hostfwd=tcp:127.0.0.1:8080-:80\n\
             -device virtio-net-pci,netdev=net0,mac=02:00:00:00:00:01,romfile=\n-netdev tap,id=net1,fd=9\n",
            "-netdev socket,id=net2,fd=11\n",
            "-chardev socket,id=share0,fd=13\n-device vhost-user-fs-pci,chardev=share0,tag=v0",
        ] {
            assert!(shown.contains(part), "{part}\n--- is missing in\n{shown}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |change: &dyn Fn(&mut Hardware), part: &str| {
            let mut hardware = small();
            change(&mut hardware);
            let error = hardware.arguments().unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
        };
        refused(&|h| h.cpus = 0, "needs a processor");
        refused(&|h| h.memory = MIB, "at least 64 MiB");
        refused(&|h| h.architecture = Architecture::Aarch64, "x86_64 only");
        refused(&|h| h.disks[0].serial = "a,b".into(), "serial");
        refused(&|h| h.disks[0].serial = String::new(), "serial");
        let untagged = || Share { tag: String::new(), line: Line::Descriptor(13) };
        refused(&|h| h.shares = vec![untagged()], "a share's tag");
        refused(
            &|h| h.boot = Boot::Firmware { code: "/c".into(), variables: "/v".into() },
            "a board with PCI",
        );
        let forward = Forward { tcp: true, address: "::1".parse().unwrap(), host: 1, guest: 1 };
        let link = Link::User { forwards: vec![forward], isolated: true };
        refused(&|h| h.nics = vec![Nic { mac: [2; 6], link: link.clone() }], "IPv4 only");
        refused(&|h| h.name = "a\0b".into(), "NUL");
    }
}
