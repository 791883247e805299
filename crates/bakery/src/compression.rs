//! The compressions of archives and packages: gzip, xz, Zstandard, or none.

use std::fmt;
use std::io::{self, Read};

/// A way to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Not at all.
    None,
    /// gzip, RFC 1952.
    Gzip,
    /// xz.
    Xz,
    /// Zstandard, RFC 8878.
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no compression",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        })
    }
}

/// Memory that a decoder may need: bytes. `xz -9` takes 65 MiB.
const MEMORY: u64 = 256 << 20;

impl Compression {
    /// By the suffix of a file's name, which is empty for none; `None` for one that is not known.
    pub(crate) fn of_suffix(suffix: &str) -> Option<Self> {
        match suffix {
            "" => Some(Self::None),
            ".gz" => Some(Self::Gzip),
            ".xz" => Some(Self::Xz),
            ".zst" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// By the first bytes of a file: what is none of the others is none.
    pub(crate) fn of_content(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // A frame, or one that may be skipped (RFC 8878, 3.1).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// The plain content of what a reader holds.
    pub(crate) fn decoder<'a>(
        self,
        reader: impl Read + Send + 'a,
    ) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Self::None => Box::new(reader),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(reader)),
            Self::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(
                    MEMORY,
                    liblzma::stream::CONCATENATED,
                )?;
                Box::new(liblzma::read::XzDecoder::new_stream(reader, stream))
            }
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(reader)?;
                decoder.window_log_max(27)?;
                Box::new(decoder)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn compressed(compression: Compression, plain: &[u8]) -> Vec<u8> {
        match compression {
            Compression::None => plain.to_vec(),
            Compression::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Xz => {
                let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Zstd => zstd::stream::encode_all(plain, 1).unwrap(),
        }
    }

    #[test]
    fn each_is_undone_and_damage_is_an_error() {
        let plain = b"postroj ".repeat(10_000);
        for suffix in ["", ".gz", ".xz", ".zst"] {
            let compression = Compression::of_suffix(suffix).unwrap();
            let packed = compressed(compression, &plain);
            let read = |bytes: &[u8]| -> io::Result<Vec<u8>> {
                let mut out = Vec::new();
                compression.decoder(bytes)?.read_to_end(&mut out)?;
                Ok(out)
            };
            assert_eq!(read(&packed).unwrap(), plain, "{suffix}");
            assert_eq!(Compression::of_content(&packed), compression, "{suffix}");
            if compression != Compression::None {
                assert!(read(&packed[..packed.len() / 2]).is_err(), "{suffix} cut");
                assert!(read(b"neither of them").is_err(), "{suffix} of something else");
            }
        }
        assert_eq!(Compression::of_suffix(".bz2"), None);
    }
}
