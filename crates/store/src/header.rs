//! One header block of a tar archive: fields at fixed places, numbers in two notations.

use anyhow::{Context, Result, ensure};

use crate::archive::{Extent, Time};

/// Everything in an archive comes in blocks of so many bytes.
pub(crate) const BLOCK: usize = 512;

/// A header whose checksum is right.
pub(crate) struct Header([u8; BLOCK]);

impl Header {
    /// `None` where the checksum is wrong.
    pub(crate) fn parse(block: &[u8; BLOCK]) -> Option<Self> {
        let recorded = integer(&block[148..156])?;
        let (mut unsigned, mut signed) = (8 * 0x20u32, 8 * 0x20i32);
        for &byte in block[..148].iter().chain(&block[156..]) {
            unsigned += u32::from(byte);
            signed += i32::from(byte.cast_signed());
        }
        // Some old systems added signed characters (GNU tar manual, "Basic Tar Format").
        let right = recorded == i128::from(unsigned) || recorded == i128::from(signed);
        right.then_some(Self(*block))
    }

    pub(crate) fn kind(&self) -> u8 {
        self.0[156]
    }

    /// With ustar's prefix.
    pub(crate) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        // GNU's own format has times and the sparse map in the place of the prefix,
        // star's has times at the end of it.
        let prefix = match &self.0[257..263] {
            b"ustar\0" if &self.0[508..] == b"tar\0" => text(&self.0[345..476]),
            b"ustar\0" => text(&self.0[345..500]),
            _ => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(crate) fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub(crate) fn mode(&self) -> Result<u32> {
        // Some writers add the file's type.
        Ok((self.unsigned("mode", 100..108)? & 0o7777) as u32)
    }

    pub(crate) fn uid(&self) -> Result<u64> {
        self.unsigned("user id", 108..116)
    }

    pub(crate) fn gid(&self) -> Result<u64> {
        self.unsigned("group id", 116..124)
    }

    pub(crate) fn size(&self) -> Result<u64> {
        self.unsigned("size", 124..136)
    }

    pub(crate) fn mtime(&self) -> Result<Time> {
        let seconds = integer(&self.0[136..148]).and_then(|n| i64::try_from(n).ok());
        Ok(Time { seconds: seconds.context("its time field is no number")?, nanoseconds: 0 })
    }

    /// Major and minor number, within what mknod(2) can pass on.
    pub(crate) fn device(&self) -> Result<(u32, u32)> {
        let major = self.unsigned("device", 329..337)?;
        let minor = self.unsigned("device", 337..345)?;
        ensure!(
            major < 1 << 12 && minor < 1 << 20,
            "its device number {major}:{minor} is beyond what Linux can have"
        );
        Ok((major as u32, minor as u32))
    }

    /// The four extents of GNU's sparse header, and whether more follow in blocks of their own.
    pub(crate) fn sparse(&self) -> Result<(Vec<Extent>, bool)> {
        let mut extents = Vec::with_capacity(4);
        read_extents(&self.0[386..482], &mut extents)?;
        Ok((extents, self.0[482] != 0))
    }

    /// The extents of a block that follows a sparse header, and whether another follows.
    pub(crate) fn more_sparse(block: &[u8; BLOCK], extents: &mut Vec<Extent>) -> Result<bool> {
        read_extents(&block[..504], extents)?;
        Ok(block[504] != 0)
    }

    /// Size of a GNU sparse file with its holes.
    pub(crate) fn real_size(&self) -> Result<u64> {
        self.unsigned("real size", 483..495)
    }

    fn unsigned(&self, what: &str, field: std::ops::Range<usize>) -> Result<u64> {
        integer(&self.0[field])
            .and_then(|n| u64::try_from(n).ok())
            .with_context(|| format!("its {what} field is no number in range"))
    }
}

fn read_extents(fields: &[u8], extents: &mut Vec<Extent>) -> Result<()> {
    for field in fields.chunks_exact(24) {
        // Unused ones are empty; one of length 0 at the file's end only marks that end.
        if field[0] == 0 {
            continue;
        }
        let read = |part: &[u8]| integer(part).and_then(|n| u64::try_from(n).ok());
        let offset = read(&field[..12]).context("an offset is no number")?;
        let length = read(&field[12..]).context("a length is no number")?;
        extents.push(Extent { offset, length });
    }
    Ok(())
}

fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|&b| b == 0).unwrap_or(field.len())]
}

/// Octal digits between blanks, or GNU's base 256: the first bit set, then two's complement.
fn integer(field: &[u8]) -> Option<i128> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        let sign = if first & 0x40 == 0 { 0 } else { -1 << 7 };
        let high = sign | i128::from(first & 0x7f);
        return Some(field[1..].iter().fold(high, |sum, &byte| sum << 8 | i128::from(byte)));
    }
    let start = field.iter().position(|&b| b != b' ' && b != 0).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(|&b| b == b' ' || b == 0).unwrap_or(digits.len());
    digits[..end].iter().try_fold(0, |sum, &byte| match byte {
        b'0'..=b'7' => Some(sum << 3 | i128::from(byte - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_both_notations() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777", Some(0o77_777_777)),
            (b"0000648\0", None),
            (b"-000001\0", None),
            (b"0x00001\0", None),
            (b"\x80\0\0\0\0\0\x01\x02", Some(0x102)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", Some(u64::MAX as i128)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some((1 << 94) - 1)),
        ] {
            assert_eq!(integer(field), value, "{field:?}");
        }
    }

    #[test]
    fn a_prefix_counts_only_in_ustar() {
        let mut block = [0; BLOCK];
        block[..4].copy_from_slice(b"name");
        block[345..348].copy_from_slice(b"dir");
        for (magic, path) in [
            (&b"ustar\x0000"[..], &b"dir/name"[..]),
            (b"ustar  \0", b"name"),
            (b"\0\0\0\0\0\0\0\0", b"name"),
        ] {
            block[257..265].copy_from_slice(magic);
            assert_eq!(Header(block).path(), path);
        }
        assert!(Header::parse(&block).is_none());
    }

    #[test]
    fn devices_are_in_range() {
        let mut block = [0; BLOCK];
        block[329..336].copy_from_slice(b"0007777");
        block[337..344].copy_from_slice(b"3777777");
        assert_eq!(Header(block).device().unwrap(), (0o7777, (1 << 20) - 1));
        block[329..336].copy_from_slice(b"0010000");
        assert!(Header(block).device().is_err());
    }
}
