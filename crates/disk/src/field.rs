//! Numbers in bytes that may end too early.

use anyhow::{Context, Result};

pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let found = at.checked_add(N).and_then(|end| bytes.get(at..end));
    found.and_then(|found| found.try_into().ok()).context("a structure ends too early")
}

/// So many bytes from there on.
pub(crate) fn slice(bytes: &[u8], at: usize, length: usize) -> Result<&[u8]> {
    let found = at.checked_add(length).and_then(|end| bytes.get(at..end));
    found.context("a structure ends too early")
}

macro_rules! numbers {
    ($($name:ident $from:ident $type:ty;)*) => {
        $(#[allow(dead_code, reason = "not each is needed in both orders")]
        pub(crate) fn $name(bytes: &[u8], at: usize) -> Result<$type> {
            Ok(<$type>::$from(array(bytes, at)?))
        })*
    };
}

/// The least significant byte first.
pub(crate) mod le {
    use super::{Result, array};
    numbers! { u16 from_le_bytes u16; u32 from_le_bytes u32; u64 from_le_bytes u64; i64 from_le_bytes i64; }
}

/// The most significant byte first.
pub(crate) mod be {
    use super::{Result, array};
    numbers! { u16 from_be_bytes u16; u32 from_be_bytes u32; u64 from_be_bytes u64; }
}

pub(crate) fn byte(bytes: &[u8], at: usize) -> Result<u8> {
    Ok(array::<1>(bytes, at)?[0])
}
