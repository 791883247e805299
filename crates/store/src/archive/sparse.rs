//! Files with holes: where an archive says which of their stretches have content
//! (GNU tar manual, "Sparse Formats").

use std::io::Read;

use anyhow::{Context, Result, bail, ensure};

use super::{Archive, Extent, Member};
use crate::header::{BLOCK, Header};
use crate::pax::{Sparse, number};

/// Extents of one sparse file: as many as 16 MiB of memory hold.
const MAX_EXTENTS: usize = 1 << 20;

impl<R: Read> Archive<R> {
    /// Adds the map of a file with holes, whatever the form; leaves others as they are.
    pub(super) fn sparse(
        &mut self,
        member: &mut Member,
        header: &Header,
        pax: Sparse,
    ) -> Result<()> {
        let (extents, size) = match (header.kind(), pax.version, pax.extents) {
            (b'S', ..) => {
                let (mut extents, mut more) = header.sparse()?;
                while more {
                    let available = self.input.fill(BLOCK).context("reading the archive")?;
                    if available < BLOCK {
                        return Err(self.truncated());
                    }
                    let block = self.input.take(BLOCK).first_chunk().expect("as asked for");
                    more = Header::more_sparse(block, &mut extents)?;
                    ensure!(extents.len() <= MAX_EXTENTS, "more than {MAX_EXTENTS} extents");
                }
                (extents, header.real_size()?)
            }
            (_, Some((1, 0)), None) => {
                (self.sparse_map()?, pax.size.context("the file's size is missing")?)
            }
            (_, Some((0, 0 | 1)) | None, Some(extents)) => {
                (extents, pax.size.context("the file's size is missing")?)
            }
            (_, None, None) => return Ok(()),
            (_, version, _) => bail!("this version is not known: {version:?}"),
        };
        ensure!(extents.len() <= MAX_EXTENTS, "more than {MAX_EXTENTS} extents");
        check_extents(&extents, size, self.left)?;
        member.extents = Some(extents);
        member.size = size;
        Ok(())
    }

    /// The map of PAX sparse format 1.0: decimal numbers, a line each, before the content.
    fn sparse_map(&mut self) -> Result<Vec<Extent>> {
        let mut block = [0; BLOCK];
        let mut used = BLOCK;
        let mut line = Vec::with_capacity(20);
        let mut numbers = Vec::new();
        let mut wanted = 1;
        while numbers.len() < wanted {
            if used == BLOCK {
                let mut filled = 0;
                while filled < BLOCK {
                    let chunk = self.chunk_of((BLOCK - filled) as u64)?;
                    ensure!(!chunk.is_empty(), "it ends within");
                    block[filled..filled + chunk.len()].copy_from_slice(chunk);
                    filled += chunk.len();
                }
                used = 0;
            }
            match block[used] {
                b'\n' => {
                    numbers.push(number(&line)?);
                    line.clear();
                    if numbers.len() == 1 {
                        let pairs = usize::try_from(numbers[0]).unwrap_or(usize::MAX);
                        ensure!(pairs <= MAX_EXTENTS, "more than {MAX_EXTENTS} extents");
                        wanted = 1 + 2 * pairs;
                    }
                }
                digit => {
                    line.push(digit);
                    ensure!(line.len() <= 20, "it holds something that is no number");
                }
            }
            used += 1;
        }
        let (pairs, _) = numbers[1..].as_chunks::<2>();
        Ok(pairs.iter().map(|&[offset, length]| Extent { offset, length }).collect())
    }
}

/// In order, apart, inside the file, and as long as what the archive holds.
fn check_extents(extents: &[Extent], size: u64, stored: u64) -> Result<()> {
    let mut end = 0;
    let mut sum = 0u64;
    for extent in extents {
        ensure!(extent.offset >= end, "its extents overlap or are out of order");
        end = extent.offset.checked_add(extent.length).filter(|&end| end <= size).with_context(
            || format!("an extent at {} reaches beyond the file's {size} bytes", extent.offset),
        )?;
        sum += extent.length;
    }
    ensure!(sum == stored, "its extents have {sum} bytes, and the archive {stored}");
    Ok(())
}
