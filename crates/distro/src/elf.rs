//! The architecture that an ELF file is for.

/// Bytes from a file's start that [`architecture`] looks at: `e_ident`, `e_type`, `e_machine`.
pub const HEADER: usize = 20;

/// The architecture of an executable in OCI's (Go's) words, such as `amd64`;
/// `None` for what is no ELF file, or is for a machine that Go has no name for.
///
/// Machine numbers: elf(5) and `<linux/elf-em.h>`; names: image-spec 1.1, config.md, and `go tool dist list`.
pub fn architecture(start: &[u8]) -> Option<&'static str> {
    let header = start.get(..HEADER)?;
    if !header.starts_with(b"\x7fELF") {
        return None;
    }
    let machine = [header[18], header[19]];
    let (little, machine) = match header[5] {
        1 => (true, u16::from_le_bytes(machine)),
        2 => (false, u16::from_be_bytes(machine)),
        _ => return None,
    };
    let wide = match header[4] {
        1 => false,
        2 => true,
        _ => return None,
    };
    Some(match (machine, wide, little) {
        (3, false, true) => "386",
        (8, false, true) => "mipsle",
        (8, false, false) => "mips",
        (8, true, true) => "mips64le",
        (8, true, false) => "mips64",
        (21, true, true) => "ppc64le",
        (21, true, false) => "ppc64",
        (22, true, false) => "s390x",
        (40, false, true) => "arm",
        // The same number with 32-bit classes is the x32 ABI, for which there is no name.
        (62, true, true) => "amd64",
        (183, true, true) => "arm64",
        (243, true, true) => "riscv64",
        (258, true, true) => "loong64",
        _ => return None,
    })
}

/// Whether an executable needs no other program to be loaded; `start` is its beginning, with
/// the program headers (elf(5)): one of `PT_INTERP` names a loader.
pub fn is_static(start: &[u8]) -> bool {
    let Some(little) = start.get(5).map(|data| *data == 1) else { return false };
    let wide = start[4] == 2;
    if architecture(start).is_none() {
        return false;
    }
    let number = |at: usize, length: usize| {
        let bytes = start.get(at..at.checked_add(length)?)?.iter();
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(if little { bytes.rev().fold(0, add) } else { bytes.fold(0, add) })
    };
    let (offset, size, count) = match wide {
        true => (number(32, 8), number(54, 2), number(56, 2)),
        false => (number(28, 4), number(42, 2), number(44, 2)),
    };
    let (Some(offset), Some(size), Some(count)) = (offset, size, count) else { return false };
    let kind = |index: u64| number(usize::try_from(offset.checked_add(index * size)?).ok()?, 4);
    (0..count).all(|index| kind(index).is_some_and(|kind| kind != 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(class: u8, data: u8, machine: u16) -> Vec<u8> {
        let mut header = b"\x7fELF".to_vec();
        header.extend([class, data, 1, 0]);
        header.extend([0; 8]);
        for field in [3, machine] {
            header.extend(if data == 2 { u16::to_be_bytes(field) } else { field.to_le_bytes() });
        }
        header
    }

    #[test]
    fn every_name() {
        for (class, data, machine, name) in [
            (2, 1, 62, "amd64"),
            (2, 1, 183, "arm64"),
            (1, 1, 40, "arm"),
            (1, 1, 3, "386"),
            (2, 1, 21, "ppc64le"),
            (2, 2, 21, "ppc64"),
            (2, 2, 22, "s390x"),
            (2, 1, 243, "riscv64"),
            (2, 1, 258, "loong64"),
            (2, 1, 8, "mips64le"),
            (2, 2, 8, "mips64"),
            (1, 1, 8, "mipsle"),
            (1, 2, 8, "mips"),
        ] {
            assert_eq!(architecture(&header(class, data, machine)), Some(name));
        }
    }

    #[test]
    fn other_machines_and_other_files() {
        for (class, data, machine) in [(1, 1, 62), (1, 1, 183), (2, 2, 62), (2, 1, 9999), (2, 1, 0)]
        {
            assert_eq!(architecture(&header(class, data, machine)), None);
        }
        assert_eq!(architecture(&header(3, 1, 62)), None);
        assert_eq!(architecture(&header(2, 3, 62)), None);
        assert_eq!(architecture(b"#!/bin/sh\nexec /lib/systemd/systemd\n"), None);
        let whole = header(2, 1, 62);
        for length in 0..HEADER {
            assert_eq!(architecture(&whole[..length]), None);
        }
    }

    #[test]
    fn a_loader_is_seen() {
        let program = |kinds: &[u8]| {
            let mut bytes = header(2, 1, 62);
            bytes.resize(64, 0);
            bytes[32] = 64;
            bytes[54] = 56;
            bytes[56] = kinds.len() as u8;
            for kind in kinds {
                bytes.push(*kind);
                bytes.resize(bytes.len() + 55, 0);
            }
            bytes
        };
        assert!(is_static(&program(&[1, 4, 2])) && !is_static(&program(&[6, 3, 1])));
        let whole = program(&[1, 1]);
        for length in 0..whole.len() - 55 {
            assert!(!is_static(&whole[..length]), "{length}");
        }
        let mut hostile = program(&[1]);
        hostile[32..40].fill(0xff);
        assert!(!is_static(&hostile) && !is_static(b"#!/bin/sh"));
    }

    #[test]
    fn this_test_is_for_this_machine() {
        let own = std::fs::read("/proc/self/exe").expect("a process can read its own program");
        let names =
            [("x86_64", "amd64"), ("aarch64", "arm64"), ("riscv64", "riscv64"), ("s390x", "s390x")];
        if let Some((_, name)) = names.iter().find(|(rust, _)| *rust == std::env::consts::ARCH) {
            assert_eq!(architecture(&own), Some(*name));
        } else {
            assert!(own.starts_with(b"\x7fELF"));
        }
    }
}
