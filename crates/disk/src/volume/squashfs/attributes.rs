//! Extended attributes: lists that files share, found by a number.

use anyhow::{Context, Result, bail, ensure};

use super::metadata::{Cursor, Metadata};
use crate::field::le;
use crate::{Attribute, Blocks};

/// In an attribute's kind: its value is somewhere else.
const ELSEWHERE: u16 = 0x100;
/// Greatest size of a value, and attributes of a file (xattr(7), Linux's VFS: their names fill 64 KiB).
const MAX_VALUE: u32 = 64 << 10;
const MAX_COUNT: u32 = 16 << 10;

pub(super) struct Table {
    /// The list of addresses of the table's blocks.
    list: u64,
    count: u32,
    /// Where the attributes begin.
    start: u64,
}

impl Table {
    pub(super) fn new(blocks: &dyn Blocks, at: u64) -> Result<Self> {
        let mut head = [0; 16];
        blocks.read_at(at, &mut head).context("reading the table of attributes")?;
        Ok(Self { list: at + 16, count: le::u32(&head, 8)?, start: le::u64(&head, 0)? })
    }

    fn cursor(&self, reference: u64) -> Result<Cursor> {
        let at = self.start.checked_add(reference >> 16).context("an attribute is nowhere")?;
        Ok(Cursor::new(at, (reference & 0xffff) as usize))
    }

    pub(super) fn read(&self, metadata: &mut Metadata, number: u32) -> Result<Vec<Attribute>> {
        ensure!(number < self.count, "there is no list of attributes {number}");
        let entry = metadata.table_entry(self.list, number, 16)?;
        let count = le::u32(&entry, 8)?;
        ensure!(count <= MAX_COUNT, "a file has {count} attributes");
        let mut cursor = self.cursor(le::u64(&entry, 0)?)?;
        (0..count).map(|_| self.attribute(metadata, &mut cursor)).collect()
    }

    fn attribute(&self, metadata: &mut Metadata, cursor: &mut Cursor) -> Result<Attribute> {
        let head = metadata.read(cursor, 4)?;
        let (kind, length) = (le::u16(&head, 0)?, le::u16(&head, 2)?);
        let mut name = match kind & !ELSEWHERE {
            0 => b"user.".to_vec(),
            1 => b"trusted.".to_vec(),
            2 => b"security.".to_vec(),
            other => bail!("an attribute is of the unknown kind {other}"),
        };
        ensure!(length <= 255, "an attribute's name has {length} bytes");
        name.extend(metadata.read(cursor, length.into())?);
        let mut value = Self::value(metadata, cursor)?;
        if kind & ELSEWHERE > 0 {
            value = Self::value(metadata, &mut self.cursor(le::u64(&value, 0)?)?)?;
        }
        Ok((name, value))
    }

    fn value(metadata: &mut Metadata, cursor: &mut Cursor) -> Result<Vec<u8>> {
        let length = le::u32(&metadata.read(cursor, 4)?, 0)?;
        ensure!(length <= MAX_VALUE, "an attribute has {length} bytes");
        metadata.read(cursor, length as usize)
    }
}
