//! Kernels as files, and what is packed in them.
//!
//! A bzImage is a small program with the real kernel in it, packed ("The Linux/x86 Boot Protocol"). An
//! emulated machine takes a second to unpack that; here it takes a tenth, once.

use std::io::Read as _;

use anyhow::{Context as _, Result, bail, ensure};

use crate::compression::Compression;

/// Largest kernel that is unpacked: bytes. Debian's has 55 MiB.
const LARGEST: u64 = 256 << 20;

/// Largest module: bytes.
const LARGEST_MODULE: u64 = 64 << 20;

/// The ELF file in a bzImage, where QEMU can start that: it needs the entry for PVH ("x86/HVM direct boot
/// ABI" of Xen's documentation). `None` for another kind of kernel, which QEMU starts as it is.
///
/// # Errors
/// Where a bzImage is damaged, or packed in a way that is not known.
pub fn uncompressed(kernel: &[u8]) -> Result<Option<Vec<u8>>> {
    let number = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(kernel.get(at..at + 4)?.try_into().ok()?))
    };
    // The fields of the protocol's header: magic, version, setup_sects, payload_offset, payload_length.
    if kernel.get(0x202..0x206) != Some(b"HdrS") || number(0x206).unwrap_or(0) & 0xffff < 0x208 {
        return Ok(None);
    }
    let absent = "its header is cut";
    let setup = match kernel[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (setup + 1) * 512 + number(0x248).context(absent)? as usize;
    let length = number(0x24c).context(absent)? as usize;
    let payload = kernel.get(start..start.saturating_add(length)).context("the kernel is cut")?;
    let plain = unpack(payload)?;
    Ok(has_pvh_entry(&plain).then_some(plain))
}

/// The release of a bzImage, by what it says of itself: what `uname -r` will show.
#[must_use]
pub fn release(kernel: &[u8]) -> Option<String> {
    // The field kernel_version: where its text is, less the length of the boot sector.
    let at = u16::from_le_bytes(kernel.get(0x20e..0x210)?.try_into().ok()?);
    if kernel.get(0x202..0x206) != Some(b"HdrS") || at == 0 {
        return None;
    }
    let text = kernel.get(usize::from(at) + 0x200..)?;
    let end = text.iter().take(256).position(|byte| matches!(byte, b' ' | 0))?;
    let release = str::from_utf8(&text[..end]).ok()?;
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-+_~".contains(&byte);
    (!release.is_empty() && release.bytes().all(good)).then(|| release.to_owned())
}

/// A module's file with this suffix, unpacked.
///
/// # Errors
/// Where it is damaged, too large, or packed in a way that is not known.
pub fn module(suffix: &str, content: Vec<u8>) -> Result<Vec<u8>> {
    let compression = Compression::of_suffix(suffix)
        .with_context(|| format!("{suffix:?} is no compression that is known"))?;
    read(compression, &content, LARGEST_MODULE)
}

fn unpack(payload: &[u8]) -> Result<Vec<u8>> {
    let compression = Compression::of_content(payload);
    // All but gzip's are followed by their length unpacked (scripts/Makefile.lib, size_append).
    let (body, size) = payload.split_at(payload.len().saturating_sub(4));
    let size = u64::from(u32::from_le_bytes(size.try_into().context("the kernel is cut")?));
    match compression {
        Compression::Gzip => read(compression, payload, LARGEST),
        Compression::Xz | Compression::Zstd => read(compression, body, LARGEST),
        Compression::None if payload.starts_with(&LZ4) => {
            ensure!(size <= LARGEST, "it unpacks to more than {LARGEST} bytes");
            lz4(&body[LZ4.len()..])
        }
        Compression::None if payload.starts_with(b"\x7fELF") => Ok(body.to_vec()),
        Compression::None => bail!("it is packed in a way that is not known"),
    }
}

fn read(compression: Compression, packed: &[u8], limit: u64) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    compression.decoder(packed)?.take(limit + 1).read_to_end(&mut plain)?;
    ensure!(plain.len() as u64 <= limit, "it unpacks to more than {limit} bytes");
    Ok(plain)
}

/// The magic of LZ4's legacy frame, which the kernel is packed in (lz4_Frame_format.md, "Legacy frame").
const LZ4: [u8; 4] = 0x184c_2102_u32.to_le_bytes();

/// Most that a block of that frame unpacks to.
const BLOCK: usize = 8 << 20;

/// Blocks of a legacy frame: each has its packed length before it.
fn lz4(mut packed: &[u8]) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    while !packed.is_empty() {
        let (length, rest) = packed.split_first_chunk::<4>().context("an LZ4 frame is cut")?;
        let length = u32::from_le_bytes(*length) as usize;
        let block = rest.get(..length).context("an LZ4 block is cut")?;
        let before = plain.len();
        lz4_block(block, &mut plain).context("an LZ4 block is damaged")?;
        ensure!(plain.len() - before <= BLOCK, "an LZ4 block unpacks to more than {BLOCK} bytes");
        ensure!(plain.len() as u64 <= LARGEST, "it unpacks to more than {LARGEST} bytes");
        packed = &rest[length..];
    }
    Ok(plain)
}

/// lz4_Block_format.md: sequences of literal bytes and a copy of what was there before.
fn lz4_block(mut block: &[u8], plain: &mut Vec<u8>) -> Option<()> {
    let start = plain.len();
    while let Some((token, rest)) = block.split_first() {
        block = rest;
        let literals = length(token >> 4, &mut block)?;
        plain.extend_from_slice(block.get(..literals)?);
        block = &block[literals..];
        if block.is_empty() {
            // The last sequence has no copy.
            return Some(());
        }
        let (offset, rest) = block.split_first_chunk::<2>()?;
        block = rest;
        let offset = usize::from(u16::from_le_bytes(*offset));
        let count = length(token & 0xf, &mut block)? + 4;
        let from = plain.len().checked_sub(offset).filter(|from| *from >= start)?;
        if offset == 0 || plain.len() - start + count > BLOCK {
            return None;
        }
        // What is copied may overlap what it becomes: then it repeats.
        for at in from..from + count {
            plain.push(plain[at]);
        }
    }
    Some(())
}

fn length(first: u8, block: &mut &[u8]) -> Option<usize> {
    let mut length = usize::from(first);
    if first == 15 {
        loop {
            let (more, rest) = block.split_first()?;
            *block = rest;
            length += usize::from(*more);
            if *more != 255 {
                break;
            }
        }
    }
    Some(length)
}

/// Whether an ELF file has Xen's note 18 (`XEN_ELFNOTE_PHYS32_ENTRY`, xen/include/public/elfnote.h).
fn has_pvh_entry(elf: &[u8]) -> bool {
    pvh_entry(elf).is_some()
}

fn pvh_entry(elf: &[u8]) -> Option<()> {
    const NOTE: u32 = 4;
    const ENTRY: u32 = 18;
    let u16_at = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(elf.get(at..at + 4)?.try_into().ok()?));
    let usize_at =
        |at: usize| usize::try_from(u64::from_le_bytes(elf.get(at..at + 8)?.try_into().ok()?)).ok();
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size, count) = (usize_at(0x20)?, u16_at(0x36)?, u16_at(0x38)?);
    for number in 0..usize::from(count) {
        let header = table.checked_add(number * usize::from(size))?;
        if u32_at(header)? != NOTE {
            continue;
        }
        let start = usize_at(header.checked_add(8)?)?;
        let end = start.checked_add(usize_at(header + 0x20)?)?.min(elf.len());
        let mut at = start;
        while at < end {
            let (name, content) = (u32_at(at)? as usize, u32_at(at + 4)? as usize);
            if u32_at(at + 8)? == ENTRY && elf.get(at + 12..at + 16) == Some(b"Xen\0") {
                return Some(());
            }
            at = (at + 12).checked_add(name.next_multiple_of(4))?;
            at = at.checked_add(content.next_multiple_of(4))?;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with one note of Xen's.
    fn elf(kind: u32) -> Vec<u8> {
        let mut elf = vec![0; 0x40];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[0x20] = 0x40;
        elf[0x36] = 0x38;
        elf[0x38] = 1;
        let mut header = vec![0; 0x38];
        header[0] = 4;
        header[8] = 0x78;
        header[0x20] = 20;
        elf.extend(header);
        for number in [4, 4, kind] {
            elf.extend(u32::to_le_bytes(number));
        }
        elf.extend(b"Xen\0\0\0\0\x01");
        elf
    }

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x248] = 16;
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend([0; 16]);
        image.extend(payload);
        image.extend([0; 100]);
        image
    }

    fn with_size(mut packed: Vec<u8>, plain: &[u8]) -> Vec<u8> {
        packed.extend((plain.len() as u32).to_le_bytes());
        packed
    }

    #[test]
    fn kernels_are_unpacked_whatever_they_are_packed_with() {
        let plain = elf(18);
        let zstd = with_size(zstd::stream::encode_all(&plain[..], 1).unwrap(), &plain);
        assert_eq!(uncompressed(&bzimage(&zstd)).unwrap().unwrap(), plain);
        // Literals only, then one copy that overlaps itself and a last literal.
        let mut block = vec![0xf0, (plain.len() - 15) as u8];
        block.extend(&plain);
        let mut packed = LZ4.to_vec();
        packed.extend((block.len() as u32).to_le_bytes());
        packed.extend(&block);
        let lz4 = with_size(packed, &plain);
        assert_eq!(uncompressed(&bzimage(&lz4)).unwrap().unwrap(), plain);
        let without = elf(17);
        let zstd = with_size(zstd::stream::encode_all(&without[..], 1).unwrap(), &without);
        assert_eq!(uncompressed(&bzimage(&zstd)).unwrap(), None, "it has no entry");
        assert_eq!(uncompressed(b"MZ of another architecture").unwrap(), None);
        assert!(uncompressed(&bzimage(b"what is this")).is_err());
    }

    #[test]
    fn a_kernel_says_its_release() {
        let mut image = bzimage(b"");
        image[0x20e..0x210].copy_from_slice(&0x210_u16.to_le_bytes());
        image.resize(0x500, 0);
        image[0x410..0x429].copy_from_slice(b"6.1.0-9-cloud-amd64 (deb)");
        assert_eq!(release(&image).as_deref(), Some("6.1.0-9-cloud-amd64"));
        image[0x412] = b'/';
        assert_eq!(release(&image), None);
        assert_eq!(release(b"MZ"), None);
    }

    #[test]
    fn copies_in_lz4_repeat_and_stay_inside() {
        let mut plain = b"before".to_vec();
        lz4_block(&[0x22, b'a', b'b', 2, 0, 0x10, b'c'], &mut plain).unwrap();
        assert_eq!(plain, b"beforeabababab\x63");
        let bad: [&[u8]; 5] = [
            &[0x20, b'a'],
            &[0x22, b'a', b'b', 3, 0, 0],
            &[0x22, b'a', b'b', 0, 0, 0],
            &[0x22, b'a', b'b', 2],
            &[0xf0, 255],
        ];
        for block in bad {
            assert_eq!(lz4_block(block, &mut b"before".to_vec()), None, "{block:?}");
        }
    }

    #[test]
    fn every_cut_and_damaged_byte_is_survived() {
        let plain = elf(18);
        let image = bzimage(&with_size(zstd::stream::encode_all(&plain[..], 1).unwrap(), &plain));
        for length in 0..image.len() {
            let _ = uncompressed(&image[..length]);
        }
        for at in 0..image.len() {
            let mut damaged = image.clone();
            damaged[at] ^= 0xff;
            let _ = uncompressed(&damaged);
        }
        for at in 0..plain.len() {
            let mut damaged = plain.clone();
            damaged[at] = 0xff;
            let _ = has_pvh_entry(&damaged);
        }
    }
}
