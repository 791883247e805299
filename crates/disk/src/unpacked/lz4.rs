//! LZ4's block format (github.com/lz4/lz4, doc/lz4_Block_format.md).

use anyhow::{Context, Result, ensure};

/// Unpacks a block until there are so many bytes, or it ends.
///
/// # Errors
/// Where it is broken.
pub(crate) fn lz4(input: &[u8], limit: usize) -> Result<Vec<u8>> {
    let mut output = Vec::with_capacity(limit.min(1 << 20));
    let mut at = 0;
    while let Some(&token) = input.get(at) {
        at += 1;
        let literals = length(input, &mut at, usize::from(token >> 4))?;
        let room = limit - output.len();
        let end = at.checked_add(literals).context(BROKEN)?;
        if literals >= room {
            output.extend_from_slice(input.get(at..at + room).context(BROKEN)?);
            break;
        }
        output.extend_from_slice(input.get(at..end).context(BROKEN)?);
        at = end;
        // The last sequence has no match.
        let Some(offset) = input.get(at..at + 2) else { break };
        let offset = usize::from(u16::from_le_bytes([offset[0], offset[1]]));
        at += 2;
        let matched = length(input, &mut at, usize::from(token & 15))?.saturating_add(4);
        ensure!(offset > 0 && offset <= output.len(), BROKEN);
        let room = limit - output.len();
        repeat(&mut output, offset, matched.min(room));
        if output.len() == limit {
            break;
        }
    }
    Ok(output)
}

const BROKEN: &str = "a block that LZ4 compressed is broken";

/// Appends what is that far behind; the two may overlap.
pub(super) fn repeat(output: &mut Vec<u8>, offset: usize, mut length: usize) {
    while length > 0 {
        let from = output.len() - offset;
        let piece = length.min(offset);
        output.extend_from_within(from..from + piece);
        length -= piece;
    }
}

/// Four bits, and as many bytes more as it takes.
fn length(input: &[u8], at: &mut usize, mut length: usize) -> Result<usize> {
    if length == 15 {
        loop {
            let &more = input.get(*at).context(BROKEN)?;
            *at += 1;
            length = length.checked_add(usize::from(more)).context(BROKEN)?;
            if more < 255 {
                break;
            }
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::lz4;

    #[test]
    fn literals_and_overlapping_matches() {
        let block = [0x25, b'a', b'b', 2, 0, 0x50, b'1', b'2', b'3', b'4', b'5'];
        assert_eq!(lz4(&block, 100).unwrap(), b"abababababa12345");
        assert_eq!(lz4(&block, 5).unwrap(), b"ababa");
        assert!(lz4(&[0x10, b'a', 5, 0], 100).is_err());
        assert!(lz4(&[0xf0, 255], 100).is_err());
    }
}
