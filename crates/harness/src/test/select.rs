//! Which tests of those that were found are to be run: by names, patterns, tags, and what is denied.

use super::{Test, globs};

/// What a user chooses; without anything, all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Names, patterns of names, or names up to a `.` or `/`; with a `!` before it, what is left out.
    pub names: Vec<String>,
    /// Tags, of which a test needs one; with a `!` before it, none of those.
    pub tags: Vec<String>,
}

impl Selection {
    /// Whether a test is among them.
    #[must_use]
    pub fn takes(&self, test: &Test) -> bool {
        let by_name = chosen(&self.names, |pattern| is_called(pattern, &test.name));
        let by_tag = chosen(&self.tags, |tag| {
            test.tags.iter().any(|own| globs::matches(tag, own))
                || test.required_tag.as_deref() == Some(tag)
        });
        let required = test.required_tag.as_ref().is_none_or(|tag| self.tags.contains(tag));
        by_name && by_tag && required
    }
}

/// None of what is left out, and one of the others where there are any.
fn chosen(words: &[String], mut holds: impl FnMut(&str) -> bool) -> bool {
    let (mut asked, mut found) = (false, false);
    for word in words {
        match word.strip_prefix('!') {
            Some(word) if holds(word) => return false,
            Some(_) => {}
            None => {
                asked = true;
                found |= holds(word);
            }
        }
    }
    found || !asked
}

/// A pattern of the whole name, or a name that is all before a `.` or `/`.
pub(super) fn is_called(pattern: &str, name: &str) -> bool {
    let begins = name.strip_prefix(pattern).is_some_and(|rest| rest.starts_with(['.', '/']));
    // Of a source package's tests, the test's own name is enough.
    let own = name.rsplit_once('/').is_some_and(|(_, own)| globs::matches(pattern, own));
    begins || own || globs::matches(pattern, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_tags_choose() {
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let takes = |list: &[&str], name: &str| chosen(&words(list), |p| is_called(p, name));
        assert!(takes(&[], "x"));
        assert!(takes(&["ext.a"], "ext.a.b") && !takes(&["ext.a"], "ext.ab"));
        assert!(takes(&["ext.*"], "ext.a.b") && !takes(&["ext.*", "!*.b"], "ext.a.b"));
        assert!(takes(&["!x"], "y") && !takes(&["!x"], "x"));
        assert!(takes(&["a", "b"], "b") && !takes(&["a", "b"], "c"));
    }
}
