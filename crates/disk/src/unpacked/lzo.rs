//! LZO1X (Linux, Documentation/staging/lzo.rst), as btrfs and squashfs have it.

use anyhow::{Context, Result, bail, ensure};

use super::lz4::repeat;

const BROKEN: &str = "a block that LZO compressed is broken";

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn byte(&mut self) -> Result<usize> {
        let byte = *self.bytes.get(self.at).context(BROKEN)?;
        self.at += 1;
        Ok(usize::from(byte))
    }

    fn two(&mut self) -> Result<usize> {
        Ok(self.byte()? | self.byte()? << 8)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(length).context(BROKEN)?;
        let taken = self.bytes.get(self.at..end).context(BROKEN)?;
        self.at = end;
        Ok(taken)
    }

    /// What did not fit in an instruction: each zero byte is 255 more.
    fn length(&mut self, base: usize) -> Result<usize> {
        let mut length = base;
        loop {
            match self.byte()? {
                0 => length = length.checked_add(255).context(BROKEN)?,
                last => return length.checked_add(last).context(BROKEN),
            }
        }
    }
}

/// Unpacks a block.
///
/// # Errors
/// Where it is broken, or longer than that.
pub(crate) fn lzo(bytes: &[u8], limit: usize) -> Result<Vec<u8>> {
    let mut input = Input { bytes, at: 0 };
    let mut output: Vec<u8> = Vec::with_capacity(limit.min(1 << 20));
    // Literals that the last instruction copied: 4 stands for more.
    let mut state = 0;
    if let Some(&first) = bytes.first()
        && first > 17
    {
        input.at = 1;
        let literals = usize::from(first) - 17;
        literal(&mut input, &mut output, literals, limit)?;
        state = literals.min(4);
    }
    loop {
        let code = input.byte()?;
        let (distance, length, next) = match code {
            0..16 if state == 0 => {
                let length = if code == 0 { input.length(15)? } else { code };
                literal(&mut input, &mut output, length + 3, limit)?;
                state = 4;
                continue;
            }
            0..16 if state == 4 => ((code >> 2) + (input.byte()? << 2) + 0x801, 3, code & 3),
            0..16 => ((code >> 2) + (input.byte()? << 2) + 1, 2, code & 3),
            16..32 => {
                let length = if code & 7 == 0 { input.length(7)? } else { code & 7 } + 2;
                let rest = input.two()?;
                let distance = 0x4000 + ((code & 8) << 11) + (rest >> 2);
                if distance == 0x4000 {
                    ensure!(length == 3, BROKEN);
                    return Ok(output);
                }
                (distance, length, rest & 3)
            }
            32..64 => {
                let length = if code & 31 == 0 { input.length(31)? } else { code & 31 } + 2;
                let rest = input.two()?;
                ((rest >> 2) + 1, length, rest & 3)
            }
            64..128 => {
                (((code >> 2) & 7) + (input.byte()? << 3) + 1, ((code >> 5) & 1) + 3, code & 3)
            }
            _ => (((code >> 2) & 7) + (input.byte()? << 3) + 1, ((code >> 5) & 3) + 5, code & 3),
        };
        ensure!(distance <= output.len(), BROKEN);
        if length > limit - output.len() {
            bail!("a compressed block is longer than it may be");
        }
        repeat(&mut output, distance, length);
        literal(&mut input, &mut output, next, limit)?;
        state = next;
    }
}

fn literal(input: &mut Input<'_>, output: &mut Vec<u8>, length: usize, limit: usize) -> Result<()> {
    if length > limit - output.len() {
        bail!("a compressed block is longer than it may be");
    }
    output.extend_from_slice(input.take(length)?);
    Ok(())
}
