//! getopt(3) and getopt_long(3) as the GNU C library has them: faces that stand in for programs in C
//! read their options as those do, down to the messages.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// A program's options.
#[derive(Debug)]
pub(super) struct Grammar {
    /// Letters, each followed by `:` where it takes a value.
    pub(super) short: &'static str,
    /// Long names, whether they take a value, and the letters they stand for.
    pub(super) long: &'static [(&'static str, bool, char)],
    /// Whether options may come after operands, unless `POSIXLY_CORRECT` is set.
    pub(super) permutes: bool,
}

/// Reads a command line.
#[derive(Debug)]
pub(super) struct Options<'g> {
    grammar: &'g Grammar,
    name: String,
    left: VecDeque<OsString>,
    /// The rest of an argument that holds several letters.
    letters: Vec<u8>,
    operands: Vec<OsString>,
    strict: bool,
    ended: bool,
}

/// A letter and its value.
pub(super) type Found = (char, Option<OsString>);

impl<'g> Options<'g> {
    /// `args` start with the program's name.
    pub(super) fn new(grammar: &'g Grammar, args: Vec<OsString>) -> Self {
        let mut left = VecDeque::from(args);
        let name = left.pop_front().unwrap_or_default().to_string_lossy().into_owned();
        let strict = !grammar.permutes || std::env::var_os("POSIXLY_CORRECT").is_some();
        Self {
            grammar,
            name,
            left,
            letters: Vec::new(),
            operands: Vec::new(),
            strict,
            ended: false,
        }
    }

    /// The next option; or what is wrong with it, as the C library says it.
    pub(super) fn next(&mut self) -> Option<Result<Found, String>> {
        if !self.letters.is_empty() {
            return Some(self.letter());
        }
        while !self.ended {
            let argument = self.left.pop_front()?;
            match argument.as_bytes() {
                b"--" => self.ended = true,
                [b'-', b'-', long @ ..] if !self.grammar.long.is_empty() => {
                    return Some(self.long(long));
                }
                [b'-', letters @ ..] if !letters.is_empty() => {
                    self.letters = letters.to_vec();
                    return Some(self.letter());
                }
                _ if self.strict => {
                    self.left.push_front(argument);
                    self.ended = true;
                }
                _ => self.operands.push(argument),
            }
        }
        None
    }

    /// What is no option, once [`Self::next`] has found no more.
    pub(super) fn operands(self) -> Vec<OsString> {
        self.operands.into_iter().chain(self.left).collect()
    }

    fn letter(&mut self) -> Result<Found, String> {
        let letter = char::from(self.letters.remove(0));
        let short = self.grammar.short;
        let at = short.find(letter).filter(|_| letter.is_ascii() && letter != ':');
        let Some(at) = at else {
            return Err(format!("{}: invalid option -- '{letter}'", self.name));
        };
        if !short[at + 1..].starts_with(':') {
            return Ok((letter, None));
        }
        let attached = std::mem::take(&mut self.letters);
        let value = match attached.is_empty() {
            false => Some(OsString::from_vec(attached)),
            true => self.left.pop_front(),
        };
        match value {
            Some(value) => Ok((letter, Some(value))),
            None => Err(format!("{}: option requires an argument -- '{letter}'", self.name)),
        }
    }

    fn long(&mut self, text: &[u8]) -> Result<Found, String> {
        let (name, value) = match text.iter().position(|&b| b == b'=') {
            Some(at) => (&text[..at], Some(OsStr::from_bytes(&text[at + 1..]).to_owned())),
            None => (text, None),
        };
        let shown = String::from_utf8_lossy(name);
        let known = || self.grammar.long.iter().filter(|o| o.0.as_bytes().starts_with(name));
        let exact = self.grammar.long.iter().find(|o| o.0.as_bytes() == name);
        let &(long, takes, letter) = match (exact, known().count()) {
            (Some(option), _) => option,
            (None, 1) => known().next().ok_or_else(String::new)?,
            (None, 0) => return Err(format!("{}: unrecognized option '--{shown}'", self.name)),
            (None, _) => {
                let all: String = known().map(|o| format!(" '--{}'", o.0)).collect();
                return Err(format!(
                    "{}: option '--{shown}' is ambiguous; possibilities:{all}",
                    self.name
                ));
            }
        };
        match (takes, value) {
            (false, None) => Ok((letter, None)),
            (false, Some(_)) => {
                Err(format!("{}: option '--{long}' doesn't allow an argument", self.name))
            }
            (true, Some(value)) => Ok((letter, Some(value))),
            (true, None) => match self.left.pop_front() {
                Some(value) => Ok((letter, Some(value))),
                None => Err(format!("{}: option '--{long}' requires an argument", self.name)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRAMMAR: Grammar = Grammar {
        short: "ab:c",
        long: &[("version", false, 'V'), ("verbose", false, 'v'), ("rewrite", true, 'r')],
        permutes: true,
    };

    fn read(grammar: &Grammar, words: &str) -> String {
        let args = std::iter::once("prog").chain(words.split_whitespace()).map(OsString::from);
        let mut options = Options::new(grammar, args.collect());
        let mut told = Vec::new();
        while let Some(found) = options.next() {
            told.push(match found {
                Ok((letter, None)) => letter.to_string(),
                Ok((letter, Some(value))) => format!("{letter}={}", value.display()),
                Err(error) => format!("({error})"),
            });
        }
        let operands: Vec<_> =
            options.operands().iter().map(|o| o.to_string_lossy().into_owned()).collect();
        format!("{} | {}", told.join(" "), operands.join(" "))
    }

    #[test]
    fn options_are_read_as_in_c() {
        for (words, told) in [
            ("-a -c x", "a c | x"),
            ("-acbx y", "a c b=x | y"),
            ("-b x -b", "b=x (prog: option requires an argument -- 'b') | "),
            ("x -a y -- -c", "a | x y -c"),
            ("- -a", "a | -"),
            ("-z", "(prog: invalid option -- 'z') | "),
            ("-:", "(prog: invalid option -- ':') | "),
            ("--rew=1 --rewrite 2", "r=1 r=2 | "),
            ("--versi", "V | "),
            (
                "--ver",
                "(prog: option '--ver' is ambiguous; possibilities: '--version' '--verbose') | ",
            ),
            ("--version=1", "(prog: option '--version' doesn't allow an argument) | "),
            ("--rewrite", "(prog: option '--rewrite' requires an argument) | "),
            ("--none", "(prog: unrecognized option '--none') | "),
        ] {
            assert_eq!(read(&GRAMMAR, words), told, "{words}");
        }
        let strict = Grammar { permutes: false, ..GRAMMAR };
        assert_eq!(read(&strict, "-a x -c"), "a | x -c");
        let without_long = Grammar { long: &[], ..GRAMMAR };
        assert_eq!(read(&without_long, "--a"), "(prog: invalid option -- '-') a | ");
    }
}
