//! The ar format as far as .deb files use it: ar(5), deb(5). No symbol tables, no
//! extended names.

use std::fmt;
use std::io::{self, Read};

/// A file inside an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Without padding and a trailing slash.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// Why an archive cannot be read.
#[derive(Debug)]
pub enum Error {
    /// It is none, or is damaged.
    Malformed(&'static str),
    /// It could not be read.
    Read(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "not a usable ar archive: {why}"),
            Self::Read(error) => write!(f, "reading an ar archive: {error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            Self::Malformed("it ends within a member or a header")
        } else {
            Self::Read(error)
        }
    }
}

/// Reads members one after the other.
#[derive(Debug)]
pub struct Archive<R> {
    inner: R,
    /// What is left of the current member, and its padding.
    left: u64,
    padding: u64,
}

impl<R: Read> Archive<R> {
    /// Reads the global header.
    ///
    /// # Errors
    /// It is not there.
    pub fn new(mut inner: R) -> Result<Self, Error> {
        let mut magic = [0; 8];
        inner.read_exact(&mut magic)?;
        if &magic != b"!<arch>\n" {
            return Err(Error::Malformed("it does not begin with !<arch>"));
        }
        Ok(Self { inner, left: 0, padding: 0 })
    }

    /// Moves on to the next member, past what was not read of the one before. Its content is
    /// read from the archive itself.
    ///
    /// # Errors
    /// The header is none, or the archive ends too early.
    pub fn next_member(&mut self) -> Result<Option<Member>, Error> {
        let skip = self.left + self.padding;
        if io::copy(&mut self.inner.by_ref().take(skip), &mut io::sink())? != skip {
            return Err(Error::Malformed("it ends within a member or a header"));
        }
        (self.left, self.padding) = (0, 0);
        let mut header = [0; 60];
        if self.inner.read(&mut header[..1])? == 0 {
            return Ok(None);
        }
        self.inner.read_exact(&mut header[1..])?;
        let member = parse_header(&header)?;
        (self.left, self.padding) = (member.size, member.size % 2);
        Ok(Some(member))
    }

    /// What the archive is read from.
    pub fn into_inner(self) -> R {
        self.inner
    }
}

/// The current member's content.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.inner.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the ar archive ends within a member",
            ));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// ar(5): name 16, date 12, owner 6, group 6, mode 8, size 10, and two bytes that end it.
fn parse_header(header: &[u8; 60]) -> Result<Member, Error> {
    if &header[58..] != b"`\n" {
        return Err(Error::Malformed("a member's header does not end as it must"));
    }
    let text =
        |range: std::ops::Range<usize>| std::str::from_utf8(&header[range]).ok().map(str::trim_end);
    let name = text(0..16).unwrap_or_default();
    let name = name.strip_suffix('/').unwrap_or(name);
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Error::Malformed("a member's name is none"));
    }
    let size = text(48..58).filter(|s| s.bytes().all(|b| b.is_ascii_digit()));
    let size = size
        .and_then(|s| s.parse().ok())
        .ok_or(Error::Malformed("a member's size is no number"))?;
    Ok(Member { name: name.to_owned(), size })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, size: &str) -> String {
        format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 100644)
    }

    fn archive() -> Vec<u8> {
        let mut bytes = b"!<arch>\n".to_vec();
        for (name, content) in [("debian-binary", "2.0\n"), ("odd/", "abc"), ("empty", "")] {
            bytes.extend(header(name, &content.len().to_string()).bytes());
            bytes.extend(content.bytes());
            bytes.extend(std::iter::repeat_n(b'\n', content.len() % 2));
        }
        bytes
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<(String, String)>, Error> {
        let mut archive = Archive::new(bytes)?;
        let mut members = Vec::new();
        while let Some(member) = archive.next_member()? {
            let mut content = String::new();
            archive.read_to_string(&mut content)?;
            members.push((member.name, content));
        }
        Ok(members)
    }

    #[test]
    fn members_in_their_order() {
        let bytes = archive();
        let members = read_all(&bytes).unwrap();
        let expected = [("debian-binary", "2.0\n"), ("odd", "abc"), ("empty", "")];
        assert_eq!(members, expected.map(|(n, c)| (n.to_owned(), c.to_owned())));
        let mut skipped = Archive::new(&bytes[..]).unwrap();
        assert_eq!(skipped.next_member().unwrap().unwrap().name, "debian-binary");
        assert_eq!(skipped.next_member().unwrap().unwrap().name, "odd");
        assert_eq!(skipped.read(&mut [0; 1]).unwrap(), 1);
        assert_eq!(skipped.next_member().unwrap().unwrap().name, "empty");
        assert_eq!(skipped.next_member().unwrap(), None);
    }

    #[test]
    fn every_truncation_is_told_or_ends_at_a_member() {
        let bytes = archive();
        let whole = read_all(&bytes).unwrap().len();
        for length in 0..bytes.len() {
            match read_all(&bytes[..length]) {
                Ok(members) => assert!(members.len() < whole, "{length}"),
                Err(error) => assert!(error.to_string().contains("ar archive"), "{error}"),
            }
        }
    }

    #[test]
    fn damage_is_told() {
        let with = |name: &str, size: &str| format!("!<arch>\n{}", header(name, size)).into_bytes();
        for (bytes, part) in [
            (b"!<arch>x".to_vec(), "does not begin"),
            (b"PK\x03\x04aaaa".to_vec(), "does not begin"),
            (with("a", "-1"), "no number"),
            (with("a", "+1"), "no number"),
            (with("a", "1x"), "no number"),
            (with("a", ""), "no number"),
            (with("", "0"), "name is none"),
            (with("a b", "0"), "name is none"),
            (with("a", "9999999999"), "ends within"),
        ] {
            let error = read_all(&bytes).unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
        let mut bytes = archive();
        bytes[8 + 58] = b'x';
        assert!(read_all(&bytes).unwrap_err().to_string().contains("does not end"));
    }
}
