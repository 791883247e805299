//! Names of images as file names: any text, without collisions, legible in `ls`.

use anyhow::{Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::hex;

/// Longest file name that Linux's file systems have (limits.h, `NAME_MAX`).
const MAX_FILE_NAME: usize = 255;

/// Longest name of an image: as long as a reference can be.
const MAX_NAME: usize = 8192;

/// How a name is kept in `names/`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FileName {
    /// A symbolic link of this name.
    Link(String),
    /// The name is too long: a file of this name, which holds it.
    Long(String),
}

impl FileName {
    /// The path in the store.
    pub(crate) fn path(&self) -> String {
        let (Self::Link(name) | Self::Long(name)) = self;
        format!("names/{name}")
    }
}

/// Escapes a name: `%XX` for `/`, `%`, control characters, and a dot at the beginning.
pub(crate) fn escape(name: &str) -> Result<FileName> {
    ensure!(!name.is_empty(), "an image's name must not be empty");
    if name.len() > MAX_NAME {
        bail!("an image's name of {} bytes is too long: at most {MAX_NAME}", name.len());
    }
    let mut file = String::with_capacity(name.len() + 16);
    for (at, c) in name.char_indices() {
        if matches!(c, '/' | '%') || c.is_ascii_control() || (at == 0 && c == '.') {
            file.push_str(&format!("%{:02X}", u32::from(c)));
        } else {
            file.push(c);
        }
    }
    if file.len() <= MAX_FILE_NAME {
        return Ok(FileName::Link(file));
    }
    // Two percent signs are no escape, so no other name can look like this.
    Ok(FileName::Long(format!("%%{}", hex(Sha256::digest(name)))))
}

/// The name that a symbolic link stands for; `None` where no name is escaped so.
pub(crate) fn unescape(file: &str) -> Option<String> {
    let mut name = Vec::with_capacity(file.len());
    let mut rest = file.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            name.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            name.push(byte);
            rest = after;
        }
    }
    let name = String::from_utf8(name).ok()?;
    // Exactly one spelling is right: `%2f` or `%41` would be second names of a name.
    (escape(&name).ok()? == FileName::Link(file.to_owned())).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_legible_and_come_back() {
        for (name, file) in [
            ("debian-12", "debian-12"),
            ("docker.io/library/debian:12", "docker.io%2Flibrary%2Fdebian:12"),
            ("dir:/srv/a b", "dir:%2Fsrv%2Fa b"),
            (".", "%2E"),
            ("..", "%2E."),
            ("a.", "a."),
            ("100%", "100%25"),
            ("%2F", "%252F"),
            ("a\0b\n\x7f", "a%00b%0A%7F"),
            ("Größe/日本", "Größe%2F日本"),
        ] {
            assert_eq!(escape(name).unwrap(), FileName::Link(file.into()), "{name}");
            assert_eq!(unescape(file).as_deref(), Some(name));
        }
    }

    #[test]
    fn names_that_are_too_long_are_kept_otherwise() {
        let just = "n".repeat(255);
        assert_eq!(escape(&just).unwrap(), FileName::Link(just.clone()));
        for name in ["n".repeat(256), "/".repeat(86), "ü".repeat(128), "x".repeat(8192)] {
            let FileName::Long(file) = escape(&name).unwrap() else { panic!("{name}") };
            assert_eq!(file.len(), 66);
            assert_eq!(unescape(&file), None);
        }
        assert!(escape(&"x".repeat(8193)).is_err());
        assert!(escape("").is_err());
    }

    #[test]
    fn what_no_name_is_escaped_to_is_none() {
        for file in ["%", "%2", "%2f", "%41", "%zz", "a%", ".", "..", "a/b", "%FF", "", "%%", "%+1"]
        {
            assert_eq!(unescape(file), None, "{file}");
        }
    }

    #[test]
    fn no_two_names_collide() {
        let parts = ["a", "/", "%", "2F", ".", "\n", "é"];
        let mut files = HashSet::new();
        let mut names = 0;
        for a in parts {
            for b in parts {
                for c in parts {
                    for d in ["", "%", "/", "x"] {
                        names += 1;
                        files.insert(escape(&[a, b, c, d].concat()).unwrap().path());
                    }
                }
            }
        }
        assert_eq!(files.len(), names);
    }
}
