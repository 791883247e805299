//! Options as runc and crun take them: long ones with one dash or two, values after `=` or as the next
//! word, global options before the verb.

use std::collections::VecDeque;

use anyhow::{Context, Result, bail};

/// One option: its long name, its letter, and whether it takes a value.
pub(super) type Known = (&'static str, Option<char>, bool);

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Words {
    found: Vec<(&'static str, String)>,
    /// What is no option.
    pub(super) operands: Vec<String>,
}

impl Words {
    /// Reads options up to the first operand, or among `operands` of them; what comes after those is
    /// left as it is.
    pub(super) fn read(
        left: &mut VecDeque<String>,
        known: &[Known],
        operands: usize,
    ) -> Result<Self> {
        let mut words = Self::default();
        while let Some(word) = left.pop_front() {
            if word == "--" {
                break;
            }
            if word.len() < 2 || !word.starts_with('-') {
                words.operands.push(word);
                if words.operands.len() >= operands {
                    break;
                }
                continue;
            }
            words.option(&word, left, known)?;
        }
        if operands > 1 {
            words.operands.extend(left.drain(..));
        }
        Ok(words)
    }

    fn option(&mut self, word: &str, left: &mut VecDeque<String>, known: &[Known]) -> Result<()> {
        let text = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).unwrap_or(word);
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        let is_letter = |letter: Option<char>| letter.is_some_and(|l| name.chars().eq([l]));
        let is_this = |(long, letter, _): &&Known| *long == name || is_letter(*letter);
        if let Some((long, _, takes)) = known.iter().find(is_this) {
            let value = match (takes, value) {
                (_, Some(value)) => value,
                (false, None) => "true".to_owned(),
                (true, None) => {
                    left.pop_front().with_context(|| format!("the option {word} needs a value"))?
                }
            };
            self.found.push((long, value));
            return Ok(());
        }
        // Letters in a row, of which the last may take a value.
        if !word.starts_with("--") {
            let mut letters = text.chars();
            let first = letters.next();
            let (rest, is_first) =
                (letters.as_str(), |(_, letter, _): &&Known| *letter == first && first.is_some());
            match known.iter().find(is_first) {
                Some((long, _, true)) if !rest.is_empty() => {
                    self.found.push((long, rest.to_owned()));
                    return Ok(());
                }
                Some((long, _, false)) if !rest.is_empty() => {
                    self.found.push((long, "true".to_owned()));
                    return self.option(&format!("-{rest}"), left, known);
                }
                _ => {}
            }
        }
        bail!("unknown option {word}")
    }

    /// The last value of an option.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.found.iter().rev().find(|(found, _)| *found == name).map(|(_, value)| value.as_str())
    }

    /// All values of one that may come more than once.
    pub(super) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.found.iter().filter(move |(found, _)| *found == name).map(|(_, value)| value.as_str())
    }

    /// Whether an option without a value is set.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| !matches!(value, "false" | "0"))
    }

    /// A value that is a number.
    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        let parse = |text: &str| {
            text.parse().ok().with_context(|| format!("--{name} {text:?} is no number"))
        };
        self.value(name).map(parse).transpose()
    }

    /// The operand that every verb about one container has.
    pub(super) fn id(&self) -> Result<&str> {
        self.operands.first().map(String::as_str).context("the container's id is missing")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [Known; 4] = [
        ("bundle", Some('b'), true),
        ("detach", Some('d'), false),
        ("tty", Some('t'), false),
        ("env", Some('e'), true),
    ];

    fn read(words: &[&str], operands: usize) -> Result<Words> {
        let mut left = words.iter().map(|w| (*w).to_owned()).collect();
        Words::read(&mut left, &KNOWN, operands)
    }

    #[test]
    fn each_way_to_write_an_option() {
        for words in
            [&["--bundle", "x"][..], &["-b", "x"], &["-bundle=x"], &["--bundle=x"], &["-bx"]]
        {
            assert_eq!(read(words, 9).unwrap().value("bundle"), Some("x"), "{words:?}");
        }
        let both = read(&["-td", "id", "-e", "A=1", "-eB=2", "more"], 9).unwrap();
        assert!(both.is_set("tty") && both.is_set("detach"));
        assert_eq!(both.values("env").collect::<Vec<_>>(), ["A=1", "B=2"]);
        assert_eq!(both.operands, ["id", "more"]);
        assert!(!read(&["--detach=false"], 9).unwrap().is_set("detach"));
    }

    #[test]
    fn what_is_wrong() {
        for words in [&["--nothing"][..], &["-x"], &["--bundle"], &["-tx"]] {
            assert!(read(words, 9).is_err(), "{words:?}");
        }
    }
}
