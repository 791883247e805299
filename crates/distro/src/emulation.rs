//! Programs of other processors, and how the kernel is told to run them by an emulator
//! (Documentation/admin-guide/binfmt-misc.rst).

use crate::elf;

/// A kind of processor whose programs QEMU runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign {
    /// In OCI's (Go's) words, such as `arm64`.
    pub architecture: &'static str,
    /// In QEMU's words, such as `aarch64`.
    pub qemu: &'static str,
    /// `EI_CLASS` of its ELF files: 1 for 32 bits, 2 for 64 (elf(5)).
    class: u8,
    /// `EI_DATA`: 1 for little-endian, 2 for big-endian.
    data: u8,
    /// `e_machine` (`<linux/elf-em.h>`).
    machine: u16,
}

const fn foreign(
    architecture: &'static str,
    qemu: &'static str,
    (class, data, machine): (u8, u8, u16),
) -> Foreign {
    Foreign { architecture, qemu, class, data, machine }
}

/// Every one; names as in QEMU's `scripts/qemu-binfmt-conf.sh`.
pub const FOREIGN: [Foreign; 9] = [
    foreign("386", "i386", (1, 1, 3)),
    foreign("amd64", "x86_64", (2, 1, 62)),
    foreign("arm", "arm", (1, 1, 40)),
    foreign("arm64", "aarch64", (2, 1, 183)),
    foreign("loong64", "loongarch64", (2, 1, 258)),
    foreign("mips64le", "mips64el", (2, 1, 8)),
    foreign("ppc64le", "ppc64le", (2, 1, 21)),
    foreign("riscv64", "riscv64", (2, 1, 243)),
    foreign("s390x", "s390x", (2, 2, 22)),
];

/// Whether the kernel of `host` runs the programs of `architecture` by itself; both in OCI's words.
#[must_use]
pub fn is_native(host: &str, architecture: &str) -> bool {
    // Every kernel of a distribution for amd64 has CONFIG_IA32_EMULATION.
    host == architecture || (host, architecture) == ("amd64", "386")
}

/// The kind of that name.
#[must_use]
pub fn by_architecture(architecture: &str) -> Option<&'static Foreign> {
    FOREIGN.iter().find(|foreign| foreign.architecture == architecture)
}

impl Foreign {
    /// Names of the emulator's program, the best first: one that needs no files of the machine.
    #[must_use]
    pub fn programs(&self) -> [String; 2] {
        [format!("qemu-{}-static", self.qemu), format!("qemu-{}", self.qemu)]
    }

    /// Its programs' first bytes.
    fn header(&self) -> [u8; elf::HEADER] {
        let mut header = [0; elf::HEADER];
        header[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', self.class, self.data, 1]);
        let word = |value: u16| match self.data {
            1 => value.to_le_bytes(),
            _ => value.to_be_bytes(),
        };
        // ET_EXEC; the mask lets ET_DYN pass as well.
        header[16..18].copy_from_slice(&word(2));
        header[18..].copy_from_slice(&word(self.machine));
        header
    }

    /// The bits of the first bytes that count: neither the ABI's name, of which GNU's and System V's
    /// are one, nor the last bit of the type.
    fn mask(&self) -> [u8; elf::HEADER] {
        let mut mask = [0xff; elf::HEADER];
        mask[7] = 0;
        mask[if self.data == 1 { 16 } else { 17 }] = 0xfe;
        mask
    }

    /// What is written to `register` for the emulator at `interpreter`, an absolute path. Flags: `F`
    /// opens it now, so that the machine needs no file of it; `O` hands it the program open; `C` lets
    /// the program's set-user-id bits count.
    #[must_use]
    pub fn registration(&self, interpreter: &str) -> String {
        let hex = |bytes: [u8; elf::HEADER]| -> String {
            bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
        };
        let (magic, mask) = (hex(self.header()), hex(self.mask()));
        format!(":postroj-{}:M::{magic}:{mask}:{interpreter}:FOC", self.qemu)
    }

    /// Whether an entry of binfmt_misc, as its file reads, runs its programs in any root.
    #[must_use]
    pub fn is_served_by(&self, entry: &str) -> bool {
        let field = |name: &str| {
            let line = entry.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).unwrap_or_default()
        };
        let bytes = |text: &str| -> Option<Vec<u8>> {
            let pair = |at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
            (0..text.len()).step_by(2).map(pair).collect()
        };
        let Some(magic) = bytes(field("magic ")).filter(|magic| !magic.is_empty()) else {
            return false;
        };
        let mask = match field("mask ") {
            "" => Some(vec![0xff; magic.len()]),
            text => bytes(text),
        };
        let header = self.header();
        let matches = |mask: Vec<u8>| {
            magic.len() <= header.len()
                && mask.len() == magic.len()
                && magic.iter().zip(&mask).zip(header).all(|((m, k), h)| (m ^ h) & k == 0)
        };
        entry.lines().next() == Some("enabled")
            && field("flags:").contains('F')
            && field("offset ") == "0"
            && mask.is_some_and(matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_those_of_the_architecture() {
        for foreign in &FOREIGN {
            assert_eq!(elf::architecture(&foreign.header()), Some(foreign.architecture));
            assert_eq!(by_architecture(foreign.architecture), Some(foreign));
            // The kernel's limit is 1,920 bytes (fs/binfmt_misc.c, MAX_REGISTER_LENGTH).
            let line = foreign.registration("/usr/bin/qemu");
            assert!(line.len() < 256 && line.split(':').count() == 8, "{line}");
        }
        assert!(by_architecture("wasm").is_none());
    }

    #[test]
    fn registrations_are_qemus() {
        let arm64 = by_architecture("arm64").expect("arm64");
        assert_eq!(
            arm64.registration("/usr/bin/qemu-aarch64-static"),
            ":postroj-aarch64:M::\\x7f\\x45\\x4c\\x46\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00:\
             \\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff:\
             /usr/bin/qemu-aarch64-static:FOC"
        );
        let s390x = by_architecture("s390x").expect("s390x").registration("/q");
        assert!(s390x.contains("\\x00\\x02\\x00\\x16:") && s390x.contains("\\xff\\xfe\\xff\\xff:"));
    }

    #[test]
    fn a_host_s_registration_is_recognised() {
        let entry = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\n\
            magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";
        let arm64 = by_architecture("arm64").expect("arm64");
        assert!(arm64.is_served_by(entry));
        assert!(!by_architecture("riscv64").expect("riscv64").is_served_by(entry));
        for (old, new) in [
            ("enabled", "disabled"),
            ("POCF", "POC"),
            ("offset 0", "offset 4"),
            ("magic 7f45", "magic 7f"),
            ("mask ffff", "mask ff"),
            ("magic 7f", "magic zz"),
        ] {
            assert!(!arm64.is_served_by(&entry.replacen(old, new, 1)), "{new}");
        }
        assert!(
            !arm64
                .is_served_by("enabled\ninterpreter /usr/bin/python3\nflags: F\nextension .pyc\n")
        );
        assert!(!arm64.is_served_by(""));
    }

    #[test]
    fn what_is_native() {
        assert!(is_native("amd64", "amd64") && is_native("amd64", "386"));
        assert!(!is_native("amd64", "arm64") && !is_native("386", "amd64"));
    }
}
