//! apt's own configuration (apt.conf(5)), as far as it says what its archives are trusted with.

/// What one file says of `Acquire::Check-Valid-Until`; the last word counts. What is no
/// configuration says nothing.
pub fn check_valid_until(text: &str) -> Option<bool> {
    let mut said = None;
    // The names around the current one, and the words since the last `;`, `{` or `}`.
    let mut scopes: Vec<String> = Vec::new();
    let mut words: Vec<String> = Vec::new();
    for token in (Tokens { rest: text }) {
        match token {
            Token::Open => scopes.push(std::mem::take(&mut words).join("::")),
            Token::Close => {
                scopes.pop();
                words.clear();
            }
            Token::End => {
                let words = std::mem::take(&mut words);
                if let [name, value] = &words[..] {
                    let names = scopes.iter().chain([name]);
                    let whole: Vec<&str> = names.map(String::as_str).collect();
                    if whole.join("::").eq_ignore_ascii_case("Acquire::Check-Valid-Until") {
                        said = truth(value).or(said);
                    }
                }
            }
            Token::Word(word) => words.push(word),
        }
    }
    said
}

/// As apt's StringToBool.
fn truth(value: &str) -> Option<bool> {
    let value = value.to_ascii_lowercase();
    match &value[..] {
        "no" | "false" | "without" | "off" | "disable" | "0" => Some(false),
        "yes" | "true" | "with" | "on" | "enable" | "1" => Some(true),
        _ => None,
    }
}

enum Token {
    Word(String),
    Open,
    Close,
    End,
}

struct Tokens<'a> {
    rest: &'a str,
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        loop {
            self.rest = self.rest.trim_start();
            let comment = ["//", "#"].iter().any(|mark| self.rest.starts_with(mark));
            if comment {
                self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
            } else if let Some(rest) = self.rest.strip_prefix("/*") {
                self.rest = rest.split_once("*/").map_or("", |(_, rest)| rest);
            } else {
                break;
            }
        }
        let first = self.rest.chars().next()?;
        let single = match first {
            '{' => Some(Token::Open),
            '}' => Some(Token::Close),
            ';' => Some(Token::End),
            _ => None,
        };
        if let Some(token) = single {
            self.rest = &self.rest[1..];
            return Some(token);
        }
        if let Some(rest) = self.rest.strip_prefix('"') {
            let (word, rest) = rest.split_once('"').unwrap_or((rest, ""));
            self.rest = rest;
            return Some(Token::Word(word.to_owned()));
        }
        let ends = |c: char| c.is_whitespace() || matches!(c, '{' | '}' | ';' | '"');
        let (word, rest) = self.rest.split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        self.rest = rest;
        Some(Token::Word(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts() {
        for (text, said) in [
            ("Acquire::Check-Valid-Until \"false\";", Some(false)),
            ("acquire { check-valid-until no; };", Some(false)),
            ("Acquire::Check-Valid-Until false; Acquire { Check-Valid-Until \"1\"; }", Some(true)),
            (
                "// Acquire::Check-Valid-Until \"false\";\n# x\n/* Acquire::Check-Valid-Until 0; */",
                None,
            ),
            ("APT { Acquire::Check-Valid-Until \"false\"; };", None),
            ("APT::List { \"a;b\"; \"}\"; }; Acquire::Check-Valid-Until off;", Some(false)),
            ("Acquire::Check-Valid-Until \"perhaps\";", None),
            ("Acquire::Check-Valid-Until \"false", None),
            ("}}}; { ;;", None),
            ("", None),
        ] {
            assert_eq!(check_valid_until(text), said, "{text}");
        }
    }
}
