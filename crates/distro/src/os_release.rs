//! os-release(5): what a system calls itself.

use std::collections::BTreeMap;

/// Where the file is, in the order of os-release(5): the first that exists counts.
pub const PATHS: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// Bytes of the file that are looked at; real ones have some 500.
pub const MAX_BYTES: usize = 64 << 10;

/// Fields that are kept; real files have some 15, and vendors may add their own.
const MAX_FIELDS: usize = 256;

/// Reads the assignments of an os-release file.
///
/// The last assignment to a name counts, as in a shell. Lines that are no assignment of
/// one shell word are passed over, and so are values with control characters, which
/// os-release(5) rules out and a terminal might obey.
pub fn parse(text: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let text = &text[..text.len().min(MAX_BYTES)];
    for line in text.split(|&b| b == b'\n') {
        let Some((name, value)) = std::str::from_utf8(line).ok().and_then(assignment) else {
            continue;
        };
        if fields.len() < MAX_FIELDS || fields.contains_key(name) {
            fields.insert(name.to_owned(), value);
        }
    }
    fields
}

fn assignment(line: &str) -> Option<(&str, String)> {
    // Leading blanks are a shell's habit; a carriage return is a Windows editor's.
    let (name, word) = line.trim().split_once('=')?;
    let mut bytes = name.bytes();
    let first = bytes.next()?;
    let named = (first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let value = unquote(word)?;
    (named && !value.contains(char::is_control)).then_some((name, value))
}

/// The value of one word of a POSIX shell (XCU 2.2, "Quoting"), without any expansion;
/// `None` where a quote stays open or a second word follows.
fn unquote(word: &str) -> Option<String> {
    let mut value = String::with_capacity(word.len());
    let mut chars = word.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => loop {
                match chars.next()? {
                    '\'' => break,
                    c => value.push(c),
                }
            },
            '"' => loop {
                match chars.next()? {
                    '"' => break,
                    '\\' => match chars.next()? {
                        c @ ('$' | '`' | '"' | '\\') => value.push(c),
                        c => value.extend(['\\', c]),
                    },
                    c => value.push(c),
                }
            },
            '\\' => value.push(chars.next()?),
            // What follows a blank would be a command or a comment to a shell.
            ' ' | '\t' => return chars.as_str().trim_start().starts_with('#').then_some(value),
            c => value.push(c),
        }
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Option<String> {
        parse(text.as_bytes()).remove("A")
    }

    #[test]
    fn debians_own_file() {
        let fields = parse(
            b"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\n\
              VERSION_ID=\"12\"\nVERSION=\"12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\n\
              HOME_URL=\"https://www.debian.org/\"\n",
        );
        assert_eq!(fields.len(), 7);
        assert_eq!(fields["ID"], "debian");
        assert_eq!(fields["PRETTY_NAME"], "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(fields["HOME_URL"], "https://www.debian.org/");
    }

    #[test]
    fn quoting_is_a_shells() {
        for (text, wanted) in [
            ("A=x", "x"),
            ("A=", ""),
            ("A=\"\"", ""),
            ("A='x y'", "x y"),
            ("A='x\\y'", "x\\y"),
            ("A=\"x\\\"y\"", "x\"y"),
            ("A=\"\\$x \\`y\\` \\\\\"", "$x `y` \\"),
            ("A=\"x\\yz\"", "x\\yz"),
            ("A=x\\ y", "x y"),
            ("A='x'\"y\"z", "xyz"),
            ("A=\"$HOME\"", "$HOME"),
            ("A=x=y", "x=y"),
            ("  A=x  ", "x"),
            ("A=x\r", "x"),
            ("A=x # why", "x"),
            ("A=x#y", "x#y"),
            ("A=\"Größe\"", "Größe"),
            ("A=1\nA=2", "2"),
            ("# A=1\nA=2\n#A=3", "2"),
        ] {
            assert_eq!(value(text).as_deref(), Some(wanted), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_assignment_is_passed_over() {
        for text in [
            "",
            "A",
            "A =x",
            "A= x",
            "=x",
            "1A=x",
            "A-B=x",
            "A=\"x",
            "A='x",
            "A=\"x\\",
            "A=x\\",
            "A=x y",
            "A=x; rm -rf /",
            "A=\"\x1b]0;owned\x07\"",
            "A=x\0y",
            "export A=x",
        ] {
            assert_eq!(value(text), None, "{text:?}");
        }
        assert_eq!(parse(b"A=\xff\xfe\nB=2\nA=\"open\n").into_keys().collect::<Vec<_>>(), ["B"]);
    }

    #[test]
    fn a_hostile_file_stays_small() {
        let many: String = (0..100_000).map(|n| format!("K{n}=v\n")).collect();
        assert_eq!(parse(many.as_bytes()).len(), MAX_FIELDS);
        let long = format!("A={}", "x".repeat(1 << 20));
        assert_eq!(value(&long).map(|v| v.len()), Some(MAX_BYTES - 2));
        assert!(parse(&vec![0; 1 << 20]).is_empty());
        assert!(parse(&vec![b'='; 1 << 20]).is_empty());
    }
}
