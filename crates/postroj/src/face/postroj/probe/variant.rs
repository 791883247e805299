//! Variants: the same once more in another way, under a name.

use clap::Command;

/// What can be done in other ways.
pub(in crate::face::postroj) trait Various: clap::Args + Clone {
    /// The same with what a variant says besides, or instead.
    fn with(&self, variant: &Self) -> Self;

    /// Its variants.
    fn variants(&self) -> &[Variant<Self>];

    /// The same, to be changed.
    fn variants_mut(&mut self) -> &mut Vec<Variant<Self>>;

    /// Itself where there are no variants, else each of them with its name.
    fn all(&self) -> Vec<(String, Self)> {
        match self.variants() {
            [] => vec![(String::new(), self.clone())],
            all => all.iter().map(|one| (one.name.clone(), self.with(&one.what))).collect(),
        }
    }
}

/// One of them.
#[derive(Debug, Clone)]
pub(in crate::face::postroj) struct Variant<T> {
    /// Letters, digits and what stands between them.
    pub(in crate::face::postroj) name: String,
    /// What is other than usual.
    pub(in crate::face::postroj) what: T,
}

/// A command line's `NAME=OPTIONS`; without `=`, nothing is other than usual.
pub(in crate::face::postroj) fn parse<T: Various>(text: &str) -> Result<Variant<T>, String> {
    let (name, options) = text.split_once('=').unwrap_or((text, ""));
    check_name(name)?;
    let what = from_words(grammar::<T>(), words(options)?).map_err(|error| first_line(&error))?;
    Ok(Variant { name: name.to_owned(), what })
}

/// The options alone, of which none has to be there.
pub(super) fn grammar<T: clap::Args>() -> Command {
    let command = Command::new("variant").no_binary_name(true).disable_help_flag(true);
    T::augment_args(command).mut_args(|arg| arg.required(false))
}

pub(super) fn from_words<T: clap::Args>(
    command: Command,
    words: Vec<String>,
) -> Result<T, clap::Error> {
    T::from_arg_matches(&command.try_get_matches_from(words)?)
}

/// What is wrong, without what stands around it for people at a terminal.
pub(super) fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// Whether that may be a variant's name.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    match !name.is_empty() && name.chars().all(plain) {
        true => Ok(()),
        false => Err(format!("{name:?} is no name of a variant: NAME=OPTIONS")),
    }
}

/// Words with blanks between; what stands in quotes is a part of one.
fn words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in text.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    match quote {
        Some(open) => Err(format!("a {open} is not closed in {text:?}")),
        None => Ok(words.into_iter().chain(word).collect()),
    }
}

/// A variant's list where it has one, else the usual one.
pub(in crate::face::postroj) fn instead<T: Clone>(usual: &[T], own: &[T]) -> Vec<T> {
    if own.is_empty() { usual.to_vec() } else { own.to_vec() }
}

/// A variant's value where it has one, else the usual one.
pub(in crate::face::postroj) fn or<T: Clone>(own: &Option<T>, usual: &Option<T>) -> Option<T> {
    own.clone().or_else(|| usual.clone())
}

/// The usual list, and a variant's.
pub(in crate::face::postroj) fn besides<T: Clone>(usual: &[T], own: &[T]) -> Vec<T> {
    [usual, own].concat()
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn words_may_have_blanks() {
        let read = |text| words(text).unwrap();
        assert_eq!(
            read("  --fast  --check-cmd 'a b'\"c d\" ''"),
            ["--fast", "--check-cmd", "a bc d", ""]
        );
        assert!(read("").is_empty() && words("'a").is_err());
    }
}
