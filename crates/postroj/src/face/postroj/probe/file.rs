//! The file that `matrix` goes through: the keys of its tables are options' names, and are read as options are.

use std::ops::Range;

use anyhow::{Result, anyhow};
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command};
use toml::de::{DeTable, DeValue};
use toml::{Spanned, de::DeString};

use super::variant::{self, Variant, Various};
use super::{commands, what};
use crate::face::postroj::test;

/// What is in it.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) probe: Vec<what::What>,
    pub(super) test: Vec<test::What>,
    pub(super) run: Vec<commands::What>,
}

/// What is wrong, and in which bytes.
#[derive(Debug)]
struct Wrong {
    at: Range<usize>,
    text: String,
}

/// Reads the text of a file; `name` is for errors.
///
/// # Errors
/// With line and column.
pub(super) fn read(name: &str, text: &str) -> Result<File> {
    tables(text).map_err(|wrong| {
        let before = text.get(..wrong.at.start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        anyhow!("{name}:{line}:{column}: {}", wrong.text)
    })
}

fn tables(text: &str) -> Result<File, Wrong> {
    let parsed = DeTable::parse(text).map_err(|error| Wrong {
        at: error.span().unwrap_or_default(),
        text: error.message().to_owned(),
    })?;
    let mut file = File::default();
    for (key, value) in parsed.get_ref() {
        match key.get_ref().as_ref() {
            "probe" => file.probe = all(value)?,
            "test" => file.test = all(value)?,
            "run" => file.run = all(value)?,
            other => {
                let text = format!("unknown field `{other}`, expected probe, test or run");
                return Err(Wrong { at: key.span(), text });
            }
        }
    }
    Ok(file)
}

/// The tables of an array.
fn all<T: Various>(value: &Spanned<DeValue<'_>>) -> Result<Vec<T>, Wrong> {
    let DeValue::Array(tables) = value.get_ref() else {
        return Err(wrong(value, "an array of tables, [[…]]"));
    };
    tables.iter().map(|table| one(table)).collect()
}

/// One table, with those of its variants.
fn one<T: Various>(value: &Spanned<DeValue<'_>>) -> Result<T, Wrong> {
    let DeValue::Table(table) = value.get_ref() else { return Err(wrong(value, "a table")) };
    let command = variant::grammar::<T>();
    let (mut words, mut last, mut variants) = (Vec::new(), Vec::new(), Vec::new());
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        match command.get_arguments().find(|arg| key_of(arg) == name) {
            Some(_) if name == "variant" => variants = ways(value)?,
            Some(arg) if arg.is_positional() => last = strings(value)?,
            Some(arg) if matches!(arg.get_action(), ArgAction::SetTrue) => match value.get_ref() {
                DeValue::Boolean(true) => words.push(format!("--{name}")),
                DeValue::Boolean(false) => {}
                _ => return Err(wrong(value, "true or false")),
            },
            Some(arg) => {
                let given = strings(value)?;
                if given.len() != 1 && !matches!(arg.get_action(), ArgAction::Append) {
                    return Err(wrong(value, "one value"));
                }
                words.extend(given.iter().map(|text| format!("--{name}={text}")));
            }
            None => return Err(unknown(key, &command)),
        }
    }
    words.push("--".into());
    words.extend(last);
    let mut what: T = variant::from_words(command, words).map_err(|error| {
        let key = named(&error).and_then(|name| {
            table.iter().find(|(key, _)| key.get_ref().as_ref() == name).map(|(_, v)| v.span())
        });
        Wrong { at: key.unwrap_or(value.span()), text: variant::first_line(&error) }
    })?;
    *what.variants_mut() = variants;
    Ok(what)
}

/// Tables by the names of variants.
fn ways<T: Various>(value: &Spanned<DeValue<'_>>) -> Result<Vec<Variant<T>>, Wrong> {
    let DeValue::Table(table) = value.get_ref() else {
        return Err(wrong(value, "tables by the names of variants"));
    };
    let read = |(key, value): (&Spanned<DeString<'_>>, &Spanned<DeValue<'_>>)| {
        let name = key.get_ref().as_ref();
        variant::check_name(name).map_err(|text| Wrong { at: key.span(), text })?;
        Ok(Variant { name: name.to_owned(), what: one(value)? })
    };
    table.iter().map(read).collect()
}

/// The option's name, or what the words are that have none.
fn key_of(arg: &Arg) -> &str {
    arg.get_long().unwrap_or(arg.get_id().as_str())
}

/// What an error of the command line is about.
fn named(error: &clap::Error) -> Option<String> {
    let ContextValue::String(arg) = error.get(ContextKind::InvalidArg)? else { return None };
    Some(arg.trim_start_matches('-').split(' ').next().unwrap_or_default().to_owned())
}

/// A value's words: one, or those of an array.
fn strings(value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, Wrong> {
    let word = |value: &Spanned<DeValue<'_>>| match value.get_ref() {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        DeValue::Integer(number) => Ok(number.to_string()),
        _ => Err(wrong(value, "a string or a number")),
    };
    match value.get_ref() {
        DeValue::Array(values) => values.iter().map(word).collect(),
        _ => Ok(vec![word(value)?]),
    }
}

fn wrong(value: &Spanned<DeValue<'_>>, expected: &str) -> Wrong {
    let text = format!("invalid type: {}, expected {expected}", value.get_ref().type_str());
    Wrong { at: value.span(), text }
}

fn unknown(key: &Spanned<DeString<'_>>, command: &Command) -> Wrong {
    let keys: Vec<String> =
        command.get_arguments().map(|arg| format!("`{}`", key_of(arg))).collect();
    let text = format!("unknown field `{}`, expected one of {}", key.get_ref(), keys.join(", "));
    Wrong { at: key.span(), text }
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn keys_are_options() {
        let text = "[[probe]]\nimage = [\"a\", \"b\"]\nfast = true\ntimeout = 7\nphase = [\"install\"]\n\
            check-cmd = [\"-x=1\"]\n[probe.variant.plain]\n[probe.variant.other]\nnetwork = \"user\"\n\
            [[test]]\ntests = [\"-x\", \"!y\"]\nexttest = [\"dir\"]\n\
            [[run]]\nimage = [\"a\"]\ncommand = [\"sh\", \"-c\", \"exit 3\"]\noutput = \"x\"\n";
        let file = read("f", text).unwrap();
        let told = format!("{file:?}");
        for part in [
            "image: [\"a\", \"b\"]",
            "fast: true",
            "timeout: Some(7)",
            "check_cmd: [\"-x=1\"]",
            "name: \"plain\"",
            "network: Some(\"user\")",
            "tests: [\"-x\", \"!y\"]",
            "exttest: [\"dir\"]",
            "command: [\"sh\", \"-c\", \"exit 3\"]",
            "output: Some(\"x\")",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert_eq!((file.probe.len(), file.test.len(), file.run.len()), (1, 1, 1));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, part) in [
            (
                "[[probe]]\nimages = [\"x\"]\n",
                "f:2:1: unknown field `images`, expected one of `image`,",
            ),
            ("[[probes]]\n", "f:1:3: unknown field `probes`"),
            ("x = [\n", "f:1:6: unclosed array"),
            ("probe = 1\n", "f:1:9: invalid type: integer, expected an array of tables"),
            ("[[probe]]\nfast = \"x\"\n", "f:2:8: invalid type: string, expected true or false"),
            ("[[probe]]\nimage = [1.5]\n", "f:2:10: invalid type: float, expected a string"),
            ("[[probe]]\nnetwork = [\"a\", \"b\"]\n", "f:2:11: invalid type: array, expected one"),
            (
                "[[run]]\nimage = [\"a\"]\ntimeout = \"x\"\n",
                "f:3:11: invalid value 'x' for '--timeout",
            ),
            ("[[probe]]\nisolation = \"cage\"\n", "f:2:13: invalid value 'cage'"),
            ("[[probe]]\n[probe.variant.\"a b\"]\n", "\"a b\" is no name of a variant"),
            ("[[probe]]\n[probe.variant.a]\nx = 1\n", "f:3:1: unknown field `x`"),
        ] {
            let error = read("f", text).unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
