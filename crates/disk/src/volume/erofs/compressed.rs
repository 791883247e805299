//! Compressed files (Linux, fs/erofs/zmap.c): each block of what they unpack to has an entry that says
//! whether something compressed begins in it, and where.

use anyhow::{Context, Result, bail, ensure};

use super::{Inode, Reader};
use crate::erofs::COMPRESSED_FULL;
use crate::field::{byte, le};
use crate::{Piece, unpacked};

/// What an entry can say: content that is not compressed begins in this block, compressed content begins, nothing
/// does.
const PLAIN: u32 = 0;
const HEAD: u32 = 1;
const NONE: u32 = 2;

/// In a file's header: some entries have two bytes, there are longer pieces, its end is behind the entries,
/// plain pieces begin in the middle, its end is elsewhere.
const TWO_BYTES: u16 = 0x1;
const BIG: u16 = 0x2;
const TAIL_BEHIND: u16 = 0x8;
const INTERLACED: u16 = 0x10;
const TAIL_ELSEWHERE: u16 = 0x20;

/// In the entry behind a long piece's first: how many blocks it has.
const COUNT: u32 = 1 << 11;
/// LZ4 makes at most so many bytes of one.
const RATIO: u64 = 256;
/// The longest compressed piece (Z_EROFS_PCLUSTER_MAX_SIZE).
const MAX_PIECE: u64 = 1 << 20;

/// An entry: its kind, and what its numbers mean there.
#[derive(Clone, Copy)]
struct Entry {
    kind: u32,
    /// Where in the block it begins, for PLAIN and HEAD; the distance back, or the number of blocks, for NONE.
    low: u32,
    /// The block in the image.
    block: u32,
}

/// A compressed piece.
struct Extent {
    from: u64,
    kind: u32,
    block: u32,
    count: u64,
}

/// The entries of a file.
struct Map<'a> {
    reader: &'a Reader,
    bytes: Vec<u8>,
    /// Where in the image they begin.
    start: u64,
    is_full: bool,
    is_big: bool,
    /// Entries of four bytes at the beginning, and of two behind them.
    four: u64,
    two: u64,
}

impl Reader {
    pub(super) fn compressed(&self, inode: &Inode, piece: &mut Piece<'_>) -> Result<()> {
        let size = inode.attributes.size;
        if size == 0 {
            return Ok(());
        }
        let header_at = inode.behind().next_multiple_of(8);
        let header = self.read(header_at, 8)?;
        let (tail, advise) = (u64::from(le::u16(&header, 2)?), le::u16(&header, 4)?);
        let (algorithm, cluster) = (byte(&header, 6)?, byte(&header, 7)?);
        ensure!(
            advise & TAIL_ELSEWHERE == 0 && cluster & 0x80 == 0,
            "its end is in a file of such ends, which is not read"
        );
        ensure!(algorithm & 15 == 0, "it is compressed with {}", name(algorithm & 15));
        ensure!(cluster & 7 == 0, "it is compressed in units of more than a block");
        let map = Map::new(self, inode, header_at + 8, advise)?;
        let mut extents = map.extents(size)?;
        extents.push(Extent { from: size, kind: NONE, block: 0, count: 0 });
        for (number, pair) in extents.windows(2).enumerate() {
            let (extent, to) = (&pair[0], pair[1].from);
            let length = to.checked_sub(extent.from).context("its pieces are in disorder")?;
            let (at, stored) = match advise & TAIL_BEHIND > 0 && number + 2 == extents.len() {
                true => (map.end(size), tail),
                false => (u64::from(extent.block) << self.block_bits, extent.count),
            };
            ensure!(stored <= MAX_PIECE, "a compressed piece has {stored} bytes");
            let bytes = self.read(at, stored as usize)?;
            let unpacked = match extent.kind {
                PLAIN => self.plain(&bytes, extent.from, length, advise & INTERLACED > 0)?,
                _ => self.unpack(&bytes, length)?,
            };
            ensure!(unpacked.len() as u64 == length, "a compressed piece is too short");
            piece(extent.from, &unpacked)?;
        }
        Ok(())
    }

    fn unpack(&self, bytes: &[u8], length: u64) -> Result<Vec<u8>> {
        ensure!(length <= RATIO * (bytes.len() as u64 + 1), "a compressed piece is too long");
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        let bytes = if self.is_padded { &bytes[zeros..] } else { bytes };
        unpacked::lz4(bytes, length as usize)
    }

    /// A piece that is as it is: from the beginning of its block on, or as it lies in the file's block, of which what
    /// is before is behind it.
    fn plain(&self, bytes: &[u8], from: u64, length: u64, interlaced: bool) -> Result<Vec<u8>> {
        ensure!(length <= bytes.len() as u64, "a plain piece is too long");
        let within = if interlaced { (from % self.block()) as usize } else { 0 };
        let turned = bytes.iter().cycle().skip(within.min(bytes.len()));
        Ok(turned.take(length as usize).copied().collect())
    }
}

fn name(algorithm: u8) -> &'static str {
    match algorithm {
        1 => "LZMA, which is not read",
        2 => "DEFLATE, which is not read",
        3 => "Zstandard, which is not read",
        _ => "an unknown algorithm",
    }
}

impl<'a> Map<'a> {
    fn new(reader: &'a Reader, inode: &Inode, behind_header: u64, advise: u16) -> Result<Self> {
        ensure!(reader.block_bits == 12, "it is compressed in blocks that are not of 4 KiB");
        let is_full = inode.layout == COMPRESSED_FULL;
        // Historically there are eight bytes more before those.
        let start = if is_full { behind_header + 8 } else { behind_header };
        let count = inode.attributes.size.div_ceil(reader.block());
        // The first entries have four bytes until the next ones are aligned to 32.
        let four = ((32 - start % 32) / 4 % 8).min(count);
        let two = match advise & TWO_BYTES > 0 && four < count {
            true => (count - four) / 16 * 16,
            false => 0,
        };
        let mut map =
            Self { reader, bytes: Vec::new(), start, is_full, is_big: advise & BIG > 0, four, two };
        let length = map.end(inode.attributes.size) - start;
        map.bytes = reader.read(start, usize::try_from(length)?).context("reading its pieces")?;
        Ok(map)
    }

    /// Where the entries end.
    fn end(&self, size: u64) -> u64 {
        let count = size.div_ceil(self.reader.block());
        if self.is_full {
            return self.start.saturating_add(count.saturating_mul(8));
        }
        // Those of four bytes come in pairs.
        let rest = count - self.four - self.two;
        let pairs = |count: u64| count.next_multiple_of(2).saturating_mul(4);
        self.start + pairs(self.four) + self.two * 2 + pairs(rest)
    }

    fn extents(&self, size: u64) -> Result<Vec<Extent>> {
        let count = size.div_ceil(self.reader.block());
        let mut extents: Vec<Extent> = Vec::new();
        let mut after_head = false;
        for number in 0..count {
            let entry = self.entry(number)?;
            match entry.kind {
                NONE => {
                    let last = extents.last_mut().context("its first piece has no beginning")?;
                    if after_head && self.is_big && entry.low & COUNT > 0 {
                        last.count = u64::from(entry.low & !COUNT) << self.reader.block_bits;
                    }
                    after_head = false;
                }
                PLAIN | HEAD => {
                    ensure!(u64::from(entry.low) < self.reader.block(), "a piece begins nowhere");
                    let from = (number << self.reader.block_bits) + u64::from(entry.low);
                    let before = extents.last().map(|last| last.from);
                    ensure!(
                        before.map_or(from == 0, |before| before < from) && from <= size,
                        "its pieces are in disorder"
                    );
                    // Where the last piece ends in the middle of a block, this says where.
                    if from == size {
                        continue;
                    }
                    let count = self.reader.block();
                    extents.push(Extent { from, kind: entry.kind, block: entry.block, count });
                    after_head = true;
                }
                other => bail!("a piece is compressed in an unknown way: {other}"),
            }
        }
        Ok(extents)
    }

    fn entry(&self, number: u64) -> Result<Entry> {
        if self.is_full {
            let at = number as usize * 8;
            let kind = u32::from(le::u16(&self.bytes, at)?) & 3;
            let low = match kind {
                NONE => le::u16(&self.bytes, at + 4)?,
                _ => le::u16(&self.bytes, at + 2)?,
            };
            return Ok(Entry { kind, low: low.into(), block: le::u32(&self.bytes, at + 4)? });
        }
        // Entries are packed with the block of the first beginning, which the others are counted from.
        let (before, rest, size) = match number {
            _ if number < self.four => (0, number, 4),
            _ if number < self.four + self.two => (self.four * 4, number - self.four, 2),
            _ => (self.four * 4 + self.two * 2, number - self.four - self.two, 4),
        };
        let (pack, bits) = if size == 4 { (2, 16) } else { (16, 14) };
        let (at, position) = ((before + rest / pack * (pack * size)) as usize, rest % pack);
        let decode = |position: u64| -> Result<(u32, u32)> {
            let bit = (position * bits) as usize;
            let value = le::u32(&self.bytes, at + bit / 8)? >> (bit % 8);
            Ok(((value >> 12) & 3, value & 0xfff))
        };
        let (kind, low) = decode(position)?;
        if kind == NONE {
            return Ok(Entry { kind, low, block: 0 });
        }
        let base = le::u32(&self.bytes, at + (pack * size) as usize - 4)?;
        let block = base.wrapping_add(self.blocks_before(position as i64, &decode)?);
        Ok(Entry { kind, low, block })
    }

    /// How many blocks those that begin before in the same pack have, and one more or less.
    fn blocks_before(
        &self,
        mut position: i64,
        decode: &impl Fn(u64) -> Result<(u32, u32)>,
    ) -> Result<u32> {
        let mut blocks: u32 = if self.is_big { 0 } else { 1 };
        while position > 0 {
            position -= 1;
            let (kind, low) = decode(position as u64)?;
            match (self.is_big, kind) {
                (false, NONE) => {
                    position -= i64::from(low);
                    blocks += u32::from(position >= 0);
                }
                (true, NONE) if low & COUNT > 0 => {
                    position -= 1;
                    blocks = blocks.wrapping_add(low & !COUNT);
                }
                (true, NONE) => {
                    ensure!(low > 1, "its pieces are in disorder");
                    position -= i64::from(low) - 2;
                }
                _ => blocks += 1,
            }
        }
        Ok(blocks)
    }
}
