//! CRC-32C (RFC 3720, appendix B.4), by which EROFS, btrfs and XFS tell what is damaged.

/// Eight tables, so that eight bytes are taken at once.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// Goes on with a sum over further bytes, without the complement at its beginning and end.
pub(crate) fn update(mut crc: u32, bytes: &[u8]) -> u32 {
    let mut eights = bytes.chunks_exact(8);
    for eight in &mut eights {
        let word = u64::from_le_bytes(std::array::from_fn(|n| eight[n])) ^ u64::from(crc);
        crc = word
            .to_le_bytes()
            .iter()
            .enumerate()
            .fold(0, |crc, (number, &byte)| crc ^ TABLES[7 - number][usize::from(byte)]);
    }
    for &byte in eights.remainder() {
        crc = crc >> 8 ^ TABLES[0][usize::from(crc as u8 ^ byte)];
    }
    crc
}

/// The sum of these bytes.
pub(crate) fn sum(bytes: &[u8]) -> u32 {
    !update(!0, bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_that_of_the_rfc() {
        // RFC 3720, appendix B.4.
        assert_eq!(super::sum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(super::sum(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(super::sum(b"123456789"), 0xe306_9283);
    }
}
