//! A disk with settings for cloud-init ("Datasources", NoCloud): an ISO 9660 image (ECMA-119) of a few
//! files in one directory, with their names as they are (Rock Ridge, IEEE P1282).

use anyhow::{Context as _, Result, ensure};

const SECTOR: usize = 2048;

/// Where the one directory is: behind the descriptors (16, 17) and the path tables (18, 19).
const DIRECTORY: u32 = 20;

/// By which cloud-init knows the disk.
const LABEL: &str = "CIDATA";

/// Makes the image of files with these names and contents.
///
/// # Errors
/// Where there are so many, or names so long, that they do not fit into one sector of directory, or
/// a file is larger than the format can tell.
pub fn image(files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut sorted: Vec<_> = files.iter().collect();
    sorted.sort();
    let mut directory = Vec::new();
    // Itself, which says that there are further fields, and whose (SUSP, 5.3 and 5.5), and the one above.
    let mut protocol = b"SP\x07\x01\xbe\xef\0".to_vec();
    protocol.extend(permissions(0o040_755, 2));
    protocol.extend(b"ER\x12\x01\x0a\0\0\x01RRIP_1991A");
    directory.extend(record(DIRECTORY, SECTOR as u32, true, b"\0", &protocol)?);
    directory.extend(record(DIRECTORY, SECTOR as u32, true, b"\x01", &permissions(0o040_755, 2))?);
    let mut content = Vec::new();
    let mut at = DIRECTORY + 1;
    for (name, bytes) in sorted {
        let size = u32::try_from(bytes.len()).with_context(|| format!("{name} is too large"))?;
        let mut system = permissions(0o100_444, 1);
        let length = u8::try_from(name.len() + 5).ok().context("a name is too long")?;
        system.extend([b'N', b'M', length, 1, 0]);
        system.extend(name.as_bytes());
        let plain = format!("{};1", name.to_ascii_uppercase());
        directory.extend(record(at, size, false, plain.as_bytes(), &system)?);
        content.extend_from_slice(bytes);
        content.resize(content.len().next_multiple_of(SECTOR), 0);
        at += size.div_ceil(SECTOR as u32);
    }
    ensure!(directory.len() <= SECTOR, "there are too many files for a seed");
    directory.resize(SECTOR, 0);
    let mut image = vec![0; 16 * SECTOR];
    image.extend(descriptor(at)?);
    image.extend(padded(b"\xffCD001\x01"));
    // The path table: the root directory alone, in each order of bytes.
    image.extend(padded(&[1, 0, DIRECTORY as u8, 0, 0, 0, 1, 0, 0, 0]));
    image.extend(padded(&[1, 0, 0, 0, 0, DIRECTORY as u8, 0, 1, 0, 0]));
    image.extend(directory);
    image.extend(content);
    Ok(image)
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut sector = bytes.to_vec();
    sector.resize(SECTOR, 0);
    sector
}

/// A number in both orders of bytes (7.3.3).
fn both(number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// The same of 16 bits (7.2.3).
fn both_short(number: u16) -> [u8; 4] {
    let (little, big) = (number.to_le_bytes(), number.to_be_bytes());
    [little[0], little[1], big[0], big[1]]
}

/// Rock Ridge's `PX` (4.1.1): mode, links, owner, group, serial number.
fn permissions(mode: u32, links: u32) -> Vec<u8> {
    let mut entry = b"PX\x2c\x01".to_vec();
    for number in [mode, links, 0, 0, 0] {
        entry.extend(both(number));
    }
    entry
}

/// A directory record (9.1).
fn record(at: u32, size: u32, directory: bool, name: &[u8], system: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = vec![0, 0];
    bytes.extend(both(at));
    bytes.extend(both(size));
    // 1 January 1970: equal settings make equal images.
    bytes.extend([70, 1, 1, 0, 0, 0, 0]);
    bytes.extend([if directory { 2 } else { 0 }, 0, 0]);
    bytes.extend(both_short(1));
    bytes.push(u8::try_from(name.len()).ok().context("a name is too long")?);
    bytes.extend(name);
    if name.len().is_multiple_of(2) {
        bytes.push(0);
    }
    bytes.extend(system);
    if !bytes.len().is_multiple_of(2) {
        bytes.push(0);
    }
    bytes[0] = u8::try_from(bytes.len()).ok().context("a name is too long for a seed")?;
    Ok(bytes)
}

/// The primary volume descriptor (8.4).
fn descriptor(sectors: u32) -> Result<Vec<u8>> {
    let mut bytes = b"\x01CD001\x01\0".to_vec();
    let text = |bytes: &mut Vec<u8>, text: &str, width: usize| {
        bytes.extend(text.bytes().chain(std::iter::repeat(b' ')).take(width));
    };
    text(&mut bytes, "LINUX", 32);
    text(&mut bytes, LABEL, 32);
    bytes.extend([0; 8]);
    bytes.extend(both(sectors));
    bytes.extend([0; 32]);
    for number in [1, 1, SECTOR as u16] {
        bytes.extend(both_short(number));
    }
    bytes.extend(both(10));
    for number in [18_u32, 0] {
        bytes.extend(number.to_le_bytes());
    }
    for number in [19_u32, 0] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend(record(DIRECTORY, SECTOR as u32, true, b"\0", b"")?);
    // Of what set it is, and who made it; three files that there are not.
    text(&mut bytes, "", 4 * 128 + 3 * 37);
    // Four times: none is given (8.4.26.1).
    for _ in 0..4 {
        bytes.extend([b'0'; 16]);
        bytes.push(0);
    }
    bytes.extend([1, 0]);
    bytes.resize(SECTOR, 0);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_read_it() {
        let files: [(&str, &[u8]); 3] = [
            ("user-data", b"#!/bin/sh\necho hello\n"),
            ("meta-data", b""),
            ("vendor-data", &[b'x'; 5000]),
        ];
        let image = image(&files).unwrap();
        assert_eq!(image.len(), (21 + 1 + 3) * SECTOR);
        let directory = tempfile::tempdir().unwrap();
        let (iso, to) = (directory.path().join("seed.iso"), directory.path().join("to"));
        std::fs::write(&iso, &image).unwrap();
        let xorriso = std::process::Command::new("xorriso")
            .args(["-osirrox", "on", "-indev"])
            .arg(&iso)
            .args(["-pvd_info", "-extract", "/"])
            .arg(&to)
            .output();
        let Ok(done) = xorriso else { return eprintln!("skipped: xorriso is not installed") };
        let said = String::from_utf8_lossy(&done.stderr).into_owned()
            + &String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success(), "{said}");
        assert!(said.contains("CIDATA") && !said.contains("WARNING"), "{said}");
        for (name, content) in files {
            assert_eq!(std::fs::read(to.join(name)).unwrap(), content, "{name}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let names: Vec<String> = (0..40).map(|number| format!("file-{number}")).collect();
        let many: Vec<(&str, &[u8])> = names.iter().map(|name| (&name[..], &b""[..])).collect();
        assert!(image(&many).unwrap_err().to_string().contains("too many"));
        assert!(image(&[(&"x".repeat(300), b"")]).is_err());
    }
}
