//! The text that LVM keeps of a volume group (lvm2's `libdm/libdm-config.c`): `key = value` and `name { … }`.

use anyhow::{Context, Result, bail, ensure};

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Number(i64),
    Text(String),
    List(Vec<Value>),
    Section(Section),
}

/// Keys and values, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Section(Vec<(String, Value)>);

/// Sections in each other: real ones have five.
const MAX_DEPTH: usize = 16;

impl Section {
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    pub(super) fn section(&self, key: &str) -> Option<&Section> {
        match self.get(key)? {
            Value::Section(section) => Some(section),
            _ => None,
        }
    }

    pub(super) fn sections(&self) -> impl Iterator<Item = (&str, &Section)> {
        self.0.iter().filter_map(|(key, value)| match value {
            Value::Section(section) => Some((&key[..], section)),
            _ => None,
        })
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn list(&self, key: &str) -> Option<&[Value]> {
        match self.get(key)? {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    /// One that is not negative.
    pub(super) fn number(&self, key: &str) -> Result<u64> {
        match self.get(key) {
            Some(Value::Number(number)) => {
                u64::try_from(*number).with_context(|| format!("{key} is {number}"))
            }
            _ => bail!("{key} is missing"),
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Section> {
    let mut parser = Parser { rest: text };
    let section = parser.section(0)?;
    ensure!(parser.rest.is_empty(), "something is closed that was not opened");
    Ok(section)
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn skip(&mut self) {
        loop {
            self.rest = self.rest.trim_start_matches(|c: char| c.is_whitespace() || c == '\0');
            match self.rest.strip_prefix('#') {
                Some(comment) => self.rest = comment.split_once('\n').map_or("", |(_, rest)| rest),
                None => return,
            }
        }
    }

    fn take(&mut self, wanted: char) -> bool {
        self.skip();
        let rest = self.rest.strip_prefix(wanted);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn word(&mut self, of: impl Fn(char) -> bool) -> &'a str {
        self.skip();
        let end = self.rest.find(|c| !of(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    /// Up to the bracket that closes it, or the end of the text.
    fn section(&mut self, depth: usize) -> Result<Section> {
        ensure!(depth < MAX_DEPTH, "more than {MAX_DEPTH} sections are in each other");
        let mut section = Section::default();
        loop {
            self.skip();
            if self.rest.is_empty() || self.rest.starts_with('}') {
                return Ok(section);
            }
            let key = self.word(|c| !c.is_whitespace() && !"={}[],\"#".contains(c)).to_owned();
            ensure!(!key.is_empty(), "a name is missing before {:?}", self.shown());
            let value = if self.take('{') {
                let inner = self.section(depth + 1)?;
                ensure!(self.take('}'), "{key} is not closed");
                Value::Section(inner)
            } else {
                ensure!(self.take('='), "{key} has no value");
                self.value(depth)?
            };
            section.0.push((key, value));
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value> {
        ensure!(depth < MAX_DEPTH, "more than {MAX_DEPTH} lists are in each other");
        if self.take('[') {
            let mut list = Vec::new();
            while !self.take(']') {
                list.push(self.value(depth + 1)?);
                if !self.take(',') {
                    ensure!(self.take(']'), "a list is not closed");
                    break;
                }
            }
            return Ok(Value::List(list));
        }
        if self.take('"') {
            let mut text = String::new();
            let mut letters = self.rest.char_indices();
            while let Some((at, letter)) = letters.next() {
                match letter {
                    '"' => {
                        self.rest = &self.rest[at + 1..];
                        return Ok(Value::Text(text));
                    }
                    '\\' => text.extend(letters.next().map(|(_, letter)| letter)),
                    letter => text.push(letter),
                }
            }
            bail!("a text is not closed");
        }
        let word = self.word(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        let number = word.parse::<f64>().with_context(|| format!("{:?} is no value", self.shown()));
        Ok(Value::Number(word.parse().or(number.map(|number| number as i64))?))
    }

    fn shown(&self) -> String {
        self.rest.chars().take(20).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group() {
        let text = "vg {\nid = \"a-b\" # a comment\nextent_size = 8192\nstatus = [\"READ\", \"WRITE\"]\nempty = []\n\
            logical_volumes {\n root { stripes = [\n\"pv0\", 0\n]\n }\n}\n}\n# Generated by\ncontents = \"x \\\"y\\\"\"\n\0";
        let all = parse(text).unwrap();
        let group = all.section("vg").unwrap();
        assert_eq!(group.text("id"), Some("a-b"));
        assert_eq!(group.number("extent_size").unwrap(), 8192);
        assert_eq!(group.list("empty"), Some(&[][..]));
        let root = group.section("logical_volumes").unwrap().section("root").unwrap();
        assert_eq!(root.list("stripes").unwrap()[1], Value::Number(0));
        assert_eq!(all.text("contents"), Some("x \"y\""));
    }

    #[test]
    fn what_is_broken() {
        for text in ["a {", "a }", "}", "a", "a = ", "a = [1", "a = \"x", "= 1", "a = {}"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&"a {".repeat(100_000)).is_err());
        assert!(parse(&format!("a = {}", "[".repeat(100_000))).is_err());
    }
}
