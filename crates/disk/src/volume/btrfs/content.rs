//! Content: beside the names, or in extents, which may be compressed, and of which a file may have a part.

use anyhow::{Context, Result, bail, ensure};

use super::{EXTENT_DATA, Reader};
use crate::field::{byte, le};
use crate::{Piece, unpacked};

/// Kinds of extents: beside the names, written, and reserved.
const INLINE: u8 = 0;
const WRITTEN: u8 = 1;
const RESERVED: u8 = 2;

/// An extent that is compressed unpacks to at most so much (BTRFS_MAX_UNCOMPRESSED).
const MAX_UNPACKED: u64 = 128 << 10;
/// Bytes of content that are read at once.
const PIECE: u64 = 1 << 20;

/// A stretch of a file.
struct Extent {
    from: u64,
    compression: u8,
    unpacked: u64,
    kind: u8,
    /// What is beside the names.
    inline: Vec<u8>,
    address: u64,
    stored: u64,
    offset: u64,
    length: u64,
}

fn extent(from: u64, bytes: &[u8]) -> Result<Extent> {
    let (unpacked, compression) = (le::u64(bytes, 8)?, byte(bytes, 16)?);
    ensure!(byte(bytes, 17)? == 0 && le::u16(bytes, 18)? == 0, "it is encrypted");
    let kind = byte(bytes, 20)?;
    let mut extent = Extent {
        from,
        compression,
        unpacked,
        kind,
        inline: Vec::new(),
        address: 0,
        stored: 0,
        offset: 0,
        length: unpacked,
    };
    match kind {
        INLINE => extent.inline = bytes.get(21..).unwrap_or_default().to_vec(),
        WRITTEN | RESERVED => {
            extent.address = le::u64(bytes, 21)?;
            extent.stored = le::u64(bytes, 29)?;
            extent.offset = le::u64(bytes, 37)?;
            extent.length = le::u64(bytes, 45)?;
        }
        other => bail!("an extent is of the kind {other}"),
    }
    Ok(extent)
}

impl Reader {
    /// All of a file, or of a symbolic link's target.
    pub(super) fn extents(&mut self, node: u64, size: u64, piece: &mut Piece<'_>) -> Result<()> {
        let mut extents = Vec::new();
        self.walk(node, EXTENT_DATA, &mut |key, bytes| {
            extents.push(extent(key.offset, bytes)?);
            Ok(())
        })?;
        let mut end = 0;
        for extent in extents {
            ensure!(extent.from >= end, "its extents overlap");
            end = extent.from.checked_add(extent.length).context("an extent is too long")?;
            if extent.from >= size {
                // Reserved beyond its end.
                continue;
            }
            let length = (size - extent.from).min(extent.length);
            self.extent(&extent, length, piece)
                .with_context(|| format!("reading what is at {}", extent.from))?;
        }
        Ok(())
    }

    fn extent(&self, extent: &Extent, length: u64, piece: &mut Piece<'_>) -> Result<()> {
        if extent.kind == INLINE {
            let whole = self.unpack(extent.compression, &extent.inline, extent.unpacked, true)?;
            let whole = whole.get(..length as usize).context("it is too short")?;
            return piece(extent.from, whole);
        }
        // A hole; or reserved, which reads as zeros.
        if extent.address == 0 || extent.kind == RESERVED {
            return Ok(());
        }
        if extent.compression == 0 {
            return self.plain(extent, length, piece);
        }
        ensure!(extent.stored <= MAX_UNPACKED, "a compressed extent has {} bytes", extent.stored);
        let mut bytes = vec![0; extent.stored as usize];
        self.trees.read(extent.address, &mut bytes)?;
        let whole = self.unpack(extent.compression, &bytes, extent.unpacked, false)?;
        let end = extent.offset.checked_add(length).and_then(|end| usize::try_from(end).ok());
        let part = end.and_then(|end| whole.get(extent.offset as usize..end));
        piece(extent.from, part.context("it is too short")?)
    }

    fn plain(&self, extent: &Extent, length: u64, piece: &mut Piece<'_>) -> Result<()> {
        let end = extent.offset.checked_add(length);
        ensure!(
            end.is_some_and(|end| end <= extent.stored) && extent.stored <= self.trees.size(),
            "an extent is too short"
        );
        let mut done = 0;
        let mut buffer = vec![0; length.min(PIECE) as usize];
        while done < length {
            let size = (length - done).min(PIECE) as usize;
            let at = extent.address.checked_add(extent.offset + done).context("it is nowhere")?;
            self.trees.read(at, &mut buffer[..size])?;
            piece(extent.from + done, &buffer[..size])?;
            done += size as u64;
        }
        Ok(())
    }

    fn unpack(&self, compression: u8, bytes: &[u8], length: u64, inline: bool) -> Result<Vec<u8>> {
        let limit = if inline { self.sector as u64 } else { MAX_UNPACKED };
        ensure!(length <= limit, "it unpacks to {length} bytes");
        let length = length as usize;
        match compression {
            0 => Ok(bytes.to_vec()),
            1 => unpacked::zlib(bytes, length.max(self.sector)),
            2 => self.lzo(bytes, length),
            3 => unpacked::zstd(bytes, length.max(self.sector)),
            other => bail!("it is compressed in an unknown way: {other}"),
        }
    }

    /// LZO's blocks are of a sector each (Linux, fs/btrfs/lzo.c): each has its length before it, which never lies
    /// across the end of a sector.
    fn lzo(&self, bytes: &[u8], length: usize) -> Result<Vec<u8>> {
        let end = (le::u32(bytes, 0)? as usize).min(bytes.len());
        let mut unpacked = Vec::with_capacity(length);
        let mut at = 4;
        while at < end && unpacked.len() < length {
            let left = self.sector - at % self.sector;
            if left < 4 {
                at += left;
            }
            let size = le::u32(bytes, at)? as usize;
            let block = crate::field::slice(bytes, at + 4, size)?;
            unpacked.extend(unpacked::lzo(block, self.sector)?);
            at += 4 + size;
        }
        Ok(unpacked)
    }
}
