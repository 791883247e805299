//! What a registry asks for: the `WWW-Authenticate` header (RFC 9110 section 11.6.1).

/// A way to prove who one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Lower-case, such as `bearer`.
    pub scheme: String,
    /// Names in lower case, and values without quotes.
    pub parameters: Vec<(String, String)>,
}

impl Challenge {
    /// A parameter's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, value)| &value[..])
    }
}

/// Reads a header's value; what cannot be understood ends it.
pub fn parse(text: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let Some((word, after)) = token(rest) else { return challenges };
        let value = after.trim_start();
        if let (Some(value), Some(challenge)) = (value.strip_prefix('='), challenges.last_mut())
            && let Some((value, after)) = self::value(value.trim_start())
        {
            challenge.parameters.push((word.to_ascii_lowercase(), value));
            rest = after;
            continue;
        }
        if !after.is_empty() && !after.starts_with([' ', '\t', ',']) {
            return challenges;
        }
        let scheme = word.to_ascii_lowercase();
        challenges.push(Challenge { scheme, parameters: Vec::new() });
        rest = after;
    }
}

fn token(text: &str) -> Option<(&str, &str)> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let end = text.bytes().position(|b| !is_token(b)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// A token, or a text in quotes, in which a backslash protects what follows.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        return token(text).map(|(value, rest)| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            '"' if !escaped => return Some((value, &quoted[at + 1..])),
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            _ => value.push(c),
        }
        escaped = false;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_of_registries() {
        let text = r#"Bearer realm="https://auth.example.org/token",service="registry",scope="repository:a/b:pull,push""#;
        let [bearer] = &parse(text)[..] else { panic!() };
        assert_eq!(bearer.scheme, "bearer");
        assert_eq!(bearer.get("realm"), Some("https://auth.example.org/token"));
        assert_eq!(bearer.get("scope"), Some("repository:a/b:pull,push"));
        let two = parse(r#"Basic realm="a \"b\"", NEGOTIATE , Bearer Realm=x"#);
        assert_eq!(two.len(), 3);
        assert_eq!(two[0].get("realm"), Some("a \"b\""));
        assert_eq!((&two[1].scheme[..], two[1].parameters.len()), ("negotiate", 0));
        assert_eq!(two[2].get("realm"), Some("x"));
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for text in ["", " ", ",", "=", "\"x\"", "é"] {
            assert!(parse(text).is_empty(), "{text:?}");
        }
        assert_eq!(parse("Bearer realm=\"open").len(), 1);
        assert!(parse("Bearer realm=\"open")[0].parameters.is_empty());
    }
}
