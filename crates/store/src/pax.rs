//! The records of a PAX extended header (POSIX.1-2024, pax, "pax Extended Header"):
//! `LENGTH KEYWORD=VALUE\n`, with any byte in the value.

use anyhow::{Context, Result, bail, ensure};

use crate::archive::{Extent, Time};

/// Extended attributes of one member.
const MAX_XATTRS: usize = 256;

/// What extended headers say of the next member; PAX and GNU alike.
#[derive(Debug, Clone, Default)]
pub(crate) struct Extensions {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<Time>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: Sparse,
    /// Access control lists as text, which nothing here understands.
    pub(crate) acls: u32,
}

/// The `GNU.sparse.*` records (GNU tar manual, "PAX Format, Versions 0.0 to 1.0").
#[derive(Debug, Clone, Default)]
pub(crate) struct Sparse {
    pub(crate) version: Option<(u64, u64)>,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) extents: Option<Vec<Extent>>,
    offset: Option<u64>,
}

impl Extensions {
    /// Takes the records of an `x` header.
    pub(crate) fn read(&mut self, data: &[u8]) -> Result<()> {
        for record in (Records { rest: data }) {
            let (key, value) = record?;
            self.set(key, value)
                .with_context(|| format!("record {:?}", String::from_utf8_lossy(key)))?;
        }
        Ok(())
    }

    /// Takes the records of a `g` header, which hold for all members that follow.
    pub(crate) fn read_global(&mut self, data: &[u8]) -> Result<()> {
        for record in (Records { rest: data }) {
            let (key, value) = record?;
            let name = String::from_utf8_lossy(key);
            match key {
                b"uid" | b"gid" | b"mtime" => {
                    self.set(key, value).with_context(|| format!("record {name:?}"))?;
                }
                b"path" | b"linkpath" | b"size" => {
                    bail!("a global header that sets {name:?} for every member")
                }
                _ if key.starts_with(b"GNU.sparse.") || key.starts_with(b"SCHILY.xattr.") => {
                    bail!("a global header that sets {name:?} for every member")
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        match key {
            b"path" => self.path = text(value)?,
            b"linkpath" => self.link = text(value)?,
            b"size" => self.size = optional(value)?,
            b"uid" => self.uid = optional(value)?,
            b"gid" => self.gid = optional(value)?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(time(value)?),
            b"SCHILY.acl.access" | b"SCHILY.acl.default" => self.acls += 1,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    ensure!(!name.is_empty() && !name.contains(&0), "it has no usable name");
                    ensure!(self.xattrs.len() < MAX_XATTRS, "more than {MAX_XATTRS} attributes");
                    self.xattrs.retain(|(other, _)| other != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(name, value)?;
                }
            }
        }
        Ok(())
    }
}

impl Sparse {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        match key {
            b"major" => self.version = Some((number(value)?, self.version.map_or(0, |v| v.1))),
            b"minor" => self.version = Some((self.version.map_or(0, |v| v.0), number(value)?)),
            b"name" => self.name = text(value)?,
            b"size" | b"realsize" => self.size = Some(number(value)?),
            b"numblocks" => {}
            b"offset" => self.offset = Some(number(value)?),
            b"numbytes" => {
                let offset = self.offset.take().context("a length without an offset")?;
                let length = number(value)?;
                self.extents.get_or_insert_default().push(Extent { offset, length });
            }
            b"map" => {
                let numbers: Vec<u64> = match value {
                    b"" => Vec::new(),
                    _ => value.split(|&b| b == b',').map(number).collect::<Result<_>>()?,
                };
                let (pairs, odd) = numbers.as_chunks::<2>();
                ensure!(odd.is_empty(), "an offset without a length");
                let extent = |&[offset, length]: &[u64; 2]| Extent { offset, length };
                self.extents = Some(pairs.iter().map(extent).collect());
            }
            _ => bail!("it is not known"),
        }
        Ok(())
    }
}

/// A decimal number as PAX writes it: digits and nothing else.
pub(crate) fn number(digits: &[u8]) -> Result<u64> {
    let value = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
    value
        .and_then(|d| d.parse().ok())
        .with_context(|| format!("{:?} is no number", shorten(digits)))
}

/// An empty value takes an earlier record back.
fn optional(value: &[u8]) -> Result<Option<u64>> {
    if value.is_empty() { Ok(None) } else { number(value).map(Some) }
}

fn text(value: &[u8]) -> Result<Option<Vec<u8>>> {
    ensure!(!value.contains(&0), "it contains a NUL byte: {:?}", shorten(value));
    Ok(if value.is_empty() { None } else { Some(value.to_vec()) })
}

/// Seconds, perhaps negative, perhaps with a fraction of any length.
fn time(value: &[u8]) -> Result<Time> {
    let bad = || format!("{:?} is no time", shorten(value));
    let (sign, digits) = match value.strip_prefix(b"-") {
        Some(rest) => (-1, rest),
        None => (1, value),
    };
    let dot = digits.iter().position(|&b| b == b'.').unwrap_or(digits.len());
    let whole = i64::try_from(number(&digits[..dot]).with_context(bad)?).with_context(bad)?;
    let fraction = digits.get(dot + 1..).unwrap_or_default();
    ensure!(dot > 0 && fraction.iter().all(u8::is_ascii_digit), bad());
    let digit = |i: usize| u32::from(fraction.get(i).map_or(0, |b| b - b'0'));
    let nanoseconds = (0..9).fold(0, |sum, i| sum * 10 + digit(i));
    if sign < 0 && nanoseconds > 0 {
        return Ok(Time { seconds: -whole - 1, nanoseconds: 1_000_000_000 - nanoseconds });
    }
    Ok(Time { seconds: sign * whole, nanoseconds })
}

fn shorten(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned()
}

struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        // Some writers pad with NUL bytes.
        if self.rest.is_empty() || self.rest[0] == 0 {
            return None;
        }
        let record = self.split();
        if record.is_none() {
            self.rest = &[];
        }
        Some(record.context("a malformed extended header"))
    }
}

impl<'a> Records<'a> {
    fn split(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        // The longest possible length has far fewer digits.
        let space = self.rest.iter().take(20).position(|&b| b == b' ')?;
        let length = usize::try_from(number(&self.rest[..space]).ok()?).ok()?;
        let (record, rest) = self.rest.split_at_checked(length)?;
        let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|&b| b == b'=')?;
        self.rest = rest;
        (equals > 0).then(|| (&record[..equals], &record[equals + 1..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length.to_string().len() + rest != length {
            length += 1;
        }
        [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
    }

    fn read(records: &[(&str, &[u8])]) -> Result<Extensions> {
        let data: Vec<Vec<u8>> = records.iter().map(|(key, value)| record(key, value)).collect();
        let mut extensions = Extensions::default();
        extensions.read(&data.concat()).map(|()| extensions)
    }

    #[test]
    fn values_may_hold_any_byte() {
        assert_eq!(record("path", b"a"), b"9 path=a\n");
        let found =
            read(&[("path", b"a/b"), ("SCHILY.xattr.user.x", b"1\n2\0="), ("c", b"")]).unwrap();
        assert_eq!(found.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(found.xattrs, [(b"user.x".to_vec(), b"1\n2\0=".to_vec())]);
    }

    #[test]
    fn an_empty_value_takes_back_and_a_later_one_wins() {
        let found =
            read(&[("path", b"a"), ("path", b""), ("uid", b"12"), ("uid", b"3"), ("gid", b"")])
                .unwrap();
        assert_eq!((found.path, found.uid, found.gid), (None, Some(3), None));
    }

    #[test]
    fn times_have_fractions_and_signs() {
        for (text, seconds, nanoseconds) in [
            ("0", 0, 0),
            ("1350244992.023960108", 1_350_244_992, 23_960_108),
            ("1.5", 1, 500_000_000),
            ("1.0000000009", 1, 0),
            ("-1", -1, 0),
            ("-1.25", -2, 750_000_000),
            ("7.", 7, 0),
        ] {
            assert_eq!(time(text.as_bytes()).unwrap(), Time { seconds, nanoseconds }, "{text}");
        }
        for text in ["", ".5", "-", "1e3", "1.2.3", "+1", "9223372036854775808", "-.5"] {
            assert!(time(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for data in [
            &b"9 path=b"[..],
            b"8 path=b\n",
            b"11 path=b\n",
            b"99999999999999999999 path=b\n",
            b"18446744073709551615 path=b\n",
            b"x path=b\n",
            b"0 path=b\n",
            b"2 path=b\n",
            b"-9 path=b\n",
            b"+9 path=b\n",
            b"7 path\n",
            b"6 =ab\n",
            b"9 path=b\nx",
        ] {
            let result = Extensions::default().read(data);
            assert!(result.is_err(), "{:?}", String::from_utf8_lossy(data));
        }
        for (key, value) in [
            ("path", &b"a\0b"[..]),
            ("size", b"1 2"),
            ("size", b"-1"),
            ("size", b"18446744073709551616"),
            ("SCHILY.xattr.", b""),
            ("SCHILY.xattr.a\0b", b""),
            ("GNU.sparse.map", b"1"),
            ("GNU.sparse.map", b"1,,2"),
            ("GNU.sparse.numbytes", b"1"),
            ("GNU.sparse.odd", b"1"),
        ] {
            assert!(read(&[(key, value)]).is_err(), "{key}");
        }
    }

    #[test]
    fn a_global_header_cannot_rename_everything() {
        let mut global = Extensions::default();
        global.read_global(&[record("comment", b"x"), record("uid", b"3")].concat()).unwrap();
        assert_eq!(global.uid, Some(3));
        for key in ["path", "linkpath", "size", "GNU.sparse.name", "SCHILY.xattr.user.x"] {
            let error = global.read_global(&record(key, b"1")).unwrap_err().to_string();
            assert!(error.contains("for every member"), "{error}");
        }
    }

    #[test]
    fn sparse_maps() {
        let found =
            read(&[("GNU.sparse.map", b"1,2,3,4"), ("GNU.sparse.size", b"90")]).unwrap().sparse;
        let extents = [Extent { offset: 1, length: 2 }, Extent { offset: 3, length: 4 }];
        assert_eq!((found.extents, found.size), (Some(extents.to_vec()), Some(90)));
        let found =
            read(&[("GNU.sparse.offset", b"7"), ("GNU.sparse.numbytes", b"8")]).unwrap().sparse;
        assert_eq!(found.extents, Some(vec![Extent { offset: 7, length: 8 }]));
        let found = read(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")]).unwrap().sparse;
        assert_eq!(found.version, Some((1, 0)));
    }
}
