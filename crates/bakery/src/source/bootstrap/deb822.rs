//! Stanzas of `Name: value` fields: deb822(5), Debian Policy 5.1.

use std::fmt;

/// Why a text is no deb822.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The line's number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: &'static str,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

impl std::error::Error for Error {}

/// One paragraph. Borrows from the text it was read from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stanza<'a> {
    fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Stanza<'a> {
    /// The value of a field, whose name is compared without regard to case. Of a field
    /// that spans lines, all of them, as they are written.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, v)| *v)
    }

    /// All fields in their order.
    pub fn fields(&self) -> &[(&'a str, &'a str)] {
        &self.fields
    }
}

/// Reads all stanzas of a text. Lines that begin with `#` are comments.
///
/// # Errors
/// Names the first line that is neither a field, nor a continuation of one, nor empty,
/// and a field that a stanza has twice.
pub fn parse(text: &str) -> Result<Vec<Stanza<'_>>, Error> {
    let mut stanzas = Vec::new();
    let mut current = Stanza::default();
    let mut at = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let start = at;
        at += line.len();
        let fail = |why| Err(Error { line: index + 1, why });
        let content = line.strip_suffix('\n').unwrap_or(line);
        let content = content.strip_suffix('\r').unwrap_or(content);
        if content.starts_with('#') {
            continue;
        }
        if content.trim().is_empty() {
            if !current.fields.is_empty() {
                stanzas.push(std::mem::take(&mut current));
            }
            continue;
        }
        if content.starts_with([' ', '\t']) {
            let Some((_, value)) = current.fields.last_mut() else {
                return fail("it continues no field");
            };
            let value_start = value.as_ptr() as usize - text.as_ptr() as usize;
            *value = &text[value_start..start + content.trim_end().len()];
            continue;
        }
        let Some((name, value)) = content.split_once(':') else {
            return fail("it has no colon");
        };
        if !is_field_name(name) {
            return fail("its field has no valid name");
        }
        if current.get(name).is_some() {
            return fail("its field is there twice");
        }
        if current.fields.len() == MAX_FIELDS {
            return fail("its stanza has too many fields");
        }
        current.fields.push((name, value.trim()));
    }
    if !current.fields.is_empty() {
        stanzas.push(current);
    }
    Ok(stanzas)
}

/// The words of a value, those of comment lines in it left out.
pub fn words(value: &str) -> impl Iterator<Item = &str> {
    value.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace)
}

/// Far more than any stanza has; keeps the search for doubles cheap on hostile text.
const MAX_FIELDS: usize = 200;

/// Policy 5.1: printable ASCII but space and colon; not beginning with `#` or `-`.
fn is_field_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('-') && name.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_continuations_and_comments() {
        let text =
            "# head\nA: 1\nLong:\n one\n# between\n two\n .\nb:x:y\n\n\n \nC:  z  \r\nD:\r\n";
        let stanzas = parse(text).unwrap();
        assert_eq!(stanzas.len(), 2);
        assert_eq!(stanzas[0].get("a"), Some("1"));
        assert_eq!(stanzas[0].get("B"), Some("x:y"));
        assert_eq!(words(stanzas[0].get("long").unwrap()).collect::<Vec<_>>(), ["one", "two", "."]);
        assert_eq!(stanzas[1].fields(), [("C", "z"), ("D", "")]);
        assert_eq!(stanzas[1].get("missing"), None);
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, line, why) in [
            (" x\n", 1, "continues no field"),
            ("A: 1\n\n x", 3, "continues no field"),
            ("A: 1\nno field\n", 2, "no colon"),
            (": x", 1, "no valid name"),
            ("-A: x", 1, "no valid name"),
            ("A B: x", 1, "no valid name"),
            ("Ä: x", 1, "no valid name"),
            ("A: 1\na: 2", 2, "twice"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text:?}");
            assert!(error.to_string().contains(why), "{text:?}: {error}");
        }
        let many: String = (0..300).map(|n| format!("F{n}: x\n")).collect();
        assert!(parse(&many).unwrap_err().to_string().contains("too many"));
    }
}
